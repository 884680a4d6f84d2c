//! The last changes, in the order in which they happened: what watches are told from. Bounded by number.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    controller::records::InstanceRecord,
    model::{InstanceId, NodeId},
    store::Revision,
    wire::events::Event,
};

/// Changes that are kept. A start to its end has some eight of them; each holds its record, of some 2 KiB.
pub(super) const KEPT: usize = 16_384;

/// What changed.
#[derive(Debug, Clone)]
pub enum What {
    /// An instance, as it is then; none when it is gone.
    Instance(InstanceId, Option<Arc<InstanceRecord>>),
    /// A node, its settings or its presence. What it looks like depends on more than its record.
    Node(NodeId),
    /// Something that was done.
    Event(Arc<Event>),
}

/// One change.
#[derive(Debug)]
pub struct Changed {
    /// When.
    pub revision: Revision,
    /// What.
    pub what: What,
    /// It is the last one of its revision: from here on one may go on.
    pub last: bool,
    /// As it is told, made by the first that tells it.
    pub told: OnceLock<Option<Bytes>>,
}

/// Changes from there are no longer kept, or there are none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKept {
    /// The oldest revision from which they are.
    pub oldest: Revision,
    /// The newest.
    pub newest: Revision,
}

/// Some changes.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order, whole revisions.
    pub changes: Vec<Arc<Changed>>,
    /// Everything up to here is in it, or was before.
    pub upto: Revision,
}

/// The ring.
#[derive(Debug)]
pub struct Changes {
    ring: Mutex<Ring>,
    told: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Arc<Changed>>,
    /// All changes after this revision are kept.
    floor: Revision,
    upto: Revision,
}

impl Default for Changes {
    fn default() -> Self {
        Self { ring: Mutex::default(), told: watch::channel(0).0 }
    }
}

impl Changes {
    /// Takes in what happened up to `upto`, in order.
    pub(super) fn add(&self, upto: Revision, changes: Vec<(Revision, What)>) {
        {
            let mut ring = self.lock();
            let mut changes = changes.into_iter().peekable();
            while let Some((revision, what)) = changes.next() {
                let last = changes.peek().is_none_or(|(next, _)| *next != revision);
                ring.kept.push_back(Arc::new(Changed { revision, what, last, told: OnceLock::new() }));
            }
            while ring.kept.len() > KEPT {
                if let Some(gone) = ring.kept.pop_front() {
                    ring.floor = gone.revision;
                }
            }
            ring.upto = ring.upto.max(upto);
        }
        self.told.send_if_modified(|at| std::mem::replace(at, upto.max(*at)) < upto);
    }

    /// Forgets everything: what was told is not what is there.
    pub(super) fn begin_anew(&self, at: Revision) {
        *self.lock() = Ring { kept: VecDeque::new(), floor: at, upto: at };
        self.told.send_replace(at);
    }

    /// Whole revisions after `from`, some `most` changes of them.
    ///
    /// # Errors
    /// [`NotKept`] when there may be changes after `from` that are not here.
    pub fn after(&self, from: Revision, most: usize) -> Result<Batch, NotKept> {
        let ring = self.lock();
        if from < ring.floor || from > ring.upto {
            return Err(NotKept { oldest: ring.floor, newest: ring.upto });
        }
        let first = ring.kept.partition_point(|change| change.revision <= from);
        let mut batch = Batch { changes: Vec::new(), upto: ring.upto };
        for change in ring.kept.range(first..) {
            batch.changes.push(change.clone());
            if batch.changes.len() >= most && change.last {
                batch.upto = change.revision;
                break;
            }
        }
        Ok(batch)
    }

    /// Follows the newest revision.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.told.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // It is whole at every step.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: usize) -> What {
        What::Node(NodeId::parse(format!("n-{number}")).unwrap())
    }

    fn revisions(batch: &Batch) -> Vec<Revision> {
        batch.changes.iter().map(|change| change.revision).collect()
    }

    #[test]
    fn what_is_after_a_revision_is_told_and_a_revision_is_never_split() {
        let changes = Changes::default();
        changes.begin_anew(10);
        changes.add(12, vec![(11, node(1)), (11, node(2)), (12, node(1))]);
        changes.add(15, vec![]);
        assert_eq!(revisions(&changes.after(10, 1).unwrap()), [11, 11]);
        assert_eq!(changes.after(10, 1).unwrap().upto, 11);
        let rest = changes.after(11, 10).unwrap();
        assert_eq!((revisions(&rest), rest.upto), (vec![12], 15));
        assert!(changes.after(15, 10).unwrap().changes.is_empty());
        assert_eq!(changes.after(9, 10).unwrap_err(), NotKept { oldest: 10, newest: 15 });
        assert_eq!(changes.after(16, 10).unwrap_err(), NotKept { oldest: 10, newest: 15 }, "not yet there");
        changes.begin_anew(7);
        assert!(changes.after(12, 10).is_err());
    }

    #[test]
    fn it_is_bounded_and_says_what_it_has_forgotten() {
        let changes = Changes::default();
        changes.begin_anew(0);
        for revision in 1..=KEPT as i64 + 100 {
            changes.add(revision, vec![(revision, node(1))]);
        }
        assert_eq!(changes.after(99, 1).unwrap_err().oldest, 100);
        assert_eq!(revisions(&changes.after(100, 1).unwrap()), [101]);
    }

    proptest! {
        #[test]
        fn whoever_reads_in_pieces_gets_everything_once_and_in_order(
            sizes in prop::collection::vec(0usize..4, 1..60), most in 1usize..9,
        ) {
            let changes = Changes::default();
            changes.begin_anew(0);
            let mut all = Vec::new();
            for (size, revision) in sizes.iter().zip(1..) {
                changes.add(revision, (0..*size).map(|number| (revision, node(number))).collect());
                all.extend((0..*size).map(|_| revision));
            }
            let (mut at, mut got) = (0, Vec::new());
            while at < sizes.len() as i64 {
                let batch = changes.after(at, most).unwrap();
                prop_assert!(batch.upto > at);
                prop_assert!(batch.changes.last().is_none_or(|change| change.last));
                at = batch.upto;
                got.extend(revisions(&batch));
            }
            prop_assert_eq!(got, all);
        }
    }
}
