//! What one connection may not do, beyond what the library sees to. Pure: looks at frames, is told the time.
//!
//! The library takes any frame first, and tells of a wrong length with the wrong code. And it bounds what a client can make it keep: blocks of fields in many parts, small data, streams that it
//! resets itself. What it answers or forgets at once it takes without end: pings, settings, priorities, windows that
//! grow byte by byte, requests that are taken back. Those have an allowance here, which real work and time fill up.

use std::time::Duration;

use h2::Reason;
use tokio::time::Instant;

use super::frames::{CONTINUATION, DATA, Frame, Frames, HEADERS, PING, RST_STREAM, SETTINGS};

/// Length of what a client says first.
pub(super) const PREFACE: usize = 24;

/// Requests that a client may take back at once. Past it: a few in a second, as [`RESETS_EACH`] says. A browser that
/// leaves a page takes back as many as it may have under way.
const RESETS: u32 = 256;

/// The allowance for one more grows in this time.
const RESETS_EACH: Duration = Duration::from_millis(50);

/// Frames that carry nothing at once.
const IDLE: u32 = 2000;

/// The allowance for one more grows in this time.
const IDLE_EACH: Duration = Duration::from_millis(5);

/// The echo of a ping that was never sent counts as so many: the library logs each.
const IDLE_AN_ECHO: u32 = 100;

/// And by so many with each request: its window, its priority, its end.
const IDLE_A_REQUEST: u32 = 8;

/// And by one with so many bytes that the client takes: it says so for its stream and its connection.
const IDLE_A_WINDOW: usize = 1024;

/// `REFUSED_STREAM`, RFC 9113 §7.
const REFUSED_STREAM: u32 = 7;

/// The codes that say a stream went wrong: protocol, flow control, closed, compression.
const WRONG: [u32; 5] = [1, 3, 5, 6, 9];

/// What a connection is ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It takes too many of its requests back.
    Resets,
    /// It sends too much that carries nothing.
    Idle,
    /// A frame has not the length that its kind has.
    Size,
    /// It does not begin with its settings.
    NoSettings,
}

impl Fault {
    /// The label of metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Resets => "h2-resets",
            Self::Idle => "h2-idle-frames",
            Self::Size | Self::NoSettings => "h2-protocol-error",
        }
    }

    /// What the client is told.
    pub(super) fn code(self) -> Reason {
        match self {
            Self::Resets | Self::Idle => Reason::ENHANCE_YOUR_CALM,
            Self::Size => Reason::FRAME_SIZE_ERROR,
            Self::NoSettings => Reason::PROTOCOL_ERROR,
        }
    }
}

/// What the library has refused by itself since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Streams beyond those that may be under way.
    pub(super) too_many: u64,
    /// Streams that break the protocol.
    pub(super) malformed: u64,
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

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    came: Frames,
    went: Frames,
    resets: Allowance,
    idle: Allowance,
    /// Bytes of data that went and have not grown the allowance yet.
    taken: usize,
    /// A block of fields goes on in the next frame.
    open: bool,
    /// Since then a frame, or a block, is not whole.
    amid: Option<Instant>,
    /// Its settings have come.
    begun: bool,
    fault: Option<Fault>,
    refused: Refused,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            came: Frames::after(PREFACE),
            went: Frames::default(),
            resets: Allowance::new(RESETS, RESETS_EACH, now),
            idle: Allowance::new(IDLE, IDLE_EACH, now),
            taken: 0,
            open: false,
            amid: None,
            begun: false,
            fault: None,
            refused: Refused::default(),
        }
    }

    /// These bytes came. They are not to be looked at if there is something wrong with them.
    pub(super) fn came(&mut self, bytes: &[u8], now: Instant) -> Result<(), Fault> {
        let Self { came, resets, idle, open, begun, fault, .. } = self;
        let mut another = false;
        came.pass(bytes, |frame: Frame| {
            *open = frame.leaves_open();
            another |= frame.kind != CONTINUATION;
            if frame.kind == HEADERS {
                idle.grow(IDLE_A_REQUEST);
            }
            let settings = frame.kind == SETTINGS && !frame.is_ack();
            let found = if !std::mem::replace(begun, true) && !settings {
                Some(Fault::NoSettings)
            } else if !frame.fits() {
                Some(Fault::Size)
            } else if frame.kind == RST_STREAM && !resets.take(1, now) {
                Some(Fault::Resets)
            } else if !idle.take(cost(frame), now) {
                Some(Fault::Idle)
            } else {
                None
            };
            *fault = fault.or(found);
        });
        if !(self.open || self.came.is_amid()) {
            self.amid = None;
        } else if another || self.amid.is_none() {
            // It began only now, and has its time before it.
            self.amid = Some(now);
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// These bytes go.
    pub(super) fn went(&mut self, bytes: &[u8]) {
        let Self { went, idle, taken, refused, .. } = self;
        went.pass(bytes, |frame| match frame.kind {
            DATA => {
                *taken += frame.length;
                let grown = *taken / IDLE_A_WINDOW;
                *taken %= IDLE_A_WINDOW;
                idle.grow(u32::try_from(grown).unwrap_or(u32::MAX));
            }
            RST_STREAM if frame.code == REFUSED_STREAM => refused.too_many += 1,
            RST_STREAM if WRONG.contains(&frame.code) => refused.malformed += 1,
            _ => {}
        });
    }

    /// What the connection is to be ended for.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Since when the rest of a frame or of a block of fields is waited for.
    pub(super) fn amid(&self) -> Option<Instant> {
        self.amid
    }

    /// What was refused since the last call.
    pub(super) fn refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }
}

