//! Those that wait at one service, in the order in which they came; bounded in number and in bytes.
//!
//! Only requests that wait, and whoever has room for one of them, take its lock. Everybody else looks at one word of an
//! upstream that has a limit: [`Queue`].

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::proxy::lane::Lane;

/// How many wait for room at one upstream, for one thing. Who has only come does not go there before them.
#[derive(Debug, Clone, Default)]
pub struct Queue(Arc<AtomicUsize>);

impl Queue {
    /// So many.
    pub fn len(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Nobody does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why one more may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many wait as may.
    Number,
    /// What those that wait have sent already takes as much memory as it may.
    Bytes,
}

impl Full {
    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Bytes => "bytes",
        }
    }
}

/// The line of one service. Clones are the same line.
#[derive(Debug, Clone, Default)]
pub struct Line(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Number of the next one.
    next: u64,
    /// By number.
    line: Vec<One>,
    /// Of all of them.
    bytes: u64,
}

#[derive(Debug)]
struct One {
    number: u64,
    /// Where there was no room for it when it looked.
    wants: Wants,
    /// It was told that there is room at this one, and has not looked yet.
    called: Option<Spot>,
    /// It looks because it was told that.
    looking: Option<Spot>,
    call: Arc<Notify>,
}

impl One {
    /// It was called to this, and has not said yet whether it goes.
    fn is_undecided(&self, spot: Spot) -> bool {
        self.called == Some(spot) || self.looking == Some(spot)
    }
}

/// Where there may be room: at the upstream of this id, for any request; or for a connection of this lane.
pub type Spot = (u64, Option<Lane>);

/// Where one waits for room, with those who wait there.
pub type Wants = SmallVec<[(Spot, Queue); 2]>;

/// A place in the line; left when dropped, whenever that is. A call that it had goes to the next one then.
#[derive(Debug)]
pub struct Place {
    line: Line,
    number: u64,
    bytes: u64,
    call: Arc<Notify>,
}

impl Line {
    /// A place at the end, for one that holds so many bytes, unless `most` wait or they hold `most_bytes` with it. It waits
    /// for room at those of `wants`, as with [`Place::want`]: at once, or one that comes later could be called before it.
    pub fn enter(&self, bytes: u64, most: usize, most_bytes: u64, wants: Wants) -> Result<Place, Full> {
        let mut waiting = self.lock();
        if waiting.line.len() >= most {
            return Err(Full::Number);
        }
        let all = waiting.bytes.saturating_add(bytes);
        if all > most_bytes {
            return Err(Full::Bytes);
        }
        let (number, call) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.bytes = all;
        for (_, queue) in &wants {
            queue.0.fetch_add(1, Ordering::SeqCst);
        }
        waiting.line.push(One { number, wants, called: None, looking: None, call: call.clone() });
        Ok(Place { line: self.clone(), number, bytes, call })
    }

    /// How many wait, and what they hold.
    pub fn inside(&self) -> (usize, u64) {
        let waiting = self.lock();
        (waiting.line.len(), waiting.bytes)
    }

