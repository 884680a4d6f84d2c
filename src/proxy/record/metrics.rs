//! The proxy's numbers, under the names of `telemetry::names`.

use prometheus::{
    Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, core::Collector,
};

use super::{
    Bytes,
    numbers::{Over, ServiceNumbers, UpstreamNumbers},
};
use crate::{
    clock,
    model::{self, ServiceName, UpstreamName},
    proxy::{
        answer::Answer,
        ctx::Ctx,
        freshness::Subject,
        lane::Lane,
        snapshot::{Service, Snapshot},
        transfers::{Counted, Transfers},
    },
    telemetry::{Metrics, MetricsError, names},
    wire::handover::Process,
};

/// Upper bounds of time to first byte, in seconds: fine where users feel it, then up to the deadlines.
const FIRST_BYTE: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All of them.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    registry: Metrics,
    pub(super) requests: IntCounterVec,
    refused: IntCounterVec,
    pub(super) upstream_requests: IntCounterVec,
    pub(super) upstream_failures: IntCounterVec,
    upstream_limited: IntCounterVec,
    open: IntGaugeVec,
    pending: IntGaugeVec,
    waiting: IntGaugeVec,
    unused: IntGaugeVec,
    taken: IntCounterVec,
    transfers: IntGaugeVec,
    pub(super) body_bytes: IntCounterVec,
    retries: IntCounterVec,
    retries_refused: IntCounterVec,
    held: IntGaugeVec,
    held_bytes: IntGaugeVec,
    held_refused: IntCounterVec,
    up: IntGaugeVec,
    ejected: IntGaugeVec,
    ejections: IntCounterVec,
    maintenance: IntGaugeVec,
    orders: IntGaugeVec,
    drained: IntGaugeVec,
    panic: IntGaugeVec,
    outstanding: IntGaugeVec,
    weight: GaugeVec,
    latency: GaugeVec,
    passed_over: IntCounterVec,
    connections: IntGaugeVec,
    streams: IntGaugeVec,
    first_byte: HistogramVec,
    handshakes: IntCounterVec,
    tls_ok: IntGaugeVec,
    certificate_until: IntGaugeVec,
    list_until: IntGaugeVec,
    access_dropped: IntCounterVec,
    spans: IntCounterVec,
    zero_copy: IntCounterVec,
    lease: GaugeVec,
    fresh: IntGaugeVec,
    lag: IntGaugeVec,
    differing: IntGaugeVec,
    list_age: GaugeVec,
    written: IntGaugeVec,
    fresh_waits: IntCounterVec,
    behind_answers: IntCounterVec,
    stale_answers: IntCounterVec,
    discovery_ok: IntGaugeVec,
    discovered: IntGaugeVec,
    cohort_served: IntGaugeVec,
    cohort_changes: IntCounterVec,
    config_generation: IntGaugeVec,
    reload_ok: Gauge,
    admin_refused: IntCounterVec,
    upgrade_ok: Gauge,
    generation: IntGaugeVec,
    old: IntGaugeVec,
}

/// Counts what is open on one listener: connections, or requests of HTTP/2.
#[derive(Debug, Clone)]
pub struct Connections(IntGauge);

