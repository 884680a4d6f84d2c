//! The only file that prints: data to standard output, everything else to standard error.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// Nobody reads standard output any more.
static UNREAD: AtomicBool = AtomicBool::new(false);

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
        if writeln!(std::io::stdout(), "{line}").is_err() {
            UNREAD.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody reads what is printed, as far as that is known.
    pub(super) fn is_read(self) -> bool {
        !UNREAD.load(Ordering::Relaxed)
    }

    /// Begins a screen anew, on a terminal.
    pub(super) fn clear(self) {
        if std::io::stdout().is_terminal() {
            drop(write!(std::io::stdout(), "\x1b[H\x1b[2J"));
        }
    }

    /// What a person should know, but no program reads.
    pub fn note(self, line: impl std::fmt::Display) {
        say(&plain(&line.to_string()));
    }

    /// Faults of a config; they are drawn as a whole.
    pub fn faults(self, faults: &crate::config::Faults) {
        say(&format!("{}\n", faults.draw(self.colour)));
    }

    /// Draws the faults of a config that a command was to run with; it fails.
    pub(super) fn refused(self, faults: &crate::config::Faults) -> super::Failure {
        self.faults(faults);
        super::Failure::Shown
    }

    /// One line that says what failed, and one that helps.
    pub fn error(self, error: impl std::fmt::Display, hint: Option<&str>) {
        let (start, end) = if self.colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        say(&format!("{start}error{end}: {}", plain(&error.to_string())));
        if let Some(hint) = hint {
            say(&format!("hint: {}", plain(hint)));
        }
    }
}

/// To standard error. One whose reader is gone (`2>&1 | head`) is no reason to end in the middle of something.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A text as a terminal may be shown it. Names, messages and scripts' output are other people's: what moves the cursor or
/// renames the window is shown, and not done.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let strange = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(strange) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    // A line that ends as on Windows ends all the same.
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            c if strange(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_others_say_does_nothing_to_a_terminal() {
        assert_eq!(plain("two\tlines\nßé"), "two\tlines\nßé");
        assert_eq!(plain("\u{1b}[2J\u{7}x\u{9b}1m\r\ny\rz"), "\\u{1b}[2J\\u{7}x\\u{9b}1m\ny\\rz");
    }
}
