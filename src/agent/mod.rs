//! The node agent: on a VM host it joins the cloud, takes starts, drives a hypervisor, and reports what is.
//!
//! ```text
//!   run.rs      heartbeats ──▶ controllers ──▶ stop, forget, settings ─┐
//!               polls      ──▶ controllers ──▶ offers ─────────────────┤
//!                                                                      ▼
//!               commands ─▶ commands/: templates without a start, removals
//!   vms.rs                              the table: wanted and seen of each VM
//!                                                                      │ act.rs: what to do
//!   settle.rs                     claim → pull → may I start? → boot → script ─▶ reports
//!                                      │            │            │
//!                                 templates.rs  journal.rs    driver/
//! ```
//!
//! What must hold, whatever dies in between: an instance has at most one VM here, started only after the
//! controllers granted exactly this start; each step is in the journal before it is taken; every end is told
//! until the controllers have noted it. The agent decides nothing about instances: a refused step means that
//! the instance is somebody else's.

mod act;
mod backoff;
mod certificates;
mod commands;
pub mod driver;
mod error;
mod facts;
mod home;
mod join;
mod journal;
mod node;
mod pause;
mod recover;
mod run;
mod saves;
mod settle;
mod templates;
mod vms;

use std::{path::PathBuf, sync::Arc};

pub use error::AgentError;
pub use join::{Check, Joining, Leaving, join, leave};

use self::{
    driver::process::Process,
    home::Home,
    journal::Journal,
    node::{Disk, Node},
    saves::Saves,
    templates::Cache,
};
use crate::{
    config,
    model::NodeId,
    supervise::{Handle, Stop},
};

/// A node agent, ready to run. It holds its data directory until it is dropped.
pub struct Agent {
    node: Arc<Node>,
    home: Home,
}

impl Agent {
    /// Locks the data directory and reads what is in it. Contacts nobody.
    pub async fn open(config: config::agent::Agent, tasks: Handle) -> Result<Self, AgentError> {
        let home = Home::open(&config.data)?;
        let identity = home.identify(config.node_id.as_ref())?;
        // A record made with other wishes is renewed; one that was deleted meanwhile is found out by reporting.
        let must_join = identity.joined.as_ref() != Some(&join::wish(&config));
        let credentials = join::credentials(&config);
        let api = join::api(&config, &credentials)?;
        let config::agent::Driver::Process(settings) = &config.driver;
        let driver = Process::open(settings.clone(), home.join("vms"), tasks)?;
        let cache = Cache::open(home.join("cache"), config.reserve)?;
        let journal_path = home.join("journal");
        let journal = Journal::open(&journal_path).map_err(AgentError::data(journal_path))?;
        let saves = home.join("saves");
        let disk =
            Disk { cache, journal, saves: Saves::open(saves.clone()).map_err(AgentError::data(saves))? };
        let node = Node::new(config, identity.node_id, must_join, (api, credentials), Arc::new(driver), disk);
        Ok(Self { node: Arc::new(node), home })
    }

    /// The node.
    pub fn node_id(&self) -> &NodeId {
        &self.node.id
    }

    /// Lets the agent be replaced when controllers ask for it: its process is `program`, and when what this gives is requested,
    /// the agent is to be stopped and the program that is there then begun in its place. To be called once, early.
    pub fn replaceable(&self, program: PathBuf) -> Stop {
        self.node.program.get_or_init(|| commands::Program::new(program));
        self.node.replaced.stop()
    }

    /// Works until told to stop. Joins by itself when the node has no record. Controllers and registries out
    /// of reach are waited for.
    ///
    /// When this returns, no VM of a driver whose VMs die with the agent runs any more.
    pub async fn run(self, stop: Stop) -> Result<(), AgentError> {
        let Self { node, home } = self;
        let done = run::run(node, &home, stop).await;
        drop(home);
        done
    }
}
