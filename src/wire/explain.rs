//! `POST /admin/v1/explain`: where a request would go if it came now, and why.

use serde::{Deserialize, Serialize};

use crate::model::Position;

/// The request to be explained. Nothing of it is sent anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Explain))]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Its method.
    pub method: String,
    /// Its target: a path with or without a query, or a whole URL, whose host then counts for rules.
    pub path: String,
    /// As if it came to this listener; none: to each that would route it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Its fields, each as `Name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// As if it came from this address; none: from loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Its way at each listener that was asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Explained {
    /// In config order.
    pub ways: Vec<Way>,
    /// Listeners that have nothing under this path, and are left out for that.
    #[serde(default)]
    pub without_route: Vec<String>,
}

/// Its way at one listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Way {
    /// The listener.
    pub listener: String,
    /// Who is taken for the client.
    pub client: String,
    /// The connection comes from a proxy that is believed.
    pub trusted: bool,
    /// The path as it is decided on and forwarded; none if it was refused for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Rules of the listener, up to the one that matches.
    pub rules: Vec<Rule>,
    /// The answer of ours that it would get at once, if it goes no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What it is, once it was routed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// Which upstream takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// What bounds it, and what comes of failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub course: Option<Course>,
}

/// One rule of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ExplainedRule))]
pub struct Rule {
    /// As in the config.
    pub rule: String,
    /// The service that it leads to; empty if it refuses.
    pub service: String,
    /// It is the one.
    pub matches: bool,
    /// Why it is, or is not.
    pub why: String,
}

/// An answer of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ExplainedAnswer))]
pub struct Refused {
    /// Its status.
    pub status: u16,
    /// The word of logs and metrics.
    pub code: String,
    /// What the client is told.
    pub error: String,
    /// And what it can do.
    pub next: String,
}

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ExplainedRequest))]
pub struct Request {
    /// Its service.
    pub service: String,
    /// What the servers of that are: `controller` or `registry`.
    pub kind: String,
    /// Its class.
    pub class: String,
    /// `read` or `write`.
    pub access: String,
    /// How long its answer may take to begin: `prompt`, `parked`, `bulk` or `commit`.
    pub pace: String,
    /// `control` or `bulk`.
    pub lane: String,
    /// May be sent again although it may have run.
    pub repeatable: bool,
    /// Makes something new: harmless to repeat under one `Idempotency-Key`.
    pub creates: bool,
    /// Belongs to the writer.
    pub to_writer: bool,
    /// What a registry must have to answer it.
    pub needs: String,
    /// The repository that its path names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The registry that its upload session is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The most that its body may have, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
}

/// Which upstream takes it, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Choice {
    /// How the next upstream is picked.
    pub balance: String,
    /// What ties the request to one upstream; empty if nothing does.
    pub tie: String,
    /// It is an agent's, and agents are served from one version: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<String>,
    /// How freshness bears on it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// In config order, then those that were found.
    pub upstreams: Vec<Candidate>,
    /// The one that would take it now; none if nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// The one after that, if that one gave no answer and the request may be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Pick>,
    /// What becomes of it while nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nobody: Option<Nobody>,
}

/// What reads need, and what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Freshness {
    /// `position` or `catalogue`.
    pub by: String,
    /// Whether the request depends on it.
    pub matters: bool,
    /// What is needed is known for sure: there is a lease on the writer's log, or the writer's list is known.
    pub known: bool,
    /// The position that is needed, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<Position>,
    /// The registry that the config calls the writer is none any more.
    pub deposed: bool,
    /// `writer-lost`, `never` or `allow`.
    pub stale_reads: String,
    /// The writer is asked for no reads.
    pub write_only: bool,
}

/// One upstream, as the choice finds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// It could take the request.
    pub eligible: bool,
    /// What it is to the request, or why it cannot.
    pub why: String,
    /// Of many such requests that came now, the part that it would be given.
    pub share: f64,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// What its probes saw.
    pub evidence: String,
    /// Requests under way there.
    pub outstanding: u64,
    /// And how many it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// `in`, `ejected` or `trial`: its ejection is over, and one request may show whether it is well.
    pub traffic: String,
    /// What it has of its weight now.
    pub weight: f64,
    /// It is in the proxy's own zone.
    pub local: bool,
    /// It is the writer.
    pub writer: bool,
    /// The position that it has, if reads go by that and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// A pick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Pick {
    /// The upstream.
    pub upstream: String,
    /// Why that one: the words of the access log.
    pub why: String,
    /// Chance plays no part: the next such request goes there, unless others come before it.
    pub certain: bool,
    /// What its answer would be marked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// What becomes of a request that nobody can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Nobody {
    /// Each upstream, with why not.
    pub why: String,
    /// It waits for a lagging replica for so long at most, and is then given to somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catches_up_ms: Option<u64>,
    /// It is held for so long at most, until somebody can.
    pub held_ms: u64,
    /// And then, if nothing has changed, it gets this answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Refused>,
    /// Or is sent there all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resort: Option<Pick>,
}

/// What bounds a request, and what comes of failures. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Course {
    /// From its head to the first byte of its answer, whatever happens in between; none: it takes its time on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// After so long another upstream is tried, if one could take it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_ms: Option<u64>,
    /// How long it may be held while nobody can take it.
    pub hold_ms: u64,
    /// For a connection to the upstream.
    pub connect_ms: u64,
    /// For the handshake of TLS behind that, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<u64>,
    /// From the last byte of the request to the head of the answer; none: until the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Between two pieces from the upstream; none: unbounded while it makes something durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_ms: Option<u64>,
    /// For each piece to the upstream, and of the request's body.
    pub write_ms: u64,
    /// Bytes a second that a transfer must move at least, if there is a floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    /// Sends of it at most.
    pub attempts: u32,
    /// Statuses for which another upstream is tried, if it may be sent again.
    pub retry_status: Vec<u16>,
    /// What the service bears of retries now.
    pub budget: Budget,
    /// What comes of each thing that may go wrong.
    pub failures: Vec<Failure>,
}

/// Retries of a service in the last ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Budget {
    /// Requests that are over and began in them.
    pub requests: u64,
    /// Retries.
    pub retries: u64,
    /// One more would be borne.
    pub allows: bool,
}

/// What may go wrong, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Failure {
    /// What.
    pub when: String,
    /// What comes of it.
    pub then: String,
}
