//! One attempt, until the head of an answer is there: the request goes out, the answer is waited for, the client and
//! the clock are watched.

use std::{
    future::poll_fn,
    mem::MaybeUninit,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{
    connection::Client,
    pump::{Fault, Pump},
    upstream::Connection,
    worker::Worker,
};
use crate::{
    clock,
    proxy::{
        self,
        ctx::Ctx,
        forward::{
            self, Limits,
            floor::{Noted, Side},
        },
        guard::Refusal,
        h1::answer,
        retry::{Traffic, What},
        transfers::{self, Direction, Pause, Waits},
    },
};

/// Interim answers that one attempt may bring.
const INTERIM: u32 = 16;

/// Read at once of an answer's head, and what comes with it.
const READ: usize = 64 * 1024;

/// How it ended.
#[derive(Debug)]
pub(super) enum Asked {
    /// The head of an answer, of so many bytes, is read ahead.
    Head(usize),
    /// No answer.
    Nothing(What),
    /// The client has closed.
    ClientGone,
    /// The client does not send what it has to.
    Refused(Refusal),
}

/// An attempt under way.
pub(super) struct Asking<'a> {
    pub(super) worker: &'a Worker,
    pub(super) client: &'a mut Client,
    pub(super) connection: &'a mut Connection,
    pub(super) body: &'a mut Pump,
    pub(super) ctx: &'a mut Ctx,
    pub(super) limits: Limits,
    pub(super) progress: Progress,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The request is still going out.
    pub(super) sending: bool,
    /// The request went out whole.
    pub(super) whole: bool,
    /// Something has moved then.
    pub(super) touched: Instant,
    /// The answer is waited for until then, once the request is out.
    until: Option<Instant>,
    /// So much of what was read ahead is no whole head.
    scanned: usize,
    /// Bytes that came.
    pub(super) received: u64,
    /// The steps know that something was sent.
    told: bool,
    /// It has had no turn yet: who begins it has looked at the clock.
    begins: bool,
}

impl Progress {
    pub(super) fn begin(now: Instant) -> Self {
        let (sending, whole, told, begins) = (true, false, false, true);
        Self { sending, whole, touched: now, until: None, scanned: 0, received: 0, told, begins }
    }
}

