//! Everything a request may read of the configuration: loaded once at its start and kept to its end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use smallvec::SmallVec;
use tokio::{sync::watch, time::Instant};
use tracing::warn;

use super::{
    catalogue::About,
    choose::{self, Candidate, FEW, Fresh, Out},
    cohort::{Cohort, Served},
    follow::{Follow, Look},
    freshness::{Standing, Subject},
    hold::Line,
    limit::{AtListener, Counts},
    members::Members,
    orders::{OfService, OfUpstream, Orders},
    passive::{Passive, Shown},
    pins::Pins,
    record::{ServiceNumbers, UpstreamNumbers},
    room::Room,
    share::{Share, Speed},
    survey::Survey,
    trace::Tracing,
};
use crate::{
    balance::{Latency, Weight},
    clock,
    config::{
        Address,
        proxy::{
            Balance, Endings, Health, Hold, Key, Kind, Limits, Listener, Reads, RetryBudget, Sticky,
            UpstreamTimeouts,
        },
    },
    health::{Prober, State, Verdict},
    model::{ServiceName, UpstreamName, proxy_protocol::Version},
    tls,
};

/// The live configuration: one swap, nothing beside it.
#[derive(Debug)]
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    /// Tells those that wait, and nobody else, of the next one.
    changes: watch::Sender<()>,
}

impl Live {
    /// Beginning with this one.
    pub fn new(first: Snapshot) -> Self {
        Self { snapshot: ArcSwap::from_pointee(first), changes: watch::channel(()).0 }
    }

    /// For what is no request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Once per request: `kept` is what the thread got the last time.
    pub fn held(&self, kept: &mut Held) -> Held {
        let now = self.snapshot.load();
        if !Arc::ptr_eq(&*kept.0, &now) {
            *kept = Held::of(Arc::clone(&now));
        }
        kept.clone()
    }

    /// Changes whenever there is another one.
    pub(super) fn follow(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// For a look at it that does not outlast the caller.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Has those that wait look again, for something that no snapshot holds has changed.
    pub(super) fn touch(&self) {
        self.changes.send_modify(|()| {});
    }

    /// Whoever makes the next one, under the lock of reloads.
    pub(super) fn put(&self, next: Snapshot) {
        self.snapshot.store(Arc::new(next));
        self.touch();
    }
}

/// The snapshot as one thread holds it. Its requests count references to this, not to what all threads share: two cores
/// that write to one count wait for each other.
#[derive(Debug, Clone)]
#[expect(clippy::redundant_allocation, reason = "the outer count is the thread's own, which is the point")]
pub struct Held(Arc<Arc<Snapshot>>);

impl Held {
    /// For a thread, or for one request.
    pub fn of(snapshot: Arc<Snapshot>) -> Self {
        Self(Arc::new(snapshot))
    }
}

impl Deref for Held {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// Something that all threads write, alone in its cache lines: what stands beside it is read all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<T>(pub T);

/// One state of the configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts reloads.
    pub generation: u64,
    /// In config order.
    pub listeners: Vec<Listener>,
    /// In config order.
    pub services: Vec<Arc<Service>>,
    /// Bounds.
    pub limits: Limits,
    /// What is counted of clients: at all listeners together, and at each of them, in the same order.
    pub counts: Counts,
    /// The latter.
    pub at_listener: Vec<AtListener>,
    /// How long what runs may go on at the end.
    pub endings: Endings,
    /// So many requests that are over each thread keeps, for whoever asks what was decided about them.
    pub decisions: usize,
    /// How requests become parts of traces, if they do.
    pub tracing: Option<Arc<Tracing>>,
    /// A transfer has a line of the access log once in so long.
    pub progress: Option<Duration>,
    /// What operators have said beside the config.
    pub orders: Arc<Orders>,
}

impl Snapshot {
    /// Place of the listener of this name.
    pub fn place_of(&self, listener: &str) -> Option<usize> {
        self.listeners.iter().position(|known| known.name == listener)
    }
}

/// A service with its upstreams.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What its servers are.
    pub kind: Kind,
    /// How the next one is picked.
    pub balance: Balance,
    /// What of a request its place is found by.
    pub hash: Key,
    /// What ties a client to one upstream.
    pub sticky: Option<Sticky>,
    /// One that comes back has its whole weight after so long.
    pub slow_start: Duration,
    /// How long a request may wait for one.
    pub hold: Hold,
    /// Answers that a repeatable request is tried again for.
    pub retry_status: Vec<u16>,
    /// 503 for everything, by the config.
    pub maintenance: bool,
    /// And what an operator has said of it.
    pub ordered: OfService,
    /// Place of the write registry of replicated storage.
    pub writer: Option<usize>,
    /// Place of the registry that collects logs.
    pub logs: Option<usize>,
    /// Which registry may answer reads.
    pub reads: Reads,
    /// What is known of the registries' positions, if reads go by them; goes on over a reload.
    pub follow: Option<Arc<Follow>>,
    /// What is known of the registries' lists, if reads go by those; goes on over a reload.
    pub survey: Option<Arc<Survey>>,
    /// Towards upstreams.
    pub timeouts: UpstreamTimeouts,
    /// Most sends of one request.
    pub attempts: u32,
    /// How many further attempts there may be.
    pub retry_budget: RetryBudget,
    /// What connections to them are wrapped in.
    pub tls: Option<tls::Upstream>,
    /// What is said of clients is signed with it.
    pub sign: Option<tls::signed::SigningKey>,
    /// In config order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What traffic says of them; goes on over a reload.
    pub passive: Arc<Passive>,
    /// With a smaller part of them left, ejections are ignored.
    pub panic_threshold: f64,
    /// What each of them is to take, in the same order.
    pub shares: Vec<Share>,
    /// Some upstream is in the proxy's own zone, and some is not.
    pub zoned: bool,
    /// Counts choices.
    pub turn: Apart<AtomicUsize>,
    /// Requests that wait; goes on over a reload.
    pub line: Line,
    /// Where clients belong; goes on over a reload.
    pub pins: Arc<Pins>,
    /// That several upstreams call themselves the same was logged.
    pub twins_told: AtomicBool,
    /// What is counted of its requests; goes on over a reload.
    pub numbers: Arc<ServiceNumbers>,
    /// Where upstreams are found that the config does not list; goes on over a reload.
    pub members: Option<Members>,
    /// From which version agents are served, if that matters; goes on over a reload.
    pub cohort: Option<Arc<Cohort>>,
}