/// What a frame takes of the allowance for those that carry nothing.
fn cost(frame: Frame) -> u32 {
    match frame.kind {
        // The library counts these.
        HEADERS | CONTINUATION => 0,
        DATA => u32::from(frame.is_empty_data()),
        PING if frame.is_ack() => IDLE_AN_ECHO,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
        out.extend_from_slice(payload);
        out
    }

    /// One that has begun as it should.
    fn begun(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        meter.came(&[0; PREFACE], now).unwrap();
        meter.came(&frame(SETTINGS, 0, b""), now).unwrap();
        meter
    }

    /// How many of these frames, one after the other at once, are let by.
    fn let_by(frame: &[u8]) -> usize {
        let now = clock::now();
        let mut meter = begun(now);
        (0..10_000).take_while(|_| meter.came(frame, now).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_have_a_bound_and_requests_have_none() {
        // The settings at the beginning are one.
        let most = IDLE as usize - 1;
        for (kind, length) in [(2, 5), (4, 6), (6, 8), (7, 8), (8, 4), (0x20, 3)] {
            assert_eq!(let_by(&frame(kind, 0, &vec![0; length])), most, "{kind}");
        }
        assert_eq!(let_by(&frame(DATA, 0, b"")), most, "data that is none");
        assert_eq!(let_by(&frame(PING, 1, &[0; 8])), most / IDLE_AN_ECHO as usize);
        assert_eq!(let_by(&frame(RST_STREAM, 0, &[0; 4])), RESETS as usize);
        for free in [frame(DATA, 0, b"x"), frame(DATA, 1, b""), frame(HEADERS, 5, b"x")] {
            assert_eq!(let_by(&free), 10_000, "{free:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_allowance_grows_with_time_requests_and_what_is_taken() {
        let ping = frame(6, 0, &[0; 8]);
        let now = clock::now();
        let used_up = || {
            let mut meter = begun(now);
            for _ in 1..IDLE {
                meter.came(&ping, now).unwrap();
            }
            meter
        };
        let more =
            |meter: &mut Meter, at: Instant| (0..999).take_while(|_| meter.came(&ping, at).is_ok()).count();
        assert_eq!(more(&mut used_up(), now), 0);
        assert_eq!(more(&mut used_up(), now + IDLE_EACH * 7), 7);
        let mut meter = used_up();
        meter.came(&frame(HEADERS, 5, b"x"), now).unwrap();
        assert_eq!(more(&mut meter, now), IDLE_A_REQUEST as usize);
        let mut meter = used_up();
        for _ in 0..50 {
            meter.went(&frame(DATA, 0, &[0; 100]));
        }
        assert_eq!(more(&mut meter, now), 5000 / IDLE_A_WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_is_not_whole_is_known_since_it_began() {
        let (now, later) = (clock::now(), clock::now() + Duration::from_secs(3));
        let mut meter = begun(now);
        assert_eq!(meter.amid(), None);
        meter.came(&frame(HEADERS, 0, b"ab"), now).unwrap();
        meter.came(&frame(CONTINUATION, 0, b"ab"), later).unwrap();
        assert_eq!(meter.amid(), Some(now));
        meter.came(&frame(CONTINUATION, 4, b"ab"), later).unwrap();
        assert_eq!(meter.amid(), None);
        meter.came(&frame(4, 0, &[0; 6])[..10], now).unwrap();
        meter.came(&frame(4, 0, &[0; 6])[10..12], later).unwrap();
        assert_eq!(meter.amid(), Some(now));
        meter.came(&[&frame(4, 0, &[0; 6])[12..], &frame(6, 0, &[0; 8])[..9]].concat(), later).unwrap();
        assert_eq!(meter.amid(), Some(later), "another one has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_has_the_length_of_its_kind_and_settings_come_first() {
        let now = clock::now();
        for (kind, flags, length, fits) in [
            (2, 0, 5, true),
            (2, 0, 4, true),
            (3, 0, 4, true),
            (3, 0, 5, false),
            (4, 0, 12, true),
            (4, 0, 5, false),
            (4, 1, 0, true),
            (4, 1, 6, false),
            (6, 0, 7, false),
            (7, 0, 7, false),
            (7, 0, 20, true),
            (8, 0, 5, false),
        ] {
            let came = begun(now).came(&frame(kind, flags, &vec![1; length]), now);
            assert_eq!(came, if fits { Ok(()) } else { Err(Fault::Size) }, "{kind} {length}");
        }
        let mut meter = Meter::new(now);
        meter.came(&[0; PREFACE], now).unwrap();
        assert_eq!(meter.came(&frame(4, 1, b""), now), Err(Fault::NoSettings));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_library_refuses_is_counted() {
        let mut meter = Meter::new(clock::now());
        for code in [7, 7, 1, 0, 8, 2, 3] {
            meter.went(&frame(RST_STREAM, 0, &[0, 0, 0, code]));
        }
        assert_eq!(meter.refused(), Refused { too_many: 2, malformed: 2 });
        assert_eq!(meter.refused(), Refused::default());
    }
}
