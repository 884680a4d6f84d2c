//! The shell around [`super::freshness`]: follows the log of a service's writer, asks every registry how it stands,
//! and shows requests what came of it. Decides nothing.

mod poll;
mod reign;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use rand::Rng;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use self::reign::Reign;
use super::{
    freshness::{Freshness, Standing, Subject},
    snapshot::Snapshot,
};
use crate::{
    client::{Login, replication::Replication},
    clock,
    config::{
        Address,
        proxy::{Secret, Service, Upstream},
    },
    model::Position,
    supervise::{Handle as Tasks, Stage, StopSource},
    tls,
    wire::replication::{Role, State},
};

/// A successor waits so long for leases of its own while its predecessor still serves.
const SETTLED: Duration = Duration::from_secs(1);

/// How often it looks meanwhile.
const LOOKS: Duration = Duration::from_millis(5);

/// A proxy that stops takes no longer to give its lease up; after that it runs out by itself.
const RELEASE: Duration = Duration::from_secs(1);

/// What panicked is begun anew so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// A state that was told longer ago says nothing about now: questions for one are answered within ten seconds.
const LATELY: Duration = Duration::from_secs(30);

/// What is known of the registries of one service, kept up to date until it is dropped.
#[derive(Debug)]
pub struct Follow {
    of: Of,
    shared: Arc<Shared>,
    removed: StopSource,
}

/// What it follows: with the same of it, a reload goes on with what is known.
#[derive(Debug, Clone, PartialEq)]
struct Of {
    writer: usize,
    upstreams: Vec<Upstream>,
    fresh_wait: Duration,
    connect: Duration,
    tls: Option<tls::Upstream>,
    authorization: Option<Secret>,
}

#[derive(Debug)]
struct Shared {
    /// What the writer knows this proxy as; another one after each start, so that nobody confirms in its name.
    proxy: String,
    service: String,
    /// Taken for reading once per choice, which compares a few positions, and for writing by a handful of answers a
    /// second: a lock is held for less than a microsecond, and never across a wait. A snapshot behind an atomic
    /// pointer would have to copy the table for each change.
    core: RwLock<Freshness>,
    states: Mutex<Vec<Option<Told>>>,
    reign: Mutex<Reign>,
    /// What [`Reign::deposed`] said last, for each choice.
    deposed: AtomicBool,
    /// Why there is no lease.
    trouble: Mutex<String>,
    had_lease: AtomicBool,
    /// By place: an answer spoke against what this registry has told, so it is asked anew.
    doubts: Vec<Notify>,
    news: watch::Sender<()>,
}

/// The last state that a registry told.
#[derive(Debug, Clone)]
pub struct Told {
    /// As it came.
    pub state: Arc<State>,
    /// When, on the clock that runs through suspend.
    pub at: Duration,
}

/// What is known at one moment with regard to one subject.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The moment.
    pub at: Duration,
    /// What is needed is known for sure.
    pub lease: bool,
    /// The registry that is configured as the writer is not the writer, as far as the registries say.
    pub deposed: bool,
    /// What is needed, if that is known.
    pub needed: Option<Position>,
    /// Where each upstream stands, by place.
    pub standings: Vec<Standing>,
}

/// What the head of an answer says about positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// The answer is not older than this.
    pub position: Option<Position>,
    /// What was read, or written, last changed here.
    pub changed: Option<Position>,
    /// It shows what the registry has, so that a lower or missing position counts against it.
    pub shows: bool,
}

/// Completes when everything that is followed is known as well as it will be, or after a bounded time.
///
/// A lease itself cannot be handed over: the writer waits for who has it, and that is who told it what it has noted. The
/// predecessor goes on to confirm changes of which its successor knows nothing.
pub async fn settled(snapshot: &Snapshot) {
    let until = clock::now() + SETTLED;
    let mut followed = snapshot.services.iter().filter_map(|service| service.follow.as_ref());
    while !followed.clone().all(|follow| follow.is_settled()) && clock::now() < until {
        tokio::time::sleep(LOOKS).await;
    }
    if let Some(follow) = followed.find(|follow| !follow.is_settled()) {
        let (service, why) = (&follow.shared.service, follow.trouble());
        warn!(service.name = %service, why, "this process takes over without a lease, reads go to the writer until then");
    }
}

