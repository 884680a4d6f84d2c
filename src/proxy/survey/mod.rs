//! The shell around [`super::catalogue`]: asks every registry for its list, and where lists do not tell for versions, and
//! shows requests what came of it. Decides nothing.

mod ask;

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    catalogue::{About, Ages, Begun, Catalogue},
    follow::{Look, kept_up},
};
use crate::{
    client::lists,
    clock,
    config::proxy::{Freshness, Lists, Service, Upstream},
    model::TemplateId,
    supervise::{Handle as Tasks, Stage, StopSource},
    tls,
};

/// A list counts for so many intervals, and the time of an answer.
const INTERVALS: u32 = 4;

/// What is known of the registries of one service, kept up to date until it is dropped.
#[derive(Debug)]
pub struct Survey {
    of: Of,
    shared: Arc<Shared>,
    removed: StopSource,
}

/// What is asked: with the same of it, a reload goes on with what is known.
#[derive(Debug, Clone, PartialEq)]
struct Of {
    writer: usize,
    upstreams: Vec<Upstream>,
    lists: Lists,
    tls: Option<tls::Upstream>,
}

#[derive(Debug)]
struct Shared {
    service: String,
    /// Taken for reading once per choice, which looks a template up, and for writing by a few answers each interval. A
    /// lock is held for the comparison of two lists at the longest, and never across a wait.
    core: RwLock<Catalogue>,
    /// The last list of each registry could be had.
    well: Vec<AtomicBool>,
    news: watch::Sender<()>,
}

/// A write under way. It is over when this is dropped.
#[derive(Debug)]
pub struct Writing {
    shared: Arc<Shared>,
    template: Option<TemplateId>,
    begun: Begun,
    /// Nothing was changed.
    pub(super) refused: bool,
}

impl Survey {
    /// Begins to ask; `None` for a service whose reads do not go by lists.
    pub fn start(tasks: &Tasks, service: &Service, tls: Option<&tls::Upstream>) -> Option<Self> {
        let of = Of::service(service)?;
        let title = service.name.to_string();
        let Lists { interval, timeout, cache, .. } = of.lists;
        let ages = Ages { cache, valid: interval * INTERVALS + timeout };
        let shared = Arc::new(Shared {
            service: title.clone(),
            core: RwLock::new(Catalogue::new(of.upstreams.len(), of.writer, ages, clock::boot())),
            well: of.upstreams.iter().map(|_| AtomicBool::new(true)).collect(),
            news: watch::Sender::new(()),
        });
        let removed = StopSource::new();
        for (place, upstream) in of.upstreams.iter().enumerate() {
            let secret = of.lists.authorization.as_ref();
            let Some(client) = lists::Lists::new(&upstream.address, tls, secret, timeout) else {
                shared.core_mut().failed(place, "the proxy has no HTTP client".into());
                continue;
            };
            let (shared, gone, name) = (shared.clone(), removed.stop(), upstream.name.to_string());
            tasks.finish_at(Stage::Loops, format!("list of {title}/{name}"), move |stop| async move {
                tokio::select! {
                    () = stop.requested() => {}
                    () = gone.requested() => {}
                    () = kept_up("list", || ask::lists(&shared, place, &name, &client, interval)) => {}
                }
            });
        }
        Some(Self { of, shared, removed })
    }

    /// Whether this is what the service needs, so that a reload can go on with it.
    pub fn fits(&self, service: &Service) -> bool {
        Of::service(service).is_some_and(|of| of == self.of)
    }

    /// What is known now, for one choice.
    pub fn look(&self, about: About<'_>) -> Look {
        let core = self.shared.core();
        let at = clock::boot();
        Look {
            at,
            lease: core.is_known(at),
            deposed: false,
            needed: None,
            standings: (0..self.of.upstreams.len()).map(|place| core.standing(place, about, at)).collect(),
        }
    }

    /// A write goes out that may change this template; `None`: nobody can tell which.
    pub fn begin(&self, template: Option<TemplateId>) -> Writing {
        let about = template.as_ref().map_or(About::All, About::Template);
        let begun = self.shared.core_mut().begin(about);
        Writing { shared: self.shared.clone(), template, begun, refused: false }
    }

    /// Wakes when a registry's list has come, or could not be had.
    pub fn news(&self) -> watch::Receiver<()> {
        let mut news = self.shared.news.subscribe();
        news.mark_unchanged();
        news
    }

    /// The core, for views. Hold it for a moment only.
    pub fn core(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.shared.core()
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        self.removed.request();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let about = self.template.as_ref().map_or(About::All, About::Template);
        self.shared.core_mut().end(about, self.begun, self.refused, clock::boot());
    }
}

impl Of {
    fn service(service: &Service) -> Option<Self> {
        let by_list = service.reads.freshness == Freshness::Catalogue;
        Some(Self {
            writer: service.writer.filter(|_| by_list)?,
            upstreams: service.upstreams.clone(),
            lists: service.vendor.lists.clone(),
            tls: service.tls.clone(),
        })
    }
}

impl Shared {
    fn core(&self) -> RwLockReadGuard<'_, Catalogue> {
        // What a panicking holder left was whole before each of its steps.
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn core_mut(&self) -> RwLockWriteGuard<'_, Catalogue> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.send_replace(());
    }

    /// Says once that a registry's list cannot be had, and once that it can again.
    fn say(&self, place: usize, name: &str, trouble: Option<&str>) {
        let Some(well) = self.well.get(place) else { return };
        if well.swap(trouble.is_none(), Ordering::Relaxed) == trouble.is_none() {
            return;
        }
        let service = &self.service;
        match trouble {
            Some(why) => {
                warn!(service.name = %service, upstream.name = name, why, "a registry's list could not be had")
            }
            None => info!(service.name = %service, upstream.name = name, "a registry's list is there again"),
        }
    }
}
