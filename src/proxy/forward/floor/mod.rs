//! How slow a transfer may be. Pure: is told the time, what has moved, and who is waited for.
//!
//! A transfer is as fast as the slower of its two sides, and only that one is to blame. Which it is shows in what is waited
//! for: bytes to be read, or room to write them. So each side has an account of the time that it was waited for, which its
//! bytes pay: for each `rate × window` of them it is waited for `window` at most. A side that moves faster than that is never
//! too slow, however long the transfer takes and whatever the other one does; time in which neither is waited for is nobody's.
//!
//! What is written is not what the other side has: a machine that sends speaks up only when a third of its buffer, which may be
//! megabytes, is free again. So a receiver that takes nothing for a while is looked at more closely, some times in a window:
//! what counts then is what its machine has acknowledged.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::proxy::Floor;

/// A receiver that takes nothing is looked at so many times before its time is up.
const LOOKS: u32 = 3;

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever sends.
    From,
    /// Whoever receives.
    To,
}

/// Bytes of a transfer so far. Both only ever grow, and may begin anywhere and wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Those that were read.
    pub from: u64,
    /// Those that were written.
    pub to: u64,
}

/// What comes of a look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// Nothing.
    Fine,
    /// The receiver takes what was written before, although there is no room yet for more.
    Moves,
    /// This side is too slow.
    Slow(Side),
}

/// The account of one side.
#[derive(Debug, Clone, Copy)]
struct Account {
    /// It was waited for so long, …
    waited: Duration,
    /// … since so many bytes had moved.
    mark: u64,
}

impl Account {
    fn pay(&mut self, moved: u64, least: u64) -> bool {
        let paid = moved.wrapping_sub(self.mark) >= least;
        if paid {
            *self = Self { waited: Duration::ZERO, mark: moved };
        }
        paid
    }
}

/// A receiver that was looked at, because it had taken nothing for a while.
#[derive(Debug, Clone, Copy)]
struct Looked {
    /// Of the time that it is waited for: the first time, …
    first: Duration,
    /// … and the last one.
    last: Duration,
    /// What its machine had acknowledged, the first time, …
    had: u64,
    /// … and the last one; it may not be known.
    has: Option<u64>,
}

/// The accounts of one transfer.
#[derive(Debug)]
pub struct Meter {
    floor: Floor,
    /// Bytes of a window.
    least: u64,
    /// The receiver is looked at so often.
    look: Duration,
    /// Who is waited for, since when.
    waits: Option<(Side, Instant)>,
    from: Account,
    to: Account,
    looked: Option<Looked>,
}

impl Meter {
    /// Of a transfer that has not begun. A body that stands still for `idle` is somebody else's concern, who has to hear
    /// before that of a receiver that only seems to.
    pub fn new(floor: Floor, idle: Duration) -> Self {
        let look = (floor.window.min(idle) / LOOKS).max(Duration::from_millis(1));
        let least = bytes(floor.rate, floor.window).max(1);
        let account = Account { waited: Duration::ZERO, mark: 0 };
        Self { floor, least, look, waits: None, from: account, to: account, looked: None }
    }

    /// Nobody is waited for, and the next bytes come from another sender or go to another receiver, which owe nothing.
    pub fn begin(&mut self, moved: Moved) {
        self.waits = None;
        self.from = Account { waited: Duration::ZERO, mark: moved.from };
        self.to = Account { waited: Duration::ZERO, mark: moved.to };
        self.looked = None;
    }

    /// So much has moved by now, and from here on this side is waited for. `queued`: bytes that were written and not
    /// acknowledged, if that can be known.
    pub fn note(
        &mut self,
        now: Instant,
        moved: Moved,
        waits: Option<Side>,
        queued: impl FnOnce() -> Option<u64>,
    ) -> Noted {
        let before = std::mem::replace(&mut self.waits, waits.map(|side| (side, now)));
        if let Some((side, since)) = before {
            let waited = match side {
                Side::From => &mut self.from.waited,
                Side::To => &mut self.to.waited,
            };
            *waited += now.saturating_duration_since(since);
        }
        self.from.pay(moved.from, self.least);
        if self.to.pay(moved.to, self.least) {
            self.looked = None;
        }
        debug_assert!(self.looked.is_none_or(|looked| looked.first <= looked.last));
        if self.from.waited >= self.floor.window {
            return Noted::Slow(Side::From);
        }
        if self.to.waited < self.next_look() {
            return Noted::Fine;
        }
        self.look(moved, queued().map(|queued| moved.to.wrapping_sub(queued)))
    }

    /// How long the receiver may be waited for until it is looked at.
    fn next_look(&self) -> Duration {
        let last = self.looked.map_or(Duration::ZERO, |looked| looked.last);
        (last + self.look).min(self.floor.window)
    }

    fn look(&mut self, moved: Moved, has: Option<u64>) -> Noted {
        let (waited, late) = (self.to.waited, self.to.waited >= self.floor.window);
        let Some(has) = has else {
            // What was written is all that is known.
            self.looked = Some(Looked { first: waited, last: waited, had: 0, has: None });
            return if late { Noted::Slow(Side::To) } else { Noted::Fine };
        };
        let Some(Looked { first, had, has: Some(before), .. }) = self.looked else {
            // From here on it counts; if that is late, then it is nothing that the receiver could help.
            self.to.waited = waited.min(self.look);
            self.looked =
                Some(Looked { first: self.to.waited, last: self.to.waited, had: has, has: Some(has) });
            return Noted::Fine;
        };
        let taken = i64::try_from(has.wrapping_sub(had)).map_or(0, i64::unsigned_abs);
        if late && taken < bytes(self.floor.rate, waited.saturating_sub(first)) {
            return Noted::Slow(Side::To);
        }
        if late {
            // It goes on as after the first look.
            self.to = Account { waited: self.look, mark: moved.to };
            self.looked = Some(Looked { first: self.look, last: self.look, had: has, has: Some(has) });
        } else {
            self.looked = Some(Looked { first, last: waited, had, has: Some(has) });
        }
        if has == before { Noted::Fine } else { Noted::Moves }
    }

    /// When [`Meter::note`] should be called although nothing has happened.
    pub fn look_at(&self) -> Option<Instant> {
        let (side, since) = self.waits?;
        let left = match side {
            Side::From => self.floor.window.saturating_sub(self.from.waited),
            Side::To => self.next_look().saturating_sub(self.to.waited),
        };
        Some(since + left)
    }
}

/// Bytes of so long at that rate.
fn bytes(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
