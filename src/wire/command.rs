//! What controllers ask of nodes beside starts and stops, and what nodes say of it. `docs/agent-protocol.md` tells it
//! in words.
//!
//! A command is known by its id: told again it is the same one, done once. It is told with the answers of polls and
//! heartbeats until a heartbeat names it, and named in heartbeats until an answer says that this was noted.

use serde::{Deserialize, Serialize};

use super::agent::StartTask;
use crate::model::{CommandId, Digest, NodeId, Progress, RepositoryName, TemplateId, Timestamp};

/// Commands that a node has under way at most; the next ones are told when these are done.
pub const AT_ONCE: usize = 16;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which.
    pub id: CommandId,
    /// What to do.
    pub order: Order,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Order {
    /// Have this template on the disk; start nothing.
    Pull(PullTemplate),
    /// Delete every version of a template from the disk, but for those in use.
    Remove(RemoveTemplate),
    /// Something that a newer controller wants and this program does not know: it fails, and says so.
    #[serde(other)]
    Unknown,
}

impl Order {
    /// Its word: in `do`, in [`super::agent::NodeFacts::commands`], in logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pull(_) => "pull",
            Self::Remove(_) => "remove",
            Self::Unknown => "unknown",
        }
    }
}

/// The words of all orders that this program knows.
pub const KNOWN: [&str; 2] = ["pull", "remove"];

/// A version of a template and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullTemplate {
    /// The template.
    pub template: TemplateId,
    /// Its name.
    pub template_name: String,
    /// Where it is at the registry.
    pub repository: RepositoryName,
    /// The tag, for names and reports.
    pub tag: String,
    /// The manifest to pull: a tag that moves meanwhile changes nothing.
    pub manifest: Digest,
}

impl From<&StartTask> for PullTemplate {
    fn from(task: &StartTask) -> Self {
        Self {
            template: task.template.clone(),
            template_name: task.template_name.clone(),
            repository: task.repository.clone(),
            tag: task.tag.clone(),
            manifest: task.manifest,
        }
    }
}

/// A template to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveTemplate {
    /// The template.
    pub template: TemplateId,
}

/// What a node says of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandReport {
    /// Which.
    pub id: CommandId,
    /// How far it is.
    pub state: CommandState,
    /// Of it.
    #[serde(default)]
    pub progress: Progress,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One element of `GET /switchyard/v1/nodes/commands`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownCommand {
    /// Which.
    pub id: CommandId,
    /// Whose it is.
    pub node_id: NodeId,
    /// What to do.
    pub order: Order,
    /// How far it is.
    pub state: CommandState,
    /// Of it.
    pub progress: Progress,
    /// Why it failed, or what it waits for.
    pub message: String,
    /// When it was given.
    pub created: Timestamp,
    /// When the node last came further with it.
    pub updated: Timestamp,
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    /// Known; others come first.
    Waiting,
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Nothing more will come of it; the message says why.
    Failed,
}

impl CommandState {
    /// Whether nothing more will come of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::agent::Tasks;

    #[test]
    fn every_known_order_has_its_word_in_do() {
        let pull = PullTemplate {
            template: TemplateId::parse("t").unwrap(),
            template_name: "sonoma".into(),
            repository: "sonoma".parse().unwrap(),
            tag: "v1".into(),
            manifest: Digest::of(b""),
        };
        let orders =
            [Order::Pull(pull), Order::Remove(RemoveTemplate { template: TemplateId::parse("t").unwrap() })];
        assert_eq!(orders.each_ref().map(Order::word), KNOWN);
        for order in orders {
            let written = serde_json::to_value(&order).unwrap();
            assert_eq!(written["do"], order.word());
            assert_eq!(serde_json::from_value::<Order>(written).unwrap(), order);
        }
    }

    #[test]
    fn an_order_of_a_later_version_spoils_no_answer() {
        let text = r#"{"stop":[],"commands":[{"id":"c","order":{"do":"paint","colour":"red"}}]}"#;
        let tasks: Tasks = serde_json::from_str(text).unwrap();
        assert_eq!(tasks.commands[0].order, Order::Unknown);
    }
}
