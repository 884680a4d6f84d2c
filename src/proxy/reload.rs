//! From a checked config to the next snapshot. What did not change keeps its verdicts and its counts.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    cohort::Cohort,
    engine::{Listeners, tell_if_short},
    follow::Follow,
    handover::{Found, verdict_of},
    limit::{AtListener, Counts},
    members,
    passive::{self, Passive, Shown},
    record::{ProxyMetrics, Spans},
    share::Share,
    snapshot::{Live, Service, Snapshot, Upstream},
    survey::Survey,
    trace::Tracing,
    vendor,
};
use crate::{
    clock,
    config::{
        Log,
        proxy::{self as config, Listener, Proxy},
    },
    health::Prober,
    model::ZoneName,
    supervise::Handle as Tasks,
    telemetry::{Access, chain},
    wire::{config::Refused, handover::Known},
};

/// Why a config that is valid in itself was not taken. The old one goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// A part that is fixed at start has changed.
    #[error(
        "`{key}` cannot be changed by a reload, it needs an upgrade: run `switchyard upgrade`, restart the proxy, or put back `{old}`"
    )]
    NeedsUpgrade {
        /// The key.
        key: String,
        /// What it was.
        old: String,
    },
    /// A new address cannot be had. Nothing else was changed either.
    #[error("{0}")]
    Bind(String),
    /// The listeners are being handed over.
    #[error("an upgrade is under way: the successor reads the config")]
    Upgrading,
    /// The listeners are a successor's.
    #[error("this process was replaced and only ends what it has begun: ask its successor")]
    Replaced,
}

/// How the last reload ended, for whoever looks later.
#[derive(Debug, Default)]
pub struct LastReload(Mutex<Option<Refused>>);

impl LastReload {
    /// It was refused for this, or taken.
    pub fn ended(&self, refused: Option<String>) {
        let refused = refused.map(|why| Refused { at: clock::wall(), why });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// When and why it was refused; nothing if it was taken, or there was none.
    pub fn refused(&self) -> Option<Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What only another process can have otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixtures {
    threads: usize,
    zero_copy: bool,
    admin: SocketAddr,
    access: Access,
    log: Log,
    run_dir: Option<PathBuf>,
    address_file: Option<PathBuf>,
}

impl Fixtures {
    /// Of this config.
    pub fn of(config: &Proxy) -> Self {
        Self {
            threads: config.threads,
            zero_copy: config.zero_copy,
            admin: config.admin,
            access: config.access.clone(),
            log: config.log.clone(),
            run_dir: config.run_dir.clone(),
            address_file: config.address_file.clone(),
        }
    }

    fn allow(&self, next: &Self) -> Result<(), ReloadError> {
        let refuse = |key: &str, old: String| Err(ReloadError::NeedsUpgrade { key: key.into(), old });
        if self.threads != next.threads {
            return refuse("proxy.threads", self.threads.to_string());
        }
        if self.zero_copy != next.zero_copy {
            return refuse("proxy.zero_copy", self.zero_copy.to_string());
        }
        if self.admin != next.admin {
            return refuse("admin.listen", self.admin.to_string());
        }
        if self.access != next.access {
            return refuse("log.access", format!("{:?}", self.access));
        }
        if self.log.format != next.log.format {
            return refuse("log.format", format!("{:?}", self.log.format).to_lowercase());
        }
        if self.log.filter != next.log.filter {
            return refuse("log.filter", self.log.filter.clone());
        }
        let shown = |path: &Option<PathBuf>| {
            path.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string())
        };
        if self.run_dir != next.run_dir {
            return refuse("proxy.run_dir", shown(&self.run_dir));
        }
        if self.address_file != next.address_file {
            return refuse("proxy.address_file", shown(&self.address_file));
        }
        Ok(())
    }
}

/// What the next snapshot takes over.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// Upstreams with the same name, address, probe, PROXY header and TLS, alive; and of others what is known of them.
    Snapshot(&'a Snapshot),
    /// What another process has found out.
    Found(&'a Found),
}

impl Before<'_> {
    fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot(before) => Some(before),
            Self::Found(_) => None,
        }
    }

    fn found(&self) -> Option<&Found> {
        match self {
            Self::Snapshot(_) => None,
            Self::Found(found) => Some(found),
        }
    }
}

