//! Configs of nginx and haproxy, said in ours, with a word about every line of theirs.
//!
//! Pure: texts go in, a config and a report come out. Nothing is guessed silently, and nothing of theirs is
//! left out of the report: each directive is kept, changed, guessed, or cannot be expressed. Whether the
//! result is a good config is for `config` to say; whoever calls asks it.

mod report;
mod plan;
mod units;
mod words;
pub mod nginx;
pub mod haproxy;

pub use report::{At, Fate, Note, Report};

/// Directives that one import looks at, at most.
const MOST_DIRECTIVES: usize = 50_000;

/// Bytes of all its files together, at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// A file that was named in a config: its name and its text.
pub type Included = (String, String);

/// Finds the files of a name or a pattern that stands in a config. The error says why there are none.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Vec<Included>, String>;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Our config, as text.
    pub config: String,
    /// A note for each directive of theirs, in the order of their files.
    pub report: Report,
}

/// Why a file could not be read as what it was said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is not written as such a config is.
    #[error("{at}: {what}")]
    Syntax {
        /// Where it stops making sense.
        at: At,
        /// What is wrong there.
        what: String,
    },
    /// There is nothing in it that a proxy does.
    #[error("there is nothing to proxy in it that could be expressed: no {what}")]
    Nothing {
        /// What would be needed.
        what: &'static str,
        /// What is to be said about its directives.
        report: Box<Report>,
    },
    /// More than anybody writes.
    #[error("it has more than {MOST_DIRECTIVES} directives, or more than 16 MiB with all that it includes")]
    Large,
}
