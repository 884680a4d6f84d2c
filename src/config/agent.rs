//! `agent.toml`, checked.

use std::{path::PathBuf, time::Duration};

use super::{BaseUrl, Log, proxy::Secret};
use crate::{
    model::{ApiKeyId, NodeId},
    tls::Upstream,
    wire::node::CapacityMode,
};

/// Everything an agent is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Where controllers are reached; usually the one controllers' front. Tried in order.
    pub controllers: Vec<BaseUrl>,
    /// What runs the VMs.
    pub driver: Driver,
    /// Templates, VMs, journal, node id.
    pub data: PathBuf,
    /// Use this id; else one is made at the first join and kept in `data`.
    pub node_id: Option<NodeId>,
    /// Node name.
    pub name: String,
    /// Address published to CI clients.
    pub host: String,
    /// Most VMs at once.
    pub capacity: u32,
    /// How room is counted.
    pub capacity_mode: CapacityMode,
    /// What a start asks of processors and memory counts for this node's room, in that mode.
    pub force_overrides: bool,
    /// Node groups by name.
    pub groups: Vec<String>,
    /// Join drained.
    pub drain_mode: bool,
    /// Interval of status updates.
    pub heartbeat: Duration,
    /// One request.
    pub request_timeout: Duration,
    /// TCP connect.
    pub dial_timeout: Duration,
    /// Keep so much of the disk free when pulling.
    pub reserve: Reserve,
    /// VM name prefix; a dash is added.
    pub vm_prefix: String,
    /// Limit for a VM's start, script not counted.
    pub start_timeout: Duration,
    /// What its calls to controllers and registries show, as `Authorization`.
    pub authorization: Option<Secret>,
    /// Or the API key by which it signs in.
    pub api_key: Option<ApiKey>,
    /// How a newer program of it is installed, if it is to do that.
    pub update: Option<Update>,
    /// Whom it trusts and what it shows where controllers or registries are asked by `https://`. None if none of its
    /// controllers is, and the system trusts nobody.
    pub tls: Option<Upstream>,
    /// `[log]`.
    pub log: Log,
    /// Limit for a stop.
    pub grace: Duration,
}

/// What installs a newer program: `[agent.update]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// It is ended after so long.
    pub timeout: Duration,
}

/// An API key and where its private half is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Which.
    pub id: ApiKeyId,
    /// Its private half, in PEM or as its base64 alone.
    pub file: PathBuf,
}

/// How much of the disk stays free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    /// A share of the disk.
    Share(f64),
    /// Bytes.
    Bytes(u64),
}

/// What runs the VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// A local process stands for the VM.
    Process(ProcessDriver),
}

/// The `process` driver's faults and delays, for trying things out: `[agent.process]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessDriver {
    /// Wait so long before a VM is up.
    pub start_delay: Duration,
    /// Wait so long before each layer of a pull.
    pub pull_delay: Duration,
    /// Every start fails.
    pub fail_starts: bool,
    /// A VM vanishes so long after its start; never if zero.
    pub vanish_after: Duration,
    /// USB devices that its VMs can be given, by name.
    pub usb_devices: Vec<String>,
    /// The program that stands for a VM; this very program if not given. For those who embed an agent.
    pub program: Option<PathBuf>,
}
