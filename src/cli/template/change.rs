//! `switchyard template rm` and `revert`. What they take away does not come back, so they ask.

use std::io::{BufRead, IsTerminal};

use serde_json::json;

use super::{Failure, Output, Printer, Reach, Target, id_of, usage};
use crate::wire::template::{RevertTemplate, Template};

/// Arguments of `template rm`.
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// A template, by name or id: it goes with every version. NAME:TAG: this version alone
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    #[command(flatten)]
    sure: Sure,
}

/// Arguments of `template revert`.
#[derive(Debug, clap::Args)]
pub(super) struct Revert {
    /// Its name, or its id
    #[arg(value_name = "NAME")]
    name: String,
    /// This version and every later one go
    #[arg(long, value_name = "TAG", conflicts_with = "number")]
    tag: Option<String>,
    /// The same by number; without either the newest goes
    #[arg(long, value_name = "N")]
    number: Option<i64>,
    #[command(flatten)]
    sure: Sure,
}

/// What both have.
#[derive(Debug, clap::Args)]
struct Sure {
    #[command(flatten)]
    reach: Reach,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Sure {
    /// Asks on a terminal; elsewhere nobody can answer.
    fn ask(&self, printer: Printer, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(usage(format!("{what}: nobody is there to say yes"), "say `--yes`"));
        }
        printer.note(format!("{what}. Go on? [y/N]"));
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::Runtime { error: "nothing was deleted".into(), hint: None })
    }

    fn done(&self, printer: Printer, template: &str, gone: &[String]) -> Result<(), Failure> {
        let value = json!({ "template": template, "deleted": gone });
        self.output.print(printer, &value, || format!("deleted of {template}: {}", gone.join(", ")))
    }
}

pub(super) async fn rm(args: &Rm, printer: Printer) -> Result<(), Failure> {
    let reach = &args.sure.reach;
    if args.name.contains(':') {
        let hint = "write NAME, or NAME:TAG";
        let target: Target =
            args.name.parse().map_err(|why| usage(format!("`{}` is no version: {why}", args.name), hint))?;
        args.sure.ask(printer, &format!("`{}` is deleted", args.name))?;
        let calls = reach.calls()?;
        let was = calls.untag(&target.name, &target.tag).await;
        return match was {
            Ok(true) => args.sure.done(printer, target.name.as_str(), &[target.tag.to_string()]),
            Ok(false) => Err(Failure::Runtime {
                error: format!("`{}` has no `{}`", reach.registry, args.name),
                hint: Some("`switchyard template show NAME` shows its tags".into()),
            }),
            Err(error) => Err(reach.transfer(&error, "try again")),
        };
    }
    let templates = reach.templates()?;
    let found = reach.find(&templates, &args.name).await?;
    let tags = tags(&reach.whole(&templates, &found.id).await?, |_| true);
    args.sure.ask(printer, &format!("template `{}` is deleted with {} versions", found.name, tags.len()))?;
    templates.delete(&id_of(&found.id)?).await.map_err(|error| reach.failure(&error))?;
    args.sure.done(printer, &found.name, &tags)
}

pub(super) async fn revert(args: &Revert, printer: Printer) -> Result<(), Failure> {
    let reach = &args.sure.reach;
    let templates = reach.templates()?;
    let found = reach.find(&templates, &args.name).await?;
    let whole = reach.whole(&templates, &found.id).await?;
    let versions = whole.as_ref().map(|whole| whole.versions.as_slice()).unwrap_or_default();
    let from = versions.iter().filter(|version| match (&args.tag, args.number) {
        (Some(tag), _) => version.tag == *tag,
        (None, Some(number)) => version.number == number,
        (None, None) => true,
    });
    let Some(from) = from.map(|version| version.number).max() else {
        let which = args.tag.clone().or(args.number.map(|number| format!("number {number}")));
        return Err(Failure::Runtime {
            error: format!("template `{}` has no version {}", found.name, which.unwrap_or_default()),
            hint: Some(format!("`switchyard template show {}` shows its versions", found.name)),
        });
    };
    let gone = tags(&whole, |number| number >= from);
    let all = if gone.len() == versions.len() { ", and with them the template" } else { "" };
    args.sure
        .ask(printer, &format!("of `{}` these versions are deleted{all}: {}", found.name, gone.join(", ")))?;
    // By number: what was looked at is what goes, and not a tag that was moved meanwhile.
    let ask = RevertTemplate { id: Some(found.id.clone()), number: Some(from), ..RevertTemplate::default() };
    let reverted = templates.revert(&ask).await;
    reverted.map_err(|error| reach.failure(&error))?;
    args.sure.done(printer, &found.name, &gone)
}

fn tags(template: &Option<Template>, take: impl Fn(i64) -> bool) -> Vec<String> {
    let versions = template.iter().flat_map(|template| &template.versions);
    versions.filter(|version| take(version.number)).map(|version| version.tag.clone()).collect()
}
