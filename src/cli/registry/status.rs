//! `switchyard registry status`: how registries stand, as a proxy sees them or as they say themselves.

use std::time::Duration;

use crate::{
    cli::{
        Failure, Printer,
        admin::{Output, Reach},
        cloud::TRUST,
        login::Credential,
        role,
        trust::Trust,
    },
    client::{ClientError, replication::Replication},
    config::BaseUrl,
    model::Position,
    telemetry,
    wire::{
        registries::{Catalogue, Registries, Service, Upstream},
        replication::{Follower, State},
    },
};

/// For a connect to a registry, and for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `registry status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// Ask these registries themselves instead
    #[arg(long, value_name = "URL,…", value_delimiter = ',', conflicts_with = "admin")]
    registry: Vec<BaseUrl>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    shown: Credential,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    if args.registry.is_empty() {
        let asked = role::once(async {
            args.reach.client()?.registries().await.map_err(|error| args.reach.failure(&error))
        })??;
        args.output
            .print(printer, &asked, || asked.services.iter().map(service).collect::<Vec<_>>().join("\n\n"))?;
        return none(&asked, printer);
    }
    let credentials = args.trust.credentials(&args.shown, &args.registry)?;
    let (mut states, mut failed) = (Vec::with_capacity(args.registry.len()), None);
    for url in &args.registry {
        let asked = role::once(async {
            let registry = client(Replication::new(url.clone(), &credentials, PATIENCE, PATIENCE))?;
            registry.state(None, Duration::ZERO).await.map_err(failure)
        });
        match asked.and_then(|asked| asked) {
            Ok(state) => states.push(state),
            // The others are looked at most when one of them is gone.
            Err(failure) => {
                if let Some(before) = failed.replace(failure) {
                    before.show(printer);
                }
            }
        }
    }
    if !states.is_empty() {
        args.output.print(printer, &states, || table(&states.iter().map(of_state).collect::<Vec<_>>()))?;
    }
    failed.map_or(Ok(()), Err)
}

/// An empty list is told apart from a list that shows nothing wrong.
fn none(asked: &Registries, printer: Printer) -> Result<(), Failure> {
    if asked.services.is_empty() {
        printer.note("this proxy has no service of kind `registry`");
    }
    Ok(())
}

pub(super) fn client<T>(made: Result<T, reqwest::Error>) -> Result<T, Failure> {
    made.map_err(|error| Failure::runtime("no client could be made", &error))
}

pub(super) fn failure(error: ClientError) -> Failure {
    let hint = match &error {
        ClientError::Unreachable { .. } => {
            Some("is it running, and is this its address? `--registry` names a registry, `--admin` a proxy's admin address".into())
        }
        ClientError::Untrusted { .. } => Some(TRUST.into()),
        ClientError::Refused { status: 404, .. } => Some("this is another server: `--admin` names a proxy's admin address, `--registry` a registry".into()),
        _ => None,
    };
    Failure::Runtime { error: telemetry::chain(&error), hint }
}

/// One line of the table, and what follows it indented.
struct Row {
    cells: [String; 7],
    notes: Vec<String>,
}

const HEAD: [&str; 7] = ["NAME", "ROLE", "EPOCH", "POSITION", "BEHIND", "READS", "WRITES"];

fn service(service: &Service) -> String {
    let writer = service.writer.as_deref().unwrap_or("every registry");
    let lease = match (service.freshness.as_str(), service.lease_ms) {
        ("position", Some(left)) => format!("lease {:.1} s", Duration::from_millis(left).as_secs_f64()),
        ("position", None) => format!("no lease: {}", service.lease_why),
        ("catalogue", _) if service.lease_why.is_empty() => "lists are compared".into(),
        ("catalogue", _) => format!("the writer's list is not known: {}", service.lease_why),
        _ => "freshness is not looked at".into(),
    };
    let newest = service.newest.map(|newest| format!(", newest change {newest}")).unwrap_or_default();
    let rows: Vec<Row> = service.upstreams.iter().map(of_upstream).collect();
    let warnings: String = service.warnings.iter().map(|warning| format!("\n  warning: {warning}")).collect();
    format!("service {}: writer {writer}, {lease}{newest}{warnings}\n{}", service.name, table(&rows))
}

