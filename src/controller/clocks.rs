//! Whether this controller's wall clock may be believed: what is stored outlives every controller and is judged by it, and a
//! wrong one would end all of that at once.
//!
//! A clock that jumps ahead is held against the one that does not jump; one that was wrong when the process began, against the
//! other controllers' clocks: each write of a controller says in `head` when it was made. What comes late looks as if this clock were
//! ahead, so of what was heard of a controller in a while the largest difference counts, which came with the least delay.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::numbers::Numbers;
use crate::{clock, model::Timestamp};

/// So far, in seconds, a wall clock may be ahead of where it was, as counted by the one that does not jump, and ahead of the
/// others'.
const AHEAD: i64 = 60;

/// So long a clock that jumped further is not believed: time to set it right.
const DOUBT: Duration = Duration::from_secs(600);

/// Of what was heard of a clock in so long, what came with the least delay counts.
const WINDOW: Duration = Duration::from_secs(60);

/// A controller that has written nothing for so long says nothing of its clock any more.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Controllers whose clocks are kept. More: those that come later are not looked at.
const CONTROLLERS: usize = 64;

/// Clocks that are further apart than this are told of in the log, when they have been for [`WINDOW`].
const APART: i64 = 5_000;

/// What `head` holds: which write made it, and when, by whose clock.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeadMark<'a> {
    pub(super) v: u32,
    pub(super) w: &'a str,
    /// Milliseconds of Unix time; controllers of an earlier version do not say.
    #[serde(default)]
    pub(super) t: i64,
    /// The controller.
    #[serde(default)]
    pub(super) by: String,
}

/// The clocks of the controllers, as far as they can be heard. Cheap to clone.
#[derive(Clone)]
pub(super) struct Clocks {
    name: String,
    numbers: Numbers,
    kept: Arc<Mutex<Kept>>,
}

impl Clocks {
    /// Of the controller with this name.
    pub(super) fn new(name: String, numbers: Numbers) -> Self {
        let kept = Kept {
            steady: Steady { ahead: ahead(clock::wall(), clock::boot()), doubted: None },
            others: BTreeMap::new(),
            apart: None,
        };
        Self { name, numbers, kept: Arc::new(Mutex::new(kept)) }
    }

    /// This controller's mark for a write that it makes now.
    pub(super) fn mark(&self, write: &str) -> Vec<u8> {
        let (t, by) = (clock::wall().unix_millis(), self.name.clone());
        serde_json::to_vec(&HeadMark { v: 1, w: write, t, by }).unwrap_or_default()
    }

    /// Takes in what a write says that the watch has just told of.
    pub(super) fn heard(&self, head: &[u8]) {
        let Ok(mark) = serde_json::from_slice::<HeadMark<'_>>(head) else { return };
        if mark.t == 0 || mark.by.is_empty() || mark.by == self.name {
            return;
        }
        let apart = mark.t.saturating_sub(clock::wall().unix_millis());
        self.lock().heard(mark.by, apart, clock::boot());
    }

    /// Looks at the clocks now and then: a slow drift is no jump. Tells of those that are apart.
    pub(super) fn look(&self) {
        let (wall, boot) = (clock::wall(), clock::boot());
        let mut kept = self.lock();
        kept.steady.believes(wall, boot);
        kept.others.retain(|_, one| boot.saturating_sub(one.last) < FORGOTTEN);
        let worst = kept.others.iter().max_by_key(|(_, one)| one.apart.abs());
        let worst = worst.map(|(name, one)| (name.clone(), one.apart, one.is_sure()));
        #[expect(clippy::cast_precision_loss, reason = "it is shown")]
        self.numbers.skew(worst.as_ref().map_or(0.0, |(_, apart, _)| apart.abs() as f64 / 1000.0));
        match worst {
            Some((name, apart, true)) if apart.abs() > APART => {
                let (since, told) = kept.apart.get_or_insert((boot, false));
                if !*told && boot.saturating_sub(*since) >= WINDOW {
                    *told = true;
                    let (seconds, which) =
                        (apart.abs() / 1000, if apart > 0 { "ahead of" } else { "behind" });
                    tracing::warn!(
                        controller = %name, seconds, "that controller's clock is {which} this one's: set both by NTP"
                    );
                }
            }
            _ => kept.apart = None,
        }
    }

    /// The wall clock's time, if what is stored may be ended by it.
    pub(super) fn believed(&self) -> Option<Timestamp> {
        let (wall, boot) = (clock::wall(), clock::boot());
        let mut kept = self.lock();
        (kept.steady.believes(wall, boot) && !kept.is_ahead_of_all()).then_some(wall)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // What is behind it is whole at every step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Kept {
    steady: Steady,
    others: BTreeMap<String, Other>,
    /// Since when some clock is apart, and whether that was told.
    apart: Option<(Duration, bool)>,
}

/// Another controller's clock.
struct Other {
    /// Milliseconds that it is ahead of ours.
    apart: i64,
    /// When that was heard, and when anything was.
    at: Duration,
    last: Duration,
    /// How often it was heard since.
    since: u32,
}

impl Other {
    /// Whether it is no mere delay: what is ahead came in spite of one, and of what is behind several came with the same.
    fn is_sure(&self) -> bool {
        self.apart > 0 || self.since >= 2
    }
}

impl Kept {
    fn heard(&mut self, name: String, apart: i64, boot: Duration) {
        if self.others.len() >= CONTROLLERS && !self.others.contains_key(&name) {
            return;
        }
        let one = self.others.entry(name).or_insert(Other { apart, at: boot, last: boot, since: 0 });
        if apart >= one.apart || boot.saturating_sub(one.at) >= WINDOW {
            (one.apart, one.at, one.since) = (apart, boot, 0);
        } else {
            one.since = one.since.saturating_add(1);
        }
        one.last = boot;
    }

