//! What becomes of a blob: decided by what is referenced, and by since when nobody wanted it. Pure.
//!
//! A blob that something references was wanted by whoever published that: it was touched, or came, less than one
//! publication ago. So what is unreferenced and untouched for `grace` is either garbage, or part of a publication that
//! takes longer than `grace`; and of what then lay in the trash for `trash`, longer than any publication may take,
//! references read *after* that time tell the two apart.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use crate::{
    model::Digest,
    registry::content::trash::{Given, Stored},
};

/// The graces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Untouched for so long, what nothing references goes to the trash.
    pub grace: Duration,
    /// After so long there, it is looked at once more.
    pub trash: Duration,
}

/// The graces, counted back from the moment at which a collection began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// What was touched after this stays.
    pub(super) untouched_since: SystemTime,
    /// What came into the trash after this waits.
    pub(super) discarded_before: SystemTime,
    /// What was given, or asked for, after this stays given. It has no trash, so it has both graces at once.
    pub(super) given_before: SystemTime,
}

impl Rules {
    /// For a collection that begins now, by the storage's clock.
    pub(super) fn at(&self, now: SystemTime) -> Cut {
        // Nothing is older than the epoch.
        let back = |by| now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH);
        Cut {
            untouched_since: back(self.grace),
            discarded_before: back(self.trash),
            given_before: back(self.grace.saturating_add(self.trash)),
        }
    }
}

/// What becomes of a blob in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Something references it.
    PutBack,
    /// Nothing did, all the time.
    Purge,
    /// A publication that wants it may still be under way.
    Waits,
}

/// Whether a blob goes to the trash.
pub(super) fn goes(blob: &Stored, referenced: &HashSet<Digest>, cut: &Cut) -> bool {
    !referenced.contains(&blob.digest) && blob.touched <= cut.untouched_since
}

/// What becomes of one that is there. The references must have been read after it was listed.
pub(super) fn fate(blob: &Stored, referenced: &HashSet<Digest>, cut: &Cut) -> Fate {
    if referenced.contains(&blob.digest) {
        Fate::PutBack
    } else if blob.touched <= cut.discarded_before {
        Fate::Purge
    } else {
        Fate::Waits
    }
}

/// Whether a repository loses what it was given: none of its manifests needs it, and no push asked for it.
pub(super) fn lost(given: &Given, needed: impl Fn(&Digest) -> bool, cut: &Cut) -> bool {
    !needed(&given.digest) && given.touched <= cut.given_before
}

#[cfg(test)]
mod tests;
