//! What is done about transfers once a second: rates, and lines of the access log for those that go on for long.
//!
//! Here and not where bytes move: a transfer that stands still must have its line too, and needs no timer for it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::{Transfer, Transfers};
use crate::{
    clock,
    http::AccessLog,
    proxy::{
        record::{ProxyMetrics, underway},
        snapshot::Live,
    },
};

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// What is new of a rate weighs so much against what was.
const NEW: f64 = 0.3;

/// What the task knows of one transfer.
#[derive(Debug, Default)]
pub(super) struct Kept {
    last: Option<Last>,
    /// Lines that were written.
    lines: u32,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    bytes: u64,
    rate: f64,
}

impl Kept {
    /// Bytes a second of late; of one that was not looked at yet, since its beginning.
    pub(super) fn rate(&self, now: Instant, bytes: u64, began: Instant) -> u64 {
        let rate = match self.last {
            Some(last) => last.rate,
            None => per_second(bytes, now.saturating_duration_since(began)),
        };
        rate as u64
    }

    /// Takes note of what has moved by now.
    fn look(&mut self, now: Instant, bytes: u64, began: Instant) {
        let rate = match self.last {
            None => per_second(bytes, now.saturating_duration_since(began)),
            Some(last) => {
                let since = now.saturating_duration_since(last.at);
                // A look that comes right after another tells nothing.
                if since < EVERY / 2 {
                    return;
                }
                let new = per_second(bytes.saturating_sub(last.bytes), since);
                last.rate + NEW * (new - last.rate)
            }
        };
        self.last = Some(Last { at: now, bytes, rate });
    }

    /// Which line is due of one that has gone on for so long, when there is one for each `every`; it is written then.
    fn due(&mut self, age: Duration, every: Duration) -> Option<Line> {
        let due = u32::try_from(age.as_nanos() / every.as_nanos().max(1)).unwrap_or(u32::MAX);
        if due <= self.lines {
            return None;
        }
        let first = self.lines == 0;
        // Those that were missed are not made up for.
        self.lines = due;
        Some(if first { Line::Start } else { Line::Progress })
    }
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(0.001)
}

/// Which line of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The first one.
    Start,
    /// A further one.
    Progress,
}

impl Line {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Progress => "progress",
        }
    }
}

/// Looks after transfers; never ends.
pub async fn keep(transfers: Arc<Transfers>, live: Arc<Live>, log: AccessLog, metrics: ProxyMetrics) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let every = live.peek().progress;
        let now = clock::now();
        for transfer in transfers.all() {
            if let Some(line) = transfer.look(now, every) {
                log.write(|| transfer.line(line, now), || metrics.access_dropped());
            }
        }
    }
}

impl Transfer {
    /// Takes note of its rate; the line that is due.
    fn look(&self, now: Instant, every: Option<Duration>) -> Option<Line> {
        let (up, down) = self.bytes();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.look(now, up + down, self.started);
        kept.due(now.saturating_duration_since(self.started), every?)
    }

    fn line(&self, line: Line, now: Instant) -> Vec<u8> {
        let view = self.view(now);
        underway::line(line.as_str(), &view, self.trace, clock::wall())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_each_interval_and_those_that_were_missed_are_not_made_up_for() {
        let (mut kept, every) = (Kept::default(), Duration::from_secs(30));
        let mut at = |seconds| kept.due(Duration::from_secs(seconds), every);
        assert_eq!(at(29), None);
        assert_eq!(at(30), Some(Line::Start));
        assert_eq!((at(31), at(59)), (None, None));
        assert_eq!(at(60), Some(Line::Progress));
        assert_eq!(at(200), Some(Line::Progress));
        assert_eq!((at(201), at(209)), (None, None));
        assert_eq!(at(210), Some(Line::Progress));
    }

    #[test]
    fn an_interval_that_a_reload_made_longer_brings_no_line_early() {
        let mut kept = Kept::default();
        assert_eq!(kept.due(Duration::from_secs(10), Duration::from_secs(1)), Some(Line::Start));
        assert_eq!(kept.due(Duration::from_secs(40), Duration::from_secs(30)), None);
    }

    #[test]
    fn a_rate_is_that_of_late_and_begins_with_the_mean() {
        let (mut kept, began) = (Kept::default(), clock::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(kept.rate(at(2), 2000, began), 1000);
        kept.look(at(2), 2000, began);
        assert_eq!(kept.rate(at(2), 2000, began), 1000);
        // A second look at once changes nothing.
        kept.look(at(2), 2000, began);
        for second in 3..60 {
            kept.look(at(second), 2000, began);
        }
        assert_eq!(kept.rate(at(60), 2000, began), 0, "it stands still");
    }
}
