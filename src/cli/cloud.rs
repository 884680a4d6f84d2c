//! How a subcommand reaches the controllers, and what it says when that does not work.

use std::{sync::LazyLock, time::Duration};

use tokio::time::Instant;

use super::{Failure, Printer, admin::Output, login::Credential, trust::Trust};
use crate::{
    client::{ClientError, Controllers, NodesLike},
    clock,
    config::BaseUrl,
    telemetry,
    wire::node::Node,
};

/// Where the controllers are when nothing is said. Read here: what clap reads, it has in each usage as if it were required.
static CONTROLLER: LazyLock<String> =
    LazyLock::new(|| named_by("SWITCHYARD_CONTROLLER", "http://127.0.0.1:8090"));

/// What a variable has, or else this.
pub(super) fn named_by(variable: &str, otherwise: &str) -> String {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| otherwise.to_owned())
}

/// For one answer: a front may hold a write for nine seconds, a list of everything may be long.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a call is made again while nobody answers it: longer than a restart of a controller or an election.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at something that is waited for, while nobody answers.
const AWAY: Duration = Duration::from_secs(1);

/// What is said when one side did not take the other for whom it should be.
pub(super) const TRUST: &str = "`--ca FILE` names whom to trust, `--cert FILE` and `--key FILE` what is shown; SWITCHYARD_CA, _CERT and _KEY do, too";

/// Where the controllers are. Flattened into the arguments of whoever asks them.
#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    /// A controller, or a proxy in front of some; SWITCHYARD_CONTROLLER names it, too
    #[arg(long, value_name = "URL", default_value = CONTROLLER.as_str())]
    controller: BaseUrl,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    credential: Credential,
}

/// What lists have.
#[derive(Debug, clap::Args)]
pub(super) struct View {
    #[command(flatten)]
    pub(super) reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
    #[command(flatten)]
    every: Every,
}

/// How often it is looked.
#[derive(Debug, clap::Args)]
pub(super) struct Every {
    /// Look again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true, value_parser = clap::value_parser!(u16).range(1..=3600))]
    watch: Option<u16>,
}

/// What changes have.
#[derive(Debug, clap::Args)]
pub(super) struct Told {
    #[command(flatten)]
    pub(super) reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

impl Reach {
    /// A client of them.
    pub(super) fn client(&self) -> Result<Controllers, Failure> {
        let credentials = self.trust.credentials(&self.credential, [&self.controller])?;
        Controllers::new(self.controller.clone(), &credentials, ANSWER, PATIENCE)
            .map(|client| client.telling(tries_again))
            .map_err(|error| Failure::runtime("no client could be made", &error))
    }

    /// What is said when a call did not work.
    pub(super) fn failure(&self, error: &ClientError) -> Failure {
        let hint = match error {
            ClientError::Unreachable { .. } => {
                "is it running, and is this its address? `--controller URL` or SWITCHYARD_CONTROLLER names a controller, \
                 or a proxy's listener in front of some"
            }
            ClientError::Untrusted { .. } => TRUST,
            ClientError::Strange { .. } => {
                "`--controller` names a controller, not a registry or an admin address"
            }
            // The API says no with 200; there is nothing to be learnt from that number.
            ClientError::Refused { status: 200, message, .. } => {
                let hint = message
                    .starts_with("No such tag ")
                    .then_some("`switchyard template show NAME` shows the tags that it has");
                return Failure::Runtime {
                    error: format!("`{}` says: {message}", self.controller),
                    hint: hint.map(Into::into),
                };
            }
            ClientError::Refused { status: 404 | 405, .. } => {
                "`--controller` names a controller, or a proxy's listener in front of some, of this version or a later one"
            }
            ClientError::Refused { status: 401 | 403, .. } => {
                "who calls must be known to the controllers, and be allowed to do this: SWITCHYARD_ROOT_TOKEN, or `--root-token-file FILE`"
            }
            ClientError::Refused { status: 429 | 500.., .. } => {
                "the controllers cannot do it right now; their `/readyz` says why"
            }
            _ => return Failure::Runtime { error: telemetry::chain(error), hint: None },
        };
        Failure::Runtime { error: telemetry::chain(error), hint: Some(hint.to_owned()) }
    }