    /// Whether this clock is far ahead of every other one that was heard lately.
    fn is_ahead_of_all(&self) -> bool {
        !self.others.is_empty() && self.others.values().all(|one| one.apart < -AHEAD * 1000)
    }
}

/// Whether the wall clock has jumped.
struct Steady {
    /// Seconds that it was ahead of the clock that does not jump, when it was last believed.
    ahead: i64,
    /// Since when it is not, by the other clock.
    doubted: Option<Duration>,
}

fn ahead(wall: Timestamp, boot: Duration) -> i64 {
    wall.unix_seconds().saturating_sub(i64::try_from(boot.as_secs()).unwrap_or(i64::MAX))
}

impl Steady {
    /// Whether what waits may be ended by the wall clock. One that goes back, or a little ahead, is believed at once.
    fn believes(&mut self, wall: Timestamp, boot: Duration) -> bool {
        let ahead = ahead(wall, boot);
        let jumped = ahead.saturating_sub(self.ahead);
        if jumped > AHEAD {
            if self.doubted.is_none() {
                tracing::warn!(
                    seconds = jumped,
                    "this controller's clock jumped ahead; nothing that is stored is ended by it for {} minutes, unless it is set back",
                    DOUBT.as_secs() / 60
                );
            }
            if boot.saturating_sub(*self.doubted.get_or_insert(boot)) < DOUBT {
                return false;
            }
        }
        (self.ahead, self.doubted) = (ahead, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_clock_that_jumps_ahead_ends_nothing_until_it_was_time_to_set_it_right() {
        let at = |wall: i64, boot: u64| (Timestamp::from_unix_seconds(wall), Duration::from_secs(boot));
        let mut clock = Steady { ahead: 1_000_000, doubted: None };
        let mut believes = |wall, boot| {
            let (wall, boot) = at(wall, boot);
            clock.believes(wall, boot)
        };
        assert!(believes(1_000_010, 10) && believes(1_000_075, 20), "it is corrected a little");
        assert!(!believes(1_100_000, 30) && !believes(1_100_590, 620), "a day ahead");
        assert!(believes(1_000_640, 640), "set back");
        assert!(
            !believes(1_200_000, 700) && !believes(1_200_599, 1299) && believes(1_200_600, 1300),
            "it stays so"
        );
        assert!(believes(1_200_700, 1400) && believes(1_000_000, 1500), "back is no danger");
    }

    fn clocks() -> Clocks {
        Clocks::new("c1".into(), Numbers::new(&Metrics::new()).unwrap())
    }

    #[test]
    fn a_clock_that_is_far_ahead_of_every_other_one_ends_nothing() {
        let clocks = clocks();
        let says = |by: &str, seconds: i64| {
            let t = clock::wall().unix_millis() + seconds * 1000;
            serde_json::to_vec(&HeadMark { v: 1, w: "x", t, by: by.into() }).unwrap()
        };
        assert!(clocks.believed().is_some(), "nobody says otherwise");
        clocks.heard(&says("c2", -86_400));
        assert!(clocks.believed().is_none(), "one of the two is wrong, and what is kept can still be ended");
        clocks.heard(&says("c3", -2));
        assert!(clocks.believed().is_some(), "it is the other one's");
        let clocks = self::clocks();
        clocks.heard(&says("c2", 86_400));
        assert!(clocks.believed().is_some(), "behind is no danger");
        clocks.heard(&says("c1", -86_400));
        for strange in [&b"{\"v\":1,\"w\":\"x\"}"[..], b"{", b"", b"{\"v\":1,\"w\":\"x\",\"t\":7}"] {
            clocks.heard(strange);
        }
        assert_eq!(clocks.lock().others.len(), 1, "neither its own, nor of those who do not say");
        let own = clocks.mark("w7");
        let own: HeadMark<'_> = serde_json::from_slice(&own).unwrap();
        assert!((own.w, &*own.by) == ("w7", "c1") && own.t > 0);
    }

    #[test]
    fn of_what_is_heard_in_a_while_what_came_with_the_least_delay_counts() {
        let clocks = clocks();
        let mut kept = clocks.lock();
        let at = Duration::from_secs;
        kept.heard("c2".into(), -90_000, at(0));
        assert!(kept.is_ahead_of_all());
        kept.heard("c2".into(), -20, at(1));
        assert!(!kept.others["c2"].is_sure(), "once may be a delay");
        kept.heard("c2".into(), -90_000, at(30));
        assert!(!kept.is_ahead_of_all(), "late, by a watch that was behind");
        kept.heard("c2".into(), -90_000, at(61));
        assert!(kept.is_ahead_of_all(), "it is so now");
        for second in 62..64 {
            kept.heard("c2".into(), -90_001, at(second));
        }
        assert!(kept.others["c2"].is_sure());
        for n in 0..2 * CONTROLLERS {
            kept.heard(format!("x{n}"), 0, at(64));
        }
        assert_eq!(kept.others.len(), CONTROLLERS);
    }
}