impl Connections {
    /// One was opened; it counts until the guard is dropped.
    pub fn open(&self) -> Open {
        self.0.inc();
        Open(self.0.clone())
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts bytes that passed without being copied.
#[derive(Debug, Clone)]
pub struct ZeroCopy(IntCounter);

impl ZeroCopy {
    /// So many more did.
    pub fn add(&self, bytes: u64) {
        self.0.inc_by(bytes);
    }
}

impl ProxyMetrics {
    /// Registers all of them.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Metrics::new();
        let made = Self {
            requests: registry.counters(names::PROXY_REQUESTS)?,
            refused: registry.counters(names::PROXY_REFUSED)?,
            upstream_requests: registry.counters(names::PROXY_UPSTREAM_REQUESTS)?,
            upstream_failures: registry.counters(names::PROXY_UPSTREAM_FAILURES)?,
            upstream_limited: registry.counters(names::PROXY_UPSTREAM_LIMITED)?,
            open: registry.gauges(names::PROXY_UPSTREAM_CONNECTIONS)?,
            pending: registry.gauges(names::PROXY_UPSTREAM_PENDING)?,
            waiting: registry.gauges(names::PROXY_UPSTREAM_WAITING)?,
            unused: registry.gauges(names::PROXY_UPSTREAM_UNUSED)?,
            taken: registry.counters(names::PROXY_UPSTREAM_TAKEN)?,
            transfers: registry.gauges(names::PROXY_TRANSFERS)?,
            body_bytes: registry.counters(names::PROXY_BODY_BYTES)?,
            retries: registry.counters(names::PROXY_RETRIES)?,
            retries_refused: registry.counters(names::PROXY_RETRIES_REFUSED)?,
            held: registry.gauges(names::PROXY_HELD)?,
            held_bytes: registry.gauges(names::PROXY_HELD_BYTES)?,
            held_refused: registry.counters(names::PROXY_HELD_REFUSED)?,
            up: registry.gauges(names::PROXY_UPSTREAM_UP)?,
            ejected: registry.gauges(names::PROXY_UPSTREAM_EJECTED)?,
            ejections: registry.counters(names::PROXY_EJECTIONS)?,
            maintenance: registry.gauges(names::PROXY_MAINTENANCE)?,
            orders: registry.gauges(names::PROXY_ORDERS)?,
            drained: registry.gauges(names::PROXY_UPSTREAM_DRAINED)?,
            panic: registry.gauges(names::PROXY_PANIC)?,
            outstanding: registry.gauges(names::PROXY_UPSTREAM_OUTSTANDING)?,
            weight: registry.float_gauges(names::PROXY_UPSTREAM_WEIGHT)?,
            latency: registry.float_gauges(names::PROXY_UPSTREAM_LATENCY)?,
            passed_over: registry.counters(names::PROXY_PASSED_OVER)?,
            connections: registry.gauges(names::PROXY_CONNECTIONS)?,
            streams: registry.gauges(names::PROXY_STREAMS)?,
            first_byte: registry.histograms(names::PROXY_FIRST_BYTE, &FIRST_BYTE)?,
            handshakes: registry.counters(names::PROXY_TLS_HANDSHAKES)?,
            tls_ok: registry.gauges(names::PROXY_TLS_FILES_OK)?,
            certificate_until: registry.gauges(names::PROXY_TLS_CERTIFICATE_UNTIL)?,
            list_until: registry.gauges(names::PROXY_TLS_LIST_UNTIL)?,
            spans: registry.counters(names::PROXY_SPANS)?,
            access_dropped: registry.counters(names::PROXY_ACCESS_DROPPED)?,
            zero_copy: registry.counters(names::PROXY_ZERO_COPY)?,
            lease: registry.float_gauges(names::PROXY_LEASE)?,
            fresh: registry.gauges(names::PROXY_REGISTRY_FRESH)?,
            lag: registry.gauges(names::PROXY_REGISTRY_LAG)?,
            differing: registry.gauges(names::PROXY_CATALOGUE_DIFFERING)?,
            list_age: registry.float_gauges(names::PROXY_CATALOGUE_AGE)?,
            written: registry.gauges(names::PROXY_CATALOGUE_WRITTEN)?,
            fresh_waits: registry.counters(names::PROXY_FRESH_WAITS)?,
            behind_answers: registry.counters(names::PROXY_BEHIND_ANSWERS)?,
            stale_answers: registry.counters(names::PROXY_STALE_ANSWERS)?,
            discovery_ok: registry.gauges(names::PROXY_DISCOVERY_OK)?,
            discovered: registry.gauges(names::PROXY_DISCOVERED)?,
            cohort_served: registry.gauges(names::PROXY_COHORT_SERVED)?,
            cohort_changes: registry.counters(names::PROXY_COHORT_CHANGES)?,
            config_generation: registry.gauges(names::CONFIG_GENERATION)?,
            reload_ok: registry.gauge(names::CONFIG_RELOAD_OK)?,
            admin_refused: registry.counters(names::PROXY_ADMIN_REFUSED)?,
            upgrade_ok: registry.gauge(names::PROXY_UPGRADE_OK)?,
            generation: registry.gauges(names::PROXY_GENERATION)?,
            old: registry.gauges(names::PROXY_OLD_PROCESSES)?,
            registry,
        };
        let build = made.registry.gauges(names::BUILD_INFO)?;
        build.with_label_values(&["proxy", &model::full_version()]).set(1);
        made.reload_ok.set(1.0);
        made.upgrade_ok.set(1.0);
        made.access_dropped.with_label_values::<&str>(&[]).inc_by(0);
        made.zero_copy().add(0);
        Ok(made)
    }

    /// A request is over; of its bytes so many were counted before.
    pub fn request_done(&self, ctx: &Ctx, bytes: Bytes, counted: Counted) {
        match ctx.service() {
            Some(service) => {
                let first_byte =
                    ctx.first_byte.map(|at| at.saturating_duration_since(ctx.started).as_secs_f64());
                service.numbers.done(&Over {
                    class: ctx.route.class,
                    status: ctx.status(),
                    first_byte,
                    started: ctx.started,
                    lane: Lane::of(ctx.route),
                    up: bytes.received.saturating_sub(counted.up),
                    down: bytes.sent.saturating_sub(counted.down),
                });
            }
            // Nobody was to answer it.
            None if ctx.ours.is_none() => self.refused(ctx.listener_name(), "client-gone"),
            None => {}
        }
        let refused = |answer: &&Answer| answer.is_refusal() || ctx.service().is_none();
        if let Some(answer) = ctx.ours.as_ref().filter(refused) {
            self.refused(ctx.listener_name(), answer.code());
        }
    }

    /// Turned away.
    pub fn refused(&self, listener: &str, reason: &str) {
        self.refused.with_label_values(&[listener, reason]).inc();
    }

    /// A handshake with a client was finished.
    pub fn shaken(&self, listener: &str, kind: &str) {
        self.handshakes.with_label_values(&[listener, kind]).inc();
    }

    /// What is counted of one service's requests.
    pub fn of_service(&self, service: &ServiceName) -> ServiceNumbers {
        ServiceNumbers::new(service, &self.requests, &self.first_byte, &self.passed_over, &self.body_bytes)
    }

    /// What is counted of one upstream's answers.
    pub fn of_upstream(&self, service: &ServiceName, upstream: &UpstreamName) -> UpstreamNumbers {
        UpstreamNumbers::new(service, upstream, &self.upstream_requests, &self.upstream_limited, &self.taken)
    }

    /// Ejections, by service, upstream and failure.
    pub fn ejections(&self) -> IntCounterVec {
        self.ejections.clone()
    }

    /// An attempt failed.
    pub fn upstream_failed(&self, service: &str, upstream: &str, failure: &str) {
        self.upstream_failures.with_label_values(&[service, upstream, failure]).inc();
    }

    /// There is another attempt.
    pub fn retried(&self, service: &str, why: &str) {
        self.retries.with_label_values(&[service, why]).inc();
    }

    /// There might have been another attempt, but there were too many already.
    pub fn retry_refused(&self, service: &str) {
        self.retries_refused.with_label_values(&[service]).inc();
    }

    /// It could not be held as well.
    pub fn held_refused(&self, service: &str, reason: &str) {
        self.held_refused.with_label_values(&[service, reason]).inc();
    }

    /// The open connections of one listener.
    pub fn connections(&self, listener: &str) -> Connections {
        Connections(self.connections.with_label_values(&[listener]))
    }

    /// What passed without being copied.
    pub fn zero_copy(&self) -> ZeroCopy {
        ZeroCopy(self.zero_copy.with_label_values::<&str>(&[]))
    }

    /// The requests under way on one listener's connections of HTTP/2.
    pub fn streams(&self, listener: &str) -> Connections {
        Connections(self.streams.with_label_values(&[listener]))
    }

    /// An access line was dropped.
    pub fn access_dropped(&self) {
        self.access_dropped.with_label_values::<&str>(&[]).inc();
    }

    /// What became of so many recorded parts of traces.
    pub fn spans(&self, outcome: &str, count: usize) {
        self.spans.with_label_values(&[outcome]).inc_by(count as u64);
    }

    /// A read has waited for a lagging replica.
    pub fn fresh_waited(&self, service: &str, outcome: &str) {
        self.fresh_waits.with_label_values(&[service, outcome]).inc();
    }

    /// An answer was dropped for its age.
    pub fn behind_answer(&self, service: &str, upstream: &str) {
        self.behind_answers.with_label_values(&[service, upstream]).inc();
    }

    /// An answer was passed on that may miss the last pushes.
    pub fn stale_answer(&self, service: &str, why: &str) {
        self.stale_answers.with_label_values(&[service, why]).inc();
    }

    /// Agents are served from another version.
    pub fn cohort_changed(&self, service: &str, why: &str) {
        self.cohort_changes.with_label_values(&[service, why]).inc();
    }

    /// Drops what was counted of upstreams that are no more: those that are found come and go, and each would stay.
    pub fn forget_others(&self, snapshot: &Snapshot) {
        let there = |service: &str, upstream: &str| {
            let of = snapshot.services.iter().filter(|known| known.name.as_str() == service);
            of.flat_map(|known| &known.upstreams).any(|known| known.name.as_str() == upstream)
        };
        let of_upstreams = [
            (&self.upstream_requests, names::PROXY_UPSTREAM_REQUESTS),
            (&self.upstream_failures, names::PROXY_UPSTREAM_FAILURES),
            (&self.behind_answers, names::PROXY_BEHIND_ANSWERS),
            (&self.upstream_limited, names::PROXY_UPSTREAM_LIMITED),
            (&self.taken, names::PROXY_UPSTREAM_TAKEN),
        ];
        for (counters, name) in of_upstreams {
            for family in counters.collect() {
                for metric in family.get_metric() {
                    let value = |label: &&str| {
                        let pair = metric.get_label().iter().find(|pair| *pair.name() == **label);
                        pair.map_or("", |pair| pair.value())
                    };
                    let values: Vec<&str> = name.labels.iter().map(value).collect();
                    if let [service, upstream, ..] = values[..]
                        && !there(service, upstream)
                    {
                        // It is there: it was collected a moment ago.
                        counters.remove_label_values(&values).ok();
                    }
                }
            }
        }
    }

    /// How the last reload ended.
    pub fn reloaded(&self, taken: bool) {
        self.reload_ok.set(if taken { 1.0 } else { 0.0 });
    }

    /// Somebody was turned away at the admin API.
    pub fn admin_refused(&self, reason: &str) {
        self.admin_refused.with_label_values(&[reason]).inc();
    }

    /// How the last upgrade ended.
    pub fn upgraded(&self, done: bool) {
        self.upgrade_ok.set(if done { 1.0 } else { 0.0 });
    }

    /// Whether the last upgrade, if there was one, did not come to nothing.
    pub fn is_upgraded(&self) -> bool {
        self.upgrade_ok.get() > 0.0
    }

    /// How many upgrades led here, and what they left.
    pub fn processes(&self, process: &Process) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.generation.with_label_values::<&str>(&[]).set(count(process.generation));
        self.old.with_label_values::<&str>(&[]).set(count(process.old.len() as u64));
    }

