//! One request: calls the steps in order, attempt by attempt, and moves what they decide.

use std::future::Future;

use tokio::time::Instant;

use super::{
    answered::{Answered, Reuse, Taken},
    ask::{Asked, Asking, Progress},
    connection::{After, Client, From},
    heads::parsed,
    opening,
    pass::{Passed, pass},
    pool::Which,
    pump::Pump,
    respond::respond,
    resume::Resumed,
    tunnel::tunnel,
    upstream::{Connection, connect, is_ours, is_out_of_descriptors},
    worker::Worker,
};
use crate::{
    clock,
    config::proxy::Kind,
    proxy::{
        self, Head, Mover, NoNext,
        answer::Answer,
        ctx::{Arrival, Ctx, End, Protocol},
        forward::{self, Limits, Then, Way},
        guard::{
            Refusal,
            head::{self, HeadLimits},
        },
        h1::Framing,
        lane::Lane,
        limit::Takes,
        record,
        retry::{Event, Verdict, What},
        room::Occupied,
        snapshot::Service,
        transfers::{self, Direction, Listed},
    },
};

/// A request, and what of its head the exchange itself needs.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Boxed, for it is handed about.
    pub(super) ctx: Box<Ctx>,
    pub(super) bytes: record::Bytes,
    framing: Framing,
    /// The client wants to go on after it.
    pub(super) keeps: bool,
    /// The client is of HTTP/1.0.
    pub(super) old: bool,
    /// The client takes a body in chunks; if not, one without a length ends with its connection or stream.
    pub(super) chunks: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
}

/// An attempt that has brought the head of an answer, of `end` bytes.
struct Attempt {
    connection: Connection,
    limits: Limits,
    progress: Progress,
    end: usize,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// The upstream cannot be reached.
    Failed,
    /// As many are open, or being made, as may be.
    NoRoom,
    /// The client has closed meanwhile.
    Anybody,
}

/// What becomes of a request after an attempt.
enum Next {
    Again,
    Over(After),
}

/// Serves a request that has begun.
pub(super) async fn run(worker: &Worker, client: &mut Client, begun: Begun) -> After {
    let Begun { mut exchange, admitted } = begun;
    let after = match admitted {
        Ok(head) => exchange.forward(worker, client, head).await,
        Err(ours) => Box::pin(exchange.turn_away(worker, client, *ours)).await,
    };
    exchange.ctx.current = None;
    record::done(exchange.ctx, exchange.bytes, worker.shared.records());
    after
}

/// Takes note of a request that was taken back before anything was done about it.
pub(super) fn gone(worker: &Worker, begun: Begun) {
    let mut exchange = begun.exchange;
    exchange.ctx.end = End::ClientGone;
    record::done(exchange.ctx, exchange.bytes, worker.shared.records());
}

/// A request, and its head as upstreams get it, or the answer to it.
#[derive(Debug)]
pub(super) struct Begun {
    exchange: Exchange,
    /// Boxed: an answer of ours is large, and nearly no request has one.
    admitted: Result<Vec<u8>, Box<Answer>>,
}

impl Begun {
    /// Where it belongs.
    pub(super) fn lane(&self) -> Lane {
        Lane::of(self.exchange.ctx.route)
    }
}

/// Steps 2 to 5, on a whole head.
pub(super) fn begin(worker: &Worker, from: &From, head: &[u8], limits: HeadLimits) -> Result<Begun, Refusal> {
    let framing = head::check(head, limits)?;
    // What the guard lets by the parser takes too; if not, then it knows better.
    parse(worker, from, head, framing, false).ok_or(Refusal::BadRequestLine)
}

/// The same, on the head of an HTTP/2 stream, written as one of HTTP/1.1. `ended`: no body follows it.
pub(super) fn begin_stream(
    worker: &Worker,
    from: &From,
    head: &[u8],
    limits: HeadLimits,
    ended: bool,
) -> Result<Begun, Refusal> {
    let framing = match head::check(head, limits)? {
        Framing::None if !ended => Framing::UntilClose,
        framing => framing,
    };
    parse(worker, from, head, framing, true).ok_or(Refusal::BadRequestLine)
}

