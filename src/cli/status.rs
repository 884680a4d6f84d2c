//! `switchyard status`: a running proxy on one screen.

use serde::Serialize;

use super::{
    Failure, Printer,
    admin::{Output, Reach},
    cloud::Every,
    orders::words,
    role,
    table::table,
};
use crate::{
    client::{Admin, ClientError},
    wire::{
        config::Refused,
        handover::Process,
        listeners::{Certificate, Listener, Listeners},
        upstreams::{Service, Upstream, Upstreams},
    },
};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    every: Every,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Status {
    process: Process,
    /// One of an earlier version does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Listeners>,
    #[serde(flatten)]
    upstreams: Upstreams,
}

const HEAD: [&str; 7] = ["UPSTREAM", "ADDRESS", "HEALTH", "TAKES", "WEIGHT", "UNDER WAY", "CONNECTIONS"];

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let asked = async || look(&client).await.map_err(|error| args.reach.failure(&error));
    let shown = |status: &Status| args.output.print(printer, status, || text(status));
    role::once(args.every.run((printer, args.output), asked, shown))?
}

async fn look(client: &Admin) -> Result<Status, ClientError> {
    let listeners = match client.listeners().await {
        Ok(listeners) => Some(listeners),
        // Before an upgrade it is the earlier version that is asked.
        Err(ClientError::Refused { status: 404, .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Status { process: client.process().await?, listeners, upstreams: client.upstreams().await? })
}

fn text(status: &Status) -> String {
    let Process { pid, version, generation, config, listeners, connections, old } = &status.process;
    let mut lines = vec![format!(
        "process {pid}, version {version}, upgrade {generation}, {connections} connections of clients"
    )];
    if let Some(config) = config {
        lines.push(format!("config {}, in use since {}", config.generation, config.since));
        if let Some(Refused { at, why }) = &config.refused {
            let why = why.lines().next().unwrap_or_default();
            lines.push(format!("  the reload at {at} was REFUSED: {why}"));
        }
    }
    for old in old {
        lines.push(format!(
            "  replaced: process {} has {} connections, until {}",
            old.pid, old.connections, old.until
        ));
    }
    match &status.listeners {
        Some(all) => lines.extend(all.listeners.iter().map(listener)),
        None => lines.extend(listeners.iter().map(|(name, address)| format!("listener {name} on {address}"))),
    }
    for one in &status.upstreams.services {
        lines.push(String::new());
        lines.push(service(one));
    }
    lines.join("\n")
}

fn listener(listener: &Listener) -> String {
    let goes = match &listener.service {
        Some(service) => format!("to {service}"),
        None if listener.rules.len() == 1 => "by 1 rule".into(),
        None => format!("by {} rules", listener.rules.len()),
    };
    let most = listener.limits.connections.map(|most| format!(" of {most}")).unwrap_or_default();
    let noun = if listener.connections == 1 && most.is_empty() { "connection" } else { "connections" };
    let mut line = format!(
        "listener {} on {}, {goes}, {}{most} {noun}",
        listener.name,
        listener.addresses.join(" and "),
        listener.connections
    );
    if let Some(tls) = &listener.tls {
        for Certificate { names, until, .. } in &tls.certificates {
            line.push_str(&format!(
                "\n  TLS for {} until {until}",
                if names.is_empty() { "no name".into() } else { names.join(", ") }
            ));
        }
        if !tls.refused.is_empty() {
            line.push_str(&format!("\n  new files were REFUSED: {}", tls.refused));
        }
    }
    line
}

fn service(service: &Service) -> String {
    let mut head = format!("service {} ({}), {}", service.name, service.kind, service.balance);
    let facts = [
        (service.maintenance, "IN MAINTENANCE: everything is answered 503".to_owned()),
        (service.panic, "PANIC: so few are well that ejections are ignored".to_owned()),
        (service.held > 0, format!("{} requests are held", service.held)),
    ];
    for (_, fact) in facts.iter().filter(|(holds, _)| *holds) {
        head.push_str(&format!("; {fact}"));
    }
    let mut notes: Vec<String> = Vec::new();
    for order in &service.orders {
        let of = order
            .upstream
            .as_ref()
            .map(|name| format!("{name}, which is not there now: "))
            .unwrap_or_default();
        notes.push(format!("said: {of}{}", words(order)));
    }
    if let Some(cohort) = &service.cohort {
        let version = cohort.version.as_deref().unwrap_or("no version in particular");
        notes.push(format!("agents are served from {version} ({})", cohort.why));
    }
    if let Some(discovery) = service.discovery.as_ref().filter(|discovery| !discovery.well) {
        notes.push(format!("{} cannot be asked: {}", discovery.from, discovery.why));
    }
    let notes: String = notes.iter().map(|note| format!("\n  {note}")).collect();
    let rows: Vec<_> = service.upstreams.iter().map(|upstream| row(service, upstream)).collect();
    format!("{head}{notes}\n{}", table(&HEAD, &rows))
}

fn row(service: &Service, upstream: &Upstream) -> ([String; 7], Vec<String>) {
    let takes = match (upstream.drained, &upstream.ejected, upstream.health.as_str()) {
        (true, ..) => "drained",
        (false, Some(_), _) => "ejected",
        (false, None, "up") if !upstream.at_limit.is_empty() => "at limit",
        (false, None, "up") => "yes",
        (false, None, _) => "no",
    };
    let marks = [(upstream.writer, " (writer)"), (upstream.found, " (found)")];
    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
    let weight = match (upstream.weight_now - f64::from(upstream.weight)).abs() > 0.005 {
        true => format!("{:.1} of {}", upstream.weight_now, upstream.weight),
        false => upstream.weight.to_string(),
    };
    let mut notes = Vec::new();
    if upstream.health != "up" {
        notes.push(format!("{} since {}: {}", upstream.health, upstream.since, upstream.evidence));
    }
    for class in service.refusals(upstream) {
        notes.push(format!("{}: {}", class.class.as_str(), class.why));
    }
    if let Some(ejected) = &upstream.ejected {
        notes.push(format!("ejected until {}: {}", ejected.until, ejected.why));
    }
    notes.extend(upstream.orders.iter().map(|order| format!("said: {}", words(order))));
    let cells = [
        format!("{}{marks}", upstream.name),
        upstream.address.clone(),
        upstream.health.clone(),
        takes.into(),
        weight,
        upstream.outstanding.to_string(),
        (upstream.connections.control + upstream.connections.bulk).to_string(),
    ];
    (cells, notes)
}
