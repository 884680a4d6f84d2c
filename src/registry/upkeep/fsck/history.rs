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

/// The log, and what it says of each repository.
pub(super) struct History {
    log: Log,
    pub(super) head: Position,
    /// The newest generation, where it was made, and whether it may not be shown yet.
    pub(super) changes: BTreeMap<RepositoryName, (u64, Position, bool)>,
}

impl History {
    /// Reads all of it.
    pub(super) fn open(dir: &Path) -> Result<Self, LogError> {
        let log = Log::open(dir)?;
        let mut changes = BTreeMap::new();
        each(&log, |entry| {
            if let (Some(repository), Some(patch)) = (entry.repository, entry.patch) {
                changes.insert(repository, (patch.generation, entry.position, false));
            }
        })?;
        for entry in log.unapplied()? {
            if let (Some(repository), Some(patch)) = (entry.repository, entry.patch) {
                changes.insert(repository, (patch.generation, entry.position, true));
            }
        }
        Ok(Self { head: log.history().head, log, changes })
    }

    /// The newest generation of a catalogue, from this one on: `None` if the log does not have every change in between. One that is
    /// new begins at the repository's first change.
    pub(super) fn newest(&self, from: &Catalogue) -> Result<Option<Catalogue>, LogError> {
        let Some((to, ..)) = self.changes.get(&from.name) else { return Ok(None) };
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
