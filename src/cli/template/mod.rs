//! `switchyard template …`: templates pushed, pulled, listed, shown, deleted, over any registry or front of some.

mod files;
mod progress;
mod push;
mod pull;
mod look;
mod change;

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use super::{
    Failure, Printer,
    admin::Output,
    cloud::{TRUST, named_by},
    login::Credential,
    role,
    trust::Trust,
};
use crate::{
    client::{
        ClientError, Credentials, Templates,
        transfer::{Calls, TransferError},
    },
    config::BaseUrl,
    model::{RepositoryName, Tag, TemplateId},
    telemetry,
    wire::template::{Template, TemplateSummary},
};

/// For an answer of the template API: a front may hold a request for some seconds, a list may be long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `template`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Push a directory or files as a version of a template; what is there is not sent, what broke off is gone on with
    Push(push::Args),
    /// Pull a version into a directory, which is there when it is whole; what broke off is gone on with
    Pull(pull::Args),
    /// List the templates
    List(look::List),
    /// Show one template with its versions and their layers
    Show(look::Show),
    /// Delete a template with every version, or one version alone
    Rm(change::Rm),
    /// Delete a version and every later one
    Revert(change::Revert),
}

/// Where templates are when nothing is said.
static REGISTRY: LazyLock<String> =
    LazyLock::new(|| named_by("SWITCHYARD_REGISTRY", "http://127.0.0.1:8089"));

/// Where templates are.
#[derive(Debug, clap::Args)]
struct Reach {
    /// A registry, or a proxy in front of some; SWITCHYARD_REGISTRY names it, too
    #[arg(long, value_name = "URL", default_value = REGISTRY.as_str())]
    registry: BaseUrl,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    shown: Credential,
}

/// What is said while a transfer runs, and how long it is tried.
#[derive(Debug, clap::Args)]
struct Going {
    /// Say nothing but what went wrong
    #[arg(long, short)]
    quiet: bool,
    /// One JSON line on standard error for each step, for programs that show how it goes
    #[arg(long, conflicts_with = "quiet")]
    progress_json: bool,
    /// Give up when nothing has moved for so long
    #[arg(long, value_name = "TIME", default_value = "2min", value_parser = crate::cli::words::time)]
    patience: Duration,
    /// What to print at the end
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::Push(args) => push::run(args, printer),
        Command::Pull(args) => pull::run(args, printer),
        Command::List(args) => role::once(look::list(args, printer))?,
        Command::Show(args) => role::once(look::show(args, printer))?,
        Command::Rm(args) => role::once(change::rm(args, printer))?,
        Command::Revert(args) => role::once(change::revert(args, printer))?,
    }
}

/// `NAME:TAG`.
#[derive(Debug, Clone)]
struct Target {
    name: RepositoryName,
    tag: Tag,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tag) = text.split_once(':').ok_or("write NAME:TAG")?;
        Ok(Self {
            name: RepositoryName::parse(name).map_err(|error| error.to_string())?,
            tag: Tag::parse(tag).map_err(|error| error.to_string())?,
        })
    }
}

impl Reach {
    fn templates(&self) -> Result<Templates, Failure> {
        Templates::new(self.registry.clone(), &self.credentials()?, PATIENCE)
            .map_err(|error| Failure::runtime("no client could be made", &error))
    }

    /// For what moves templates.
    fn calls(&self) -> Result<Calls, Failure> {
        Calls::new(self.registry.clone(), &self.credentials()?)
            .map_err(|error| Failure::runtime("no client could be made", &error))
    }

    fn credentials(&self) -> Result<Credentials, Failure> {
        self.trust.credentials(&self.shown, [&self.registry])
    }

    /// The template with this name, or else with this id.
    async fn find(&self, templates: &Templates, name: &str) -> Result<TemplateSummary, Failure> {
        let list = templates.list().await.map_err(|error| self.failure(&error))?;
        let named: Vec<&TemplateSummary> = list.iter().filter(|template| template.name == name).collect();
        match named.as_slice() {
            [one] => Ok((*one).clone()),
            [] => list.iter().find(|template| template.id == name).cloned().ok_or_else(|| Failure::Runtime {
                error: format!("`{}` has no template `{name}`", self.registry),
                hint: Some("`switchyard template list` shows those it has".into()),
            }),
            // The vendor's registries may have several of one name.
            several => Err(Failure::Usage {
                error: format!("`{}` has {} templates `{name}`", self.registry, several.len()),
                hint: Some(format!(
                    "name one by its id: {}",
                    several.iter().map(|template| template.id.as_str()).collect::<Vec<_>>().join(", ")
                )),
            }),
        }
    }