    /// What is said when a call about one thing did not work.
    pub(super) fn about(&self, what: &str, name: &str, list: &str, error: &ClientError) -> Failure {
        match error {
            ClientError::Refused { status: 200, message, .. } if message == "Not found" => {
                self.missing(what, name, list)
            }
            error => self.failure(error),
        }
    }

    /// There is nothing of this name.
    pub(super) fn missing(&self, what: &str, name: &str, list: &str) -> Failure {
        Failure::Runtime {
            error: format!("`{}` has no {what} `{name}`", self.controller),
            hint: Some(format!("`{list}` shows those it has")),
        }
    }
}

impl View {
    /// Looks once, or again and again, and shows what it sees.
    pub(super) async fn run<T>(
        &self,
        printer: Printer,
        look: impl AsyncFnMut() -> Result<T, Failure>,
        show: impl Fn(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.every.run((printer, self.output), look, show).await
    }
}

impl Every {
    /// Looks once, or again and again for as long as somebody reads it, and shows what it sees.
    pub(super) async fn run<T>(
        &self,
        (printer, output): (Printer, Output),
        mut look: impl AsyncFnMut() -> Result<T, Failure>,
        show: impl Fn(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let seen = look().await;
            let Some(every) = self.watch else { return show(&seen?) };
            match seen {
                Ok(seen) => {
                    if output == Output::Text {
                        printer.clear();
                    }
                    show(&seen)?;
                    if !printer.is_read() {
                        return Ok(());
                    }
                }
                // They may be back at the next look.
                Err(failure) => failure.show(printer),
            }
            tokio::time::sleep(Duration::from_secs(every.into())).await;
        }
    }
}

impl Told {
    /// Says that it is done.
    pub(super) fn done(
        &self,
        printer: Printer,
        value: &serde_json::Value,
        text: &str,
    ) -> Result<(), Failure> {
        self.output.print(printer, value, || text.to_owned())
    }
}

/// Said at once: whoever sits before it would look at nothing for as long as it is tried.
fn tries_again(error: &ClientError, longest: Duration) {
    Printer::new().note(format!("{}; trying again for {} s", telemetry::chain(error), longest.as_secs()));
}

/// Looks at something that is waited for until then. Controllers that are away may be back by then, as what is waited for may be
/// there: nobody is to wait once more because of a restart.
pub(super) async fn look_on<T>(
    until: Instant,
    mut look: impl AsyncFnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut told = false;
    loop {
        match look().await {
            Err(error) if error.may_pass() && clock::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    Printer::new().note("they are still away, and are waited for as long as the rest");
                }
                tokio::time::sleep(AWAY).await;
            }
            done => return done,
        }
    }
}

/// A usage fault with a hint.
pub(super) fn usage(error: impl Into<String>, hint: &str) -> Failure {
    Failure::Usage { error: error.into(), hint: Some(hint.to_owned()) }
}