/// What probes say of the upstreams of a service.
pub type Verdicts = SmallVec<[Guard<Arc<Verdict>>; FEW]>;

impl Service {
    /// What probes say of the upstreams now.
    pub fn verdicts(&self) -> Verdicts {
        self.upstreams.iter().map(|upstream| upstream.prober.verdict()).collect()
    }

    /// The upstreams as they stand now; `look` is what is known of what they have.
    pub fn candidates<'a>(
        &'a self,
        verdicts: &'a Verdicts,
        look: &Look,
        now: Instant,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let timed = self.balance == Balance::PeakEwma;
        self.upstreams.iter().zip(&self.shares).zip(verdicts).enumerate().map(
            move |(place, ((upstream, share), verdict))| Candidate {
                name: &upstream.name,
                verdict,
                outstanding: upstream.outstanding(),
                out: Out::In,
                most: share.most,
                bound: None,
                standing: look.standings.get(place).copied().unwrap_or(Standing::Unclaimed),
                apart: false,
                drained: upstream.ordered.is_drained(),
                weight: upstream.weight(share),
                part: upstream.part(share, upstream.eligible_by(verdict), self.slow_start, now),
                local: share.local,
                latency: if timed { upstream.speed.at(now) } else { Latency::UNKNOWN },
                seed: share.seed,
            },
        )
    }

    /// Keeps a request of an agent to the version that agents are served from.
    pub fn keep_to_cohort(&self, candidates: &mut [Candidate<'_>], of_agent: bool) {
        let Some(cohort) = self.cohort.as_ref().filter(|_| of_agent) else { return };
        let served = cohort.served();
        for (candidate, upstream) in candidates.iter_mut().zip(&self.upstreams) {
            let doubtful = upstream.prober.is_doubtful() && **served != Served::Everywhere;
            candidate.apart = doubtful || !served.by(candidate.verdict.version());
        }
    }

    /// Whether too few of its upstreams are well for ejections to be heeded.
    pub fn panics(&self) -> bool {
        let well = |upstream: &&Arc<Upstream>| {
            upstream.prober.verdict().state == State::Up && !upstream.shown.is_out()
        };
        // One that is drained is no part of the pool: nothing is wrong with what is left for that.
        let pool = || self.upstreams.iter().filter(|upstream| !upstream.ordered.is_drained());
        choose::is_panic(pool().filter(well).count(), pool().count(), self.panic_threshold)
    }

    /// Whether everything is answered 503: an operator has said so, or the config.
    pub fn is_closed(&self) -> bool {
        self.ordered.maintenance().unwrap_or(self.maintenance)
    }

    /// The place of the upstream of this name.
    pub fn place_of(&self, upstream: &str) -> Option<usize> {
        self.upstreams.iter().position(|known| known.name.as_str() == upstream)
    }

    /// Whether anybody but this one takes requests.
    pub fn takes_without(&self, place: usize) -> bool {
        let takes = |upstream: &Upstream| {
            let up = upstream.prober.verdict().state == State::Up;
            up && !upstream.ordered.is_drained() && !upstream.shown.is_out()
        };
        self.upstreams.iter().enumerate().any(|(at, upstream)| at != place && takes(upstream))
    }

    /// What is known of what its registries have, with regard to everything.
    pub fn look_at_all(&self) -> Look {
        match (&self.survey, &self.follow) {
            (Some(survey), _) => survey.look(About::All),
            (None, Some(follow)) => follow.look(Subject::All),
            (None, None) => Look::default(),
        }
    }

    /// How freshness bears on requests to this service.
    pub fn fresh(&self, look: &Look) -> Option<Fresh> {
        let listing = self.survey.is_some();
        let fresh = Fresh { lease: look.lease, stale: self.reads.stale, listing };
        (listing || self.follow.is_some()).then_some(fresh)
    }

    /// Whether this upstream passes its probes and is known to have the newest change of all; `look` was for
    /// everything. The writer has it by itself.
    pub fn is_fresh(&self, look: &Look, place: usize) -> bool {
        let Some(upstream) = self.upstreams.get(place) else { return false };
        if self.writer == Some(place) && !look.deposed {
            return self.follow.is_some() || self.survey.is_some();
        }
        let lately = |follow: &Arc<Follow>| follow.told(place).is_some_and(|told| told.is_of(look.at));
        let told = self.survey.is_some() || self.follow.as_ref().is_some_and(lately);
        told && upstream.prober.verdict().state == State::Up && look.is_fresh(place)
    }

    /// The upstream that goes by this name: it says so itself, or the config does. Of several that say so, the writer.
    pub fn named(&self, name: &str) -> Option<usize> {
        let itself = |place: &usize| self.upstreams[*place].prober.verdict().name() == Some(name);
        let places: Vec<usize> = (0..self.upstreams.len()).filter(itself).collect();
        if places.len() > 1 && !self.twins_told.swap(true, Ordering::Relaxed) {
            let (service, upstreams) = (&self.name, self.names(&places));
            warn!(service.name = %service, registry.name = name, upstreams, "several registries go by one name");
        }
        let config = |upstream: &Arc<Upstream>| upstream.name.as_str() == name;
        let writer = self.writer.filter(|writer| places.contains(writer));
        writer.or(places.first().copied()).or_else(|| self.upstreams.iter().position(config))
    }

    /// One sentence for each name that several upstreams call themselves.
    pub fn twins(&self) -> Vec<String> {
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, upstream) in self.upstreams.iter().enumerate() {
            if let Some(name) = upstream.prober.verdict().name() {
                by_name.entry(name.to_owned()).or_default().push(place);
            }
        }
        let twins = by_name.into_iter().filter(|(_, places)| places.len() > 1);
        let sentence = |(name, places): (String, Vec<usize>)| {
            format!(
                "{} call themselves `{name}`, and upload sessions are found by that name: give each registry a `name` \
                 of its own",
                self.names(&places)
            )
        };
        twins.map(sentence).collect()
    }

    fn names(&self, places: &[usize]) -> String {
        let names = places.iter().filter_map(|place| self.upstreams.get(*place));
        names.map(|upstream| format!("`{}`", upstream.name)).collect::<Vec<_>>().join(" and ")
    }
}

