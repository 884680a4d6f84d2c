//! `switchyard check FILE…`: validates configs of any role, connects to nothing.

use std::path::PathBuf;

use super::{Failure, Printer};
use crate::config::{self, Env};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Config files of any role; a file's role is read from its tables.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Checks each file, and goes on after a bad one.
pub(super) fn run(args: &Check, printer: Printer) -> Result<(), Failure> {
    let env = Env::of_process();
    let mut bad = 0;
    for file in &args.files {
        match config::load(file, &env) {
            Ok((loaded, notes)) => {
                for note in notes.iter().filter(|note| !note.honoured) {
                    printer.note(format!("note: {} is ignored: {}", note.variable, note.text));
                }
                printer.data(format!("ok {} ({})", file.display(), loaded.role().as_str()));
            }
            Err(faults) => {
                bad += 1;
                printer.faults(&faults);
            }
        }
    }
    if bad == 0 { Ok(()) } else { Err(Failure::Shown) }
}