    async fn whole(&self, templates: &Templates, id: &str) -> Result<Option<Template>, Failure> {
        templates.show(&id_of(id)?).await.map_err(|error| self.failure(&error))
    }

    /// What is said when a call did not work.
    fn failure(&self, error: &ClientError) -> Failure {
        Failure::Runtime { error: telemetry::chain(error), hint: self.hint(error) }
    }

    fn hint(&self, error: &ClientError) -> Option<String> {
        let text = match error {
            ClientError::Unreachable { .. } => {
                "is it running, and is this its address? `--registry URL` or SWITCHYARD_REGISTRY names a registry, or a \
                 proxy's listener in front of some"
            }
            ClientError::Untrusted { .. } => TRUST,
            ClientError::Strange { .. } => {
                "`--registry` names a registry, not a controller or an admin address"
            }
            ClientError::Refused { status: 401 | 403, .. } => {
                "a replica takes no pushes and deletes: name the writer, or a proxy in front of both"
            }
            ClientError::Refused { status: 404 | 405, .. } => {
                "`--registry` names a registry, or a proxy's listener in front of some, and not another server"
            }
            ClientError::Refused { status: 507, .. } => {
                "the registry's disk is too full: delete templates (`switchyard template rm NAME`), or give it a larger one"
            }
            ClientError::Refused { status: 413, .. } => {
                "something in between bounds bodies: a proxy of ours does so with `limits.body`, nginx with `client_max_body_size`"
            }
            ClientError::Refused { status: 429 | 503, .. } => {
                "the registry, or the proxy before it, cannot take it right now; its `/readyz` says why"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// What is said when a transfer did not work; `again` is what a second try does.
    fn transfer(&self, error: &TransferError, again: &str) -> Failure {
        let hint = match error {
            TransferError::Client(error) => self.hint(error),
            TransferError::GaveUp { last, .. } => {
                let more = match &**last {
                    TransferError::Client(error) => self.hint(error),
                    _ => None,
                };
                Some(more.map_or_else(|| again.to_owned(), |more| format!("{again}. {more}")))
            }
            TransferError::Exists { repository, .. } => Some(format!(
                "push another tag, or say `--force` to move this one; `switchyard template show {repository}` shows what is there"
            )),
            TransferError::Missing { .. } => {
                Some("`switchyard template list` shows what is there, `show NAME` its tags".into())
            }
            TransferError::NoSpace { .. } => Some("make room, or pull to another disk".into()),
            TransferError::Local { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some(format!("the disk is full: make room. {again}"))
            }
            TransferError::Changed { .. } => Some("stop what writes to it, and push again".into()),
            TransferError::Corrupt { .. } => Some(
                "what the registry has is damaged; its log says more, and another registry may have it whole"
                    .into(),
            ),
            TransferError::Busy { .. } => Some("wait for it, or end it".into()),
            TransferError::Manifest { .. } => {
                Some("an index of several images is pulled by an OCI client: skopeo copy, oras pull".into())
            }
            TransferError::Local { .. } => None,
        };
        Failure::Runtime { error: telemetry::chain(error), hint }
    }
}

fn id_of(id: &str) -> Result<TemplateId, Failure> {
    TemplateId::parse(id)
        .map_err(|error| Failure::Runtime { error: format!("template id `{id}`: {error}"), hint: None })
}

/// A usage fault with a hint.
fn usage(error: String, hint: &str) -> Failure {
    Failure::Usage { error, hint: Some(hint.to_owned()) }
}

/// Where sessions are remembered: under the user's state directory, if there is one.
fn state_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("switchyard/pushes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_a_tag() {
        let target: Target = "mac/sonoma:v3+ssh:latest".parse().unwrap();
        assert_eq!((target.name.as_str(), target.tag.as_str()), ("mac/sonoma", "v3+ssh:latest"));
        for bad in ["sonoma", "sonoma:", ":a", "so noma:a", "sonoma:a/b"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
