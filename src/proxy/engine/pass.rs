//! The answer goes to the client, while what is left of the request goes on to the upstream.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{
    ask::Asking,
    pump::{Fault, Pump},
};
use crate::{
    clock,
    proxy::{
        forward::floor::{Noted, Side},
        retry::What,
        transfers,
    },
};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// The client has all of it.
    Whole,
    /// The client has closed, or takes no more.
    ClientGone,
    /// The client takes, or sends, too little.
    ClientSlow,
    /// The upstream has given no more.
    BrokeOff(What),
}

/// Passes the answer on. `more`: what is left of the request is still wanted.
pub(super) async fn pass(asking: &mut Asking<'_>, answer: &mut Pump, more: bool) -> Passed {
    asking.progress.sending &= more;
    let passed = poll_fn(|cx| poll(asking, answer, cx)).await;
    asking.account();
    passed
}

fn poll(asking: &mut Asking<'_>, answer: &mut Pump, cx: &mut Context<'_>) -> Poll<Passed> {
    let scratch = &asking.worker.scratch;
    let before = (answer.moved(), asking.body.written);
    if asking.progress.sending {
        let (from, to) = (&mut asking.client.wire, &mut asking.connection.wire.stream);
        match asking.body.poll(cx, from, to, scratch) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => (asking.progress.sending, asking.progress.whole) = (false, true),
            Poll::Ready(Err(Fault::From)) => return Poll::Ready(Passed::ClientGone),
            // The answer goes on all the same.
            Poll::Ready(Err(Fault::To | Fault::Short | Fault::Bad | Fault::Large)) => {
                asking.progress.sending = false
            }
        }
    }
    let payload = answer.payload;
    let polled = answer.poll(cx, &mut asking.connection.wire, &mut asking.client.wire.stream, scratch);
    asking.progress.received += answer.payload - payload;
    match polled {
        Poll::Ready(Ok(())) => return Poll::Ready(Passed::Whole),
        Poll::Ready(Err(Fault::To)) => return Poll::Ready(Passed::ClientGone),
        Poll::Ready(Err(Fault::Bad | Fault::Large)) => return Poll::Ready(Passed::BrokeOff(What::Garbled)),
        Poll::Ready(Err(Fault::From | Fault::Short)) => return Poll::Ready(Passed::BrokeOff(What::Closed)),
        Poll::Pending => {}
    }
    if !asking.progress.sending && asking.client.poll_gone(cx, scratch).is_ready() {
        return Poll::Ready(Passed::ClientGone);
    }
    let now = clock::now();
    let mut moves = match answer.note(now, &asking.client.wire.stream, true) {
        Noted::Slow(Side::From) => return Poll::Ready(Passed::BrokeOff(What::TooSlow)),
        Noted::Slow(Side::To) => return Poll::Ready(Passed::ClientSlow),
        noted => noted == Noted::Moves,
    };
    if asking.progress.sending {
        match asking.body.note(now, &asking.connection.wire.stream, true) {
            Noted::Slow(Side::From) => return Poll::Ready(Passed::ClientSlow),
            // The answer goes on all the same.
            Noted::Slow(Side::To) => asking.progress.sending = false,
            noted => moves |= noted == Noted::Moves,
        }
    }
    if moves || before != (answer.moved(), asking.body.written) {
        asking.progress.touched = now;
    }
    asking.paused(now, Some(answer));
    let idle = asking.progress.touched + asking.limits.read.unwrap_or(asking.limits.write);
    let slow = asking.body.look_at().filter(|_| asking.progress.sending);
    let looks = [answer.look_at(), slow, transfers::look_at(asking.ctx, now)];
    let until = looks.into_iter().flatten().fold(idle, Instant::min);
    ready!(asking.client.slot.poll(cx, until, now));
    if now < idle {
        // Another look at what may be there below a low-water mark.
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(if answer.is_blocked() { Passed::ClientGone } else { Passed::BrokeOff(What::TimedOut) })
}
