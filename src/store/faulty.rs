//! A store that misbehaves on purpose, around a real one: for tests of whoever uses a store.
//!
//! ```ignore
//! let faults = Faults::new();
//! let store = Faulty::new(real, faults.clone());
//! faults.next(On::Txn, Fault::LoseAnswer);     // the next transaction is done, and its caller is not told
//! faults.break_watches();
//! ```
//!
//! Or by chance, from a seed, so that a failing run can be repeated: `Faults::seeded(seed, 0.1)`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use super::{
    Consistency, Got, LeaseId, LeaseState, Range, Ranged, Revision, Standing, Store, StoreError, Txn,
    TxnAnswer, Watch, WatchItem,
};

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Gets and ranges.
    Read,
    /// Transactions.
    Txn,
    /// Beginning to watch.
    Watch,
    /// Granting, renewing and ending leases.
    Lease,
    /// Compaction.
    Compact,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not done, and said so: [`StoreError::Unavailable`].
    Refuse,
    /// Done, and the answer lost: [`StoreError::Unknown`].
    LoseAnswer,
    /// Not done, and the answer lost just the same: a caller cannot tell it from [`Fault::LoseAnswer`].
    LoseRequest,
    /// Not done, for the store has no room: [`StoreError::Full`].
    Full,
    /// Done after this long.
    Stall(Duration),
    /// Done at once, and answered after this long.
    Late(Duration),
    /// A transaction whose compares fail although they hold, as if somebody had been faster. Its `otherwise`
    /// list is done. Strikes only transactions that compare something; others are not touched.
    Conflict,
}

/// How watches are disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Disturbance {
    breaks: u64,
    compactions: u64,
    silence: bool,
}

struct Chance {
    draw: StdRng,
    share: f64,
}

#[derive(Default)]
struct Script {
    next: VecDeque<(On, Fault)>,
    always: Vec<(On, Fault)>,
    chance: Option<Chance>,
    struck: u64,
    keys_read: u64,
}

/// The handle that says what goes wrong; cheap to clone, and the store obeys all of its clones.
#[derive(Clone)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
    watches: Arc<watch::Sender<Disturbance>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

impl Faults {
    /// Nothing goes wrong until asked for.
    pub fn new() -> Self {
        Self { script: Arc::default(), watches: Arc::new(watch::Sender::new(Disturbance::default())) }
    }

    /// Of all calls, `share` (0 to 1) go wrong in one of the ways that fit them, drawn from `seed`.
    pub fn seeded(seed: u64, share: f64) -> Self {
        let faults = Self::new();
        faults.script().chance = Some(Chance { draw: StdRng::seed_from_u64(seed), share });
        faults
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call of this kind goes wrong so; several wait in line.
    pub fn next(&self, on: On, fault: Fault) {
        self.script().next.push_back((on, fault));
    }

    /// Every call of this kind goes wrong so, until [`Faults::heal`].
    pub fn always(&self, on: On, fault: Fault) {
        self.script().always.push((on, fault));
    }

    /// The store cannot be reached: everything is refused and running watches break.
    pub fn cut_off(&self) {
        for on in [On::Read, On::Txn, On::Watch, On::Lease, On::Compact] {
            self.always(on, Fault::Refuse);
        }
        self.break_watches();
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut script = self.script();
        script.next.clear();
        script.always.clear();
        script.chance = None;
        drop(script);
        self.watches.send_modify(|now| now.silence = false);
    }

    /// Every running watch ends with an error.
    pub fn break_watches(&self) {
        self.watches.send_modify(|now| now.breaks += 1);
    }

    /// Every running watch learns that its revision is compacted, and ends. The store itself keeps everything.
    pub fn compact_watches(&self) {
        self.watches.send_modify(|now| now.compactions += 1);
    }

    /// Running watches deliver nothing until this is taken back.
    pub fn silence_watches(&self, silent: bool) {
        self.watches.send_modify(|now| now.silence = silent);
    }

    /// How many faults have struck: a test that waits for one can tell that it happened.
    pub fn struck(&self) -> u64 {
        self.script().struck
    }

    /// How many keys ranges have brought: a test can tell a listing of everything from a look.
    pub fn keys_read(&self) -> u64 {
        self.script().keys_read
    }

    fn draw(&self, on: On, may_conflict: bool) -> Option<Fault> {
        let mut script = self.script();
        let fits = |fault: &(On, Fault)| fault.0 == on && (may_conflict || fault.1 != Fault::Conflict);
        let fault = if let Some(at) = script.next.iter().position(fits) {
            script.next.remove(at).map(|(_, fault)| fault)
        } else if let Some((_, fault)) = script.always.iter().find(|fault| fits(fault)) {
            Some(*fault)
        } else {
            script.chance.as_mut().and_then(|chance| chance.draw(may_conflict))
        };
        script.struck += u64::from(fault.is_some());
        fault
    }
}

impl Chance {
    fn draw(&mut self, may_conflict: bool) -> Option<Fault> {
        if !self.draw.random_bool(self.share.clamp(0.0, 1.0)) {
            return None;
        }
        Some(match self.draw.random_range(0..if may_conflict { 5 } else { 4 }) {
            0 => Fault::Refuse,
            1 => Fault::LoseAnswer,
            2 => Fault::LoseRequest,
            3 => Fault::Stall(Duration::from_millis(self.draw.random_range(1..50))),
            _ => Fault::Conflict,
        })
    }
}

/// A store with faults.
pub struct Faulty {
    store: Arc<dyn Store>,
    faults: Faults,
}

impl Faulty {
    /// Around a store; `faults` says what goes wrong.
    pub fn new(store: Arc<dyn Store>, faults: Faults) -> Self {
        Self { store, faults }
    }

