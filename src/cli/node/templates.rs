//! `switchyard node distribute`, `remove-template` and `update`: what nodes are given to do beside instances.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{Failure, Printer};
use crate::{
    cli::cloud::{Told, find_nodes, find_template, look_on, usage},
    client::{Controllers, DistributeAsk},
    clock,
    model::NodeId,
    wire::distribution::{Distribution, NodeProgress},
};

/// Between two looks at a distribution that is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `node distribute`.
#[derive(Debug, clap::Args)]
pub(super) struct Distribute {
    /// The template, by name or id; without a tag its newest version
    #[arg(value_name = "TEMPLATE[:TAG]")]
    template: String,
    #[command(flatten)]
    told: Told,
    /// Only these nodes, by id or name
    #[arg(long = "node", value_name = "NODE", conflicts_with = "group")]
    nodes: Vec<String>,
    /// Only the nodes of this group, by id
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The group that it is for, where resources are managed
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    permission_group: Option<String>,
    /// Wait until all of them have it; fails when one of them does
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "4h", requires = "wait", value_parser = crate::cli::words::time)]
    wait_timeout: Duration,
    /// Say nothing while waiting
    #[arg(long, short, requires = "wait")]
    quiet: bool,
}

/// Arguments of `node remove-template`.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The template, by name or id
    #[arg(value_name = "TEMPLATE")]
    template: String,
    #[command(flatten)]
    told: Told,
    /// Only from these nodes, by id or name
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
}

/// Arguments of `node update`.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    #[command(flatten)]
    told: Told,
}

pub(super) async fn distribute(args: &Distribute, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let (template, tag) = find_template(reach, &client, &args.template).await?;
    let nodes = find_nodes(reach, &client, &args.nodes).await?;
    let ask = DistributeAsk {
        template: &template,
        tag: tag.as_deref(),
        nodes: &nodes,
        group: args.group.as_deref(),
        permission_group: args.permission_group.as_deref(),
    };
    let id = client.distribute(&ask).await.map_err(|error| reach.failure(&error))?;
    if !args.wait {
        let text = format!("begun: {id}; `switchyard node why NODE` says how far each is");
        return args.told.done(printer, &json!({ "distribution": id }), &text);
    }
    let ended = ended(args, &client, printer, &id).await?;
    let count = ended.distribute_status.len();
    args.told.done(
        printer,
        &json!(ended),
        &format!("there on {count} {}", if count == 1 { "node" } else { "nodes" }),
    )
}

/// Waits until each node has it, or one of them will not.
async fn ended(
    args: &Distribute,
    client: &Controllers,
    printer: Printer,
    id: &str,
) -> Result<Distribution, Failure> {
    let until = clock::now() + args.wait_timeout;
    let mut told: BTreeMap<NodeId, u64> = BTreeMap::new();
    loop {
        let now = look_on(until, async || client.distribution(id).await).await;
        let now = now.map_err(|error| args.told.reach.failure(&error))?;
        let failed: Vec<String> = now
            .distribute_status
            .iter()
            .filter(|(_, node)| !node.error.is_empty())
            .map(|(node, progress)| format!("{node}: {}", progress.error))
            .collect();
        let left =
            now.distribute_status.values().filter(|node| !node.status && node.error.is_empty()).count();
        for (node, progress) in &now.distribute_status {
            let percent = percent(progress);
            if !args.quiet && told.get(node) != Some(&percent) {
                printer.note(format!("{node}: {percent} %"));
                told.insert(node.clone(), percent);
            }
        }
        if left == 0 && failed.is_empty() {
            return Ok(now);
        }
        if left == 0 {
            return Err(Failure::Runtime {
                error: format!(
                    "not there on {} of {} nodes: {}",
                    failed.len(),
                    now.distribute_status.len(),
                    failed.join("; ")
                ),
                hint: None,
            });
        }
        if clock::now() >= until {
            let late = humantime::format_duration(args.wait_timeout);
            return Err(Failure::Runtime {
                error: format!("{left} nodes do not have it after {late}"),
                hint: Some("it goes on; `switchyard node why NODE` says what a node waits for".into()),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn percent(node: &NodeProgress) -> u64 {
    if node.status { 100 } else { (f64::from(node.progress) * 100.0) as u64 }
}

pub(super) async fn remove(args: &Remove, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let (template, tag) = find_template(reach, &client, &args.template).await?;
    if let Some(tag) = tag {
        return Err(usage(
            format!("`{tag}` names one version, and nodes delete all versions of a template"),
            "leave the tag out",
        ));
    }
    let nodes = find_nodes(reach, &client, &args.nodes).await?;
    let sent = client.remove_from_nodes(&template, &nodes).await.map_err(|error| reach.failure(&error))?;
    let text = format!(
        "to be deleted on {} nodes; `switchyard node why NODE` says what became of it",
        sent.requests_sent
    );
    args.told.done(printer, &json!(sent), &text)
}

pub(super) async fn update(args: &Update, printer: Printer) -> Result<(), Failure> {
    let client = args.told.reach.client()?;
    client.update_agents().await.map_err(|error| args.told.reach.failure(&error))?;
    let text = "agents are to update themselves; `switchyard node list` shows which do, `switchyard node why NODE` what came of it";
    args.told.done(printer, &json!({}), text)
}
