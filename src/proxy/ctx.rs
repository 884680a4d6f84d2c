//! What one request carries from step to step.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::Method;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    answer::{Answer, Before},
    catalogue::About,
    choose::{Briefs, Carried, Stale, Tried, Want, Why},
    classify::{Needs, Route},
    follow::{Look, Said},
    freshness::Subject,
    identify::{Client, Secured},
    limit::Takes,
    retry::{Traffic, What},
    snapshot::{Held, Service, UnderWay, Upstream},
    trace::Trace,
    transfers::Listed,
    vendor::Concerns,
    weigh::Asked,
};
use crate::{
    clock,
    config::proxy::{Kind, Rule},
    model::{RepositoryName, RequestId},
};

/// The connection that a request came on, and when.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The configuration it is served under.
    pub snapshot: Held,
    /// Place of the listener.
    pub listener: usize,
    /// The other end, or whom the PROXY header names.
    pub peer: SocketAddr,
    /// There was a PROXY header and it named nobody: so nobody is believed.
    pub unnamed: bool,
    /// What its TLS says of the client.
    pub secured: Option<Arc<Secured>>,
    /// Its head was complete.
    pub started: Instant,
    /// Evenly spread: what its id is made of, if it has none.
    pub chance: u128,
    /// What it is to the limits.
    pub takes: Takes,
}

/// In which a request is asked and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// The word of the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client has its whole answer.
    Done,
    /// The client closed before that.
    ClientGone,
    /// The client took its answer, or sent its body, too slowly, and its connection was cut.
    ClientSlow,
    /// The answer broke off and the client's connection was cut.
    Aborted,
}

impl End {
    /// The word of the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientGone => "client-gone",
            Self::ClientSlow => "client-too-slow",
            Self::Aborted => "aborted",
        }
    }
}

/// One attempt, for the record.
#[derive(Debug, Clone)]
pub struct Note {
    /// Where: its place in the service.
    pub place: usize,
    /// Why there.
    pub why: Why,
    /// How it ended: `answered`, or the label of what went wrong.
    pub end: &'static str,
    /// What was sent and what came.
    pub traffic: Traffic,
    /// What each upstream of the service was to the choice, by place.
    pub stood: Briefs,
}

/// The attempt under way.
#[derive(Debug)]
pub struct Current {
    /// Counts for the upstream's load.
    pub under_way: UnderWay,
    /// Its place in the service.
    pub place: usize,
    /// Connecting began.
    pub began: Instant,
    /// What was sent and what came so far.
    pub traffic: Traffic,
    /// All of the request went out so many microseconds after that; 0: not yet. Short, for thousands of polls wait.
    pub whole: u32,
    /// Sent under a key that the upstream honours.
    pub keyed: bool,
    /// What its answer must have, to be passed on.
    pub asked: Asked,
    /// It fails for want of something of ours, which is not the upstream's fault.
    pub blameless: bool,
    /// The upstream has answered as one that is well.
    pub well: bool,
}

/// One request.
#[derive(Debug)]
pub struct Ctx {
    /// The configuration, the same from start to end.
    pub snapshot: Held,
    /// Place of the listener.
    pub listener: usize,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// In which it was asked.
    pub protocol: Protocol,
    /// Who is calling.
    pub client: Client,
    /// What the connection's TLS says of that.
    pub secured: Option<Arc<Secured>>,
    /// Method.
    pub method: Method,
    /// Path in its one form, without query.
    pub path: Box<str>,
    /// The client gave no `Host`.
    pub hostless: bool,
    /// Its id.
    pub request: RequestId,
    /// The trace that it is a part of; boxed, for most have none.
    pub trace: Option<Box<Trace>>,
    /// Its head was complete.
    pub started: Instant,
    /// What it is.
    pub route: Route,
    /// The repository that its path names.
    pub repository: Option<RepositoryName>,
    /// The registry that its upload session is at.
    pub session: Option<Box<str>>,
    /// It is an agent's, and the service serves agents from one version at a time.
    pub of_agent: bool,
    /// What it is about at registries of the vendor's; boxed, for most requests are to others.
    pub concerns: Option<Box<Concerns>>,
    /// Whether the client asks for another protocol.
    pub upgrade: bool,
    /// Whether the client waits for an interim answer before it sends the body.
    pub expects: bool,
    /// Place of the service, once routed.
    pub service: Option<usize>,
    /// The one deadline.
    pub deadline: Option<Instant>,
    /// The `Idempotency-Key` it goes out under, if it creates.
    pub key: Option<String>,
    /// The client gave none, so it is one of ours.
    pub key_made: bool,
    /// A repeat needs an upstream that can do this.
    pub ability: Option<&'static str>,
    /// What ties it to one upstream.
    pub affinity: Carried,
    /// What the attempts have taught.
    pub tried: Tried,
    /// The hold is over.
    pub hold_over: bool,
    /// Upstreams whose probes fail were tried without waiting, as nothing had passed for long.
    pub despaired: bool,
    /// It waited for a lagging replica, and what came of that was not counted yet.
    pub fresh_waited: bool,
    /// It may not wait for one any more: its time is short.
    pub impatient: bool,
    /// What the last answer said about positions.
    pub said: Said,
    /// The mark on the answer that was passed on.
    pub stale: Option<Stale>,
    /// How long it was held.
    pub held: Duration,
    /// Sends so far.
    pub sends: u32,
    /// The `retry_status` answer that was dropped for another attempt.
    pub before: Option<Before>,
    /// What the last send ran into.
    pub what: Option<What>,
    /// The attempt under way.
    pub current: Option<Current>,
    /// Attempts so far; nearly every request has one.
    pub attempts: SmallVec<[Note; 1]>,
    /// How long the last connect took.
    pub connect: Option<Duration>,
    /// The head of the answer went out.
    pub first_byte: Option<Instant>,
    /// Status of the upstream's answer that is passed on.
    pub passed: Option<u16>,
    /// The answer of ours, if we gave one.
    pub ours: Option<Answer>,
    /// How it ended.
    pub end: End,
    /// It is a transfer in flight.
    pub transfer: Option<Listed>,
}