/// An upstream with its live state. Kept over a reload that does not touch it.
#[derive(Debug)]
pub struct Upstream {
    /// Never the same for two, so that connections to one are not taken for connections to another.
    pub id: u64,
    /// Its name.
    pub name: UpstreamName,
    /// Where it is.
    pub address: Address,
    /// How it is probed.
    pub health: Health,
    /// The PROXY header that connections to it begin with.
    pub proxy_protocol: Option<Version>,
    /// What they are wrapped in then.
    pub tls: Option<tls::Upstream>,
    /// Where it is, if its address needs no name service.
    pub fixed: Option<SocketAddr>,
    /// Its prober; ends with it.
    pub prober: Prober,
    /// What is counted of its answers.
    pub numbers: UpstreamNumbers,
    /// Where it stands with those who have sent requests to it.
    pub shown: Shown,
    /// How fast it answers.
    pub speed: Speed,
    /// What is open to it, and who waits for room there.
    pub room: Arc<Room>,
    /// What an operator has said of it.
    pub ordered: OfUpstream,
    /// Seconds that its clock was ahead of ours, when it last said that it did not believe a signature's time.
    pub ahead: AtomicI64,
    outstanding: Apart<AtomicU64>,
}

impl Upstream {
    /// A new one, with its prober running.
    pub fn new(
        name: UpstreamName,
        address: Address,
        health: Health,
        (proxy_protocol, tls): (Option<Version>, Option<tls::Upstream>),
        (prober, shown): (Prober, Shown),
        (numbers, line): (UpstreamNumbers, Line),
    ) -> Self {
        let fixed = address.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, address.port));
        let (id, outstanding) = (rand::random(), Apart::default());
        let now = clock::now();
        let (speed, room) = (Speed::new(now), Arc::new(Room::new(id, line, now)));
        Self {
            id,
            name,
            address,
            health,
            proxy_protocol,
            tls,
            fixed,
            prober,
            numbers,
            shown,
            speed,
            room,
            ordered: OfUpstream::default(),
            ahead: AtomicI64::new(0),
            outstanding,
        }
    }

    /// Since when it may be sent requests, as far as probes and traffic go; `None` while it may not.
    pub fn eligible_since(&self) -> Option<Instant> {
        self.eligible_by(&self.prober.verdict())
    }

    /// The same, by this verdict.
    fn eligible_by(&self, verdict: &Verdict) -> Option<Instant> {
        (verdict.state == State::Up)
            .then(|| self.shown.back().map_or(verdict.since, |back| back.max(verdict.since)))
    }

    /// Its weight: what an operator has said, else its share's.
    pub fn weight(&self, share: &Share) -> Weight {
        self.ordered.weight_or(share.weight)
    }

    /// What it has of that now, if it has been eligible since then.
    pub fn part(&self, share: &Share, since: Option<Instant>, window: Duration, now: Instant) -> Weight {
        Share::part_of(self.weight(share), since, window, now)
    }

    /// Requests under way.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.0.load(Ordering::SeqCst)
    }

    /// One more is, unless there are `most` already.
    fn begin(&self, most: Option<u64>) -> bool {
        let Some(most) = most else {
            self.outstanding.0.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let one_more = |now: u64| (now < most).then_some(now + 1);
        self.outstanding.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// One request under way at an upstream; ends when dropped.
#[derive(Debug)]
pub struct UnderWay {
    snapshot: Held,
    service: u32,
    place: u32,
    /// Number of the trial that it is; 0 if it is none.
    trial: u32,
}

impl UnderWay {
    /// Begins, at the upstream of this place, as its trial if that has a number; `None` if another request took the last
    /// room there meanwhile.
    pub fn at(snapshot: Held, service: usize, place: usize, trial: Option<u32>) -> Option<Self> {
        let short = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let of = snapshot.services.get(service)?;
        let most = of.shares.get(place).and_then(|share| share.most);
        if !of.upstreams.get(place)?.begin(most) {
            return None;
        }
        let (service, place, trial) = (short(service), short(place), trial.unwrap_or_default());
        Some(Self { snapshot, service, place, trial })
    }

    /// What is to be taken there.
    pub fn share(&self) -> Option<&Share> {
        self.service()?.shares.get(self.place as usize)
    }

    /// Of which service.
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.snapshot.services.get(self.service as usize)
    }

    /// Where.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.service()?.upstreams.get(self.place as usize)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(upstream) = self.upstream() else { return };
        // Who waits for room notes that before it looks at this, and this is changed before anybody is looked for.
        upstream.outstanding.0.fetch_sub(1, Ordering::SeqCst);
        let Some(service) = self.service() else { return };
        if self.trial != 0 {
            service.passive.trial_over(upstream, self.trial);
        }
        // One that waits for room is called, not all: they would run to the same place.
        upstream.room.freed();
    }
}
