//! Pingora's hooks, each one call into the steps.

use std::{any::Any, sync::Arc};

use ::http::{HeaderMap, Uri, Version};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{Error, ErrorSource, ErrorType, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{client::Client, upstream::Connect};
use crate::{
    clock,
    proxy::{
        self, Head, NoNext,
        answer::{self, Answer},
        ctx::{Arrival, Ctx, End},
        forward::{self, Edits},
        guard::Refusal,
        record::{self, AccessLog, ProxyMetrics},
        retry::{Event, Verdict, What},
    },
    supervise::Stop,
    wire::headers,
};

type Result<T> = std::result::Result<T, Box<Error>>;

/// What the connection's task hands over with each request.
pub(super) struct Handed {
    pub(super) client: Arc<Client>,
    pub(super) arrival: Arrival,
}

/// One exchange: a request, and the connection it came on.
pub(super) struct Exchange {
    client: Arc<Client>,
    ctx: Ctx,
    admitted: std::result::Result<(), Answer>,
    /// The last byte of the request's body was read.
    body_read: bool,
}

impl Exchange {
    /// The request was sent whole: from now on it is the upstream that takes its time.
    fn time_answer(&self) {
        if self.ctx.passed.is_some() {
            // It has answered already.
            return;
        }
        let now = clock::now();
        let until = match forward::after_body(self.ctx.route) {
            Some(wait) => Some(now + wait),
            None => proxy::answer_until(&self.ctx, now),
        };
        self.client.set_deadline(until);
    }
}

/// The hooks.
pub(super) struct Stock {
    pub(super) metrics: ProxyMetrics,
    pub(super) log: AccessLog,
    pub(super) connect: Connect,
    pub(super) stop: Stop,
}

fn internal(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, why)
}

/// Every request is handed over before its first hook runs.
fn of(slot: &mut Option<Box<Exchange>>) -> Result<&mut Exchange> {
    slot.as_deref_mut().ok_or_else(|| internal("a request came without its connection"))
}

fn edit_request(head: &mut RequestHeader, edits: Edits) -> Result<()> {
    for name in &edits.remove {
        head.remove_header(name);
    }
    for (name, value) in edits.set {
        head.insert_header(name, value)?;
    }
    Ok(())
}

/// What a failed attempt looks like from the steps' side.
fn event(exchange: &Exchange, error: &Error, begun: bool) -> Event {
    if begun {
        return Event::BrokeOff;
    }
    let timed_out = matches!(
        error.etype(),
        ErrorType::ReadTimedout | ErrorType::WriteTimedout | ErrorType::ConnectTimedout
    );
    Event::NoAnswer(match error.etype() {
        _ if exchange.client.expired() || timed_out => What::TimedOut,
        ErrorType::InvalidHTTPHeader => What::Garbled,
        _ => What::Closed,
    })
}

/// What the client did wrong while its body was read; `None` when it is simply gone.
fn fault(error: &Error) -> Option<Refusal> {
    match error.etype() {
        ErrorType::ReadTimedout => Some(Refusal::BodyTooSlow),
        ErrorType::ConnectionClosed
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::WriteTimedout
        | ErrorType::ConnectError => None,
        _ => Some(Refusal::BadBody),
    }
}

impl Stock {
    /// Writes an answer of ours. The connection is closed after it unless the whole request was read.
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange, ours: Answer) {
        let ctx = &mut exchange.ctx;
        let rendered = answer::render(&ours, ctx.kind(), &ctx.path, &ctx.request);
        let closes = matches!(ours, Answer::Refused(_)) || !session.as_downstream_mut().is_body_done();
        ctx.ours = Some(ours);
        let head = || -> Result<ResponseHeader> {
            let mut head = ResponseHeader::build(rendered.status, Some(rendered.headers.len() + 1))?;
            for (name, value) in rendered.headers {
                head.insert_header(name, value)?;
            }
            head.insert_header("content-length", rendered.body.len().to_string())?;
            Ok(head)
        };
        if closes || self.stop.is_requested() {
            session.set_keepalive(None);
        }
        ctx.first_byte = Some(clock::now());
        let written = match head() {
            Ok(head) => session.as_downstream_mut().write_error_response(head, rendered.body).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            ctx.end = End::ClientGone;
        }
    }

    /// Decides what becomes of a failed attempt, and tells Pingora whether to call for another.
    fn decide(
        &self,
        exchange: &mut Exchange,
        event: Event,
        body_at_hand: bool,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let verdict = proxy::failed(&mut exchange.ctx, event, body_at_hand, &self.metrics);
        error.set_retry(matches!(verdict, Verdict::Again(_)));
        error
    }
}

