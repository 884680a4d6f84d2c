//! Another protocol: bytes both ways until both sides have closed.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connection::Client,
    pump::{Fault, Pump},
    stream::Stream,
    upstream::Connection,
    wire::{Scratch, Wire},
    worker::Worker,
};
use crate::{
    clock,
    proxy::{
        h1::Framing,
        transfers::{Pause, Transfer, Waits},
    },
};

/// Bytes that went each way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// Carries bytes until both sides have closed, one is broken, or neither has sent any for so long: while both are
/// open, and when one is shut. `transfer` is told how many.
pub(super) async fn tunnel(
    worker: &Worker,
    client: &mut Client,
    upstream: &mut Connection,
    silent: (Duration, Duration),
    transfer: Option<&Transfer>,
) -> Carried {
    let mut both = Both { up: Way::new(), down: Way::new(), touched: clock::now() };
    poll_fn(|cx| both.poll(worker, client, upstream, (silent, transfer), cx)).await;
    Carried { up: both.up.pump.payload, down: both.down.pump.payload }
}

struct Way {
    pump: Pump,
    at: At,
}

/// How far one way has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Its sender may send more.
    Open,
    /// Its sender has no more to say, and its receiver is being told so.
    Ending,
    /// Both know.
    Shut,
}

impl Way {
    fn new() -> Self {
        Self { pump: Pump::answer(Framing::UntilClose, Framing::UntilClose, false), at: At::Open }
    }

    /// Goes on as far as it can. An error is the end of both ways: something broke, rather than that one side has no
    /// more to say.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Result<(), ()> {
        if self.at == At::Open
            && let Poll::Ready(ended) = self.pump.poll(cx, from, to, scratch)
        {
            ended.map_err(|_: Fault| ())?;
            self.at = At::Ending;
        }
        if self.at == At::Ending
            && let Poll::Ready(told) = to.poll_shut(cx)
        {
            told.map_err(|_: io::Error| ())?;
            self.at = At::Shut;
        }
        Ok(())
    }
}

struct Both {
    up: Way,
    down: Way,
    touched: Instant,
}

impl Both {
    fn poll(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        upstream: &mut Connection,
        (silent, transfer): ((Duration, Duration), Option<&Transfer>),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let before = (self.up.pump.written, self.down.pump.written);
        let scratch = &worker.scratch;
        let (ours, theirs) = (&mut client.wire, &mut upstream.wire);
        let up = self.up.poll(cx, ours, &mut theirs.stream, scratch);
        let carried = up.and_then(|()| self.down.poll(cx, theirs, &mut ours.stream, scratch));
        if carried.is_err() || (self.up.at == At::Shut && self.down.at == At::Shut) {
            return Poll::Ready(());
        }
        if let Some(transfer) = transfer {
            // Either may speak next. Who takes nothing is waited for more than the other.
            let blocked = self.up.pump.is_blocked();
            let waits = if blocked { Waits::Upstream } else { Waits::Client };
            transfer.moved(Pause { up: self.up.pump.payload, down: self.down.pump.payload, waits });
        }
        let now = clock::now();
        if before != (self.up.pump.written, self.down.pump.written) {
            self.touched = now;
        }
        let idle = if self.up.at == At::Open && self.down.at == At::Open { silent.0 } else { silent.1 };
        ready!(client.slot.poll(cx, self.touched + idle, now));
        Poll::Ready(())
    }
}
