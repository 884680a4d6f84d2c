//! `switchyard cohort`: which controller version agents are served from, and the way back with one command.

use super::{Failure, Printer, admin::Reach, role};
use crate::{
    model::ServiceName,
    wire::upstreams::{Cohort, CohortOrder},
};

/// Arguments of `cohort`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service of controllers
    #[arg(value_name = "SERVICE", value_parser = |text: &str| ServiceName::parse(text))]
    service: ServiceName,
    /// Serve agents from this version from now on, for as long as any controller is of it
    #[arg(long, value_name = "VERSION", conflicts_with = "by_rule")]
    serve: Option<String>,
    /// Take back what `--serve` said: the highest version that is healthy at the quorum again
    #[arg(long)]
    by_rule: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let service = args.service.as_str();
    let cohort = role::once(async {
        let (admin, failure) = (args.reach.client()?, |error| args.reach.failure(&error));
        if args.serve.is_some() || args.by_rule {
            let order = CohortOrder { version: args.serve.clone() };
            return admin.order_cohort(service, &order).await.map_err(failure);
        }
        let pools = admin.upstreams().await.map_err(failure)?;
        let missing = |error: &str, hint: &str| Failure::Runtime {
            error: format!("service `{service}` {error}"),
            hint: Some(hint.into()),
        };
        let found = pools.services.into_iter().find(|pool| pool.name == service);
        let found = found.ok_or_else(|| {
            missing("is not one of this proxy's", "`[service.NAME]` in its config names them")
        })?;
        found.cohort.ok_or_else(|| missing("does not care for versions", "add `cohorts = true` to it"))
    })??;
    printer.data(shown(&cohort));
    Ok(())
}

fn shown(cohort: &Cohort) -> String {
    let mut lines = vec![match &cohort.version {
        Some(version) => format!("agents are served from {version} since {} ({})", cohort.since, cohort.why),
        None => format!("agents are served from no version in particular ({})", cohort.why),
    }];
    if let Some(ordered) = &cohort.ordered {
        lines.push(format!("an operator said {ordered}; `--by-rule` takes it back"));
    }
    match (cohort.agreed, &cohort.alone) {
        (Some(true), _) => lines.push("all proxies of this cloud go by it, through etcd".into()),
        (Some(false), why) => lines.push(format!(
            "it stays, for the other proxies cannot be asked: {}",
            why.as_deref().unwrap_or("etcd is away")
        )),
        (None, _) => {}
    }
    lines.extend(cohort.versions.iter().map(|version| {
        let mark = if version.served { "*" } else { " " };
        let quorum = match version.settled_seconds {
            Some(seconds) => format!("for {seconds} s"),
            None => "too few".into(),
        };
        let (able, of, needed) = (version.able, version.upstreams, cohort.needed);
        format!("{mark} {}  {able} of {of} healthy, {needed} needed: {quorum}", version.version)
    }));
    lines.join("\n")
}
