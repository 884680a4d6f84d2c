//! `switchyard registry fsck`: explains what is wrong in a registry's directory, and mends it.

use std::path::PathBuf;

use crate::{
    cli::{Failure, Printer, admin::Output, role},
    config::{self, Env},
    registry::{
        content::size,
        upkeep::fsck::{FsckError, fsck},
    },
    wire::upkeep::{Checked, Finding},
};

/// Arguments of `registry fsck`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file of the registry, which must not run
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Mend what can be mended here; what is bad is moved to the quarantine, and nothing that is whole is deleted
    #[arg(long)]
    repair: bool,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let (config, _) =
        config::load_registry(&args.config, &Env::of_process()).map_err(|f| printer.refused(&f))?;
    let looked = role::once(fsck(&config, args.repair, |progress| printer.note(progress)))?;
    let checked = looked.map_err(|error| {
        let mut failure = Failure::runtime("the storage was not looked through", &error);
        if let (Failure::Runtime { hint, .. }, FsckError::Storage(_)) = (&mut failure, &error) {
            *hint = Some("stop its registry first: a directory that is in use is not looked through".into());
        }
        failure
    })?;
    args.output.print(printer, &checked, || text(&checked))?;
    match checked.left() {
        0 => Ok(()),
        left => Err(Failure::Runtime {
            error: format!("{left} findings are not mended"),
            hint: (!args.repair).then(|| "`--repair` mends what can be mended here".into()),
        }),
    }
}

fn text(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked.findings.iter().map(finding).collect();
    let Checked { repositories, blobs, bytes, .. } = checked;
    let left = match checked.left() {
        0 => "nothing is wrong".to_owned(),
        left => format!("{left} findings are left"),
    };
    lines.push(format!("{repositories} repositories, {blobs} blobs ({}): {left}", size(*bytes)));
    lines.join("\n")
}

fn finding(finding: &Finding) -> String {
    let Finding { trouble, what, why, remedy, needed_by, repaired, harmless } = finding;
    let state = match (repaired, harmless) {
        (true, _) => " (mended)",
        (false, true) => " (note)",
        (false, false) => "",
    };
    let mut text = format!("{}{state}: {what}: {why}", trouble.as_str());
    if !needed_by.is_empty() {
        text += &format!("\n    needed by {}", needed_by.join(", "));
    }
    if !remedy.is_empty() && !repaired {
        text += &format!("\n    {remedy}");
    }
    text
}
