//! What a node is to do beside starts and stops, and a template that many nodes are to have.

use serde::{Deserialize, Serialize};

use crate::{
    model::{CommandId, DistributionId, NodeId, Progress, Timestamp},
    wire::{
        command::{Command, CommandState, Order, PullTemplate, ShownCommand},
        vm::ScriptResult,
    },
};

/// One command for one node. Once it is over it never changes again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Its id: that of its distribution, if it is a part of one.
    pub id: CommandId,
    /// Whose it is.
    pub node: NodeId,
    /// What to do.
    pub order: Order,
    /// What it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<DistributionId>,
    /// A heartbeat of the node has named it.
    #[serde(default)]
    pub heard: bool,
    /// The agent's run that did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// How its script ended, with the end of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
    /// Chunks of all of the output, in `bulk/`.
    #[serde(default)]
    pub output_chunks: usize,
    /// How far it is.
    pub state: CommandState,
    /// Of it.
    #[serde(default)]
    pub progress: Progress,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was given.
    pub created: Timestamp,
    /// When the node last came further with it.
    pub updated: Timestamp,
}

impl CommandRecord {
    /// One that is given now.
    pub fn new(
        id: CommandId,
        node: NodeId,
        order: Order,
        of: Option<DistributionId>,
        now: Timestamp,
    ) -> Self {
        let (state, progress) = (CommandState::Waiting, Progress::NONE);
        Self {
            id,
            node,
            order,
            of,
            heard: false,
            session: String::new(),
            script: None,
            output_chunks: 0,
            state,
            progress,
            message: String::new(),
            created: now,
            updated: now,
        }
    }

    /// As the node is told of it.
    pub fn told(&self) -> Command {
        Command { id: self.id.clone(), order: self.order.clone() }
    }

    /// As the API shows it: without passwords, and without scripts, which are long and have secrets in them.
    pub fn shown(&self) -> ShownCommand {
        let mut order = self.order.clone();
        match &mut order {
            Order::Restart(order) => order.vnc_password.clear(),
            Order::Save(order) => order.script.clear(),
            Order::Pull(_) | Order::Remove(_) | Order::Update | Order::Unknown => {}
        }
        ShownCommand {
            id: self.id.clone(),
            node_id: self.node.clone(),
            order,
            state: self.state,
            progress: self.progress,
            message: self.message.clone(),
            created: self.created,
            updated: self.updated,
        }
    }

    /// It has failed, for this reason.
    pub fn failed(&self, why: &str, now: Timestamp) -> Self {
        Self { state: CommandState::Failed, message: why.to_owned(), updated: now, ..self.clone() }
    }
}

/// Put with every order to many nodes, and compared: of two who give one at the same moment, the second looks once more who has
/// it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OrdersTurn {}

/// Which nodes are to have a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Targets {
    /// All there are.
    All,
    /// Those of a group, by its id or its name.
    Group(String),
    /// These.
    Nodes(Vec<NodeId>),
}

/// A template that nodes are to have. Each node's part is a [`CommandRecord`] with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionRecord {
    /// Its id.
    pub id: DistributionId,
    /// Which bytes.
    pub template: PullTemplate,
    /// Whose disks.
    pub to: Targets,
    /// Nodes up to this one, in the order of their ids, have their command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up_to: Option<NodeId>,
    /// All of them have.
    #[serde(default)]
    pub given: bool,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it was canceled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canceled: Option<Timestamp>,
}

impl DistributionRecord {
    /// What its parts are known by.
    pub fn command(&self) -> Result<CommandId, crate::model::IdError> {
        CommandId::parse(self.id.as_str())
    }
}
