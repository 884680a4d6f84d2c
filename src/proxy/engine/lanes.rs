//! The two lanes in the time of a thread.
//!
//! A thread serves whatever is ready in the order in which it became so. A hundred transfers that are always ready would
//! make a heartbeat wait for a hundred moves of a MiB. So a body that has become large asks for its turn before each
//! move, and of all of them together only [`ROUND`] bytes move between two looks at the sockets. Whoever finds the round
//! spent waits in line; the next round begins when the runtime has looked, and what it found of control traffic stands
//! before the line.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Bytes that all transfers of a thread move in one round, each counted when it comes and when it goes: less than a
/// millisecond of work. The move that passes it is made whole. With a quarter of it four uploads cost 8 % more CPU.
const ROUND: u64 = 4 * 1024 * 1024;

/// A place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Whose turn it is to move bytes.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// Moved in this round.
    spent: u64,
    /// The first ticket that still waits; those before it may go.
    first: u64,
    /// Who holds it, and the next ones.
    waiting: VecDeque<Waker>,
    /// Somebody was called and has not come yet.
    called: bool,
    /// Who begins the next round.
    rounds: Option<Waker>,
}

impl Turns {
    /// Ready when its holder may move some bytes, once. `ticket` is its place in the line meanwhile.
    pub(super) fn poll(&self, cx: &Context<'_>, ticket: &mut Option<Ticket>) -> Poll<()> {
        let line = &mut *self.line();
        match *ticket {
            Some(Ticket(number)) if number < line.first => {
                (*ticket, line.called) = (None, false);
                Poll::Ready(())
            }
            Some(Ticket(number)) => {
                let place = usize::try_from(number - line.first).ok();
                if let Some(waker) = place.and_then(|place| line.waiting.get_mut(place)) {
                    waker.clone_from(cx.waker());
                }
                Poll::Pending
            }
            // Nor past the one who was called and comes in a moment.
            None if line.spent < ROUND && line.waiting.is_empty() && !line.called => Poll::Ready(()),
            None => {
                *ticket = Some(Ticket(line.first + line.waiting.len() as u64));
                line.waiting.push_back(cx.waker().clone());
                if let Some(rounds) = line.rounds.take() {
                    rounds.wake();
                }
                Poll::Pending
            }
        }
    }

    /// So many bytes were moved. While the round is not spent the next in line may go.
    pub(super) fn spend(&self, bytes: u64) {
        let line = &mut *self.line();
        line.spent += bytes;
        if line.spent < ROUND && !line.called {
            line.call();
        }
    }

    /// Begins one round after the other while somebody waits, each when the runtime has looked at the sockets.
    pub(super) async fn rounds(&self) {
        loop {
            poll_fn(|cx| {
                let line = &mut *self.line();
                if line.waiting.is_empty() {
                    line.rounds = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            // The runtime goes on with it only after that look.
            tokio::task::yield_now().await;
            let line = &mut *self.line();
            line.spent = 0;
            line.call();
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Left half changed by a panic it makes somebody wait for the next round at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// The first in line may go. One that has left it meanwhile passes its turn on with the next round.
    fn call(&mut self) {
        let next = self.waiting.pop_front();
        self.called = next.is_some();
        if let Some(waker) = next {
            self.first += 1;
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use super::*;

    async fn turn(turns: &Turns) {
        let mut ticket = None;
        poll_fn(|cx| turns.poll(cx, &mut ticket)).await;
    }

    /// Each a task of its own, as connections are.
    #[tokio::test]
    async fn all_get_their_turn_and_a_round_has_its_bound() {
        let turns = Arc::new(Turns::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut transfers = tokio::task::JoinSet::new();
        for name in 1..=4 {
            let (turns, order) = (turns.clone(), order.clone());
            transfers.spawn(async move {
                for _ in 0..30 {
                    turn(&turns).await;
                    order.lock().unwrap().push(name);
                    turns.spend(ROUND / 2);
                }
            });
        }
        tokio::select! {
            () = turns.rounds() => {}
            () = async { while transfers.join_next().await.is_some() {} } => {}
        }
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 120);
        for until in 0..order.len() - 8 {
            let had = |name| order[..until].iter().filter(|n| **n == name).count();
            let (least, most) = ((1..=4).map(had).min(), (1..=4).map(had).max());
            // Who came first had a round before there was a line.
            assert!(most <= least.map(|least| least + 3), "one was far before another: {order:?}");
        }
    }

    #[tokio::test]
    async fn what_became_ready_meanwhile_stands_before_the_line() {
        let turns = Turns::default();
        let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let moves = RefCell::new(0u32);
        let transfers = async {
            loop {
                turn(&turns).await;
                *moves.borrow_mut() += 1;
                turns.spend(ROUND);
            }
        };
        let heartbeat = async {
            for _ in 0..20 {
                let before = *moves.borrow();
                theirs.try_write(b"x").unwrap();
                let mut byte = [0];
                tokio::io::AsyncReadExt::read_exact(&mut ours, &mut byte).await.unwrap();
                let waited = *moves.borrow() - before;
                assert!(waited <= 2, "it waited for {waited} rounds");
            }
        };
        tokio::select! {
            () = turns.rounds() => {}
            () = transfers => {}
            () = heartbeat => {}
        }
    }

    #[tokio::test]
    async fn one_that_leaves_the_line_stops_nobody() {
        let turns = Turns::default();
        turns.spend(ROUND);
        let mut ticket = None;
        let gone = poll_fn(|cx| Poll::Ready(turns.poll(cx, &mut ticket).is_pending())).await;
        assert!(gone);
        tokio::select! {
            () = turns.rounds() => {}
            () = turn(&turns) => {}
        }
    }
}
