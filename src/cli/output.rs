//! The only file that prints: data to standard output, everything else to standard error.

#![expect(clippy::print_stderr, reason = "this is the one place that prints")]

use std::io::{IsTerminal, Write};

/// Where a subcommand's words go.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    colour: bool,
}

impl Default for Printer {
    fn default() -> Self {
        Self::new()
    }
}

impl Printer {
    /// Colours for a terminal, unless `NO_COLOR` (no-color.org: any value but an empty one) is set.
    pub fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: !refused && std::io::stderr().is_terminal() }
    }

    /// Whether colours may be used on standard error.
    pub fn colour(self) -> bool {
        self.colour
    }

    /// One line of what was asked for. A reader that has seen enough (`| head`) closes its end: the rest is for nobody.
    pub fn data(self, line: impl std::fmt::Display) {
        drop(writeln!(std::io::stdout(), "{line}"));
    }

    /// Begins a screen anew, on a terminal.
    pub(super) fn clear(self) {
        if std::io::stdout().is_terminal() {
            drop(write!(std::io::stdout(), "\x1b[H\x1b[2J"));
        }
    }

    /// What a person should know, but no program reads.
    pub fn note(self, line: impl std::fmt::Display) {
        eprintln!("{line}");
    }

    /// Faults of a config; they are drawn as a whole.
    pub fn faults(self, faults: &crate::config::Faults) {
        eprintln!("{}\n", faults.draw(self.colour));
    }

    /// Draws the faults of a config that a command was to run with; it fails.
    pub(super) fn refused(self, faults: &crate::config::Faults) -> super::Failure {
        self.faults(faults);
        super::Failure::Shown
    }

    /// One line that says what failed, and one that helps.
    pub fn error(self, error: impl std::fmt::Display, hint: Option<&str>) {
        let (start, end) = if self.colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        eprintln!("{start}error{end}: {error}");
        if let Some(hint) = hint {
            eprintln!("hint: {hint}");
        }
    }
}
