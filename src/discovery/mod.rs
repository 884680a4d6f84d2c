//! Where the upstreams of a service come from, besides the config. Each source yields a watch of the whole list, so that a
//! reader never sees half a change. Knows nothing of their health.
//!
//! A source that is away, or that has nothing to say, takes nothing away: the list that was found last goes on. Whether
//! who is in it is alive is for probes to say.
//!
//! [`roster`] decides what of a cluster's members is believed, [`members`] watches them in etcd, [`dns`] asks for names, [`merge`] puts what was
//! found behind what the config lists. [`word`] is what proxies tell each other through etcd.

pub mod merge;
pub mod roster;
pub mod word;
mod members;
mod dns;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{
    clock,
    config::proxy::{self, Service, Source, Upstream},
    model::Timestamp,
    supervise::{Handle as Tasks, Stage, StopSource},
};

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Counts changes.
    pub number: u64,
    /// By name.
    pub list: Arc<[Upstream]>,
}

/// How the source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// It can be asked.
    pub well: bool,
    /// Why not; empty when it can.
    pub why: String,
    /// Since when it is so.
    pub since: Timestamp,
}

/// Looks for the upstreams of one service until it is dropped.
#[derive(Debug)]
pub struct Discovery {
    of: (proxy::Discovery, proxy::Kind),
    teller: Arc<Teller>,
    removed: StopSource,
}

/// What a source tells.
#[derive(Debug)]
struct Teller {
    service: String,
    found: watch::Sender<Found>,
    standing: Mutex<Standing>,
}

impl Discovery {
    /// Begins to look; `None` for a service that lists its upstreams itself.
    pub fn start(tasks: &Tasks, service: &Service) -> Option<Self> {
        let of = service.discovery.clone()?;
        let standing = Standing { well: false, why: "it was not asked yet".into(), since: clock::wall() };
        let teller = Arc::new(Teller {
            service: service.name.to_string(),
            found: watch::Sender::default(),
            standing: Mutex::new(standing),
        });
        let removed = StopSource::new();
        let (gone, told) = (removed.stop(), teller.clone());
        let (source, role, most) = (of.source.clone(), service.kind.as_str(), of.most);
        tasks.finish_at(Stage::Loops, format!("discovery of {}", service.name), move |stop| async move {
            let looking = async {
                match &source {
                    Source::Etcd { etcd, cluster } => members::watch(etcd, cluster, role, most, &told).await,
                    Source::Dns(dns) => dns::watch(dns, most, &told).await,
                }
            };
            tokio::select! {
                () = stop.requested() => {}
                () = gone.requested() => {}
                () = looking => {}
            }
        });
        Some(Self { of: (of, service.kind), teller, removed })
    }

    /// Whether this is what the service asks for, so that a reload can go on with it.
    pub fn fits(&self, service: &Service) -> bool {
        service.discovery.as_ref() == Some(&self.of.0) && service.kind == self.of.1
    }

    /// Where it looks.
    pub fn source(&self) -> &Source {
        &self.of.0.source
    }

    /// What was found last.
    pub fn now(&self) -> Found {
        self.teller.found.borrow().clone()
    }

    /// Follows it.
    pub fn watch(&self) -> watch::Receiver<Found> {
        self.teller.found.subscribe()
    }

    /// Begins with what a predecessor had found, if nothing was found yet.
    pub fn begin_with(&self, list: Vec<Upstream>) {
        if self.now().number == 0 {
            self.teller.tell(list);
        }
    }

    /// How the source stands.
    pub fn standing(&self) -> Standing {
        self.teller.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.removed.request();
    }
}

impl Teller {
    /// The whole list. An empty one is not believed where there was one: it costs nothing to go on probing who was there,
    /// and a source that was emptied by mistake does not empty a pool.
    fn tell(&self, list: Vec<Upstream>) {
        let before = self.found.borrow().list.clone();
        if list.is_empty() && !before.is_empty() {
            let (service, kept) = (&self.service, before.len());
            tracing::warn!(service.name = %service, kept, "no upstream is listed any more, those known go on");
            return;
        }
        if *before == *list {
            return;
        }
        let names = |of: &[Upstream], than: &[Upstream]| {
            let new = of.iter().filter(|one| !than.contains(one));
            new.map(|one| format!("{} ({})", one.name, one.address)).collect::<Vec<_>>().join(", ")
        };
        let (come, gone) = (names(&list, &before), names(&before, &list));
        tracing::info!(service.name = %self.service, come, gone, "other upstreams were found");
        self.found.send_modify(|found| {
            *found = Found { number: found.number + 1, list: list.into() };
        });
    }

    /// How the source stands, said once per change.
    fn stands(&self, why: Option<&str>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let (well, why) = (why.is_none(), why.unwrap_or_default());
        let service = &self.service;
        match (standing.well, well) {
            (false, true) => tracing::info!(service.name = %service, "upstreams can be looked for"),
            (true, false) => {
                tracing::warn!(service.name = %service, why, "upstreams cannot be looked for, those known go on");
            }
            _ => {}
        }
        let since = if standing.well == well { standing.since } else { clock::wall() };
        *standing = Standing { well, why: why.into(), since };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UpstreamName;

    fn teller() -> Teller {
        let standing = Standing { well: false, why: String::new(), since: clock::wall() };
        Teller { service: "s".into(), found: watch::Sender::default(), standing: Mutex::new(standing) }
    }

    fn upstream(name: &str) -> Upstream {
        Upstream::plain(UpstreamName::parse(name).unwrap(), "10.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn an_empty_list_takes_nothing_away() {
        let teller = teller();
        teller.tell(Vec::new());
        assert_eq!(teller.found.borrow().number, 0, "nothing was known, and nothing is");
        teller.tell(vec![upstream("a"), upstream("b")]);
        teller.tell(vec![upstream("a"), upstream("b")]);
        assert_eq!(teller.found.borrow().number, 1, "the same list is no change");
        teller.tell(Vec::new());
        assert_eq!((teller.found.borrow().number, teller.found.borrow().list.len()), (1, 2));
        teller.tell(vec![upstream("b")]);
        assert_eq!((teller.found.borrow().number, teller.found.borrow().list.len()), (2, 1));
    }
}
