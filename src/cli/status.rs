//! `switchyard status`: a running proxy on one screen.

use std::time::Duration;

use serde::Serialize;

use super::{
    Failure, Printer,
    admin::{Output, Reach},
    orders::words,
    role,
    table::table,
};
use crate::wire::{
    handover::Process,
    upstreams::{Service, Upstream, Upstreams},
};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Look again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true, value_parser = clap::value_parser!(u16).range(1..=3600))]
    watch: Option<u16>,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Status {
    process: Process,
    #[serde(flatten)]
    upstreams: Upstreams,
}

const HEAD: [&str; 7] = ["UPSTREAM", "ADDRESS", "HEALTH", "TAKES", "WEIGHT", "UNDER WAY", "CONNECTIONS"];

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let client = args.reach.client()?;
    role::once(async {
        loop {
            let asked = async {
                Ok(Status { process: client.process().await?, upstreams: client.upstreams().await? })
            };
            let asked = asked.await.map_err(|error| args.reach.failure(&error));
            let Some(every) = args.watch else { return show(args, printer, &asked?) };
            match asked {
                Ok(status) => {
                    if args.output == Output::Text {
                        printer.clear();
                    }
                    show(args, printer, &status)?;
                }
                // It may be back at the next look: a proxy that restarts is what people watch.
                Err(failure) => failure.show(printer),
            }
            tokio::time::sleep(Duration::from_secs(every.into())).await;
        }
    })?
}

fn show(args: &Args, printer: Printer, status: &Status) -> Result<(), Failure> {
    args.output.print(printer, status, || text(status))
}

fn text(status: &Status) -> String {
    let Process { pid, version, generation, listeners, connections, old } = &status.process;
    let mut lines = vec![format!(
        "process {pid}, version {version}, upgrade {generation}, {connections} connections of clients"
    )];
    for old in old {
        lines.push(format!(
            "  replaced: process {} has {} connections, until {}",
            old.pid, old.connections, old.until
        ));
    }
    lines.extend(listeners.iter().map(|(name, address)| format!("listener {name} on {address}")));
    for one in &status.upstreams.services {
        lines.push(String::new());
        lines.push(service(one));
    }
    lines.join("\n")
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
