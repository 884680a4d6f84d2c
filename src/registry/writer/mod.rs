//! What a writer owes to those who follow it: when a change may be acknowledged, and whether writes are taken.
//!
//! [`leases`] decides and is pure; [`Writer`] holds it for everybody and waits; [`start`] asks the peers before the
//! first write.

pub mod leases;
pub mod start;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::journal::JournalError;
use crate::{clock, model::Position};
use leases::{Leases, Settled, Standing};

/// A replica that was not heard of for so long is forgotten: the log keeps nothing for it any more.
const REPLICA_FORGOTTEN: Duration = Duration::from_secs(3600);

/// Replicas that are remembered. More are answered and not remembered.
const REPLICAS: usize = 256;

/// Whether writes are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writes {
    /// They are.
    Taken,
    /// Not now, because; later perhaps.
    NotNow(String),
    /// Never here, because.
    Never(String),
}

/// A replica that follows, as far as it told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub name: String,
    /// What it has applied.
    pub applied: Position,
    /// Since it was last heard of.
    pub ago: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    leases: Mutex<Leases>,
    /// Somebody confirmed, or gave up.
    moved: Notify,
    writes: Mutex<Writes>,
    replicas: Mutex<BTreeMap<String, (Position, Duration)>>,
}

/// A change that is in the log and not acknowledged yet. Dropping it ends the wait for it.
pub struct Pending {
    writer: Writer,
    position: Position,
}

impl Writer {
    /// Nothing is acknowledged before `mute_until`, on [`clock::boot`].
    pub fn new(mute_until: Duration, writes: Writes) -> Self {
        let inner = Inner {
            leases: Mutex::new(Leases::new(mute_until)),
            moved: Notify::new(),
            writes: Mutex::new(writes),
            replicas: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether writes are taken.
    pub fn writes(&self) -> Writes {
        lock(&self.inner.writes).clone()
    }

    /// Whether writes are taken, as an error if not.
    pub fn check(&self) -> Result<(), JournalError> {
        match self.writes() {
            Writes::Taken => Ok(()),
            Writes::NotNow(why) => Err(JournalError::NotNow(why)),
            Writes::Never(why) => Err(JournalError::Never(why)),
        }
    }

    /// From now on.
    pub fn set_writes(&self, writes: Writes) {
        *lock(&self.inner.writes) = writes;
    }

    /// A proxy's poll came in; tells whether it has a lease now.
    pub fn polled(&self, proxy: &str, after: Position) -> bool {
        let granted = lock(&self.inner.leases).polled(proxy, after, clock::boot());
        self.inner.moved.notify_waiters();
        granted
    }

    /// A proxy stops.
    pub fn released(&self, proxy: &str) {
        lock(&self.inner.leases).released(proxy);
        self.inner.moved.notify_waiters();
    }

    /// A replica's poll came in.
    pub fn read_by(&self, replica: &str, applied: Position) {
        let now = clock::boot();
        let mut replicas = lock(&self.inner.replicas);
        replicas.retain(|_, (_, seen)| now.saturating_sub(*seen) < REPLICA_FORGOTTEN);
        if replicas.len() < REPLICAS || replicas.contains_key(replica) {
            replicas.insert(replica.to_owned(), (applied, now));
        }
    }

    /// A change is in the log.
    pub fn appended(&self, position: Position) -> Pending {
        lock(&self.inner.leases).appended(position, clock::boot());
        Pending { writer: self.clone(), position }
    }

    /// All proxies.
    pub fn proxies(&self) -> Vec<Standing> {
        lock(&self.inner.leases).standing(clock::boot())
    }

    /// All replicas that were heard of within the last hour.
    pub fn replicas(&self) -> Vec<Reader> {
        let now = clock::boot();
        let one = |(name, (applied, seen)): (&String, &(Position, Duration))| Reader {
            name: name.clone(),
            applied: *applied,
            ago: now.saturating_sub(*seen),
        };
        lock(&self.inner.replicas).iter().map(one).collect()
    }
}

impl Pending {
    /// Where the change stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Waits until the change may be acknowledged: at most as long as a lease lasts, and its patience.
    pub async fn acknowledged(self) -> Position {
        loop {
            let moved = self.writer.inner.moved.notified();
            tokio::pin!(moved);
            // Registered before the look: what moves between the two is not missed.
            moved.as_mut().enable();
            let now = clock::boot();
            let until = match lock(&self.writer.inner.leases).settled(self.position, now) {
                Settled::Yes => return self.position,
                Settled::Until(until) => until,
            };
            tokio::select! {
                () = moved => {}
                // A little more: the clocks of timer and lease are not the same one.
                () = tokio::time::sleep(until.saturating_sub(now) + Duration::from_millis(1)) => {}
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.writer.inner.leases).over(self.position);
    }
}

/// What a panicking holder left is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Position = Position { epoch: 1, seq: 1 };

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_comes_with_the_last_confirmation() {
        let writer = Writer::new(Duration::ZERO, Writes::Taken);
        writer.polled("a", Position::ZERO);
        let pending = writer.appended(ONE);
        let began = clock::now();
        let confirm = async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            writer.polled("a", ONE);
        };
        let (position, ()) = tokio::join!(pending.acknowledged(), confirm);
        assert_eq!((position, clock::now() - began), (ONE, Duration::from_millis(40)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_proxy_is_waited_for_as_long_as_its_lease_and_no_longer() {
        let writer = Writer::new(Duration::ZERO, Writes::Taken);
        writer.polled("a", Position::ZERO);
        let began = clock::now();
        writer.appended(ONE).acknowledged().await;
        let took = clock::now() - began;
        assert!(
            took >= leases::AT_WRITER && took < leases::AT_WRITER + Duration::from_millis(50),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_is_over() {
        let writer = Writer::new(Duration::ZERO, Writes::Taken);
        writer.polled("a", Position::ZERO);
        let pending = writer.appended(ONE);
        assert!(tokio::time::timeout(Duration::from_millis(10), pending.acknowledged()).await.is_err());
        assert!(lock(&writer.inner.leases).polled(
            "b",
            Position::ZERO,
            clock::boot() + Duration::from_secs(2)
        ));
    }
}
