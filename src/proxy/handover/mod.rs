//! One process takes over from another without a connection being lost: binary upgrade, and sockets from the service
//! manager.
//!
//! ```text
//!   running process                                    successor
//!   SIGUSR2, or `upgrade` over the control socket
//!     starts the binary now on disk ─────────────────▶ reads its config
//!                                   ◀── take over ───  connects to the control socket in `run_dir`
//!     what there is, then every listening socket ────▶ opens what its config has besides, learns the verdicts
//!                                   ◀──── ready ─────  accepts nothing yet
//!     go ────────────────────────────────────────────▶ accepts
//!                                   ◀─── serving ────  takes control socket and pid file
//!     stops accepting; what runs ends in its own time
//! ```
//!
//! Until `serving` has come the running process accepts as if nothing happened, so whatever goes wrong before, it goes
//! on. Both have the same sockets, not two of a kind: what waits in a queue is accepted by whoever is there, and closing
//! one end of it loses nothing.
//!
//! [`frame`] moves messages and descriptors, [`run_dir`] is the directory, [`control`] the socket in it, [`upgrade`] the
//! running side, [`successor`] the other, [`systemd`] what the service manager opened, [`program`] what is started,
//! [`mod@verdicts`] what is known of upstreams, [`mod@tickets`] what clients resume their sessions by, [`client`] how the command line asks.

mod client;
mod control;
mod frame;
mod program;
mod run_dir;
mod successor;
mod systemd;
mod tickets;
mod upgrade;
mod verdicts;

use std::{net::TcpListener, sync::Arc};

use super::{engine::Taken, orders::Orders};
use crate::wire::handover::{Cohort, Ejection, Pin, Pool, Tickets, Verdict};

pub use client::{AskError, ask_upgrade};
pub use program::Program;
pub use run_dir::{RunDirError, default_run_dir};
pub use successor::{Predecessor, TakeError};
pub use systemd::{Passed, PassedError, passed};
pub use upgrade::UpgradeError;

pub(super) use control::serve;
pub(super) use run_dir::RunDir;
pub(super) use successor::Link;
pub(super) use tickets::take as take_tickets;
pub(super) use upgrade::{Handover, Phase};
pub(super) use verdicts::{all as verdicts, of as verdict_of};

/// What another process has found out about the upstreams.
#[derive(Debug, Default)]
pub struct Found {
    /// By probing them.
    pub verdicts: Vec<Verdict>,
    /// By what became of requests.
    pub ejections: Vec<Ejection>,
    /// What operators have said.
    pub orders: Arc<Orders>,
}

/// What a proxy begins with that somebody else had before. Nothing, mostly.
#[derive(Debug, Default)]
pub struct Inherited {
    pub(super) listeners: Vec<Taken>,
    pub(super) admin: Option<TcpListener>,
    pub(super) cohorts: Vec<Cohort>,
    pub(super) known: Found,
    pub(super) pools: Vec<Pool>,
    pub(super) tickets: Vec<Tickets>,
    pub(super) pins: Vec<Pin>,
    /// How many upgrades led here.
    pub(super) generation: u64,
    pub(super) link: Option<Link>,
}