    /// What is in flight, and what of it has moved.
    pub fn transfers(&self, transfers: &Transfers) {
        self.transfers.reset();
        for transfer in transfers.all() {
            transfer.count();
            let (service, lane, direction) = transfer.labels();
            self.transfers.with_label_values(&[service, lane.as_str(), direction.as_str()]).inc();
        }
    }

    /// Everything, in Prometheus' text format. What is a state rather than an event is read off `snapshot`.
    pub fn text(&self, snapshot: &Snapshot) -> String {
        // Services and upstreams that a reload removed must not linger.
        self.up.reset();
        self.ejected.reset();
        self.maintenance.reset();
        self.orders.reset();
        self.drained.reset();
        self.panic.reset();
        self.outstanding.reset();
        self.open.reset();
        self.pending.reset();
        self.waiting.reset();
        self.unused.reset();
        self.weight.reset();
        self.latency.reset();
        self.held.reset();
        self.held_bytes.reset();
        self.lease.reset();
        self.fresh.reset();
        self.lag.reset();
        self.cohort_served.reset();
        self.differing.reset();
        self.list_age.reset();
        self.written.reset();
        self.discovery_ok.reset();
        self.discovered.reset();
        self.set_tls(snapshot);
        let generation = i64::try_from(snapshot.generation).unwrap_or(i64::MAX);
        self.config_generation.with_label_values::<&str>(&[]).set(generation);
        for service in &snapshot.services {
            let name = service.name.as_str();
            service.numbers.put_together();
            let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let (held, bytes) = service.line.inside();
            self.held.with_label_values(&[name]).set(count(held as u64));
            self.held_bytes.with_label_values(&[name]).set(count(bytes));
            self.maintenance.with_label_values(&[name]).set(i64::from(service.is_closed()));
            let orders = snapshot.orders.all().iter().filter(|order| order.service == name).count();
            self.orders.with_label_values(&[name]).set(count(orders as u64));
            self.panic.with_label_values(&[name]).set(i64::from(service.panics()));
            self.set_freshness(service);
            if let Some(members) = &service.members {
                let well = members.discovery.standing().well;
                self.discovery_ok.with_label_values(&[name]).set(i64::from(well));
                let found = service.upstreams.len().saturating_sub(members.listed);
                self.discovered.with_label_values(&[name]).set(count(found as u64));
            }
            for version in service.cohort.iter().flat_map(|cohort| cohort.view(service).versions) {
                let labels = [name, version.version.as_str()];
                self.cohort_served.with_label_values(&labels).set(i64::from(version.served));
            }
            self.set_catalogue(service);
            self.set_shares(service);
            for upstream in &service.upstreams {
                let labels = [name, upstream.name.as_str()];
                upstream.numbers.put_together();
                let up = upstream.prober.verdict().state == crate::health::State::Up;
                self.up.with_label_values(&labels).set(i64::from(up));
                self.ejected.with_label_values(&labels).set(i64::from(upstream.shown.is_out()));
                self.drained.with_label_values(&labels).set(i64::from(upstream.ordered.is_drained()));
                self.outstanding.with_label_values(&labels).set(count(upstream.outstanding()));
                let room = &upstream.room;
                self.pending.with_label_values(&labels).set(count(room.pending()));
                self.waiting.with_label_values(&labels).set(count(room.waiting()));
                for lane in Lane::ALL {
                    let labels = [name, upstream.name.as_str(), lane.as_str()];
                    self.open.with_label_values(&labels).set(count(room.open(lane)));
                    self.unused.with_label_values(&labels).set(count(room.unused(lane)));
                }
            }
        }
        self.registry.text()
    }

