//! What one connection may cost beyond its requests. Pure: is told of frames and of the time.
//!
//! What is answered or forgotten at once a client could send without end: pings, settings, priorities, windows that grow
//! byte by byte, requests that are taken back. Those have an allowance here, which real work and time fill up.

use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::h2::frame::Code;

/// Requests that a client may take back at once, or have taken back for what they are. Past it: a few in a second, as
/// [`RESETS_EACH`] says. A browser that leaves a page takes back as many as it may have under way.
const RESETS: u32 = 256;

/// The allowance for one more grows in this time.
const RESETS_EACH: Duration = Duration::from_millis(50);

/// Frames that carry nothing at once.
const IDLE: u32 = 2000;

/// The allowance for one more grows in this time.
const IDLE_EACH: Duration = Duration::from_millis(5);

/// The echo of a ping that was never sent counts as so many.
pub(super) const AN_ECHO: u32 = 100;

/// And by so many with each request: its window, its priority, its end.
const IDLE_A_REQUEST: u32 = 8;

/// And by one with so many bytes that the client takes: it says so for its stream and its connection.
const IDLE_A_WINDOW: usize = 1024;

/// What a connection is ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    /// What the client is told.
    pub(super) code: Code,
    /// The label of metrics.
    pub(super) reason: &'static str,
}

impl Broken {
    /// It takes too many of its requests back.
    pub(super) const RESETS: Self = Self { code: Code::EnhanceYourCalm, reason: "h2-resets" };
    /// It sends too much that carries nothing.
    pub(super) const IDLE: Self = Self { code: Code::EnhanceYourCalm, reason: "h2-idle-frames" };
    /// It sends more of a head than one may need.
    pub(super) const FLOOD: Self = Self { code: Code::EnhanceYourCalm, reason: "h2-flood" };

    /// It breaks a rule of the protocol.
    pub(super) const fn rule(code: Code) -> Self {
        Self { code, reason: "h2-protocol-error" }
    }
}

/// An allowance that grows with time.
#[derive(Debug)]
struct Allowance {
    left: u32,
    most: u32,
    each: Duration,
    /// It has grown up to then.
    grown: Instant,
}

impl Allowance {
    fn new(most: u32, each: Duration, now: Instant) -> Self {
        Self { left: most, most, each, grown: now }
    }

    fn grow(&mut self, by: u32) {
        self.left = self.left.saturating_add(by).min(self.most);
    }

    /// Takes so many; whether there were.
    fn take(&mut self, count: u32, now: Instant) -> bool {
        if self.left < count {
            let passed = now.saturating_duration_since(self.grown).as_nanos() / self.each.as_nanos().max(1);
            self.grow(u32::try_from(passed).unwrap_or(u32::MAX));
            self.grown = now;
        }
        let there = self.left >= count;
        self.left = self.left.saturating_sub(count);
        there
    }
}

/// The allowances of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    resets: Allowance,
    idle: Allowance,
    /// Bytes of data that went and have not grown the allowance yet.
    taken: usize,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            resets: Allowance::new(RESETS, RESETS_EACH, now),
            idle: Allowance::new(IDLE, IDLE_EACH, now),
            taken: 0,
        }
    }

    /// A request came.
    pub(super) fn request(&mut self) {
        self.idle.grow(IDLE_A_REQUEST);
    }

    /// So much data went.
    pub(super) fn went(&mut self, bytes: usize) {
        self.taken += bytes;
        self.idle.grow(u32::try_from(self.taken / IDLE_A_WINDOW).unwrap_or(u32::MAX));
        self.taken %= IDLE_A_WINDOW;
    }

    /// A request was taken back, or had to be reset for what it is.
    pub(super) fn reset(&mut self, now: Instant) -> Result<(), Broken> {
        if self.resets.take(1, now) { Ok(()) } else { Err(Broken::RESETS) }
    }

    /// A frame came that carries nothing, and counts as so many.
    pub(super) fn idle(&mut self, count: u32, now: Instant) -> Result<(), Broken> {
        if self.idle.take(count, now) { Ok(()) } else { Err(Broken::IDLE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn let_by(meter: &mut Meter, count: u32, now: Instant) -> u32 {
        (0..9999).take_while(|_| meter.idle(count, now).is_ok()).map(|_| 1).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_have_a_bound() {
        let now = clock::now();
        assert_eq!(let_by(&mut Meter::new(now), 1, now), IDLE);
        assert_eq!(let_by(&mut Meter::new(now), AN_ECHO, now), IDLE / AN_ECHO);
        let mut meter = Meter::new(now);
        let resets: u32 = (0..999).take_while(|_| meter.reset(now).is_ok()).map(|_| 1).sum();
        assert_eq!((resets, meter.reset(now + RESETS_EACH)), (RESETS, Ok(())));
        assert_eq!(meter.reset(now + RESETS_EACH), Err(Broken::RESETS));
    }

    #[tokio::test(start_paused = true)]
    async fn the_allowance_grows_with_time_requests_and_what_is_taken() {
        let now = clock::now();
        let used_up = || {
            let mut meter = Meter::new(now);
            assert_eq!(let_by(&mut meter, 1, now), IDLE);
            meter
        };
        assert_eq!(let_by(&mut used_up(), 1, now), 0);
        assert_eq!(let_by(&mut used_up(), 1, now + IDLE_EACH * 7), 7);
        let mut meter = used_up();
        meter.request();
        assert_eq!(let_by(&mut meter, 1, now), IDLE_A_REQUEST);
        let mut meter = used_up();
        for _ in 0..50 {
            meter.went(100);
        }
        assert_eq!(let_by(&mut meter, 1, now), 4);
        let mut meter = used_up();
        meter.went(1 << 40);
        assert_eq!(let_by(&mut meter, 1, now), IDLE);
    }
}