/// A dash where there is nothing to say: a cell is never empty.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// The id of the template that is named `NAME[:TAG]` or `ID[:TAG]`, and the tag if there is one.
pub(super) async fn find_template(
    reach: &Reach,
    client: &Controllers,
    whole: &str,
) -> Result<(String, Option<String>), Failure> {
    let list = client.templates().await.map_err(|error| reach.failure(&error))?;
    let text = |key: &str, of: &std::collections::BTreeMap<String, serde_json::Value>| {
        of.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let all: Vec<(String, String)> = list.iter().map(|one| (text("id", one), text("name", one))).collect();
    // A name may have a colon in it at the vendor's registries.
    let first = whole.split_once(':').map(|(name, tag)| (name, Some(tag)));
    let last = whole.rsplit_once(':').map(|(name, tag)| (name, Some(tag)));
    for (name, tag) in [Some((whole, None)), first, last].into_iter().flatten() {
        let named: Vec<&str> = all.iter().filter(|(_, n)| n == name).map(|(id, _)| id.as_str()).collect();
        let id = match named.as_slice() {
            [one] => *one,
            [] => match all.iter().find(|(id, _)| id == name) {
                Some((id, _)) => id,
                None => continue,
            },
            several => {
                let error = format!("there are {} templates `{name}`", several.len());
                return Err(usage(error, &format!("name one by its id: {}", several.join(", "))));
            }
        };
        return Ok((id.to_owned(), tag.map(str::to_owned)));
    }
    Err(reach.missing("template", whole, "switchyard template list"))
}

/// The id of the node with this id, or else with this name. One that is not there, or may not be looked at, is what was said:
/// instances may be on a node that is gone.
pub(super) async fn node_id(reach: &Reach, client: &Controllers, named: &str) -> Result<String, Failure> {
    match client.nodes_like(&NodesLike::default()).await {
        Ok(all) => Ok(one_node(&all, named)?.map_or_else(|| named.to_owned(), |node| node.node_id.clone())),
        // The list that it is for says so better, if it is refused as well.
        Err(ClientError::Refused { .. } | ClientError::Strange { .. }) => Ok(named.to_owned()),
        Err(error) => Err(reach.failure(&error)),
    }
}

/// The node with this id, or else with this name.
pub(super) async fn find_node(reach: &Reach, client: &Controllers, named: &str) -> Result<Node, Failure> {
    let all = client.nodes_like(&NodesLike::default()).await.map_err(|error| reach.failure(&error))?;
    one_node(&all, named)?.cloned().ok_or_else(|| reach.missing("node", named, "switchyard node list"))
}

/// The ids of all of these nodes: one that is not there is told before anything is done to the others.
pub(super) async fn find_nodes(
    reach: &Reach,
    client: &Controllers,
    named: &[String],
) -> Result<Vec<String>, Failure> {
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let all = client.nodes_like(&NodesLike::default()).await.map_err(|error| reach.failure(&error))?;
    let id = |named: &String| match one_node(&all, named)? {
        Some(node) => Ok(node.node_id.clone()),
        None => Err(reach.missing("node", named, "switchyard node list")),
    };
    named.iter().map(id).collect()
}

fn one_node<'a>(all: &'a [Node], named: &str) -> Result<Option<&'a Node>, Failure> {
    if let Some(node) = all.iter().find(|node| node.node_id == named) {
        return Ok(Some(node));
    }
    let of_name: Vec<&Node> = all.iter().filter(|node| node.node_name == named).collect();
    if of_name.len() > 1 {
        let ids: Vec<&str> = of_name.iter().map(|node| node.node_id.as_str()).collect();
        return Err(usage(
            format!("there are {} nodes `{named}`", ids.len()),
            &format!("name one by its id: {}", ids.join(", ")),
        ));
    }
    Ok(of_name.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn controllers_that_are_away_are_waited_for_as_long_as_what_they_are_asked_of() {
        let away =
            || ClientError::Refused { url: "http://c/".into(), status: 503, message: "starting".into() };
        let until = clock::now() + Duration::from_secs(3600);
        let mut asked = 0;
        let seen = look_on(until, async || {
            asked += 1;
            if asked < 60 { Err(away()) } else { Ok(asked) }
        });
        assert_eq!(seen.await.unwrap(), 60);
        let began = clock::now();
        assert!(look_on::<()>(began + Duration::from_secs(30), async || Err(away())).await.is_err());
        assert!((30..33).contains(&began.elapsed().as_secs()));
        let denied = || ClientError::Refused { url: "http://c/".into(), status: 403, message: "no".into() };
        let began = clock::now();
        assert!(look_on::<()>(until, async || Err(denied())).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