impl Follow {
    /// Begins to follow; `None` for a service without positions.
    pub fn start(tasks: &Tasks, service: &Service, tls: Option<&tls::Upstream>) -> Option<Self> {
        let of = Of::service(service)?;
        let title = service.name.to_string();
        let names = of.upstreams.iter().map(|upstream| upstream.name.to_string()).collect();
        let shared = Arc::new(Shared {
            proxy: own_name(),
            service: title.clone(),
            core: RwLock::new(Freshness::new(of.upstreams.len(), of.writer, of.fresh_wait)),
            states: Mutex::new(vec![None; of.upstreams.len()]),
            reign: Mutex::new(Reign::new(of.writer, names)),
            deposed: AtomicBool::new(false),
            trouble: Mutex::new("the writer was not asked yet".into()),
            had_lease: AtomicBool::new(false),
            doubts: of.upstreams.iter().map(|_| Notify::new()).collect(),
            news: watch::Sender::new(()),
        });
        let login = Login::with(of.authorization.as_ref());
        let removed = StopSource::new();
        for (place, upstream) in of.upstreams.iter().enumerate() {
            let Some(client) = client(&upstream.address, of.connect, tls, login.clone()) else {
                shared.set_trouble("the proxy has no HTTP client");
                continue;
            };
            let is_writer = place == of.writer;
            if is_writer && of.upstreams.len() == 1 {
                shared.set_trouble("there is no replica, so none is needed");
            } else if is_writer {
                // With the leases: requests that end while everything else stops still count on it.
                let (shared, client, gone) = (shared.clone(), client.clone(), removed.stop());
                tasks.finish_at(Stage::Leases, format!("log of {title}"), move |stop| async move {
                    tokio::select! {
                        () = stop.requested() => {}
                        () = gone.requested() => {}
                        () = kept_up("log", || poll::log(&shared, place, &client)) => {}
                    }
                    shared.core_mut().released();
                    // Late or lost, it runs out by itself.
                    drop(tokio::time::timeout(RELEASE, client.release(&shared.proxy)).await);
                });
            }
            let (shared, gone) = (shared.clone(), removed.stop());
            let name = format!("state of {title}/{}", upstream.name);
            tasks.finish_at(Stage::Loops, name, move |stop| async move {
                tokio::select! {
                    () = stop.requested() => {}
                    () = gone.requested() => {}
                    () = kept_up("state", || poll::state(&shared, place, &client, is_writer)) => {}
                }
            });
        }
        Some(Self { of, shared, removed })
    }

    /// Whether this is what the service needs, so that a reload can go on with it.
    pub fn fits(&self, service: &Service) -> bool {
        Of::service(service).is_some_and(|of| of == self.of)
    }

    /// Whether there is a lease, and every registry has told how it stands; or nothing is followed.
    fn is_settled(&self) -> bool {
        let registries = self.of.upstreams.len();
        registries == 1
            || (self.shared.core().lease_live(clock::boot())
                && (0..registries).all(|place| self.told(place).is_some()))
    }

    /// What is known now, for one choice.
    pub fn look(&self, subject: Subject<'_>) -> Look {
        let core = self.shared.core();
        // Read under the lock: a lease that has run out while it was waited for is none.
        let at = clock::boot();
        let deposed = self.shared.deposed.load(Ordering::Relaxed);
        Look {
            at,
            lease: core.lease_live(at) && !deposed,
            deposed,
            needed: core.need(subject),
            standings: (0..self.of.upstreams.len()).map(|place| core.standing(place, subject, at)).collect(),
        }
    }

    /// Takes in what an answer to a request said that was sent to `place` at `sent`.
    pub fn answered(&self, place: usize, sent: Duration, said: Said, subject: Subject<'_>) {
        // What the writer has is never compared with anything.
        let corrects = |core: &Freshness| {
            let has = core.have(place).filter(|_| place != self.of.writer);
            has.is_some() && (said.position > has || (said.shows && said.position != has))
        };
        let news = {
            let core = self.shared.core();
            corrects(&core) || said.changed.is_some_and(|at| core.is_news(subject, at))
        };
        if !news {
            // Most answers: nothing but a read lock was taken.
            return;
        }
        let now = clock::boot();
        let mut core = self.shared.core_mut();
        let mut changed = false;
        if corrects(&core) {
            let had = core.have(place);
            changed |= core.answered(place, said.position, sent, now);
            if core.have(place) < had
                && let Some(doubts) = self.shared.doubts.get(place)
            {
                doubts.notify_one();
            }
        }
        if let Some(at) = said.changed {
            changed |= core.seen(subject, at, now);
        }
        drop(core);
        if changed {
            self.shared.tell();
        }
    }

    /// Wakes at each change of what is needed, of what a registry has, and when a lease was won.
    pub fn news(&self) -> watch::Receiver<()> {
        let mut news = self.shared.news.subscribe();
        news.mark_unchanged();
        news
    }