    fn set_shares(&self, service: &Service) {
        let now = clock::now();
        for (upstream, share) in service.upstreams.iter().zip(&service.shares) {
            let labels = [service.name.as_str(), upstream.name.as_str()];
            let part = upstream.part(share, upstream.eligible_since(), service.slow_start, now);
            self.weight.with_label_values(&labels).set(part.shown());
            if let Some(seconds) = upstream.speed.at(now).now() {
                self.latency.with_label_values(&labels).set(seconds.into());
            }
        }
    }

    fn set_tls(&self, snapshot: &Snapshot) {
        self.tls_ok.reset();
        self.certificate_until.reset();
        self.list_until.reset();
        for listener in &snapshot.listeners {
            let (Some(tls), name) = (&listener.tls, listener.name.as_str()) else { continue };
            let facts = tls.facts();
            self.tls_ok.with_label_values(&["listener", name]).set(i64::from(tls.trouble().is_empty()));
            self.certificate_until.with_label_values(&[name]).set(facts.certificate_until.unix_seconds());
            if let Some(until) = facts.list_until {
                self.list_until.with_label_values(&[name]).set(until.unix_seconds());
            }
        }
        for service in &snapshot.services {
            if let Some(tls) = &service.tls {
                let labels = ["service", service.name.as_str()];
                self.tls_ok.with_label_values(&labels).set(i64::from(tls.trouble().is_empty()));
            }
        }
    }

