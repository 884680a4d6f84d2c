//! Looks at the proxy, at most once in a second for all that look at the page.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    EVERY, STREAMS,
    html::{self, Section},
    seen::{Certificates, Rates, Seen, Totals, rates},
};
use crate::{
    clock,
    proxy::{
        admin::{decisions, registries, upstreams},
        certificates,
        role::Handle,
        snapshot::Snapshot,
    },
    tls,
};

/// Rates are over so many looks.
const OVER: usize = 5;

/// What was looked at longer ago tells no rate.
const OLD: std::time::Duration = std::time::Duration::from_secs(30);

/// What is shown, and what it is made of.
pub(super) struct Looks {
    handle: Handle,
    pub(super) streams: Arc<Semaphore>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    shown: Option<(Instant, Arc<Vec<Section>>)>,
    /// The oldest first.
    totals: VecDeque<(Instant, Totals)>,
}

impl Looks {
    pub(super) fn of(handle: Handle) -> Self {
        Self { handle, streams: Arc::new(Semaphore::new(STREAMS)), last: Mutex::default() }
    }

    /// Completes when the proxy stops.
    pub(super) async fn ended(&self) {
        self.handle.running.ending.asked().await;
    }

    /// The sections as they are now, give or take [`EVERY`].
    pub(super) fn now(&self) -> Arc<Vec<Section>> {
        let now = clock::now();
        // Held while it is made: whoever else looks waits for it instead of making it as well.
        let last = &mut *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, shown)) = &last.shown
            && now.saturating_duration_since(*at) < EVERY * 9 / 10
        {
            return shown.clone();
        }
        let snapshot = self.handle.live.load();
        let rates = last.rates(now, self.handle.metrics.totals(&snapshot, &self.handle.transfers));
        let shown = Arc::new(html::sections(&seen(&self.handle, &snapshot, rates)));
        last.shown = Some((now, shown.clone()));
        shown
    }
}

impl Last {
    fn rates(&mut self, now: Instant, totals: Totals) -> Rates {
        self.totals.retain(|(at, _)| now.saturating_duration_since(*at) < OLD);
        let before = self.totals.front();
        let rates = before
            .map(|(at, before)| rates(before, &totals, now.saturating_duration_since(*at).as_secs_f64()));
        self.totals.push_back((now, totals));
        if self.totals.len() > OVER {
            self.totals.pop_front();
        }
        rates.unwrap_or_default()
    }
}

fn seen(handle: &Handle, snapshot: &Snapshot, rates: Rates) -> Seen {
    Seen {
        at: clock::wall(),
        upstreams: upstreams::view(snapshot),
        registries: registries::view(snapshot),
        transfers: handle.transfers.view(clock::now()),
        refusals: decisions::refused(handle, html::REFUSALS),
        process: handle.process(),
        certificates: of_certificates(snapshot),
        config: snapshot.generation,
        refused: handle.last_reload.refused().map(|refused| (refused.at, refused.why)),
        upgrade_failed: !handle.metrics.is_upgraded(),
        rates,
    }
}

fn of_certificates(snapshot: &Snapshot) -> Vec<Certificates> {
    let now = clock::wall();
    let listeners = snapshot.listeners.iter().filter_map(|listener| {
        let tls = listener.tls.as_ref()?;
        let facts = tls.facts();
        Some(Certificates {
            of: format!("listener {}", listener.name),
            until: Some(facts.certificate_until),
            ending: certificates::ending(facts, now).collect(),
            refused: tls::in_words(&tls.trouble()),
        })
    });
    let services = snapshot.services.iter().filter_map(|service| {
        let tls = service.tls.as_ref()?;
        let refused = tls::in_words(&tls.trouble());
        Some(Certificates {
            of: format!("service {}", service.name),
            until: None,
            ending: Vec::new(),
            refused,
        })
    });
    listeners.chain(services).collect()
}