    /// What the writer knows this proxy as.
    pub fn proxy(&self) -> &str {
        &self.shared.proxy
    }

    /// Why there is no lease, if there is none.
    pub fn trouble(&self) -> String {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the configured writer is not believed to be the writer, and what to do.
    pub fn deposed(&self) -> Option<String> {
        self.shared.reign().deposed()
    }

    /// The core, for views. Hold it for a moment only.
    pub fn core(&self) -> RwLockReadGuard<'_, Freshness> {
        self.shared.core()
    }

    /// The last state that this upstream told.
    pub fn told(&self, place: usize) -> Option<Told> {
        self.shared.states.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned().flatten()
    }
}

impl Look {
    /// Whether the registry at this place is known to have what is needed.
    pub fn is_fresh(&self, place: usize) -> bool {
        self.lease && matches!(self.standings.get(place), Some(Standing::Fresh { .. } | Standing::Same))
    }
}

impl Told {
    /// Whether it says something about this moment.
    pub fn is_of(&self, at: Duration) -> bool {
        at.saturating_sub(self.at) <= LATELY
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.removed.request();
    }
}

impl Of {
    fn service(service: &Service) -> Option<Self> {
        let by_position = service.reads.freshness == crate::config::proxy::Freshness::Position;
        Some(Self {
            writer: service.writer.filter(|_| by_position)?,
            upstreams: service.upstreams.clone(),
            fresh_wait: service.reads.fresh_wait,
            connect: service.timeouts.connect
                + service.tls.as_ref().map_or(Duration::ZERO, |_| service.timeouts.tls),
            tls: service.tls.clone(),
            authorization: service.authorization.clone(),
        })
    }
}

impl Shared {
    fn core(&self) -> RwLockReadGuard<'_, Freshness> {
        // What a panicking holder left was whole before each of its steps.
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn core_mut(&self) -> RwLockWriteGuard<'_, Freshness> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn reign(&self) -> MutexGuard<'_, Reign> {
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A registry says what it is. Says once that the configured writer is not the writer, or that it is again.
    fn told_role(&self, place: usize, role: Role, epoch: u64) {
        let deposed = {
            let mut reign = self.reign();
            reign.told(place, role, epoch);
            let deposed = reign.deposed();
            if self.deposed.swap(deposed.is_some(), Ordering::Relaxed) == deposed.is_some() {
                return;
            }
            deposed
        };
        let service = &self.service;
        match deposed {
            Some(why) => {
                // What it has said on its word does not count any more.
                self.core_mut().released();
                warn!(service.name = %service, why, "the configured writer is not the writer, reads are marked");
                self.set_trouble(why);
            }
            None => info!(service.name = %service, "the configured writer is the writer again"),
        }
        self.tell();
    }

    fn tell(&self) {
        self.news.send_replace(());
    }

    fn set_trouble(&self, why: impl Into<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.into();
    }

    /// Says once that the lease is there, or why not.
    fn say_lease(&self) {
        let live = self.core().lease_live(clock::boot());
        if self.had_lease.swap(live, Ordering::Relaxed) == live {
            return;
        }
        let service = &self.service;
        if live {
            info!(service.name = %service, "the writer's log is followed, replicas may answer");
        } else {
            let why = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            warn!(service.name = %service, why, "the lease on the writer's log was lost, reads go to the writer");
        }
    }
}

/// Begins anew what has panicked: without it reads would go to the writer, or nowhere, until the next restart.
pub(super) async fn kept_up<Fut: Future<Output = ()>>(what: &str, work: impl Fn() -> Fut) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        error!(follow.what = what, "following a registry panicked and is begun anew");
        tokio::time::sleep(AGAIN).await;
    }
}

fn client(
    address: &Address,
    connect: Duration,
    tls: Option<&tls::Upstream>,
    login: Login,
) -> Option<Replication> {
    let client = match tls {
        None => {
            let base = format!("http://{address}").parse().ok()?;
            Replication::new(base, &login.into(), connect, poll::STATE_PARK)
        }
        Some(tls) => Replication::secured(address, (tls, login), connect, poll::STATE_PARK),
    };
    client.ok()
}

/// Host, process and chance: nobody else has it.
fn own_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    format!("{host}-{}-{:08x}", std::process::id(), rand::rng().random::<u32>())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_begun_anew() {
        let begun = AtomicUsize::new(0);
        kept_up("state", || async {
            assert!(begun.fetch_add(1, Ordering::Relaxed) == 2, "a mistake of ours");
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