fn of_upstream(upstream: &Upstream) -> Row {
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut row = match &upstream.state {
        Some(state) => of_state(state),
        None => Row { cells: Default::default(), notes: Vec::new() },
    };
    row.cells[0].clone_from(&upstream.name);
    if let Some(role) = upstream.role {
        row.cells[1] = role.as_str().into();
    }
    let unconfirmed = upstream.state.as_ref().and_then(|state| state.unconfirmed);
    row.cells[3] = position(upstream.position, unconfirmed);
    row.cells[5] = word(upstream.reads);
    if !upstream.why.is_empty() {
        row.notes.insert(0, upstream.why.clone());
    }
    match &upstream.catalogue {
        Some(catalogue) => row.notes.extend(of_catalogue(catalogue)),
        None if upstream.state.is_none() => row.notes.push("it has never told its state".into()),
        None => {}
    }
    row
}

fn of_catalogue(catalogue: &Catalogue) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(count) = catalogue.templates {
        notes.push(format!("lists {count} templates"));
    }
    if catalogue.differing > 0 {
        let more = if catalogue.differing > catalogue.named.len() as u64 { ", …" } else { "" };
        notes.push(format!(
            "{} not as the writer has them: {}{more}",
            catalogue.differing,
            catalogue.named.join(", ")
        ));
    }
    if !catalogue.why.is_empty() {
        notes.push(format!("its list could not be had: {}", catalogue.why));
    }
    notes
}

fn of_state(state: &State) -> Row {
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let lag = &state.lag;
    let behind = match (lag.entries, lag.bytes) {
        (0, 0) => "-".to_owned(),
        (entries, 0) => format!("{entries} changes, {:.0} s", lag.seconds),
        (entries, bytes) => format!("{entries} changes, {}, {:.0} s", size(bytes), lag.seconds),
    };
    let mut notes: Vec<String> = state.why.clone();
    for blob in &state.fetching {
        let short: String = blob.digest.to_string().chars().take(19).collect();
        let why = if blob.why.is_empty() { String::new() } else { format!(": {}", blob.why) };
        notes.push(format!("fetching {short}… {} of {}{why}", size(blob.have), size(blob.size)));
    }
    for peer in state.peers.iter().filter(|peer| peer.rate > 0.0 || !peer.why.is_empty()) {
        let rate = size(peer.rate.max(0.0) as u64);
        let why = if peer.why.is_empty() { String::new() } else { format!("; {}", peer.why) };
        notes.push(format!("from {}: {rate}/s{why}", peer.url));
    }
    for follower in &state.followers {
        let Follower { kind, name, position, standing, .. } = follower;
        notes.push(format!("{kind} {name}: {position}, {standing}"));
    }
    for aside in &state.aside {
        notes.push(format!(
            "its own history up to {} was set aside in {} ({} repositories): look whether something in it is missed",
            aside.upto,
            aside.path,
            aside.count.max(aside.repositories.len() as u64)
        ));
    }
    Row {
        cells: [
            state.registry.clone(),
            state.role.as_str().into(),
            state.epoch.to_string(),
            position(state.position, state.unconfirmed),
            behind,
            word(state.read),
            word(state.write),
        ],
        notes,
    }
}

fn position(claimed: Option<Position>, unconfirmed: Option<Position>) -> String {
    match (claimed, unconfirmed) {
        (Some(position), _) => position.to_string(),
        (None, Some(position)) => format!("{position} (unconfirmed)"),
        (None, None) => "none".into(),
    }
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

fn table(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| (row.cells.clone(), row.notes.clone())).collect();
    crate::cli::table::table(&HEAD, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::replication::{Fetching, Lag, Role};

    #[test]
    fn a_row_says_all_that_an_operator_asks() {
        let state = State {
            registry: "r2".into(),
            role: Role::Replica,
            position: "1.57".parse().ok(),
            unconfirmed: None,
            head: "1.60".parse().ok(),
            epoch: 1,
            lag: Lag { entries: 3, bytes: 5 << 20, seconds: 12.4 },
            read: true,
            write: false,
            why: vec!["what it lacks does not come: disk full".into()],
            fetching: vec![Fetching {
                digest: crate::model::Digest::of(b"x"),
                size: 8 << 20,
                have: 3 << 20,
                why: String::new(),
            }],
            peers: Vec::new(),
            followers: Vec::new(),
            aside: Vec::new(),
        };
        let text = table(&[of_state(&state)]);
        let wanted = "  NAME  ROLE     EPOCH  POSITION  BEHIND                    READS  WRITES\n  \
                      r2    replica  1      1.57      3 changes, 5.0 MiB, 12 s  yes    no\n      \
                      what it lacks does not come: disk full\n      \
                      fetching sha256:2d711642b726… 3.0 MiB of 8.0 MiB";
        assert_eq!(text, wanted);
        // With the writer gone and itself restarted: who makes it the writer looks at this.
        let state = State { position: None, unconfirmed: state.position, ..state };
        assert_eq!(of_state(&state).cells[3], "1.57 (unconfirmed)");
    }
}
