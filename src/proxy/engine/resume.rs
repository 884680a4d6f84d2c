//! A blob whose answer broke off goes on from another upstream, in the same answer to the client.

use std::mem::MaybeUninit;

use super::{
    answered::Answered,
    ask::{Asked, Asking, Progress},
    connection::Client,
    exchange::{Exchange, Lacking},
    pass::{Passed, pass},
    pump::Pump,
    upstream::Connection,
    worker::Worker,
};
use crate::proxy::{
    self,
    ctx::End,
    forward::Limits,
    forward::part::{self, Part, Rest},
    h1::{
        Framing,
        answer::{self, Answer},
        framing,
    },
    retry::{Event, Verdict, What},
};

/// How often one answer is continued. A registry that breaks off each time after a few bytes is asked no more than that.
const TIMES: u32 = 64;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumed {
    /// The client has all of it.
    Whole,
    /// The client has closed.
    ClientGone,
    /// The client takes too little.
    ClientSlow,
    /// Nobody has the rest; the client's connection is to be cut.
    Not,
}

/// An attempt that has brought the head of the rest.
struct Rested {
    connection: Connection,
    body: Pump,
    progress: Progress,
    limits: Limits,
}

impl Exchange {
    /// Goes on with an answer that broke off. `head` is the head of the request as every upstream gets it.
    pub(super) async fn resume(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        answered: &Answered,
        answer: &mut Pump,
        head: &[u8],
        mut what: What,
    ) -> Resumed {
        let metrics = &worker.shared.metrics;
        let mut before = 0;
        let mut times = 0;
        loop {
            proxy::broke_off(&mut self.ctx, what);
            let Some(part) = answered.part.as_ref().filter(|_| times < TIMES) else {
                proxy::failed(&mut self.ctx, Event::BrokeOff, true, metrics);
                return Resumed::Not;
            };
            tracing::debug!(request.id = %self.ctx.request, why = what.label(), bytes = answer.payload, "a blob broke off");
            times += 1;
            // One that gave a piece of it has done its share: what was tried before counts no more.
            let more = answer.payload > std::mem::replace(&mut before, answer.payload);
            let mut event = if more { Event::BlobBrokeOff } else { Event::NotHere };
            let rest = loop {
                if !matches!(proxy::failed(&mut self.ctx, event, true, metrics), Verdict::Again(_)) {
                    return self.aborted();
                }
                let (live, mover) = (&worker.shared.live, self.means(worker, client, None));
                let next = proxy::next_upstream(&mut self.ctx, live, metrics, &mover).await;
                if next.is_err() {
                    return self.aborted();
                }
                match self.ask_for_rest(worker, client, part, answer, head).await {
                    Ok(rest) => break rest,
                    Err(Some(failed)) => event = failed,
                    Err(None) => return Resumed::ClientGone,
                }
            };
            let at = answer.payload;
            match self.pass_rest(worker, client, rest, answer).await {
                Passed::Whole => {
                    proxy::moved(&self.ctx, answer.payload - at);
                    return Resumed::Whole;
                }
                Passed::ClientGone => return Resumed::ClientGone,
                Passed::ClientSlow => return Resumed::ClientSlow,
                Passed::BrokeOff(why) => what = why,
            }
        }
    }

    fn aborted(&mut self) -> Resumed {
        // The answer that was begun is the one that is recorded.
        (self.ctx.ours, self.ctx.end) = (None, End::Aborted);
        Resumed::Not
    }

    /// Asks the chosen upstream for the rest. Without an event: the client has closed.
    async fn ask_for_rest(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        part: &Part,
        answer: &mut Pump,
        head: &[u8],
    ) -> Result<Rested, Option<Event>> {
        let from = part.start + answer.payload;
        let (mut connection, limits) = match self.connection(worker, client, true).await {
            Ok(found) => found,
            Err(Lacking::Anybody) => return Err(None),
            Err(lacking) => {
                if lacking == Lacking::NoRoom {
                    // The upstream is not to blame for that.
                    self.ctx.current.iter_mut().for_each(|current| current.blameless = true);
                }
                return Err(Some(Event::ConnectFailed));
            }
        };
        let now = self.connected(&connection);
        let mut body = Pump::request(part::head(head, part, from), Framing::None, true, u64::MAX);
        body.begin(|out| self.complete(out, now));
        let mut asking = Asking {
            worker,
            client,
            connection: &mut connection,
            body: &mut body,
            ctx: &mut self.ctx,
            limits,
            progress: Progress::begin(now),
        };
        let asked = asking.final_head(true).await;
        let progress = asking.progress;
        let end = match asked {
            Asked::Head(end) => end,
            Asked::Nothing(what) => return Err(Some(Event::NoAnswer(what))),
            Asked::Refused(_) | Asked::ClientGone => return Err(None),
        };
        let rest = {
            let mut room = [const { MaybeUninit::uninit() }; answer::FIELDS];
            let head = connection.wire.ahead.get(..end).unwrap_or_default();
            match answer::parse(head, &mut room) {
                Err(answer::Garbled) => return Err(Some(Event::NoAnswer(What::Garbled))),
                Ok(Answer { status, old, fields, .. }) => {
                    proxy::answered(&mut self.ctx, status, &fields);
                    match framing::of_answer(false, status, old, &fields) {
                        Ok(framing) => part::rest(part, from, status, framing, &fields),
                        Err(framing::Ambiguous) => Rest::No,
                    }
                }
            }
        };
        connection.wire.used(end);
        match rest {
            // One before it may have died while it was passed over.
            Rest::Fits => answer.skip(0),
            Rest::Skip(bytes) => answer.skip(bytes),
            Rest::No => return Err(Some(Event::NotHere)),
        }
        if let Some(note) = self.ctx.attempts.last_mut() {
            note.end = "answered";
        }
        Ok(Rested { connection, body, progress, limits })
    }

    async fn pass_rest(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        rest: Rested,
        answer: &mut Pump,
    ) -> Passed {
        let Rested { mut connection, mut body, progress, limits } = rest;
        let mut asking = Asking {
            worker,
            client,
            connection: &mut connection,
            body: &mut body,
            ctx: &mut self.ctx,
            limits,
            progress,
        };
        pass(&mut asking, answer, false).await
    }
}
