//! The last changes, in the order in which they happened: what watches are told from. Bounded by number, and by what they
//! hold in memory.

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

/// Bytes of the records of all of them, as far as they are known. More: the oldest go.
pub(super) const KEPT_BYTES: usize = 64 << 20;

/// Bytes of what was told of them, made once for all watches. More: it is made for each.
const TOLD_BYTES: usize = 64 << 20;

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

impl What {
    /// Bytes that it holds, roughly.
    fn weight(&self) -> usize {
        const LITTLE: usize = 512;
        match self {
            Self::Instance(_, Some(record)) => record.weight(),
            Self::Instance(_, None) | Self::Node(_) | Self::Event(_) => LITTLE,
        }
    }
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
    /// As it is told, made by the first that tells it; see [`Changes::tell`].
    told: OnceLock<Option<Bytes>>,
}

impl Changed {
    fn told_bytes(&self) -> usize {
        self.told.get().and_then(Option::as_ref).map_or(0, Bytes::len)
    }
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
    /// Bytes of the records in it, and of what was told of them.
    weight: usize,
    told: usize,
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
                ring.weight += what.weight();
                ring.kept.push_back(Arc::new(Changed { revision, what, last, told: OnceLock::new() }));
            }
            while ring.kept.len() > KEPT || ring.weight > KEPT_BYTES {
                let Some(gone) = ring.kept.pop_front() else { break };
                ring.floor = gone.revision;
                ring.weight = ring.weight.saturating_sub(gone.what.weight());
                ring.told = ring.told.saturating_sub(gone.told_bytes());
            }
            ring.upto = ring.upto.max(upto);
        }
        self.told.send_if_modified(|at| std::mem::replace(at, upto.max(*at)) < upto);
    }

    /// Forgets everything: what was told is not what is there.
    pub(super) fn begin_anew(&self, at: Revision) {
        *self.lock() = Ring { floor: at, upto: at, ..Ring::default() };
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

    /// As it is told; made now if nobody has told it yet, and kept for the others if there is room.
    pub fn tell(&self, change: &Changed, make: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        if let Some(told) = change.told.get() {
            return told.clone();
        }
        let made = make();
        let bytes = made.as_ref().map_or(0, Bytes::len);
        let mut ring = self.lock();
        // One that was forgotten meanwhile is taken off by nobody.
        let counts = change.revision > ring.floor && ring.told + bytes <= TOLD_BYTES;
        if counts && change.told.set(made.clone()).is_ok() {
            ring.told += bytes;
        }
        made
    }

    /// The newest revision.
    pub fn newest(&self) -> Revision {
        self.lock().upto
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

    #[test]
    fn what_is_told_is_made_once_while_there_is_room_and_forgotten_with_its_change() {
        const LARGE: usize = 1 << 20;
        let changes = Changes::default();
        changes.begin_anew(0);
        let made = |revision: i64| {
            let change = changes.after(revision - 1, 1).unwrap().changes.remove(0);
            let mut made = 0;
            for _ in 0..2 {
                let told = changes.tell(&change, || {
                    made += 1;
                    Some(Bytes::from(vec![0; LARGE]))
                });
                assert_eq!(told.unwrap().len(), LARGE);
            }
            made
        };
        for revision in 1..=100 {
            changes.add(revision, vec![(revision, node(1))]);
            let room = revision <= (TOLD_BYTES / LARGE) as i64;
            assert_eq!(made(revision), if room { 1 } else { 2 }, "{revision}");
        }
        let last = 100 + KEPT as i64;
        changes.add(last, (101..=last).map(|revision| (revision, node(1))).collect());
        let told = changes.lock().told;
        assert_eq!((told, made(last)), (0, 1));
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
