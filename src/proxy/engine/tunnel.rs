//! Another protocol: bytes both ways until both sides have closed.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connection::Client,
    pump::{Fault, Pump},
    upstream::Connection,
    worker::Worker,
};
use crate::{clock, proxy::h1::Framing};

/// Bytes that went each way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// Carries bytes until both sides have closed, one is broken, or neither has sent any for so long: while both are
/// open, and when one is shut.
pub(super) async fn tunnel(
    worker: &Worker,
    client: &mut Client,
    upstream: &mut Connection,
    silent: (Duration, Duration),
) -> Carried {
    let mut both = Both { up: Way::new(), down: Way::new(), touched: clock::now() };
    poll_fn(|cx| both.poll(worker, client, upstream, silent, cx)).await;
    Carried { up: both.up.pump.payload, down: both.down.pump.payload }
}

struct Way {
    pump: Pump,
    open: bool,
}

impl Way {
    fn new() -> Self {
        Self { pump: Pump::answer(Framing::UntilClose, Framing::UntilClose, false), open: true }
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
        silent: (Duration, Duration),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let before = (self.up.pump.written, self.down.pump.written);
        let scratch = &worker.scratch;
        if self.up.open
            && let Poll::Ready(ended) = self.up.pump.poll(cx, &mut client.wire, &upstream.wire.tcp, scratch)
        {
            self.up.open = false;
            if over(ended) || upstream.wire.shut().is_err() {
                return Poll::Ready(());
            }
        }
        if self.down.open
            && let Poll::Ready(ended) = self.down.pump.poll(cx, &mut upstream.wire, &client.wire.tcp, scratch)
        {
            self.down.open = false;
            if over(ended) || client.wire.shut().is_err() {
                return Poll::Ready(());
            }
        }
        if !self.up.open && !self.down.open {
            return Poll::Ready(());
        }
        let now = clock::now();
        if before != (self.up.pump.written, self.down.pump.written) {
            self.touched = now;
        }
        let idle = if self.up.open && self.down.open { silent.0 } else { silent.1 };
        ready!(client.slot.poll(cx, self.touched + idle, now));
        Poll::Ready(())
    }
}

/// Whether one way's end is the end of both: something broke, rather than that one side has no more to say.
fn over(ended: Result<(), Fault>) -> bool {
    ended.is_err()
}