impl Ctx {
    /// The service, once routed.
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.snapshot.services.get(self.service?)
    }

    /// The upstream of this place in its service.
    pub fn upstream(&self, place: usize) -> Option<&Arc<Upstream>> {
        self.service()?.upstreams.get(place)
    }

    /// The name of the upstream of this place in its service.
    pub fn upstream_name(&self, place: usize) -> &str {
        self.upstream(place).map_or("", |upstream| upstream.name.as_str())
    }

    /// The status that the client was given.
    pub fn status(&self) -> Option<u16> {
        self.ours.as_ref().map(Answer::status).or(self.passed)
    }

    /// The listener's name.
    pub fn listener_name(&self) -> &str {
        self.snapshot.listeners.get(self.listener).map_or("", |listener| &listener.name)
    }

    /// What kind of client it is: of its service, else of the listener's last rule.
    pub fn kind(&self) -> Kind {
        let fallback = || {
            let rules = &self.snapshot.listeners.get(self.listener)?.rules;
            self.snapshot.services.get(rules.iter().rev().find_map(Rule::service)?)
        };
        self.service().or_else(fallback).map_or(Kind::Controller, |service| service.kind)
    }

    /// What it is about, as far as freshness goes.
    pub fn subject(&self) -> Subject<'_> {
        match (self.route.needs, &self.repository) {
            (Needs::All, _) | (_, None) => Subject::All,
            (_, Some(repository)) => Subject::Repository(repository),
        }
    }

    /// What is known of the registries with regard to it.
    pub fn look(&self, service: &Service) -> Look {
        if let Some(survey) = &service.survey {
            return survey.look(self.concerns.as_deref().map_or(About::All, Concerns::about));
        }
        service.follow.as_ref().map(|follow| follow.look(self.subject())).unwrap_or_default()
    }

    /// What the next upstream must be able to do.
    pub fn want(&self, service: &Service, look: &Look) -> Want {
        Want {
            route: self.route,
            writer: service.writer,
            logs: service.logs,
            only: self.session.as_deref().and_then(|name| service.named(name)),
            rather: service.pins.place(self, service, clock::now),
            deposed: look.deposed,
            write_only: service.reads.write_only,
            fresh: service.fresh(look),
            patient: !self.impatient,
            panic_threshold: service.panic_threshold,
            ability: self.ability,
            affinity: self.affinity.into(),
            zoned: service.zoned,
        }
    }

    /// The most that its body may have.
    pub fn body_cap(&self) -> u64 {
        self.snapshot.limits.body.of(self.route.class).unwrap_or(u64::MAX)
    }

    /// Time left of the deadline.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// There was no attempt after all: nobody was asked for anything.
    pub fn take_back(&mut self) {
        self.current = None;
        self.attempts.pop();
    }

    /// Notes how the attempt under way ended; it counts as load no more.
    pub fn end_attempt(&mut self, end: &'static str) {
        let traffic = self.current.take().map(|current| current.traffic);
        if let Some(note) = self.attempts.last_mut() {
            note.end = end;
            note.traffic = traffic.unwrap_or(note.traffic);
        }
    }

    /// Keeps the account of the attempt under way.
    pub fn account(&mut self, traffic: Traffic) {
        if let Some(current) = &mut self.current {
            current.traffic = traffic;
        }
        if let Some(note) = self.attempts.last_mut() {
            note.traffic = traffic;
        }
    }
}
