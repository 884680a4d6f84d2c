//! `switchyard import nginx|haproxy FILE`: our config on standard output, a line about each of theirs on standard error.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Failure, Printer};
use crate::{
    config,
    import::{self, Fate, ImportError, Imported, Included, Report, nginx},
};

/// A file larger than this is no config.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Files that one name or pattern may stand for.
const MOST_FILES: usize = 1000;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: nginx -T | switchyard import nginx - > proxy.toml\n\
                        Each directive is kept, changed, guessed, or cannot be expressed; the report says which and why.\n\
                        Exit code 1: the result is there, but `switchyard check` would refuse it as it stands, or, with\n\
                        --strict, something could not be expressed. Exit code 2: nothing was made.")]
pub(super) struct Args {
    /// Whose config it is.
    #[arg(value_name = "nginx|haproxy")]
    from: Whose,
    /// The file that it is started with, or `-` for standard input. What it includes is read as well.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the config here instead; a file that is there already is never overwritten.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// `json`: one object on standard output, with the config and the report.
    #[arg(long, value_name = "text|json", default_value = "text")]
    output: Output,
    /// Exit with 1 if anything cannot be expressed.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Whose {
    Nginx,
    Haproxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Translates the file, and checks what has become of it.
pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let usage = |error: String, hint: Option<&str>| Failure::Usage { error, hint: hint.map(str::to_owned) };
    let name = args.file.display().to_string();
    let text = read(&args.file).map_err(|why| usage(format!("cannot read `{name}`: {why}"), None))?;
    let imported = match args.from {
        Whose::Nginx => nginx::import(&name, &text, &|pattern| named(pattern, &args.file)),
        Whose::Haproxy => {
            // Names in its config are relative to where it is started, not to the config.
            let variable = |name: &str| std::env::var(name).ok();
            import::haproxy::import(&name, &text, &|pattern| named(pattern, Path::new("")), &variable)
        }
    };
    let Imported { config, report } = imported.map_err(|error| {
        if let ImportError::Nothing { report, .. } = &error {
            show(&name, report, printer);
        }
        let hint = "name the file that the server is started with, and say whose it is: `nginx` or `haproxy`";
        usage(error.to_string(), Some(hint))
    })?;
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from("proxy.toml"));
    let checked = config::check_proxy(&path, &config);
    if let Some(to) = &args.to {
        let written = std::fs::File::options()
            .write(true)
            .create_new(true)
            .open(to)
            .and_then(|mut file| std::io::Write::write_all(&mut file, config.as_bytes()));
        written.map_err(|error| Failure::Runtime {
            error: format!("cannot write `{}`: {error}", to.display()),
            hint: Some("name a file that is not there yet".into()),
        })?;
    }
    match (args.output, &args.to) {
        (Output::Json, _) => printer.data(as_json(&config, &report, checked.is_ok())),
        (Output::Text, Some(_)) => show(&name, &report, printer),
        (Output::Text, None) => {
            show(&name, &report, printer);
            printer.data(config.trim_end());
        }
    }
    if let Err(faults) = checked {
        printer.faults(&faults);
        return Err(Failure::Runtime {
            error: "`switchyard check` would refuse the result as it stands".into(),
            hint: Some(
                "mend what is named above; files that it names must be on this machine to be checked".into(),
            ),
        });
    }
    let lost = report.count(Fate::Lost);
    if args.strict && lost > 0 {
        let error = format!("{lost} directives of `{name}` cannot be expressed");
        return Err(Failure::Runtime { error, hint: Some("without --strict that is only said".into()) });
    }
    Ok(())
}

fn show(name: &str, report: &Report, printer: Printer) {
    for note in report.notes() {
        printer.note(format!("{}: {}: {}: {}", note.at, note.fate.as_str(), note.directive, note.says));
    }
    let count = |fate: Fate| format!("{} {}", report.count(fate), fate.as_str());
    printer.note(format!("of the directives of {name}: {}", Fate::ALL.map(count).join(", ")));
}

fn as_json(config: &str, report: &Report, good: bool) -> serde_json::Value {
    let note = |note: import::Note| {
        json!({
            "file": &*note.at.file, "line": note.at.line, "directive": note.directive,
            "fate": note.fate, "says": note.says,
        })
    };
    json!({ "config": config, "checks": good, "report": report.notes().map(note).collect::<Vec<_>>() })
}

fn read(file: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("it has more than 4 MiB, and a config has less".into());
    }
    String::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))
}

/// The files of a name or a pattern; relative ones are beside `main`, the file that the server is started with.
fn named(pattern: &str, main: &Path) -> Result<Vec<Included>, String> {
    let beside = main.parent().unwrap_or(Path::new("")).join(pattern);
    let wanted = beside.display().to_string();
    // A pipe or a device may have no end, or no beginning.
    let plain = |name: &str| match std::fs::metadata(name) {
        Ok(meta) if meta.is_file() => read(Path::new(name)),
        Ok(_) => Err(format!("`{name}` is no plain file")),
        Err(error) => Err(format!("`{name}`: {error}")),
    };
    if !pattern.contains(['*', '?']) {
        return plain(&wanted).map(|text| vec![(wanted.clone(), text)]);
    }
    let folder = beside.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let names = entries.flatten().map(|entry| beside.with_file_name(entry.file_name()).display().to_string());
    let mut found: Vec<String> =
        names.filter(|name| nginx::matches(&wanted, name)).take(MOST_FILES + 1).collect();
    if found.len() > MOST_FILES {
        return Err(format!("`{wanted}` stands for more than {MOST_FILES} files"));
    }
    // nginx reads them in this order too.
    found.sort();
    found.into_iter().map(|name| plain(&name).map(|text| (name, text))).collect()
}