/// The snapshot of a config.
pub fn snapshot(config: &Proxy, before: Before<'_>, tasks: &Tasks, metrics: &ProxyMetrics) -> Snapshot {
    let services = config.services.iter().map(|service| {
        let old = before.snapshot().and_then(|b| b.services.iter().find(|s| s.name == service.name));
        let (old, found) = (old.map(Arc::as_ref), before.found());
        Arc::new(self::service(service, config.zone.as_ref(), old, found, &config.listeners, tasks, metrics))
    });
    // Certificates that were read anew go to where they are used already, so that sessions go on.
    let listeners = config.listeners.iter().cloned().map(|mut listener| {
        let old = before.snapshot().and_then(|b| b.listeners.iter().find(|l| l.name == listener.name));
        let old = old.and_then(|old| old.tls.as_ref());
        listener.tls = listener.tls.map(|tls| tls.after(old));
        listener
    });
    let now = clock::now();
    let at_listener = config.listeners.iter().map(|listener| {
        let old = before.snapshot().and_then(|b| b.at_listener.get(b.place_of(&listener.name)?));
        AtListener::after(old, listener, now)
    });
    let next = Snapshot {
        at_listener: at_listener.collect(),
        counts: Counts::after(before.snapshot().map(|b| &b.counts), &config.limits.bounds, now),
        generation: before.snapshot().map_or(0, |before| before.generation + 1),
        listeners: listeners.collect(),
        services: services.collect(),
        limits: config.limits.clone(),
        endings: config.endings,
        decisions: config.decisions,
        tracing: tracing(config.trace.as_ref(), before.snapshot(), tasks, metrics),
        progress: config.progress,
        orders: match before {
            Before::Snapshot(before) => before.orders.clone(),
            Before::Found(found) => found.orders.clone(),
        },
    };
    next.orders.apply(&next);
    next
}