fn parse(worker: &Worker, from: &From, head: &[u8], framing: Framing, stream: bool) -> Option<Begun> {
    let (snapshot, chance) = worker.arrival();
    let (snapshot, listener) = from.door.find(snapshot);
    let arrival = Arrival {
        snapshot,
        listener,
        peer: from.peer,
        unnamed: from.unnamed,
        secured: from.secured.clone(),
        started: clock::now(),
        chance,
        takes: Takes::One,
    };
    // A body that ends with its stream goes on in chunks.
    let to = if framing == Framing::UntilClose { Framing::Chunked } else { framing };
    parsed(head, to, stream, &from.address, |head| {
        let (ctx, admitted) = proxy::admit(arrival, head);
        let Head { fields, protocol, .. } = *head;
        let old = protocol == Protocol::Http10;
        // RFC 9112 §9.3.
        let keeps =
            !fields.lists("connection", "close") && (!old || fields.lists("connection", "keep-alive"));
        let trailers = !old && fields.lists("te", "trailers");
        let chunks = protocol == Protocol::Http11;
        let exchange =
            Exchange { ctx, bytes: record::Bytes::default(), framing, keeps, old, chunks, trailers };
        Begun { exchange, admitted: admitted.map_err(Box::new) }
    })
}

/// What the steps may ask of an exchange.
pub(super) struct Means<'a> {
    worker: &'a Worker,
    client: &'a Client,
    body: Option<&'a Pump>,
    lane: Lane,
    /// Which unused connections will do; `None`: none.
    which: Option<Which>,
}

impl Mover for Means<'_> {
    fn gone(&self) -> impl Future<Output = ()> + Send {
        self.client.wire.stream.gone()
    }

    fn in_memory(&self) -> u64 {
        self.body.map_or(0, Pump::in_memory) + self.client.wire.in_memory()
    }

    fn has_unused(&self, upstream: u64) -> bool {
        self.worker.pool(self.lane).has(upstream, self.which, clock::now())
    }
}

