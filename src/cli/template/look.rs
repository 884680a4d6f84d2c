//! `switchyard template list` and `show`.

use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::{Failure, Output, Printer, Reach, progress::size};
use crate::{
    cli::{cloud::Every, table::table},
    client::Templates,
    model::{Arch, Timestamp},
    wire::template::{Template, TemplateSummary, Version},
};

/// Templates that are asked for at once to count their tags.
const ASKS: usize = 8;

/// Arguments of `template list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    every: Every,
}

/// Arguments of `template show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Its name, or its id
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    every: Every,
}

/// A template with its tags, oldest first.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    template: TemplateSummary,
    tags: Vec<String>,
}

pub(super) async fn list(args: &List, printer: Printer) -> Result<(), Failure> {
    let templates = args.reach.templates()?;
    let look = async || listed(&args.reach, &templates).await;
    let show = |all: &Vec<Listed>| {
        args.output.print(printer, all, || lines(all))?;
        if all.is_empty() {
            printer.note("no templates yet: `switchyard template push DIR NAME:TAG` brings one");
        }
        Ok(())
    };
    args.every.run((printer, args.output), look, show).await
}

async fn listed(reach: &Reach, templates: &Templates) -> Result<Vec<Listed>, Failure> {
    let list = templates.list().await.map_err(|error| reach.failure(&error))?;
    let asks = list.into_iter().map(|template| async {
        let whole = reach.whole(templates, &template.id).await?;
        let tags = whole.into_iter().flat_map(|whole| whole.versions).map(|version| version.tag).collect();
        Ok::<_, Failure>(Listed { template, tags })
    });
    let mut all: Vec<Listed> = futures_util::stream::iter(asks).buffered(ASKS).try_collect().await?;
    all.sort_by(|a, b| a.template.name.cmp(&b.template.name));
    Ok(all)
}

fn lines(all: &[Listed]) -> String {
    let row = |listed: &Listed| {
        let of = &listed.template;
        let cells = [
            of.name.clone(),
            of.id.clone(),
            arch(of.arch),
            size(of.size),
            listed.tags.len().to_string(),
            time(of.last_push),
            time(of.last_pull),
        ];
        (cells, Vec::new())
    };
    let head = ["NAME", "ID", "ARCH", "SIZE", "TAGS", "LAST PUSH", "LAST PULL"];
    table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn show(args: &Show, printer: Printer) -> Result<(), Failure> {
    let templates = args.reach.templates()?;
    let look = async || {
        let found = args.reach.find(&templates, &args.name).await?;
        let whole = args.reach.whole(&templates, &found.id).await?;
        whole.ok_or_else(|| Failure::Runtime {
            error: format!("template `{}` was deleted just now", args.name),
            hint: None,
        })
    };
    let show = |whole: &Template| args.output.print(printer, whole, || page(whole));
    args.every.run((printer, args.output), look, show).await
}

fn page(template: &Template) -> String {
    let head = format!(
        "{}\n  id         {}\n  arch       {}\n  size       {} (each layer once)\n  last push  {}\n  last pull  {}\n",
        template.name,
        template.id,
        arch(template.arch),
        size(template.size),
        time(template.last_push),
        time(template.last_pull),
    );
    let row = |version: &Version| {
        let cells = [
            version.number.to_string(),
            version.tag.clone(),
            size(version.size),
            time(version.last_push),
            time(version.last_pull),
        ];
        let described = (!version.description.is_empty()).then(|| version.description.clone());
        let layers = version.images.iter().map(|name| format!("image  {name}"));
        let states = version.state_files.iter().map(|name| format!("state  {name}"));
        (cells, described.into_iter().chain(layers).chain(states).collect())
    };
    let rows: Vec<_> = template.versions.iter().map(row).collect();
    format!("{head}\n{}", table(&["NO", "TAG", "SIZE", "LAST PUSH", "LAST PULL"], &rows))
}

fn arch(arch: Option<Arch>) -> String {
    let word = arch.and_then(|arch| serde_json::to_value(arch).ok());
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_else(|| "-".into())
}

/// Unix seconds; `never` for none.
fn time(seconds: i64) -> String {
    if seconds == 0 { "never".into() } else { Timestamp::from_unix_seconds(seconds).to_string() }
}