    fn set_catalogue(&self, service: &Service) {
        let Some(survey) = &service.survey else { return };
        let (name, look) = (service.name.as_str(), service.look_at_all());
        let core = survey.core();
        let written = core.written().map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
        self.written.with_label_values(&[name]).set(written);
        for (place, upstream) in service.upstreams.iter().enumerate() {
            let (labels, view) = ([name, upstream.name.as_str()], core.view(place, look.at));
            self.fresh.with_label_values(&labels).set(i64::from(service.is_fresh(&look, place)));
            self.differing.with_label_values(&labels).set(i64::try_from(view.differing).unwrap_or(i64::MAX));
            if let Some(age) = view.age {
                self.list_age.with_label_values(&labels).set(age.as_secs_f64());
            }
        }
    }

    fn set_freshness(&self, service: &Service) {
        let Some(follow) = &service.follow else { return };
        let name = service.name.as_str();
        let look = follow.look(Subject::All);
        let left = follow.core().lease_left(look.at).unwrap_or_default();
        self.lease.with_label_values(&[name]).set(left.as_secs_f64());
        for (place, upstream) in service.upstreams.iter().enumerate() {
            let labels = [name, upstream.name.as_str()];
            self.fresh.with_label_values(&labels).set(i64::from(service.is_fresh(&look, place)));
            if let Some(told) = follow.told(place).filter(|told| told.is_of(look.at)) {
                let lag = i64::try_from(told.state.lag.entries).unwrap_or(i64::MAX);
                self.lag.with_label_values(&labels).set(lag);
            }
        }
    }
}