impl Exchange {
    /// What the steps may ask of it; `body` is the request's, if it may be held.
    pub(super) fn means<'a>(
        &self,
        worker: &'a Worker,
        client: &'a Client,
        body: Option<&'a Pump>,
    ) -> Means<'a> {
        let which = if forward::is_pooled(self.ctx.route) { Which::Any } else { Which::Proved };
        let which = (self.ctx.sends == 0).then_some(which);
        Means { worker, client, body, lane: Lane::of(self.ctx.route), which }
    }

    /// An answer of ours to a request of which nothing was forwarded.
    async fn turn_away(&mut self, worker: &Worker, client: &mut Client, ours: Answer) -> After {
        let unread = !matches!(self.framing, Framing::None | Framing::Length(0));
        let refused = ours.ends_connection();
        // An old client would have to be told in words of its own that the connection goes on.
        let goes_on = self.keeps && !self.old && !unread && !refused && !worker.is_last(&client.from);
        let then = if goes_on { Then::KeepAlive } else { Then::Close };
        self.bytes.sent = respond(client, &mut self.ctx, ours, then).await;
        match then {
            Then::KeepAlive => After::Next,
            Then::Close if unread || refused => After::Linger,
            Then::Close => client.close(),
        }
    }

    /// An answer of ours after the request was, or should have been, forwarded. The connection ends with it. Its callers
    /// box it, so that a request that waits is small.
    async fn give_up(&mut self, client: &mut Client, ours: Answer, read: bool) -> After {
        self.bytes.sent = respond(client, &mut self.ctx, ours, Then::Close).await;
        match self.ctx.end {
            End::ClientGone => After::Close,
            _ if read => client.close(),
            _ => After::Linger,
        }
    }

    /// Steps 6 to 9, as often as they say. `head` is the head as every upstream gets it.
    async fn forward(&mut self, worker: &Worker, client: &mut Client, head: Vec<u8>) -> After {
        let route = self.ctx.route;
        let meter = self.ctx.service().and_then(|service| forward::meter(route, Way::Up, service.timeouts));
        // What is signed may have to be signed again, and a controller may not be ready yet.
        let again = |service: &Service| service.sign.is_some() || service.kind == Kind::Controller;
        let keep =
            route.repeatable || route.creates || self.ctx.service().is_some_and(|service| again(service));
        let mut body = Pump::request(head, self.framing, keep, self.ctx.body_cap());
        body.measure(meter);
        let after = loop {
            let (shared, mover) = (&worker.shared, self.means(worker, client, Some(&body)));
            match proxy::next_upstream(&mut self.ctx, &shared.live, &shared.metrics, &mover).await {
                Ok(()) => {}
                Err(NoNext::Answer(ours)) => {
                    break Box::pin(self.give_up(client, ours, body.is_read())).await;
                }
                Err(NoNext::ClientGone) => {
                    self.ctx.end = End::ClientGone;
                    break After::Close;
                }
            }
            match self.attempt(worker, client, &mut body).await {
                Next::Again => {}
                Next::Over(after) => break after,
            }
        };
        // Beside what another protocol has brought.
        self.bytes.received += body.payload;
        // A client that is turned away in the middle may send on, and what it sends is read without a mark.
        body.release(&client.wire.stream);
        after
    }

    /// One attempt, at the upstream that was chosen.
    async fn attempt(&mut self, worker: &Worker, client: &mut Client, body: &mut Pump) -> Next {
        match self.asked(worker, client, body).await {
            Ok(attempt) => self.answered(worker, client, attempt, body).await,
            Err(next) => next,
        }
    }

    /// Until the head of an answer is there, or what comes of it that there is none.
    async fn asked(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        body: &mut Pump,
    ) -> Result<Attempt, Next> {
        let mut fresh = self.ctx.sends > 0;
        loop {
            let (mut connection, limits) = match self.connection(worker, client, fresh).await {
                Ok(found) => found,
                Err(Lacking::Failed) => {
                    return Err(self.failed(worker, client, Event::ConnectFailed, body).await);
                }
                Err(Lacking::Anybody) => return Err(self.client_gone()),
                // Another thread was faster.
                Err(Lacking::NoRoom) => {
                    self.ctx.take_back();
                    return Err(Next::Again);
                }
            };
            let now = self.connected(&connection);
            if let Err(fault) = body.take_ahead(&mut client.wire) {
                return Err(self.refuse(client, fault.refusal()).await);
            }
            body.begin(|out| self.complete(out, now));
            let mut asking = Asking {
                worker,
                client: &mut *client,
                connection: &mut connection,
                body: &mut *body,
                ctx: &mut self.ctx,
                limits,
                progress: Progress::begin(now),
            };
            let asked = asking.final_head(self.old).await;
            let progress = asking.progress;
            let end = match asked {
                Asked::Head(end) => end,
                Asked::Nothing(_) if connection.reused && body.written == 0 && body.is_at_hand() => {
                    // It was closed while it was unused: this attempt has not begun yet.
                    fresh = true;
                    continue;
                }
                Asked::Nothing(what) => {
                    return Err(self.failed(worker, client, Event::NoAnswer(what), body).await);
                }
                Asked::Refused(refusal) => return Err(self.refuse(client, refusal).await),
                Asked::ClientGone => return Err(self.client_gone()),
            };
            return Ok(Attempt { connection, limits, progress, end });
        }
    }

    /// A connection to the chosen upstream: one from the pool, or a new one.
    pub(super) async fn connection(
        &mut self,
        worker: &Worker,
        client: &Client,
        fresh: bool,
    ) -> Result<(Connection, Limits), Lacking> {
        let current = self.ctx.current.as_ref().ok_or(Lacking::Failed)?;
        // A used connection is had at once.
        let (upstream, now) = (current.under_way.upstream().ok_or(Lacking::Failed)?, current.began);
        let limits = self.limits(now).map_err(|()| Lacking::Failed)?;
        let lane = Lane::of(self.ctx.route);
        if !fresh {
            let which = if limits.pooled { Which::Any } else { Which::Proved };
            if let Some(link) = worker.pool(lane).take(upstream.id, which, now) {
                return Ok((Connection::used(link, upstream.id), limits));
            }
        }
        let most = current.under_way.share().map(|share| share.open).unwrap_or_default();
        let taken = upstream.room.connection(lane, &most).zip(upstream.room.connecting(&most));
        let (open, pending) = taken.ok_or(Lacking::NoRoom)?;
        let (upstream, bounded) = (upstream.clone(), most.is_any(lane));
        // Boxed: what connects is large, and most attempts find a connection.
        let connected = Box::pin(async {
            let _pending = pending;
            let opening = opening::to(&upstream, client)?;
            let (times, deadline) = ((limits.connect, limits.tls), self.ctx.deadline);
            tokio::select! {
                connected = connect(&upstream, worker, times, deadline, opening.as_deref(), open) => connected.map(Some),
                // Its place is somebody else's then.
                () = client.wire.stream.gone(), if bounded => Ok(None),
            }
        });
        match connected.await {
            Ok(Some(connection)) => Ok((connection, limits)),
            Ok(None) => Err(Lacking::Anybody),
            Err(error) => {
                if is_ours(&error) {
                    self.ctx.current.iter_mut().for_each(|current| current.blameless = true);
                }
                if is_out_of_descriptors(&error) {
                    // The next attempt finds some free.
                    for lane in Lane::ALL {
                        worker.pool(lane).clear();
                    }
                }
                if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                    worker.tell_of_tls(&upstream.name, &error);
                }
                tracing::debug!(upstream.name = %upstream.name, error = %error, "no connection to an upstream");
                Err(Lacking::Failed)
            }
        }
    }

    /// Notes that there is a connection; when that was.
    pub(super) fn connected(&mut self, connection: &Connection) -> Instant {
        let began = self.ctx.current.as_ref().map(|current| current.began).filter(|_| connection.reused);
        let now = began.unwrap_or_else(clock::now);
        proxy::connected(&mut self.ctx, now, connection.reused);
        now
    }

    /// Limits of an attempt that begins now.
    pub(super) fn limits(&self, now: Instant) -> Result<Limits, ()> {
        let (ctx, service) = (&self.ctx, self.ctx.service().ok_or(())?);
        Ok(forward::limits(ctx.route, service.timeouts, ctx.left(now)))
    }

    /// Ends the head with what only this attempt has.
    pub(super) fn complete(&self, out: &mut Vec<u8>, now: Instant) {
        let ctx = &self.ctx;
        let current = ctx.current.as_ref();
        let hostless = current.filter(|_| ctx.hostless);
        let upstream = hostless.and_then(|current| current.under_way.upstream());
        let address = upstream.map(|upstream| upstream.address.to_string());
        let attempt = forward::Attempt {
            host: address.as_deref(),
            left: ctx.left(now),
            key: ctx.key.as_deref().filter(|_| ctx.key_made && current.is_some_and(|current| current.keyed)),
            sign: proxy::signing(ctx),
        };
        forward::attempt(&attempt, out);
    }

    /// Step 9.
    async fn failed(&mut self, worker: &Worker, client: &mut Client, event: Event, body: &Pump) -> Next {
        let verdict = proxy::failed(&mut self.ctx, event, body.is_at_hand(), &worker.shared.metrics);
        self.after(client, verdict, body.is_read()).await
    }

    async fn after(&mut self, client: &mut Client, verdict: Verdict, read: bool) -> Next {
        match verdict {
            Verdict::Again(_) => return Next::Again,
            Verdict::Abort => return Next::Over(After::Cut),
            Verdict::Answer { .. } | Verdict::Refuse | Verdict::PassOn => {}
        }
        let ours = self.ctx.ours.take();
        let ours = ours.unwrap_or_else(|| Answer::Internal("there is nothing to be passed on".into()));
        Next::Over(Box::pin(self.give_up(client, ours, read)).await)
    }

    /// The client's own fault: the upstream is not to blame, nor another to be asked.
    async fn refuse(&mut self, client: &mut Client, refusal: Refusal) -> Next {
        self.ctx.end_attempt(refusal.reason());
        Next::Over(Box::pin(self.give_up(client, Answer::Refused(refusal), false)).await)
    }

    /// Nobody is left to be answered, and nothing may be sent for nobody.
    fn client_gone(&mut self) -> Next {
        self.ctx.end = End::ClientGone;
        self.ctx.end_attempt("client-gone");
        // Half an answer must not look whole to one that has only stopped reading for a while, or shut its side.
        Next::Over(if self.ctx.passed.is_some() { After::Cut } else { After::Close })
    }

    /// It takes its answer, or sends its body, too slowly: it is cut off, so that half an answer does not look whole.
    fn client_slow(&mut self, worker: &Worker) -> Next {
        self.ctx.end = End::ClientSlow;
        self.ctx.end_attempt(End::ClientSlow.as_str());
        worker.shared.metrics.refused(self.ctx.listener_name(), End::ClientSlow.as_str());
        Next::Over(After::Cut)
    }

    /// The head of an answer is there: passes the answer on, or decides again.
    async fn answered(
        &mut self,
        worker: &Worker,
        client: &mut Client,
        attempt: Attempt,
        body: &mut Pump,
    ) -> Next {
        let Attempt { mut connection, limits, progress, end } = attempt;
        let last = worker.is_last(&client.from);
        let taken = self.take_head(worker, &mut connection, end, progress, body, last);
        let (answered, mut answer) = match taken {
            Taken::Garbled => return self.failed(worker, client, Event::NoAnswer(What::Garbled), body).await,
            Taken::Unfit(verdict, reuse) => {
                self.put_back(worker, connection, reuse, progress.touched);
                return self.after(client, verdict, body.is_read()).await;
            }
            Taken::Pass(answered, answer) => (answered, answer),
        };
        let mut asking = Asking {
            worker,
            client: &mut *client,
            connection: &mut connection,
            body: &mut *body,
            ctx: &mut self.ctx,
            limits,
            progress,
        };
        let by_close = answered.to == Framing::UntilClose;
        if by_close {
            // Whatever ends it early, a stop too, must not look like its end.
            asking.client.wire.stream.cut();
        }
        // Who refuses a request does not want the rest of it.
        let passed = pass(&mut asking, &mut answer, answered.status < 400).await;
        let Progress { whole, touched, .. } = asking.progress;
        match passed {
            Passed::Whole => proxy::moved(&self.ctx, answer.payload.max(body.payload)),
            Passed::ClientGone => {
                self.bytes.sent = answer.payload;
                return self.client_gone();
            }
            Passed::ClientSlow => {
                self.bytes.sent = answer.payload;
                return self.client_slow(worker);
            }
            Passed::BrokeOff(what) => {
                let resumed =
                    Box::pin(self.resume(worker, client, &answered, &mut answer, body.head(), what)).await;
                self.bytes.sent = answer.payload;
                match resumed {
                    Resumed::Whole => return Next::Over(self.close(client, &answered, whole)),
                    Resumed::ClientGone => return self.client_gone(),
                    Resumed::ClientSlow => return self.client_slow(worker),
                    Resumed::Not => return Next::Over(After::Cut),
                }
            }
        }
        self.bytes.sent = answer.payload;
        if by_close && client.wire.stream.finish(&answer.passed_trailers()).is_err() {
            return self.client_gone();
        }
        if answered.from == Framing::Upgraded {
            let Some(service) = self.ctx.service() else { return Next::Over(After::Cut) };
            let silent = forward::silent(service.timeouts);
            transfers::begin(&mut self.ctx, &worker.transfers, Direction::Both, |_| None);
            let transfer = self.ctx.transfer.as_ref().map(Listed::transfer);
            let carried = Box::pin(tunnel(worker, client, &mut connection, silent, transfer)).await;
            (self.bytes.received, self.bytes.sent) = (carried.up, carried.down);
            return Next::Over(After::Close);
        }
        if whole {
            self.put_back(worker, connection, answered.reuse, touched);
        }
        Next::Over(self.close(client, &answered, whole))
    }

    fn close(&self, client: &Client, answered: &Answered, whole: bool) -> After {
        match answered.then {
            Then::KeepAlive => After::Next,
            Then::Close if whole => client.close(),
            Then::Close => After::Linger,
        }
    }

    /// Keeps the connection for the next request, if nothing of this one is left on it.
    fn put_back(&self, worker: &Worker, connection: Connection, reuse: Reuse, now: Instant) {
        let Connection { wire, upstream, once, open, .. } = connection;
        let (Some(service), Reuse::Yes(told)) = (self.ctx.service(), reuse) else { return };
        // What came unasked is the answer to nothing. And of those that wait for a connection the first may be another
        // thread's.
        let wanted = open.as_ref().is_some_and(Occupied::is_wanted);
        let place = self.ctx.attempts.last().and_then(|note| service.upstreams.get(note.place));
        let drained = place.is_some_and(|place| place.ordered.is_drained());
        if wire.ahead.is_empty() && !once && !wanted && !drained {
            let lane = Lane::of(self.ctx.route);
            worker.pool(lane).put(upstream, (wire.stream, open), service.timeouts.keep_alive, told, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Ready, pin::Pin};

    use super::*;
    use crate::proxy::engine::connection::{Opened, serve};

    fn size_of_future<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// The allocator has classes, and what is a byte over one takes the next: thousands of parked polls would each take
    /// half a KiB more.
    #[test]
    fn what_waits_is_small() {
        let serve = size_of_future(|worker: &'static Worker, opening: Pin<Box<Ready<Opened>>>, ()| {
            serve(worker, opening)
        });
        assert!(serve <= 512, "a connection: {serve}");
        let run = size_of_future(|worker: &'static Worker, client: &'static mut Client, begun| {
            run(worker, client, begun)
        });
        assert!(size_of::<From>() <= 240, "where it comes from: {}", size_of::<From>());
        assert!(run <= 2048, "an exchange: {run}");
        // A size that the allocator has; what is beyond would take a quarter more.
        assert!(size_of::<Ctx>() <= 1024, "what a request carries: {}", size_of::<Ctx>());
    }
}
