//! What became of each directive: one note for each, in the order of the files, none twice and none left out.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

/// Where a directive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Counts from 1.
    pub line: usize,
    /// Which one of its file it is: a line can have several.
    pub(super) nth: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What became of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It means the same, or is always so.
    Kept,
    /// It became something near it.
    Changed,
    /// What it becomes depends on what the file does not say.
    Guessed,
    /// There is nothing of ours that it could become.
    Lost,
}

impl Fate {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Kept, Self::Changed, Self::Guessed, Self::Lost];

    /// The word of the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Guessed => "guessed",
            Self::Lost => "cannot be expressed",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub at: At,
    /// The directive, as it was read; what may be secret is not shown.
    pub directive: String,
    /// What became of it.
    pub fate: Fate,
    /// As what, or why.
    pub says: String,
}

/// The file and the place in it.
type Key = (usize, usize);

/// A directive, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    at: At,
    directive: String,
    /// The block that it stands in.
    within: Option<Key>,
    said: Option<(Fate, String)>,
}

/// All that is to be said about an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    files: Vec<Arc<str>>,
    slots: BTreeMap<Key, Slot>,
}

/// How much of a directive is shown: certificates and lists of names can be long.
const SHOWN: usize = 100;

/// How much is said of one: what is included at many places may have become many things.
const SAID: usize = 400;

/// What stands behind such a word may be secret.
const SECRET: &[&str] = &["authorization", "proxy-authorization", "password", "insecure-password", "auth"];

impl Report {
    /// A directive, of which something is to be said; `within` is the block that it stands in.
    pub(super) fn expect(&mut self, at: &At, directive: &str, within: Option<&At>) {
        let within = within.map(|at| self.key(at));
        let key = self.key(at);
        self.slots.entry(key).or_insert_with(|| Slot {
            at: at.clone(),
            directive: shown(directive),
            within,
            said: None,
        });
    }

    /// Says what became of a directive. Of one that several things became, as it is included at several places, the
    /// worst counts.
    pub(super) fn note(&mut self, at: &At, directive: &str, (fate, says): Outcome) {
        let key = self.key(at);
        match self.slots.entry(key) {
            Entry::Vacant(slot) => {
                let (at, directive) = (at.clone(), shown(directive));
                slot.insert(Slot { at, directive, within: None, said: Some((fate, says)) });
            }
            Entry::Occupied(mut slot) => match &mut slot.get_mut().said {
                Some((known, _)) if *known > fate => {}
                Some((known, said)) if *known == fate => {
                    if !said.contains(&says) && said.len() + says.len() < SAID {
                        said.push_str("; ");
                        said.push_str(&says);
                    }
                }
                said => *said = Some((fate, says)),
            },
        }
    }

    /// A block was left out: what is in it became nothing, whatever was said of it. What was included from other files may
    /// be used elsewhere too, and is not looked at.
    pub(super) fn lose(&mut self, block: &At) {
        let key = self.key(block);
        let (file, line) = (key.0, block.line);
        let mut lost: Vec<Key> = vec![key];
        // A block stands before what is in it.
        for (place, slot) in self.slots.range_mut((file, key.1 + 1)..(file + 1, 0)) {
            if !slot.within.is_some_and(|within| lost.contains(&within)) {
                continue;
            }
            lost.push(*place);
            if slot.said.as_ref().is_none_or(|(fate, _)| *fate < Fate::Lost) {
                slot.said = Some((Fate::Lost, format!("left out with what it stands in (line {line})")));
            }
        }
    }

    /// In the order of the files. One of which nothing was said shares the fate of its block.
    pub fn notes(&self) -> impl Iterator<Item = Note> {
        self.slots.values().map(|slot| {
            let (fate, says) = self.said(slot);
            Note { at: slot.at.clone(), directive: slot.directive.clone(), fate, says }
        })
    }

    /// How many directives became that.
    pub fn count(&self, fate: Fate) -> usize {
        self.slots.values().filter(|slot| self.said(slot).0 == fate).count()
    }

    /// The number of a file; nobody names many.
    fn key(&mut self, at: &At) -> Key {
        let known = self.files.iter().position(|file| *file == at.file);
        let file = known.unwrap_or_else(|| {
            self.files.push(at.file.clone());
            self.files.len() - 1
        });
        (file, at.nth)
    }

    fn said(&self, slot: &Slot) -> (Fate, String) {
        if let Some(said) = &slot.said {
            return said.clone();
        }
        // Blocks have a bounded depth (`nginx::parse`), and none stands in itself.
        let mut within = slot.within.and_then(|key| self.slots.get(&key));
        while let Some(block) = within {
            if let Some((fate, _)) = &block.said {
                let name = block.directive.split(' ').next().unwrap_or_default();
                return (*fate, format!("as the `{name}` that it stands in (line {})", block.at.line));
            }
            within = block.within.and_then(|key| self.slots.get(&key));
        }
        (Fate::Lost, "not known here".into())
    }
}

/// A directive as the report has it.
fn shown(directive: &str) -> String {
    let visible = directive.replace(|c: char| c.is_control(), " ");
    let mut open = String::new();
    for word in visible.split(' ') {
        if !open.is_empty() {
            open.push(' ');
        }
        open.push_str(word);
        if SECRET.contains(&word.to_ascii_lowercase().as_str()) {
            open.push_str(" …");
            break;
        }
    }
    let mut shown: String = open.chars().take(SHOWN).collect();
    if shown.len() < open.len() {
        shown.push('…');
    }
    shown
}

/// What a directive became, before it is known which one it was.
pub(super) type Outcome = (Fate, String);

/// It means the same.
pub(super) fn kept(says: impl Into<String>) -> Outcome {
    (Fate::Kept, says.into())
}

/// It became something near it.
pub(super) fn changed(says: impl Into<String>) -> Outcome {
    (Fate::Changed, says.into())
}

/// It may be meant so.
pub(super) fn guessed(says: impl Into<String>) -> Outcome {
    (Fate::Guessed, says.into())
}

/// There is no such thing.
pub(super) fn lost(says: impl Into<String>) -> Outcome {
    (Fate::Lost, says.into())
}

/// There is no such thing, and it kept somebody out.
pub(super) fn opens(says: impl fmt::Display) -> Outcome {
    lost(format!("{says}. CAREFUL: whom it kept out is let in now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, nth: usize) -> At {
        At { file: "x".into(), line, nth }
    }

    #[test]
    fn each_directive_has_one_note_and_the_worst_that_was_said_of_it() {
        let mut report = Report::default();
        report.expect(&at(1, 0), "map $a $b", None);
        report.expect(&at(2, 1), "default 1", Some(&at(1, 0)));
        report.expect(&at(3, 2), "x", None);
        report.note(&at(1, 0), "map $a $b", lost("no variables"));
        report.note(&at(1, 0), "map $a $b", kept("fine"));
        let notes: Vec<Note> = report.notes().collect();
        assert_eq!(notes.len(), 3);
        assert_eq!((notes[0].fate, notes[0].says.as_str()), (Fate::Lost, "no variables"));
        assert_eq!((notes[1].fate, notes[1].says.contains("`map`")), (Fate::Lost, true));
        assert_eq!(report.count(Fate::Lost), 3);
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        assert_eq!(shown("stats auth admin:secret"), "stats auth …");
        assert_eq!(shown("proxy_set_header Authorization Basic abc"), "proxy_set_header Authorization …");
        assert_eq!(shown("a\nb"), "a b");
    }
}
