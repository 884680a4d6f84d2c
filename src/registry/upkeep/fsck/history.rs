//! What the change log tells of catalogues: how far each of them should be, and what it was.

use std::{collections::BTreeMap, path::Path};

use crate::{
    model::{Position, RepositoryName},
    registry::{
        content::Catalogue,
        log::{self, Log, LogError, Read},
    },
    wire::replication::Entry,
};

/// The newest change of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newest {
    /// The generation that it makes.
    pub(super) to: u64,
    /// Where it stands.
    pub(super) at: Position,
    /// From this generation on the changes came with the last append, and may not be shown yet.
    unapplied: Option<u64>,
}

impl Newest {
    /// Whether a catalogue of this generation is older, and all that it lacks is made good by the next start.
    pub(super) fn is_made_good(&self, generation: u64) -> bool {
        generation < self.to && self.unapplied.is_some_and(|first| generation + 1 >= first)
    }
}

/// The log, and what it says of each repository.
pub(super) struct History {
    log: Log,
    pub(super) head: Position,
    pub(super) changes: BTreeMap<RepositoryName, Newest>,
}

impl History {
    /// Reads all of it.
    pub(super) fn open(dir: &Path) -> Result<Self, LogError> {
        let log = Log::open(dir)?;
        let mut changes = BTreeMap::new();
        each(&log, |entry| {
            if let (Some(repository), Some(patch)) = (entry.repository, entry.patch) {
                changes
                    .insert(repository, Newest { to: patch.generation, at: entry.position, unapplied: None });
            }
        })?;
        for entry in log.unapplied()? {
            if let (Some(repository), Some(patch)) = (entry.repository, entry.patch) {
                let first = changes.get(&repository).and_then(|newest: &Newest| newest.unapplied);
                let unapplied = Some(first.unwrap_or(patch.generation));
                changes.insert(repository, Newest { to: patch.generation, at: entry.position, unapplied });
            }
        }
        Ok(Self { head: log.history().head, log, changes })
    }

    /// The newest generation of a catalogue, from this one on: `None` if the log does not have every change in between. One that is
    /// new begins at the repository's first change.
    pub(super) fn newest(&self, from: &Catalogue) -> Result<Option<Catalogue>, LogError> {
        let Some(Newest { to, .. }) = self.changes.get(&from.name) else { return Ok(None) };
        let mut now = from.clone();
        let mut whole = true;
        each(&self.log, |entry| {
            let Some(patch) = entry.patch.filter(|_| entry.repository.as_ref() == Some(&from.name)) else {
                return;
            };
            if patch.generation > now.generation {
                whole &= patch.generation == now.generation + 1 && now.apply(&patch).is_ok();
            }
        })?;
        Ok((whole && now.generation == *to && now.fault(&from.name).is_none()).then_some(now))
    }
}

/// Each entry that is kept, in order.
fn each(log: &Log, mut told: impl FnMut(Entry)) -> Result<(), LogError> {
    let history = log.history();
    let mut after = history.base;
    while let Read::Lines { lines, upto, .. } = log.read(after, None, history.head)? {
        if lines.is_empty() {
            break;
        }
        for line in lines {
            told(log::entry(&line)?);
        }
        after = upto;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_that_lacks_changes_of_the_last_append_alone_is_made_good() {
        let newest = |unapplied| Newest { to: 7, at: Position { epoch: 1, seq: 9 }, unapplied };
        for (unapplied, generation, good) in [
            (None, 6, false),
            (Some(7), 6, true),
            (Some(7), 5, false),
            (Some(5), 4, true),
            (Some(5), 6, true),
            (Some(5), 3, false),
            (Some(5), 7, false),
        ] {
            assert_eq!(newest(unapplied).is_made_good(generation), good, "{unapplied:?} {generation}");
        }
    }
}