/// How requests become parts of traces. What exports them goes on as long as nothing about it changes.
fn tracing(
    config: Option<&config::Trace>,
    before: Option<&Snapshot>,
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> Option<Arc<Tracing>> {
    let settings = config?.clone();
    if let Some(same) = before.and_then(|b| b.tracing.as_ref()).filter(|old| old.settings == settings) {
        return Some(same.clone());
    }
    let spans = settings.otlp.as_ref().map(|to| Spans::export(to, &settings.service, tasks, metrics));
    Some(Arc::new(Tracing { settings, spans }))
}

/// The service of a config, with what was found beside it.
pub(super) fn service(
    config: &config::Service,
    zone: Option<&ZoneName>,
    old: Option<&Service>,
    found: Option<&Found>,
    listeners: &[Listener],
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> Service {
    let (config, members) = members::pool(config, old, listeners, tasks);
    let config = &config;
    let tls = config.tls.clone().map(|tls| tls.after(old.and_then(|old| old.tls.as_ref())));
    let line = old.map(|old| old.line.clone()).unwrap_or_default();
    let upstreams = config.upstreams.iter().map(|wanted| {
        let same = |u: &&Arc<Upstream>| {
            u.name == wanted.name
                && u.address == wanted.address
                && u.health == config.health
                && u.proxy_protocol == config.proxy_protocol
                && u.tls == tls
        };
        old.and_then(|old| old.upstreams.iter().find(same)).cloned().unwrap_or_else(|| {
            let title = format!("{}/{}", config.name, wanted.name);
            let wrapping = (config.proxy_protocol, tls.clone());
            let before = || found_before(old?, wanted, config);
            let known = before();
            let handed = || verdict_of(&found?.verdicts, config, wanted);
            let known = known.as_ref().or_else(handed);
            let prober =
                Prober::start(tasks, &title, &wanted.address, &config.health, wrapping.clone(), known);
            Arc::new(Upstream::new(
                wanted.name.clone(),
                wanted.address.clone(),
                config.health.clone(),
                wrapping,
                (prober, Shown::new(clock::now())),
                (metrics.of_upstream(&config.name, &wanted.name), line.clone()),
            ))
        })
    });
    let upstreams: Vec<Arc<Upstream>> = upstreams.collect();
    let begin = || Arc::new(Passive::new(&config.name, &config.passive, metrics.ejections()));
    let passive = old.map_or_else(begin, |old| old.passive.clone());
    passive.keep(&config.passive, &upstreams);
    if let Some(found) = found {
        passive::hand(&passive, &found.ejections);
    }
    let share = |wanted| Share::of(wanted, zone, config.bears);
    let shares: Vec<Share> = config.upstreams.iter().map(share).collect();
    let known = old.and_then(|old| old.follow.clone()).filter(|follow| follow.fits(config));
    let surveyed = old.and_then(|old| old.survey.clone()).filter(|survey| survey.fits(config));
    Service {
        name: config.name.clone(),
        kind: config.kind,
        balance: config.balance,
        hash: config.hash.clone(),
        sticky: config.sticky.clone(),
        slow_start: config.slow_start,
        hold: config.hold,
        retry_status: config.retry_status.clone(),
        maintenance: config.maintenance,
        ordered: Default::default(),
        writer: config.writer,
        reads: config.reads,
        logs: vendor::logs(config),
        survey: surveyed.or_else(|| Survey::start(tasks, config, tls.as_ref()).map(Arc::new)),
        follow: known.or_else(|| Follow::start(tasks, config, tls.as_ref()).map(Arc::new)),
        timeouts: config.timeouts,
        attempts: config.attempts.max(1),
        retry_budget: config.retry_budget,
        upstreams,
        passive,
        panic_threshold: config.passive.panic_threshold,
        zoned: shares.iter().any(|share| share.local) && shares.iter().any(|share| !share.local),
        shares,
        tls: tls.clone(),
        sign: config.sign.as_ref().map(|sign| sign.key.clone()),
        turn: Default::default(),
        line,
        pins: old.map(|old| old.pins.clone()).unwrap_or_default(),
        twins_told: Default::default(),
        numbers: old.map_or_else(|| Arc::new(metrics.of_service(&config.name)), |old| old.numbers.clone()),
        members,
        cohort: config.cohorts.map(|rules| {
            let going = old.and_then(|old| old.cohort.clone());
            let cohort = going.unwrap_or_else(|| Arc::new(Cohort::new(&rules)));
            cohort.obey(&rules);
            cohort.agree(config, tasks);
            cohort
        }),
    }
}

/// What probes have found of an upstream that is to be asked the same thing, only at other times or counted otherwise.
fn found_before(old: &Service, wanted: &config::Upstream, config: &config::Service) -> Option<Known> {
    let same = |u: &&Arc<Upstream>| {
        u.name == wanted.name
            && u.address == wanted.address
            && u.health.kind == config.health.kind
            && u.proxy_protocol == config.proxy_protocol
            && u.tls.is_some() == config.tls.is_some()
    };
    old.upstreams.iter().find(same)?.prober.verdict().known(clock::now())
}

/// Puts the next config in place, whole, or says why not.
pub(super) fn reload(
    live: &Live,
    listeners: &Listeners,
    fixtures: &Fixtures,
    config: &Proxy,
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> Result<(), ReloadError> {
    fixtures.allow(&Fixtures::of(config))?;
    let change = listeners.prepare(&config.listeners).map_err(|error| ReloadError::Bind(chain(&error)))?;
    tell_if_short(config.limits.connections, config.threads.max(1));
    let before = live.load();
    let next = snapshot(config, Before::Snapshot(&before), tasks, metrics);
    listeners.change(change, &before, next, config.endings.drain, |next| live.put(next));
    Ok(())
}
