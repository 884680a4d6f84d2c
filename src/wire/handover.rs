//! What a running proxy, its successor and `switchyard upgrade` say to each other over the socket in `run_dir`.
//!
//! Every message is a length and JSON. All begin with [`Ask`], whose fields never change their meaning; what follows is of
//! version [`PROTOCOL`] on both sides, or is not said.

use serde::{Deserialize, Serialize};

use super::{config::InUse, orders::Order};
use crate::model::Timestamp;

/// Changes when a message changes its meaning. New fields that may be missing do not count.
pub const PROTOCOL: u32 = 1;

/// What somebody wants of the running proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// [`PROTOCOL`] of who asks.
    pub protocol: u32,
    /// Version of who asks.
    pub version: String,
    /// One of [`UPGRADE`], [`TAKE_OVER`], [`FAILED`].
    pub ask: String,
    /// With [`FAILED`]: why.
    #[serde(default)]
    pub why: String,
}

/// Start the binary now on disk; answered with [`Outcome`].
pub const UPGRADE: &str = "upgrade";
/// The successor wants the sockets; answered with [`Inventory`].
pub const TAKE_OVER: &str = "take-over";
/// The successor gives up; not answered.
pub const FAILED: &str = "failed";

/// What came of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`PROTOCOL`] of who answers.
    pub protocol: u32,
    /// The successor serves.
    pub done: bool,
    /// It may work later: as many old processes as may be are still busy, or another upgrade is under way.
    #[serde(default)]
    pub busy: bool,
    /// Process that serves now.
    pub pid: u32,
    /// How many upgrades led to it.
    pub generation: u64,
    /// Connections that the replaced process still has.
    #[serde(default)]
    pub connections: u64,
    /// Why not.
    #[serde(default)]
    pub why: String,
}

/// `POST /admin/v1/upgrade`: a successor serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Upgraded {
    /// Its process.
    pub pid: u32,
    /// How many upgrades led to it.
    pub generation: u64,
    /// Connections that the replaced process still has.
    pub connections: u64,
}

/// Everything that a successor gets. The descriptors follow, in the order of `sockets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// [`PROTOCOL`] of who gives.
    pub protocol: u32,
    /// Version of who gives.
    pub version: String,
    /// Why nothing is given. Empty when it is.
    #[serde(default)]
    pub refused: String,
    /// How many upgrades led to the one who gives.
    pub generation: u64,
    /// What each descriptor is.
    pub sockets: Vec<Socket>,
    /// What is held to be true of the upstreams.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
    /// From where agents are served.
    #[serde(default)]
    pub cohorts: Vec<Cohort>,
    /// Upstreams that are ejected, or were lately.
    #[serde(default)]
    pub ejections: Vec<Ejection>,
    /// Upstreams that were found beside those of the config.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Keys of session tickets, by listener.
    #[serde(default)]
    pub tickets: Vec<Tickets>,
    /// Where clients belong.
    #[serde(default)]
    pub pins: Vec<Pin>,
    /// What operators have said beside the config.
    #[serde(default)]
    pub orders: Vec<Order>,
}

/// One client that belongs to one upstream of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The service.
    pub service: String,
    /// The client's address.
    pub client: String,
    /// The upstream's name.
    pub upstream: String,
    /// Its address.
    pub address: String,
    /// The client has asked for nothing for so long.
    pub idle_ms: u64,
}

/// Upstreams of one service that its config does not list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The service.
    pub service: String,
    /// Name and address of each.
    pub upstreams: Vec<(String, String)>,
}

/// Keys of session tickets of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tickets {
    /// Its name.
    pub listener: String,
    /// Its TLS, in words: another one has keys of its own.
    pub setting: String,
    /// The one in use first.
    pub keys: Vec<Ticket>,
}

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What its tickets begin with, in hexadecimal.
    pub name: String,
    /// The key, in hexadecimal.
    pub secret: String,
    /// When it was made, since boot.
    pub made_ms: u64,
}

/// Without the secret.
impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("made_ms", &self.made_ms).finish_non_exhaustive()
    }
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// The listener's name; none for the admin listener.
    pub listener: Option<String>,
    /// The address as configured.
    pub bind: String,
    /// Which of the listener's equal addresses.
    pub nth: usize,
}

/// What is held to be true of one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its service.
    pub service: String,
    /// Its name.
    pub upstream: String,
    /// Its address.
    pub address: String,
    /// How it is probed, in words: another way of asking makes another verdict.
    pub probe: String,
    /// What was found.
    pub known: Known,
}

/// A verdict, apart from whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// It passes its probes.
    pub up: bool,
    /// For so long.
    pub for_ms: u64,
    /// Since when, for people.
    pub since: Timestamp,
    /// One sentence: why.
    pub evidence: String,
    /// Why it may not serve reads; none when it may.
    pub read: Option<String>,
    /// The same of writes.
    pub write: Option<String>,
    /// The same of polls.
    pub poll: Option<String>,
    /// Abilities it declared.
    pub supports: Vec<String>,
    /// What it calls itself.
    pub name: Option<String>,
    /// The version that it says it is.
    #[serde(default)]
    pub version: Option<String>,
}

/// The version that the agents of one service are served from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cohort {
    /// The service.
    pub service: String,
    /// The version.
    pub version: String,
    /// Since when, for people.
    pub since: Timestamp,
    /// What an operator has named.
    #[serde(default)]
    pub pin: Option<String>,
}

/// What traffic has shown of one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    /// Its service.
    pub service: String,
    /// Its name.
    pub upstream: String,
    /// Its address.
    pub address: String,
    /// Which ejection in succession it is, or was.
    pub times: u32,
    /// It began, or is over, for so long.
    pub ago_ms: u64,
    /// It is out.
    pub out: Option<OutFor>,
}

/// An ejection that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutFor {
    /// For so long yet.
    pub left_ms: u64,
    /// Failures that it is for; 0 if it is the trial's.
    pub failed: u64,
    /// Of so many requests; none if they were in a row.
    pub of: Option<u64>,
    /// Only transfers were counted. A predecessor may not say.
    #[serde(default)]
    pub transfers: bool,
    /// The last failure: its label, or the status that was answered.
    pub last: String,
}

/// What the successor says after it has the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// Everything is open, nothing is accepted yet.
    Ready,
    /// It accepts on every socket.
    Serving,
}

/// What the running proxy says to a successor that is ready: accept now. If it is not said, the successor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Accept.
    Go,
}

/// `GET /admin/v1/process`: this process, and those it has replaced that are not done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How many upgrades led to it.
    pub generation: u64,
    /// The config that it goes by. One of an earlier version does not say.
    #[serde(default)]
    pub config: Option<InUse>,
    /// Where it listens: name of the listener and address.
    pub listeners: Vec<(String, String)>,
    /// Open client connections.
    pub connections: u64,
    /// Replaced processes that still have connections.
    pub old: Vec<Old>,
}

/// A replaced process: it accepts nothing any more, and ends with its last connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ReplacedProcess))]
pub struct Old {
    /// Its id.
    pub pid: u32,
    /// How many upgrades led to it.
    pub generation: u64,
    /// When it was replaced.
    pub since: Timestamp,
    /// When what is left then is cut.
    pub until: Timestamp,
    /// What it still has.
    pub connections: u64,
}
