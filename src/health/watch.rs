//! One prober per upstream and process, and the verdict that everybody follows.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{
    probe::Probe,
    verdict::{State, Tracker, Verdict},
};
use crate::{
    clock,
    config::{Address, proxy::Health},
    supervise::{Handle, Stage, StopSource},
};

/// While outcomes disagree with the verdict, it is asked so many times as often.
const HASTE: u32 = 4;

/// Never more often than this, however small the interval and however many ask for it.
const LEAST: Duration = Duration::from_millis(100);

/// Probes one upstream until it is dropped.
#[derive(Debug)]
pub struct Prober {
    verdict: watch::Receiver<Arc<Verdict>>,
    nudge: Arc<Notify>,
    stop: StopSource,
}

impl Prober {
    /// Starts probing at once. `name` is `service/upstream`, for logs.
    pub fn start(tasks: &Handle, name: &str, address: &Address, health: &Health) -> Self {
        let first = Verdict::unknown(clock::now(), clock::wall());
        let (sender, verdict) = watch::channel(Arc::new(first));
        let (stop, nudge) = (StopSource::new(), Arc::new(Notify::new()));
        let work = Work {
            name: name.to_owned(),
            probe: Probe::new(address.clone(), health.kind.clone(), health.timeout),
            tracker: Tracker::new(health.rise, health.fall, clock::now(), clock::wall()),
            interval: health.interval.max(LEAST),
            verdict: sender,
            nudge: nudge.clone(),
        };
        let removed = stop.stop();
        tasks.finish_at(Stage::Loops, format!("prober of {name}"), move |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = removed.requested() => {}
                () = work.run() => {}
            }
        });
        Self { verdict, nudge, stop }
    }

    /// What is held to be true now.
    pub fn verdict(&self) -> Arc<Verdict> {
        self.verdict.borrow().clone()
    }

    /// Follows the verdict.
    pub fn follow(&self) -> watch::Receiver<Arc<Verdict>> {
        self.verdict.clone()
    }

    /// Asks for a probe now: traffic has seen something that the verdict does not say.
    pub fn nudge(&self) {
        self.nudge.notify_one();
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
    verdict: watch::Sender<Arc<Verdict>>,
    nudge: Arc<Notify>,
}

impl Work {
    async fn run(mut self) {
        loop {
            let found = self.probe.ask().await;
            let change = self.tracker.record(found, clock::now(), clock::wall());
            let verdict = Arc::new(self.tracker.verdict().clone());
            match change {
                Some(change) => {
                    let (from, to) = (change.from.as_str(), change.to.as_str());
                    if change.to == State::Down && change.from == State::Unknown {
                        // Servers that start together with the proxy are not ready at once: nothing went down.
                        info!(upstream.name = %self.name, from, to, why = %change.why, "upstream is not ready yet");
                    } else if change.to == State::Down {
                        warn!(upstream.name = %self.name, from, to, why = %change.why, "upstream went down");
                    } else {
                        info!(upstream.name = %self.name, from, to, why = %change.why, "upstream verdict changed");
                    }
                    self.verdict.send_replace(verdict);
                }
                // Evidence may be newer, but nobody who waits for a change has to wake up for it.
                None => {
                    self.verdict.send_if_modified(|held| {
                        *held = verdict;
                        false
                    });
                }
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
