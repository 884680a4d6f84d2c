//! What controllers ask of nodes beside starts and stops, and what nodes say of it. `docs/agent-protocol.md` tells it
//! in words.
//!
//! A command is known by its id: told again it is the same one, done once. It is told with the answers of polls and
//! heartbeats until a heartbeat names it, and named in heartbeats until an answer says that this was noted.

use serde::{Deserialize, Serialize};

use super::{agent::StartTask, vm::ScriptResult};
use crate::model::{
    Attempt, CommandId, Digest, InstanceId, NodeId, Progress, RepositoryName, Tag, TemplateId, Timestamp,
};

/// Output of a command's script that is told, at most: its last part. As much is kept by the vendor's controllers.
pub const OUTPUT: usize = 1024 * 1024;

/// Commands that a node has under way at most; the next ones are told when these are done.
pub const AT_ONCE: usize = 16;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Command {
    /// Which.
    pub id: CommandId,
    /// What to do.
    pub order: Order,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Order {
    /// Have this template on the disk; start nothing.
    Pull(PullTemplate),
    /// Delete every version of a template from the disk, but for those in use.
    Remove(RemoveTemplate),
    /// Stop a VM and start it again, in its place.
    Restart(RestartVm),
    /// Make a version of a template of a VM, which is stopped for it.
    Save(Box<SaveVm>),
    /// Have the newest program of this node's agent installed, and go on as that.
    Update,
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
            Self::Restart(_) => "restart",
            Self::Save(_) => "save",
            Self::Update => "update",
            Self::Unknown => "unknown",
        }
    }

    /// Among which a node does one after the other.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Pull(_) | Self::Remove(_) | Self::Unknown => Lane::Disk,
            Self::Restart(_) => Lane::Restart,
            Self::Save(_) => Lane::Save,
            Self::Update => Lane::Update,
        }
    }

    /// Whether it may be begun once more when an agent went away in its middle.
    pub fn may_be_repeated(&self) -> bool {
        match self {
            Self::Pull(_) | Self::Remove(_) | Self::Update | Self::Unknown => true,
            Self::Restart(_) | Self::Save(_) => false,
        }
    }

    /// Whether a node takes no starts while it does this.
    pub fn holds_starts(&self) -> bool {
        match self {
            Self::Pull(_) | Self::Update => true,
            Self::Remove(_) | Self::Restart(_) | Self::Save(_) | Self::Unknown => false,
        }
    }

    /// The instance that it is about, if it is about one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Pull(_) | Self::Remove(_) | Self::Update | Self::Unknown => None,
            Self::Restart(order) => Some(&order.instance),
            Self::Save(order) => Some(&order.instance),
        }
    }
}

/// Commands of one lane are carried out one after the other: a restart waits for no pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Templates come and go.
    Disk,
    /// Restarts.
    Restart,
    /// Savings.
    Save,
    /// The agent itself.
    Update,
}

/// The words of all orders that this program knows.
pub const KNOWN: [&str; 5] = ["pull", "remove", "restart", "save", "update"];

/// A version of a template and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RemoveTemplate {
    /// The template.
    pub template: TemplateId,
}

/// A VM to restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RestartVm {
    /// The instance.
    pub instance: InstanceId,
    /// Which offer of it.
    pub attempt: Attempt,
    /// The USB device that it has from then on; the one that it had, if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub usb_device: String,
    /// Of the VM's screen from then on; the one that it had, if empty. Shown nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vnc_password: String,
}

/// A VM to make a template's version of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SaveVm {
    /// The instance.
    pub instance: InstanceId,
    /// Which offer of it.
    pub attempt: Attempt,
    /// Where to push: the registries' address; empty: the one for pulls.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub registry: String,
    /// The template there.
    pub repository: RepositoryName,
    /// The new version's tag.
    pub tag: Tag,
    /// Shown with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Suspended rather than stopped, where the driver can.
    #[serde(default)]
    pub suspend: bool,
    /// Whether what was suspended can be resumed is tried before the push, where the driver can suspend.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend_test: bool,
    /// Base64 of a script that runs in the VM before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub script: String,
    /// Without effect on the VM if that script exits with another code than 0.
    #[serde(default)]
    pub cancel_on_script_failure: bool,
    /// Versions of the template to be taken back before the push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<Revert>,
}

/// Versions to be taken back: one and every later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Revert {
    /// Of this template.
    pub template: TemplateId,
    /// From this one on; the newest alone if empty. One that is not there means none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
}

/// What a node says of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
    /// How its script ended, if it had one; the end of its output, at most [`OUTPUT`] bytes as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
}

/// One element of `GET /switchyard/v1/nodes/commands`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
        let instance: InstanceId = "i".parse().unwrap();
        let save = SaveVm {
            instance: instance.clone(),
            attempt: 1,
            registry: String::new(),
            repository: "sonoma".parse().unwrap(),
            tag: "v2".parse().unwrap(),
            description: String::new(),
            suspend: true,
            suspend_test: true,
            script: String::new(),
            cancel_on_script_failure: false,
            revert: None,
        };
        let orders = [
            Order::Pull(pull),
            Order::Remove(RemoveTemplate { template: TemplateId::parse("t").unwrap() }),
            Order::Restart(RestartVm {
                instance,
                attempt: 1,
                usb_device: "iPhone".into(),
                vnc_password: "pw".into(),
            }),
            Order::Save(Box::new(save)),
            Order::Update,
        ];
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
