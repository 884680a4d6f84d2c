//! The head of an answer: may it be passed on, and as what.

use std::{mem::MaybeUninit, time::Duration};

use super::{ask::Progress, exchange::Exchange, pump::Pump, upstream::Connection, worker::Worker};
use crate::proxy::{
    self,
    forward::{
        self, Passing, Then, Way,
        part::{self, Part},
    },
    h1::{
        Fields, Framing,
        answer::{self, Answer},
        framing,
    },
    retry::{Event, Verdict},
};

/// An answer that is passed on.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// How its body comes.
    pub(super) from: Framing,
    /// How it goes on.
    pub(super) to: Framing,
    /// How the client's connection goes on after it.
    pub(super) then: Then,
    /// Whether the upstream's connection can be used again when all of it was read.
    pub(super) reuse: Reuse,
    /// Of which bytes it is, if it can be continued from elsewhere.
    pub(super) part: Option<Part>,
}

/// Whether an upstream's connection can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    No,
    /// Yes; and for how long, if the upstream says so itself.
    Yes(Option<Duration>),
}

/// What became of the head.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once an answer, and taken apart at once")]
pub(super) enum Taken {
    /// It is none.
    Garbled,
    /// It is not passed on; this comes instead.
    Unfit(Verdict, Reuse),
    /// It is passed on, and this carries it.
    Pass(Answered, Pump),
}

impl Exchange {
    /// Takes the head, of `end` bytes, off what was read of the answer.
    pub(super) fn take_head(
        &mut self,
        worker: &Worker,
        connection: &mut Connection,
        end: usize,
        progress: Progress,
        body: &Pump,
        last: bool,
    ) -> Taken {
        let read = std::mem::take(&mut connection.wire.ahead);
        let Some((head, behind)) = read.split_at_checked(end) else { return Taken::Garbled };
        let mut room = [const { MaybeUninit::uninit() }; answer::FIELDS];
        let Ok(answer) = answer::parse(head, &mut room) else { return Taken::Garbled };
        let Answer { status, fields, .. } = answer;
        let bodiless = self.ctx.method == ::http::Method::HEAD;
        let Ok(from) = framing::of_answer(bodiless, status, answer.old, &fields) else {
            return Taken::Garbled;
        };
        // Another protocol begins where the request ends.
        if from == Framing::Upgraded && !(self.ctx.upgrade && progress.whole) {
            return Taken::Garbled;
        }
        let to = forward::framing_to(from, self.chunks);
        let meter = self
            .ctx
            .service()
            .and_then(|service| forward::meter(self.ctx.route, Way::Down, service.timeouts));
        let mut pump = Pump::answer(from, to, self.trailers);
        pump.measure(meter);
        // Before anything is promised: a body that begins badly is no answer.
        let Ok((used, plain)) = pump.prepare_from(behind) else { return Taken::Garbled };
        connection.wire.ahead.extend_from_slice(behind.get(used..).unwrap_or_default());
        let keeps = !answer.old
            && !matches!(from, Framing::UntilClose | Framing::Upgraded)
            && !fields.lists("connection", "close");
        let reuse = if keeps { Reuse::Yes(keep_alive(&fields)) } else { Reuse::No };
        if let Some(verdict) = self.unfit(worker, status, &fields, body) {
            // With all of it read, the connection is none the worse for it.
            let read = progress.whole && pump.is_read() && connection.wire.ahead.is_empty();
            return Taken::Unfit(verdict, if read { reuse } else { Reuse::No });
        }
        proxy::passed_on(&mut self.ctx, status, progress.touched, &worker.shared.metrics);
        let closes = !self.keeps || last || !progress.whole || to == Framing::UntilClose;
        let then = if closes { Then::Close } else { Then::KeepAlive };
        let stale = self.ctx.stale.map(|stale| stale.as_str());
        let cookie = proxy::cookie_for(&self.ctx, status);
        let about =
            Passing { old: self.old, then, request: &self.ctx.request, stale, cookie: cookie.as_deref() };
        pump.begin(|out| {
            out.reserve(read.len() + 256);
            forward::answer(status, answer.reason, &fields, to, &about, out);
            out.extend_from_slice(plain);
        });
        let part = part::part(self.ctx.route, &self.ctx.method, &self.ctx.path, status, from, &fields);
        Taken::Pass(Answered { status, from, to, then, reuse, part }, pump)
    }

    /// Why this answer is not the one that the client gets.
    fn unfit(&mut self, worker: &Worker, status: u16, fields: &Fields<'_>, body: &Pump) -> Option<Verdict> {
        let bad = |ctx: &_| proxy::is_retry_status(ctx, status).then_some(Event::BadStatus(status));
        let event = proxy::received(&mut self.ctx, status, fields).or_else(|| bad(&self.ctx))?;
        let verdict = proxy::failed(&mut self.ctx, event, body.is_at_hand(), &worker.shared.metrics);
        (verdict != Verdict::PassOn).then_some(verdict)
    }
}

/// How long the upstream keeps an unused connection, as it says itself.
fn keep_alive(fields: &Fields<'_>) -> Option<Duration> {
    let seconds = fields.members("keep-alive").find_map(|member| member.strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