    async fn with<T>(
        &self,
        on: On,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.faults.draw(on, false);
        self.strike(fault, work).await
    }

    async fn strike<T>(
        &self,
        fault: Option<Fault>,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let lost = || StoreError::Unknown { why: "the answer was lost on purpose".to_owned() };
        match fault {
            None | Some(Fault::Conflict) => work.await,
            Some(Fault::Refuse) => Err(StoreError::Unavailable { why: "refused on purpose".to_owned() }),
            Some(Fault::Full) => Err(StoreError::Full { why: "no room on purpose".to_owned() }),
            Some(Fault::LoseAnswer) => work.await.and_then(|_| Err(lost())),
            Some(Fault::LoseRequest) => Err(lost()),
            Some(Fault::Stall(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::Late(time)) => {
                let answer = work.await;
                tokio::time::sleep(time).await;
                answer
            }
        }
    }
}

/// What was asked for under a read or a renewal is harmless, so its loss is no question of "may have happened".
fn harmless<T>(answer: Result<T, StoreError>) -> Result<T, StoreError> {
    answer.map_err(|error| match error {
        StoreError::Unknown { why } => StoreError::Unavailable { why },
        other => other,
    })
}

struct Disturbed {
    watch: Watch,
    disturbance: watch::Receiver<Disturbance>,
    at_start: Disturbance,
    last: Revision,
    over: bool,
}

impl Disturbed {
    async fn next(mut self) -> Option<(Result<WatchItem, StoreError>, Self)> {
        if self.over {
            return None;
        }
        loop {
            let now = *self.disturbance.borrow_and_update();
            if now.breaks != self.at_start.breaks {
                self.over = true;
                return Some((
                    Err(StoreError::Unavailable { why: "watch broken on purpose".to_owned() }),
                    self,
                ));
            }
            if now.compactions != self.at_start.compactions {
                self.over = true;
                return Some((Ok(WatchItem::Compacted { oldest: self.last + 1 }), self));
            }
            tokio::select! {
                biased;
                // Its sender lives as long as the handle; without one nothing changes any more.
                Ok(()) = self.disturbance.changed() => {}
                item = self.watch.next(), if !now.silence => {
                    if let Some(Ok(WatchItem::Events { revision, .. } | WatchItem::Progress(revision))) = &item {
                        self.last = *revision;
                    }
                    return item.map(|item| (item, self));
                }
                else => return None,
            }
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError> {
        harmless(self.with(On::Read, self.store.get(key, consistency)).await)
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        let ranged = harmless(self.with(On::Read, self.store.range(range)).await);
        self.faults.script().keys_read += ranged.as_ref().map_or(0, |ranged| ranged.kvs.len() as u64);
        ranged
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        let fault = self.faults.draw(On::Txn, !txn.compares.is_empty());
        if fault != Some(Fault::Conflict) {
            return self.strike(fault, self.store.txn(txn)).await;
        }
        let lost = Txn { compares: Vec::new(), then: txn.otherwise, otherwise: Vec::new() };
        let answer = self.store.txn(lost).await?;
        Ok(TxnAnswer { succeeded: false, ..answer })
    }

    async fn standing(&self) -> Vec<Standing> {
        self.store.standing().await
    }

    async fn defragment(&self, member: &str) -> Result<(), StoreError> {
        self.with(On::Read, self.store.defragment(member)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let disturbance = self.faults.watches.subscribe();
        let at_start = *disturbance.borrow();
        let watch = harmless(self.with(On::Watch, self.store.watch(prefix, from)).await)?;
        let disturbed = Disturbed { watch, disturbance, at_start, last: from, over: false };
        Ok(Watch::new(stream::unfold(disturbed, Disturbed::next)))
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        self.with(On::Lease, self.store.lease_grant(ttl_seconds)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        harmless(self.with(On::Lease, self.store.lease_keep_alive(lease)).await)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.with(On::Lease, self.store.lease_revoke(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        harmless(self.with(On::Compact, self.store.compact(revision)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Compare, CompareOp, embedded::EmbeddedStore},
        supervise::Tree,
    };

    async fn faulty(faults: &Faults) -> (Tree, tempfile::TempDir, Faulty) {
        let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
        let store = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
        (tree, dir, Faulty::new(Arc::new(store), faults.clone()))
    }

    #[tokio::test]
    async fn a_lost_answer_was_done_a_lost_request_and_a_refusal_were_not() {
        let faults = Faults::new();
        let (_tree, _dir, store) = faulty(&faults).await;
        for (key, fault, unknown, done) in [
            ("a", Fault::LoseAnswer, true, true),
            ("b", Fault::LoseRequest, true, false),
            ("c", Fault::Refuse, false, false),
        ] {
            faults.next(On::Txn, fault);
            let error = store.txn(Txn::new().put(key, "1")).await.unwrap_err();
            assert_eq!(matches!(error, StoreError::Unknown { .. }), unknown, "{key}");
            let got = store.get(key, Consistency::Linearizable).await.unwrap();
            assert_eq!(got.kv.is_some(), done, "{key}");
        }
        assert_eq!(faults.struck(), 3);
    }

    #[tokio::test]
    async fn a_conflict_does_the_other_list_and_spares_what_compares_nothing() {
        let faults = Faults::new();
        let (_tree, _dir, store) = faulty(&faults).await;
        faults.next(On::Txn, Fault::Conflict);
        assert!(store.txn(Txn::new().put("a", "1")).await.unwrap().succeeded);
        let answer = store.txn(Txn::new().absent("b").put("b", "1").or_get("a")).await.unwrap();
        assert!(!answer.succeeded);
        assert_eq!(answer.answers.len(), 1);
        let retry = store.txn(Txn::new().absent("b").put("b", "1")).await.unwrap();
        assert!(retry.succeeded, "one fault, one conflict");
    }

    #[tokio::test]
    async fn watches_break_compact_and_fall_silent_when_told() {
        let faults = Faults::new();
        let (_tree, _dir, store) = faulty(&faults).await;
        let mut broken = store.watch("a", 0).await.unwrap();
        faults.break_watches();
        assert!(broken.next().await.unwrap().is_err());
        assert!(broken.next().await.is_none());
        let mut compacted = store.watch("a", 0).await.unwrap();
        faults.compact_watches();
        assert!(matches!(compacted.next().await, Some(Ok(WatchItem::Compacted { .. }))));
        let mut silent = store.watch("a", 0).await.unwrap();
        faults.silence_watches(true);
        store.txn(Txn::new().put("a", "1")).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), silent.next()).await;
        assert!(waited.is_err(), "silent");
        faults.silence_watches(false);
        assert!(matches!(silent.next().await, Some(Ok(WatchItem::Events { .. }))));
    }

    #[tokio::test]
    async fn the_same_seed_makes_the_same_faults() {
        let compare = Compare::Version("a".into(), CompareOp::Equal, 0);
        let draw = |seed| {
            let faults = Faults::seeded(seed, 0.5);
            (0..64).map(|_| faults.draw(On::Txn, true)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let faults = Faults::seeded(3, 1.0);
        let (_tree, _dir, store) = faulty(&faults).await;
        let txn = Txn { compares: vec![compare], ..Txn::new() };
        for _ in 0..8 {
            drop(store.txn(txn.clone()).await);
        }
        assert_eq!(faults.struck(), 8);
    }
}