impl Asking<'_> {
    /// Waits for the head of a final answer, and passes interim ones on to a client that is not `old`.
    pub(super) async fn final_head(&mut self, old: bool) -> Asked {
        let mut interims = 0;
        loop {
            let asked = poll_fn(|cx| self.poll(cx)).await;
            self.account();
            let Asked::Head(end) = asked else { return asked };
            let passed = match self.interim(end) {
                Ok(None) => return Asked::Head(end),
                Ok(Some(passed)) if interims < INTERIM => passed,
                Ok(Some(_)) | Err(answer::Garbled) => return Asked::Nothing(What::Garbled),
            };
            interims += 1;
            if old || passed.is_empty() {
                continue;
            }
            let patience = self.limits.write;
            if Box::pin(self.client.wire.stream.write_all(&passed, patience)).await.is_err() {
                return Asked::ClientGone;
            }
            self.progress.touched = clock::now();
        }
    }

    /// Takes an interim answer off what was read, as the client gets it; `None` if it is a final one. One that nobody
    /// waits for is empty.
    fn interim(&mut self, end: usize) -> Result<Option<Vec<u8>>, answer::Garbled> {
        let wire = &mut self.connection.wire;
        let mut out = Vec::new();
        {
            let head = wire.ahead.get(..end).unwrap_or_default();
            if !answer::may_be_interim(head) {
                return Ok(None);
            }
            let mut room = [const { MaybeUninit::uninit() }; answer::FIELDS];
            let answer = answer::parse(head, &mut room)?;
            // Another protocol is no interim answer; and one of HTTP/1.0 has none.
            if answer.status >= 200 || answer.status == 101 {
                return Ok(None);
            }
            if answer.status != 100 || self.ctx.expects {
                forward::interim(answer.status, answer.reason, &answer.fields, &mut out);
            }
        }
        wire.used(end);
        self.progress.scanned = 0;
        Ok(Some(out))
    }

    /// Keeps the account of what was sent and what came.
    pub(super) fn account(&mut self) {
        self.ctx.account(Traffic {
            reused: self.connection.reused,
            sent: self.body.written,
            whole: self.progress.whole,
            received: self.progress.received,
        });
    }

    /// Notes for the list of transfers how far it has come, as it pauses; `answer`: what of the answer is passed on.
    pub(super) fn paused(&mut self, now: Instant, answer: Option<&Pump>) {
        let side = |waits: Option<Side>, from: Waits, to: Waits| match waits {
            None => Waits::Turn,
            Some(Side::From) => from,
            Some(Side::To) => to,
        };
        let waits = match answer {
            _ if self.progress.sending => side(self.body.waits_for(), Waits::Client, Waits::Upstream),
            Some(answer) => side(answer.waits_for(), Waits::Upstream, Waits::Client),
            None => Waits::Upstream,
        };
        let pause = Pause { up: self.body.payload, down: answer.map_or(0, |answer| answer.payload), waits };
        let body = &self.body;
        let length = |direction| match direction {
            Direction::Up => body.length(),
            Direction::Down => answer?.length(),
            Direction::Both => None,
        };
        transfers::note(self.ctx, &self.worker.transfers, now, pause, length);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Asked> {
        let begins = std::mem::take(&mut self.progress.begins);
        let now = if begins { self.progress.touched } else { clock::now() };
        if self.progress.sending
            && let Poll::Ready(ended) = self.poll_send(cx, now)
        {
            return Poll::Ready(ended);
        }
        if let Poll::Ready(ended) = self.poll_receive(cx, now) {
            return Poll::Ready(ended);
        }
        if !self.progress.sending && self.client.poll_gone(cx, &self.worker.scratch).is_ready() {
            return Poll::Ready(Asked::ClientGone);
        }
        self.paused(now, None);
        loop {
            let slow = self.body.look_at().filter(|_| self.progress.sending);
            let look = [slow, transfers::look_at(self.ctx, now)].into_iter().flatten().min();
            let until = self.until();
            ready!(self.client.slot.poll(cx, look.map_or(until, |look| look.min(until)), now));
            if now < until {
                // Another look at what may be there below a low-water mark.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Time is up for this attempt; if it is the last chance, the deadline is.
            let half = !self.progress.sending && self.progress.until.is_some_and(|until| until <= now);
            match self.ctx.deadline {
                Some(deadline) if half && now < deadline && proxy::waits_on(self.ctx) => {
                    self.progress.until = Some(deadline);
                }
                _ => return Poll::Ready(self.late()),
            }
        }
    }

    /// Ready only when there is no use in waiting for an answer.
    fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Asked> {
        let before = self.body.moved();
        let to = &mut self.connection.wire.stream;
        let polled = self.body.poll(cx, &mut self.client.wire, to, &self.worker.scratch);
        if before != self.body.moved() {
            self.progress.touched = now;
        }
        if self.body.written > 0 && !self.progress.told {
            self.progress.told = true;
            proxy::sent(self.ctx);
        }
        match polled {
            Poll::Pending => {
                let counts = !self.client_waits();
                match self.body.note(now, &self.connection.wire.stream, counts) {
                    Noted::Fine => {}
                    Noted::Moves => self.progress.touched = now,
                    Noted::Slow(Side::From) => return Poll::Ready(Asked::Refused(Refusal::BodyTooSlow)),
                    Noted::Slow(Side::To) => return Poll::Ready(Asked::Nothing(What::TooSlow)),
                }
            }
            Poll::Ready(Ok(())) => {
                (self.progress.sending, self.progress.whole) = (false, true);
                proxy::whole(self.ctx, now);
                let timeouts = self.ctx.service().map(|service| service.timeouts);
                let wait = timeouts.and_then(|timeouts| forward::first_byte(self.ctx.route, timeouts));
                self.progress.until = match wait {
                    Some(wait) => Some(now + wait),
                    None => proxy::answer_until(self.ctx, now),
                };
            }
            // It may have answered before it closed.
            Poll::Ready(Err(Fault::To)) => self.progress.sending = false,
            Poll::Ready(Err(Fault::From | Fault::Short)) => return Poll::Ready(Asked::ClientGone),
            Poll::Ready(Err(fault @ (Fault::Bad | Fault::Large))) => {
                return Poll::Ready(Asked::Refused(fault.refusal()));
            }
        }
        Poll::Pending
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Asked> {
        loop {
            let wire = &mut self.connection.wire;
            if wire.ahead.len() > self.progress.scanned {
                match answer::end(&wire.ahead, self.progress.scanned) {
                    Ok(Some(end)) => return Poll::Ready(Asked::Head(end)),
                    Ok(None) => self.progress.scanned = wire.ahead.len(),
                    Err(answer::Garbled) => return Poll::Ready(Asked::Nothing(What::Garbled)),
                }
            }
            match ready!(wire.poll_ahead(cx, &self.worker.scratch, READ)) {
                Ok(read) if read > 0 => {
                    self.progress.received += read as u64;
                    self.progress.touched = now;
                }
                _ => return Poll::Ready(Asked::Nothing(What::Closed)),
            }
        }
    }

    /// Until when there is patience.
    fn until(&self) -> Instant {
        let Progress { sending, touched, until, .. } = self.progress;
        let deadline = if sending { self.ctx.deadline } else { until };
        let idle = match until {
            // However many pieces the head comes in.
            Some(_) if !sending => None,
            _ if sending => Some(self.limits.write),
            _ => self.limits.read,
        };
        let idle = idle.map(|idle| touched + idle);
        // Something always limits it; if not, then as long as a body may stand still.
        [deadline, idle].into_iter().flatten().min().unwrap_or(touched + self.limits.write)
    }

    /// Whether the client waits to be told that its body is wanted.
    fn client_waits(&self) -> bool {
        self.ctx.expects && self.body.payload == 0
    }

    /// Whose fault it is that time is up.
    fn late(&self) -> Asked {
        if self.progress.sending && !self.body.is_blocked() && !self.client_waits() {
            Asked::Refused(Refusal::BodyTooSlow)
        } else {
            Asked::Nothing(What::TimedOut)
        }
    }
}
