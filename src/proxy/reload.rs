//! From a checked config to the next snapshot. What did not change keeps its verdicts and its counts.

use std::{net::SocketAddr, sync::Arc};

use super::{
    follow::Follow,
    record::ProxyMetrics,
    snapshot::{Live, Service, Snapshot, Upstream},
};
use crate::{
    config::proxy::{Access, Listener, Proxy, Service as ServiceConfig},
    discovery::fixed::Fixed,
    health::Prober,
    supervise::Handle as Tasks,
};

/// Why a config that is valid in itself was not taken. The old one goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// A part that is fixed at start has changed.
    #[error("`{key}` cannot be changed by a reload; restart the proxy, or put back `{old}`")]
    NeedsRestart {
        /// The key.
        key: String,
        /// What it was.
        old: String,
    },
}

/// What only a restart can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixtures {
    threads: usize,
    zero_copy: bool,
    admin: SocketAddr,
    access: Access,
    binds: Vec<(String, Vec<SocketAddr>)>,
}

impl Fixtures {
    /// Of this config.
    pub fn of(config: &Proxy) -> Self {
        let binds = |listener: &Listener| (listener.name.clone(), listener.bind.clone());
        Self {
            threads: config.threads,
            zero_copy: config.zero_copy,
            admin: config.admin,
            access: config.access.clone(),
            binds: config.listeners.iter().map(binds).collect(),
        }
    }

    fn allow(&self, next: &Self) -> Result<(), ReloadError> {
        let refuse = |key: &str, old: String| Err(ReloadError::NeedsRestart { key: key.into(), old });
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
        if self.binds != next.binds {
            let old = self.binds.iter().map(|(name, bind)| format!("{name} on {bind:?}"));
            return refuse("listener.bind", old.collect::<Vec<_>>().join(", "));
        }
        Ok(())
    }
}

/// The snapshot of a config. Upstreams that stand in `before` with the same name, address, probe and PROXY
/// header are taken over alive.
pub fn snapshot(
    config: &Proxy,
    before: Option<&Snapshot>,
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> Snapshot {
    let services = config.services.iter().map(|service| {
        let old = before.and_then(|b| b.services.iter().find(|s| s.name == service.name));
        Arc::new(self::service(service, old.map(Arc::as_ref), tasks, metrics))
    });
    // Certificates that were read anew go to where they are used already, so that sessions go on.
    let listeners = config.listeners.iter().cloned().map(|mut listener| {
        let old = before.and_then(|b| b.listeners.iter().find(|l| l.name == listener.name));
        let old = old.and_then(|old| old.tls.as_ref());
        listener.tls = listener.tls.map(|tls| tls.after(old));
        listener
    });
    Snapshot {
        generation: before.map_or(0, |before| before.generation + 1),
        listeners: listeners.collect(),
        services: services.collect(),
        limits: config.limits.clone(),
    }
}

fn service(config: &ServiceConfig, old: Option<&Service>, tasks: &Tasks, metrics: &ProxyMetrics) -> Service {
    let list = Fixed::new(&config.upstreams).now();
    let tls = config.tls.clone().map(|tls| tls.after(old.and_then(|old| old.tls.as_ref())));
    let upstreams = list.iter().map(|wanted| {
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
            let prober = Prober::start(tasks, &title, &wanted.address, &config.health, wrapping.clone());
            Arc::new(Upstream::new(
                wanted.name.clone(),
                wanted.address.clone(),
                config.health.clone(),
                wrapping,
                prober,
                metrics.of_upstream(&config.name, &wanted.name),
            ))
        })
    });
    let known = old.and_then(|old| old.follow.clone()).filter(|follow| follow.fits(config));
    Service {
        name: config.name.clone(),
        kind: config.kind,
        balance: config.balance,
        hold: config.hold,
        retry_status: config.retry_status.clone(),
        maintenance: config.maintenance,
        writer: config.writer,
        reads: config.reads,
        follow: known.or_else(|| Follow::start(tasks, config, tls.as_ref()).map(Arc::new)),
        timeouts: config.timeouts,
        attempts: config.attempts.max(1),
        upstreams: upstreams.collect(),
        tls: tls.clone(),
        turn: Default::default(),
        held: old.map(|old| old.held.clone()).unwrap_or_default(),
        twins_told: Default::default(),
        numbers: old.map_or_else(|| Arc::new(metrics.of_service(&config.name)), |old| old.numbers.clone()),
    }
}

/// Puts the next config in place, whole, or says why not.
pub fn reload(
    live: &Live,
    fixtures: &Fixtures,
    config: &Proxy,
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> Result<(), ReloadError> {
    fixtures.allow(&Fixtures::of(config))?;
    let before = live.load();
    live.put(snapshot(config, Some(&before), tasks, metrics));
    Ok(())
}
