//! One deadline for each connection of a thread, looked at a few times a second.
//!
//! Every wait of a request has a limit, and nearly none is ever reached. A timer of the runtime costs about as much as
//! a system call to set and to take back; here both are a store. The price is [`TICK`]: a limit may be noticed so much
//! late.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock;

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// The deadlines of one thread.
#[derive(Debug)]
pub(super) struct Timers {
    began: Instant,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// Milliseconds since the beginning; [`NEVER`] when nothing is waited for. Apart from the wakers, so that looking
    /// at all of them reads little memory.
    at: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

const NEVER: u64 = u64::MAX;

/// The deadline of one connection.
#[derive(Debug)]
pub(super) struct Slot {
    timers: Arc<Timers>,
    place: usize,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self { began: clock::now(), slots: Mutex::default() }
    }

    /// A slot; it is free again when dropped.
    pub(super) fn slot(self: &Arc<Self>) -> Slot {
        let mut slots = self.lock();
        let place = slots.free.pop().unwrap_or_else(|| {
            slots.at.push(NEVER);
            slots.wakers.push(None);
            slots.at.len() - 1
        });
        Slot { timers: self.clone(), place }
    }

    /// Wakes those whose time has come. To be called every [`TICK`].
    pub(super) fn tick(&self) {
        let now = self.millis(clock::now());
        self.wake(|at| at <= now);
    }

    /// Wakes all that wait, so that each looks again whether it should.
    pub(super) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(u64) -> bool) {
        let mut due = Vec::new();
        {
            let slots = &mut *self.lock();
            for (at, waker) in slots.at.iter_mut().zip(&mut slots.wakers) {
                if which(*at) {
                    *at = NEVER;
                    due.extend(waker.take());
                }
            }
        }
        // Outside the lock: a waker may run what it wakes, or drop it.
        for waker in due {
            waker.wake();
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(NEVER)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Never held across anything that could panic halfway.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Completes at `until`, up to a [`TICK`] late; `now` is the present. Replaces what was waited for before.
    pub(super) fn poll(&self, cx: &Context<'_>, until: Instant, now: Instant) -> Poll<()> {
        if until <= now {
            return Poll::Ready(());
        }
        // Rounded up: never early.
        let at = self.timers.millis(until).saturating_add(1);
        let mut slots = self.timers.lock();
        if let Some(slot) = slots.at.get_mut(self.place) {
            *slot = at;
        }
        match slots.wakers.get_mut(self.place) {
            Some(Some(waker)) if waker.will_wake(cx.waker()) => {}
            Some(waker) => *waker = Some(cx.waker().clone()),
            None => {}
        }
        Poll::Pending
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.timers.lock();
        if let Some(at) = slots.at.get_mut(self.place) {
            *at = NEVER;
        }
        let waker = slots.wakers.get_mut(self.place).and_then(Option::take);
        slots.free.push(self.place);
        drop(slots);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn until(slot: &Slot, at: Instant) {
        poll_fn(|cx| slot.poll(cx, at, clock::now())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_met_within_a_tick_and_never_early() {
        let timers = Arc::new(Timers::new());
        let ticking = async {
            loop {
                tokio::time::sleep(TICK).await;
                timers.tick();
            }
        };
        let waiting = async {
            for ms in [0, 1, 49, 50, 51, 777] {
                let (slot, begun) = (timers.slot(), clock::now());
                let wanted = Duration::from_millis(ms);
                until(&slot, begun + wanted).await;
                let took = clock::now() - begun;
                assert!(took >= wanted && took <= wanted + TICK + Duration::from_millis(2), "{ms}: {took:?}");
            }
        };
        tokio::select! {
            () = ticking => {}
            () = waiting => {}
        }
        assert_eq!(timers.lock().at.len(), 1, "a slot that was given back is used again");
    }

    #[tokio::test(start_paused = true)]
    async fn all_can_be_woken_to_look_again() {
        let timers = Arc::new(Timers::new());
        let slot = timers.slot();
        let mut looks = 0;
        let waiting = poll_fn(|cx| {
            looks += 1;
            if looks > 1 {
                Poll::Ready(())
            } else {
                slot.poll(cx, clock::now() + Duration::from_secs(9), clock::now())
            }
        });
        tokio::join!(waiting, async { timers.wake_all() });
        assert_eq!(looks, 2);
    }
}