    /// There may be room: calls the first that waits for it.
    pub fn freed(&self, spot: Spot, queue: &Queue) {
        if !queue.is_empty() {
            self.lock().call(spot, 0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Left half changed by a panic it is wrong by one place at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn find(&self, number: u64) -> Option<usize> {
        self.line.binary_search_by_key(&number, |one| one.number).ok()
    }

    fn of(&mut self, number: u64) -> Option<&mut One> {
        let at = self.find(number)?;
        self.line.get_mut(at)
    }

    /// Calls the first of this number or a later one that waits there and was not called.
    fn call(&mut self, spot: Spot, from: u64) {
        let next = self.line.iter_mut().find(|one| {
            one.number >= from && one.called.is_none() && one.wants.iter().any(|(at, _)| *at == spot)
        });
        if let Some(one) = next {
            one.called = Some(spot);
            one.call.notify_one();
        }
    }
}

impl Place {
    /// Completes when it is called. Cancel-safe.
    pub async fn called(&self) {
        self.call.notified().await;
    }

    /// It waits for room at these from now on. It must look once more then, for there may have been room meanwhile.
    pub fn want(&self, wants: Wants) {
        let mut waiting = self.line.lock();
        let Some(one) = waiting.of(self.number) else { return };
        for (_, queue) in &wants {
            queue.0.fetch_add(1, Ordering::SeqCst);
        }
        for (_, queue) in std::mem::replace(&mut one.wants, wants) {
            queue.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It looks now. A call that comes meanwhile is another one, for a later look.
    pub fn looks(&self) {
        if let Some(one) = self.line.lock().of(self.number)
            && let Some(spot) = one.called.take()
        {
            one.looking = Some(spot);
        }
    }

    /// Whether somebody before it waits for the same: anybody if it was not called to that, else one that was called too and
    /// has not decided yet, for there may be room for one alone.
    pub fn is_behind(&self, spot: Spot) -> bool {
        let waiting = self.line.lock();
        let Some(at) = waiting.find(self.number) else { return false };
        let called = waiting.line.get(at).is_some_and(|one| one.looking == Some(spot));
        let before = waiting.line.get(..at).unwrap_or_default();
        if called {
            before.iter().any(|one| one.is_undecided(spot))
        } else {
            before.iter().any(|one| one.wants.iter().any(|(at, _)| *at == spot))
        }
    }

    /// How many wait before it, and behind it.
    pub fn others(&self) -> (usize, usize) {
        let waiting = self.line.lock();
        let at = waiting.find(self.number).unwrap_or_default();
        (at, waiting.line.len().saturating_sub(at + 1))
    }

    /// It has looked and does not go. Room that it was called to is the next one's, if it is `still` there and nobody before
    /// has to decide about it: itself neither, if it was called again meanwhile.
    pub fn stays(&self, still: impl FnOnce(Spot) -> bool) {
        let mut waiting = self.line.lock();
        let Some(at) = waiting.find(self.number) else { return };
        let Some(spot) = waiting.line.get_mut(at).and_then(|one| one.looking.take()) else { return };
        let undecided = waiting.line.iter().take(at + 1).any(|one| one.is_undecided(spot));
        if !undecided && still(spot) {
            waiting.call(spot, self.number + 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.line.lock();
        waiting.bytes = waiting.bytes.saturating_sub(self.bytes);
        let Some(at) = waiting.find(self.number) else { return };
        let gone = waiting.line.remove(at);
        for (_, queue) in &gone.wants {
            queue.0.fetch_sub(1, Ordering::Relaxed);
        }
        // Whether it has taken room that it was called to or not: there may be room for one more, and the next one looks.
        let calls = [gone.called, gone.looking].into_iter().flatten();
        for spot in calls.chain(gone.wants.iter().map(|(spot, _)| *spot)) {
            waiting.call(spot, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn wants(ids: &[u64], queues: &[Queue]) -> Wants {
        ids.iter().map(|id| ((*id, None), queues[usize::try_from(*id).unwrap()].clone())).collect()
    }

    #[test]
    fn it_is_bounded_in_number_and_in_bytes_and_who_leaves_makes_room() {
        let line = Line::default();
        let first = line.enter(60, 2, 100, Wants::new()).unwrap();
        assert_eq!(line.enter(41, 2, 100, Wants::new()).err(), Some(Full::Bytes));
        let _second = line.enter(40, 2, 100, Wants::new()).unwrap();
        assert_eq!(line.enter(0, 2, 100, Wants::new()).err(), Some(Full::Number));
        assert_eq!(line.inside(), (2, 100));
        drop(first);
        assert_eq!(line.inside(), (1, 40));
        assert!(line.enter(60, 2, 100, Wants::new()).is_ok());
    }

    #[test]
    fn who_came_first_is_called_first_and_who_leaves_passes_it_on() {
        let (line, queues) = (Line::default(), [Queue::default(), Queue::default()]);
        let enter = |ids: &[u64]| line.enter(0, 9, 9, wants(ids, &queues)).unwrap();
        let (first, second, third) = (enter(&[1]), enter(&[0]), enter(&[0, 1]));
        assert_eq!((queues[0].len(), queues[1].len()), (2, 2));
        let called = |place: &Place| place.called().now_or_never().is_some();
        line.freed((0, None), &queues[0]);
        assert!(!called(&first) && called(&second) && !called(&third));
        assert!(third.is_behind((0, None)) && !second.is_behind((0, None)) && !first.is_behind((0, None)));
        // A second one that is free meanwhile is the next one's.
        line.freed((0, None), &queues[0]);
        assert!(called(&third) && third.is_behind((0, None)));
        third.looks();
        // It was called, and who was called before it has not looked yet.
        assert!(third.is_behind((0, None)));
        drop(third);
        // Its client has gone: nobody else waits for that one, but the other may have become free.
        assert!(called(&first));
        first.looks();
        first.stays(|_| false);
        assert_eq!((queues[0].len(), queues[1].len()), (1, 1));
        second.stays(|_| true);
        drop((first, second));
        assert!(queues.iter().all(Queue::is_empty));
    }

    #[test]
    fn a_call_that_comes_while_it_looks_is_its_own() {
        let (line, queue) = (Line::default(), Queue::default());
        let enter = || {
            let wants = [((0, None), queue.clone())].into_iter().collect();
            line.enter(0, 9, 9, wants).unwrap()
        };
        let (first, second) = (enter(), enter());
        first.looks();
        line.freed((0, None), &queue);
        // What it saw was before that.
        first.stays(|_| true);
        assert!(second.called().now_or_never().is_none());
        assert!(first.called().now_or_never().is_some());
        first.looks();
        first.stays(|_| true);
        assert!(second.called().now_or_never().is_some());
    }

    #[test]
    fn of_two_that_are_called_the_first_decides_first() {
        let (line, queue) = (Line::default(), Queue::default());
        let enter = || line.enter(0, 9, 9, [((0, None), queue.clone())].into_iter().collect()).unwrap();
        let (first, second, third) = (enter(), enter(), enter());
        let called = |place: &Place| place.called().now_or_never().is_some();
        // Two calls, and room for one.
        line.freed((0, None), &queue);
        line.freed((0, None), &queue);
        assert!(called(&first) && called(&second));
        second.looks();
        assert!(second.is_behind((0, None)));
        second.stays(|_| true);
        assert!(!called(&third), "the first has still to decide");
        first.looks();
        assert!(!first.is_behind((0, None)));
        // It saw none, and is called again before it has said so.
        line.freed((0, None), &queue);
        first.stays(|_| true);
        assert!(called(&first) && !called(&third));
        first.looks();
        drop(first);
        assert!(called(&second), "the next one looks when the first has gone");
    }

    proptest! {
        /// Requests come, look, leave and die in any order over slots of two upstreams: never more than the bounds inside,
        /// nothing lost, and no slot stays free while somebody waits for it whom nobody has called.
        #[test]
        fn no_place_and_no_call_is_lost(steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), 1u64..4), 1..300)) {
            const MOST: usize = 2;
            let (line, queues) = (Line::default(), [Queue::default(), Queue::default(), Queue::default()]);
            let mut taken = [0usize; 3];
            let mut waiting: Vec<(Place, Vec<u64>)> = Vec::new();
            for (step, index, ids) in steps {
                // Of upstream 1, of 2, or of either.
                let ids: Vec<u64> = (1..3).filter(|id| ids & id != 0).collect();
                let at = |id: u64| usize::try_from(id).unwrap();
                match step {
                    // One comes, and waits if there is no room, or others wait for it.
                    0 | 1 => {
                        let free = ids.iter().find(|id| taken[at(**id)] < MOST && queues[at(**id)].is_empty());
                        if let Some(id) = free {
                            taken[at(*id)] += 1;
                        } else if let Ok(place) = line.enter(ids.len() as u64, 8, 12, Wants::new()) {
                            place.want(wants(&ids, &queues));
                            waiting.push((place, ids));
                        }
                    }
                    // One ends.
                    2 => {
                        let id = ids[0];
                        if taken[at(id)] > 0 {
                            taken[at(id)] -= 1;
                            line.freed((id, None), &queues[at(id)]);
                        }
                    }
                    // One dies.
                    3 if !waiting.is_empty() => drop(waiting.remove(index.index(waiting.len()))),
                    _ => {}
                }
                // Those that were called look, each once.
                while let Some(who) = waiting.iter().position(|(place, _)| place.called().now_or_never().is_some()) {
                    let (place, ids) = &waiting[who];
                    place.looks();
                    let free = ids.iter().find(|id| taken[at(**id)] < MOST && !place.is_behind((**id, None)));
                    match free {
                        Some(id) => {
                            taken[at(*id)] += 1;
                            waiting.remove(who);
                        }
                        None => place.stays(|(id, _)| taken[at(id)] < MOST),
                    }
                }
                let (inside, bytes) = line.inside();
                prop_assert_eq!(inside, waiting.len());
                prop_assert_eq!(bytes, waiting.iter().map(|(_, ids)| ids.len() as u64).sum::<u64>());
                prop_assert!(inside <= 8 && bytes <= 12);
                for id in 1..3 {
                    let want = waiting.iter().filter(|(_, ids)| ids.contains(&id)).count();
                    prop_assert_eq!(queues[at(id)].len(), want);
                    prop_assert!(taken[at(id)] <= MOST);
                    prop_assert!(taken[at(id)] == MOST || want == 0, "{} is free and {} wait", id, want);
                }
            }
        }
    }
}
