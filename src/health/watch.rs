//! One prober per upstream and process, and the verdict that everybody follows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use rand::Rng;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{
    probe::Probe,
    verdict::{Found, State, Tracker, Verdict},
};
use crate::{
    clock,
    config::{Address, proxy::Health},
    model::proxy_protocol::Version,
    supervise::{Handle, Stage, StopSource},
    tls::Upstream,
    wire::handover::Known,
};

/// While outcomes disagree with the verdict, it is asked so many times as often.
const HASTE: u32 = 4;

/// Never more often than this, however small the interval and however many ask for it.
const LEAST: Duration = Duration::from_millis(100);

/// Probes one upstream until it is dropped.
#[derive(Debug)]
pub struct Prober {
    verdict: Arc<ArcSwap<Verdict>>,
    changed: watch::Receiver<()>,
    nudge: Arc<Notify>,
    doubts: Arc<Doubts>,
    stop: StopSource,
}

/// How often traffic has seen something that the verdict does not say, and up to which time of that a probe was good
/// that began behind it.
#[derive(Debug, Default)]
struct Doubts {
    raised: AtomicU64,
    cleared: AtomicU64,
}

impl Prober {
    /// Starts probing at once. `name` is `service/upstream`, for logs; `wrapping` the PROXY header that its
    /// connections begin with, and the TLS that they are inside of; `known` what a predecessor has found.
    pub fn start(
        tasks: &Handle,
        name: &str,
        address: &Address,
        health: &Health,
        wrapping: (Option<Version>, Option<Upstream>),
        known: Option<&Known>,
    ) -> Self {
        let unknown = || Verdict::unknown(clock::now(), clock::wall());
        let first = known.map_or_else(unknown, |known| Verdict::handed(known, clock::now()));
        let verdict = Arc::new(ArcSwap::from_pointee(first.clone()));
        let (changes, changed) = watch::channel(());
        let (stop, nudge, doubts) = (StopSource::new(), Arc::new(Notify::new()), Arc::<Doubts>::default());
        let work = Work {
            name: name.to_owned(),
            probe: Probe::new(address.clone(), health.kind.clone(), health.timeout, wrapping),
            tracker: Tracker::from(health.rise, health.fall, first),
            interval: health.interval.max(LEAST),
            verdict: verdict.clone(),
            changes,
            nudge: nudge.clone(),
            doubts: doubts.clone(),
        };
        let removed = stop.stop();
        tasks.finish_at(Stage::Loops, format!("prober of {name}"), move |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = removed.requested() => {}
                () = work.run() => {}
            }
        });
        Self { verdict, changed, nudge, doubts, stop }
    }

    /// What is held to be true now. To look at, not to keep: every request does, on every thread, and counts no
    /// reference for it.
    pub fn verdict(&self) -> Guard<Arc<Verdict>> {
        self.verdict.load()
    }

    /// Says when the verdict has changed.
    pub fn follow(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// Asks for a probe now: traffic has seen something that the verdict does not say.
    pub fn nudge(&self) {
        self.doubts.raised.fetch_add(1, Ordering::Relaxed);
        self.nudge.notify_one();
    }

    /// Whether the server may be another one than the verdict was about: connections to it have failed, or a probe has,
    /// and no probe that began after that was good. Whoever cares which version it is does not believe the last word.
    pub fn is_doubtful(&self) -> bool {
        let cleared = self.doubts.cleared.load(Ordering::Acquire);
        cleared != self.doubts.raised.load(Ordering::Relaxed)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.request();
    }
}

struct Work {
    name: String,
    probe: Probe,
    tracker: Tracker,
    interval: Duration,
    verdict: Arc<ArcSwap<Verdict>>,
    changes: watch::Sender<()>,
    nudge: Arc<Notify>,
    doubts: Arc<Doubts>,
}

impl Work {
    async fn run(mut self) {
        loop {
            let raised = self.doubts.raised.load(Ordering::Relaxed);
            let found = self.probe.ask().await;
            let good = matches!(found, Found::Good { .. });
            let change = self.tracker.record(found, clock::now(), clock::wall());
            self.verdict.store(Arc::new(self.tracker.verdict().clone()));
            // Behind the verdict: who sees that there is no doubt also sees what the probe said.
            match good && self.tracker.verdict().state == State::Up {
                true => self.doubts.cleared.store(raised, Ordering::Release),
                false => {
                    self.doubts.raised.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Evidence may be newer without a change, but nobody who waits for one has to wake up for that.
            if let Some(change) = change {
                let (from, to) = (change.from.as_str(), change.to.as_str());
                if change.to == State::Down && change.from == State::Unknown {
                    // Servers that start together with the proxy are not ready at once: nothing went down.
                    info!(upstream.name = %self.name, from, to, why = %change.why, "upstream is not ready yet");
                } else if change.to == State::Down {
                    warn!(upstream.name = %self.name, from, to, why = %change.why, "upstream went down");
                } else {
                    info!(upstream.name = %self.name, from, to, why = %change.why, "upstream verdict changed");
                }
                self.changes.send_replace(());
            }
            let pause = if self.tracker.changing() { self.interval / HASTE } else { self.interval };
            let pause = pause.mul_f64(rand::rng().random_range(0.9..1.1)).max(LEAST);
            let early = async {
                self.nudge.notified().await;
                tokio::time::sleep(LEAST).await;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = early => {}
            }
        }
    }
}