#[async_trait]
impl ProxyHttp for Stock {
    type CTX = Option<Box<Exchange>>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    fn on_connection_reuse(
        &self,
        session: &mut Session,
        slot: &mut Self::CTX,
        handed: Box<dyn Any + Send + Sync>,
    ) {
        let Ok(handed) = handed.downcast::<Handed>() else { return };
        let Handed { client, arrival } = *handed;
        let head = session.req_header();
        let head = Head { method: &head.method, path: head.uri.path(), headers: &head.headers };
        let (ctx, admitted) = proxy::admit(arrival, head);
        *slot = Some(Box::new(Exchange { client, ctx, admitted, body_read: false }));
    }

    async fn request_filter(&self, session: &mut Session, slot: &mut Self::CTX) -> Result<bool> {
        let exchange = of(slot)?;
        if session.req_header().version == Version::HTTP_10 {
            // It knows no interim answers.
            session.set_ignore_info_resp(true);
        }
        if let Err(ours) = std::mem::replace(&mut exchange.admitted, Ok(())) {
            self.answer(session, exchange, ours).await;
            return Ok(true);
        }
        let ctx = &exchange.ctx;
        if let Some(service) = ctx.service() {
            let idle = forward::limits(ctx.route, service.timeouts, ctx.upgrade, None).write;
            session.set_read_timeout(Some(idle));
            session.set_write_timeout(Some(idle));
        }
        exchange.client.set_deadline(ctx.deadline);
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, slot: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let exchange = of(slot)?;
        let client = exchange.client.clone();
        loop {
            match proxy::next_upstream(&mut exchange.ctx, &self.metrics, || client.gone()).await {
                Ok(()) => {}
                Err(NoNext::Answer(ours)) => {
                    exchange.ctx.ours = Some(ours);
                    return Err(internal("no upstream"));
                }
                Err(NoNext::ClientGone) => {
                    exchange.ctx.end = End::ClientGone;
                    return Err(Error::new_down(ErrorType::ConnectionClosed));
                }
            }
            let ctx = &mut exchange.ctx;
            let (Some(service), Some(current)) = (ctx.service(), &ctx.current) else {
                return Err(internal("no upstream was chosen"));
            };
            let limits = forward::limits(ctx.route, service.timeouts, ctx.upgrade, ctx.left(clock::now()));
            let upstream = current.under_way.upstream().clone();
            match self.connect.peer(&upstream.address, &limits, service.timeouts.keep_alive).await {
                Ok(peer) => return Ok(Box::new(peer)),
                Err(error) => {
                    tracing::debug!(upstream.name = %upstream.name, error = %error, "upstream's name could not be resolved");
                    proxy::failed(ctx, Event::ConnectFailed, true, &self.metrics);
                }
            }
        }
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        slot: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        let body_at_hand = !session.as_ref().retry_buffer_truncated();
        match of(slot) {
            Ok(exchange) => self.decide(exchange, Event::ConnectFailed, body_at_hand, error),
            Err(_) => error,
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        slot: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = of(slot)?;
        proxy::connected(&mut exchange.ctx, clock::now());
        if exchange.body_read {
            exchange.time_answer();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        head: &mut RequestHeader,
        slot: &mut Self::CTX,
    ) -> Result<()> {
        let ctx = &of(slot)?.ctx;
        let Some(current) = &ctx.current else { return Err(internal("no upstream was chosen")) };
        let address = current.under_way.upstream().address.to_string();
        let about = forward::About {
            client: ctx.client,
            peer: ctx.peer.ip(),
            host: if ctx.host.is_empty() { &address } else { &ctx.host },
            request: &ctx.request,
            left: ctx.left(clock::now()),
            key: ctx.key.as_deref().filter(|_| current.keyed),
            upgrade: ctx.upgrade,
        };
        let edits = forward::request(&head.headers, &about);
        edit_request(head, edits)?;
        let target = match head.uri.query() {
            Some(query) => format!("{}?{query}", ctx.path),
            None => ctx.path.clone(),
        };
        let uri = Uri::try_from(target).map_err(|_| internal("the target cannot be written"))?;
        head.set_uri(uri);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end: bool,
        slot: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = of(slot)?;
        if end && !exchange.body_read {
            exchange.body_read = true;
            exchange.client.set_whole(true);
            exchange.time_answer();
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        slot: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = of(slot)?;
        let status = head.status.as_u16();
        let ctx = &mut exchange.ctx;
        if head.status.is_informational() && status != 101 {
            return Ok(());
        }
        let unfit = proxy::received(ctx, status, &head.headers);
        let unfit = unfit.or_else(|| proxy::is_retry_status(ctx, status).then_some(Event::BadStatus(status)));
        if let Some(event) = unfit {
            let body_at_hand = !session.as_ref().retry_buffer_truncated();
            let verdict = proxy::failed(ctx, event, body_at_hand, &self.metrics);
            if verdict != Verdict::PassOn {
                let mut error = Error::new_up(ErrorType::HTTPStatus(status));
                error.set_retry(matches!(verdict, Verdict::Again(_)));
                return Err(error);
            }
        }
        if let (Some(service), Some(note)) = (ctx.service().cloned(), ctx.attempts.last_mut()) {
            note.end = "answered";
            self.metrics.upstream_answered(service.name.as_str(), note.upstream.as_str(), status);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        slot: &mut Self::CTX,
    ) -> Result<()> {
        let exchange = of(slot)?;
        let status = head.status.as_u16();
        if head.status.is_informational() && status != 101 {
            return Ok(());
        }
        let ctx = &mut exchange.ctx;
        proxy::passed_on(ctx, status, &self.metrics);
        if let Some(stale) = ctx.stale {
            head.insert_header(headers::STALE, stale.as_str())?;
        }
        ctx.passed = Some(status);
        ctx.first_byte = Some(clock::now());
        if status == 101 {
            exchange.client.set_whole(false);
        }
        if forward::after_body(ctx.route).is_none() {
            exchange.client.set_deadline(None);
        }
        if self.stop.is_requested() {
            session.set_keepalive(None);
        }
        let old = session.req_header().version == Version::HTTP_10;
        let given: &HeaderMap = &head.headers;
        let edits = forward::answer(given, status == 101, old, &ctx.request);
        for name in &edits.remove {
            head.remove_header(name);
        }
        for (name, value) in edits.set {
            head.insert_header(name, value)?;
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        slot: &mut Self::CTX,
        _reused: bool,
    ) -> Box<Error> {
        let Ok(exchange) = of(slot) else { return error };
        if exchange.ctx.current.is_none() {
            // Decided already, by the status of the answer.
            return error;
        }
        let begun = exchange.ctx.passed.is_some();
        if exchange.client.expired() && !exchange.body_read && !begun {
            // Time ran out over the client's own body: the upstream is not to blame, nor another to be asked.
            error.set_retry(false);
            exchange.ctx.ours = Some(Answer::Refused(Refusal::BodyTooSlow));
            exchange.ctx.end_attempt(Refusal::BodyTooSlow.reason());
            return error;
        }
        if *error.esource() == ErrorSource::Downstream && !exchange.client.expired() {
            error.set_retry(false);
            match fault(&error) {
                Some(refusal) => {
                    exchange.ctx.ours = Some(Answer::Refused(refusal));
                    exchange.ctx.end_attempt(refusal.reason());
                }
                // Nobody is left to be answered, and nothing may be sent for nobody.
                None => {
                    exchange.ctx.end = End::ClientGone;
                    exchange.ctx.end_attempt("client-gone");
                }
            }
            return error;
        }
        let body_at_hand = !session.as_ref().retry_buffer_truncated();
        let event = event(exchange, &error, begun);
        self.decide(exchange, event, body_at_hand, error)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, slot: &mut Self::CTX) -> FailToProxy {
        let Ok(exchange) = of(slot) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        exchange.client.set_deadline(None);
        let begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        if begun {
            if exchange.ctx.end == End::Done {
                exchange.ctx.end = End::Aborted;
            }
            exchange.client.cut();
        } else if exchange.ctx.end != End::ClientGone {
            let ours = exchange.ctx.ours.take();
            let ours = ours.unwrap_or_else(|| Answer::Internal(error.etype().as_str().to_owned()));
            // Pingora closes the connection after a failed request; the client is told.
            session.set_keepalive(None);
            self.answer(session, exchange, ours).await;
        }
        FailToProxy { error_code: exchange.ctx.status().unwrap_or(0), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, slot: &mut Self::CTX) {
        let Ok(exchange) = of(slot) else { return };
        exchange.client.set_deadline(None);
        exchange.ctx.current = None;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let bytes = record::Bytes {
            received: count(session.body_bytes_read()),
            sent: count(session.body_bytes_sent()),
        };
        record::done(&exchange.ctx, bytes, &self.metrics, &self.log);
    }

    fn suppress_error_log(&self, _session: &Session, _slot: &Self::CTX, _error: &Error) -> bool {
        // The access line says it, with the attempts.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _slot: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
