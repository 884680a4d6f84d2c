//! `switchyard node config`, `drain`, `undrain` and `delete`.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::{Failure, Printer};
use crate::{
    cli::cloud::{Told, find_nodes, look_on, usage},
    client::InstancesLike,
    clock,
    wire::node::{CapacityMode, NodeConfig},
};

/// Between two looks at a node that is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// How often a node is told that it is waited for, at most.
const TELL: Duration = Duration::from_secs(10);

/// Arguments of `node config`.
#[derive(Debug, clap::Args)]
pub(super) struct Config {
    /// The node, by id or name
    #[arg(value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    node: String,
    #[command(flatten)]
    told: Told,
    /// Most VMs at once
    #[arg(long, value_name = "N")]
    capacity: Option<i64>,
    /// How its room is counted
    #[arg(long, value_enum, value_name = "MODE")]
    capacity_mode: Option<Mode>,
    /// Processors that may be given to VMs, where resources are counted; 0: twice its cores
    #[arg(long, value_name = "N")]
    vcpu_override: Option<i64>,
    /// Memory in GB that may be given to VMs, where resources are counted; 0: all but 2
    #[arg(long, value_name = "GB")]
    ram_override: Option<i64>,
    /// Another name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Another address for whoever wants to reach its VMs
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Whether its agent may send its log to the controllers; Switchyard's agents keep it to themselves in any case
    #[arg(long, value_name = "BOOL")]
    central_logging: Option<bool>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// At most so many VMs
    Number,
    /// By processors and memory
    Resource,
}

/// Arguments of `node drain`.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// The nodes, by id or name
    #[arg(value_name = "NODE", required = true, value_parser = NonEmptyStringValueParser::new())]
    nodes: Vec<String>,
    #[command(flatten)]
    told: Told,
    /// Wait until nothing runs there any more
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "1d", requires = "wait", value_parser = crate::cli::words::time)]
    wait_timeout: Duration,
}

/// Arguments of `node undrain`.
#[derive(Debug, clap::Args)]
pub(super) struct Undrain {
    /// The nodes, by id or name
    #[arg(value_name = "NODE", required = true, value_parser = NonEmptyStringValueParser::new())]
    nodes: Vec<String>,
    #[command(flatten)]
    told: Told,
}

/// Arguments of `node delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The nodes, by id or name
    #[arg(value_name = "NODE", required = true, value_parser = NonEmptyStringValueParser::new())]
    nodes: Vec<String>,
    #[command(flatten)]
    told: Told,
}

pub(super) async fn config(args: &Config, printer: Printer) -> Result<(), Failure> {
    let ask = NodeConfig {
        node_id: None,
        max_vm_count: args.capacity,
        name: args.name.clone(),
        host: args.host.clone(),
        capacity_mode: args.capacity_mode.map(|mode| match mode {
            Mode::Number => CapacityMode::Number,
            Mode::Resource => CapacityMode::Resource,
        }),
        vcpu_override: args.vcpu_override,
        ram_override: args.ram_override,
        disable_central_logging: args.central_logging.map(|on| !on),
        drain_mode: None,
    };
    if ask == NodeConfig::default() {
        return Err(usage(
            "nothing was named to change",
            "`switchyard node config --help` lists what can be",
        ));
    }
    let ids = set(&args.told, std::slice::from_ref(&args.node), &ask, printer).await?;
    args.told.done(printer, &json!({ "nodes": ids }), &format!("changed: {}", args.node))
}

pub(super) async fn drain(args: &Drain, printer: Printer) -> Result<(), Failure> {
    let ids = drained(&args.told, &args.nodes, true, printer).await?;
    if args.wait {
        empty(args, &ids, printer).await?;
    }
    let what = if args.wait { "drained, and empty" } else { "drained" };
    args.told.done(printer, &json!({ "nodes": ids }), &format!("{what}: {}", args.nodes.join(", ")))
}

pub(super) async fn undrain(args: &Undrain, printer: Printer) -> Result<(), Failure> {
    let ids = drained(&args.told, &args.nodes, false, printer).await?;
    args.told.done(
        printer,
        &json!({ "nodes": ids }),
        &format!("takes starts again: {}", args.nodes.join(", ")),
    )
}

pub(super) async fn delete(args: &Delete, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let ids = find_nodes(reach, &client, &args.nodes).await?;
    for (at, (node, id)) in args.nodes.iter().zip(&ids).enumerate() {
        if let Err(error) = client.forget(id).await {
            say_done(printer, "forgotten", &args.nodes[..at]);
            return Err(reach.about("node", node, "switchyard node list", &error));
        }
    }
    args.told.done(printer, &json!({ "nodes": ids }), &format!("forgotten: {}", args.nodes.join(", ")))
}

async fn drained(told: &Told, nodes: &[String], on: bool, printer: Printer) -> Result<Vec<String>, Failure> {
    set(told, nodes, &NodeConfig { drain_mode: Some(on), ..NodeConfig::default() }, printer).await
}

/// Sets the same at each of them; their ids.
async fn set(
    told: &Told,
    nodes: &[String],
    ask: &NodeConfig,
    printer: Printer,
) -> Result<Vec<String>, Failure> {
    let client = told.reach.client()?;
    let ids = find_nodes(&told.reach, &client, nodes).await?;
    for (at, (node, id)) in nodes.iter().zip(&ids).enumerate() {
        let done = client.configure(&NodeConfig { node_id: Some(id.clone()), ..ask.clone() }).await;
        if let Err(error) = done {
            say_done(printer, "changed", &nodes[..at]);
            return Err(told.reach.about("node", node, "switchyard node list", &error));
        }
    }
    Ok(ids)
}

/// Of several, those that were done before one failed.
fn say_done(printer: Printer, what: &str, nodes: &[String]) {
    if !nodes.is_empty() {
        printer.note(format!("{what} before: {}", nodes.join(", ")));
    }
}

/// Waits until no instance is on any of the nodes.
async fn empty(args: &Drain, ids: &[String], printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let until = clock::now() + args.wait_timeout;
    let node = if let [one] = ids { Some(one.clone()) } else { None };
    let like = InstancesLike { node, ..InstancesLike::default() };
    let mut told: Option<(usize, tokio::time::Instant)> = None;
    loop {
        // What a node has is told by the instances: it counts those that run, and one that is about to counts as well.
        let all = look_on(until, async || client.instances_like(&like).await).await;
        let all = all.map_err(|error| reach.failure(&error))?;
        let gone = |state: crate::model::InstanceState| state == crate::model::InstanceState::Terminated;
        let left = all.iter().filter(|vm| ids.contains(&vm.node_id) && !gone(vm.instance_state)).count();
        if left == 0 {
            return Ok(());
        }
        let now = clock::now();
        if now >= until {
            let late = humantime::format_duration(args.wait_timeout);
            return Err(Failure::Runtime {
                error: format!("{left} instances are still there after {late}"),
                hint: Some("`switchyard vm list --node ID` shows those of one node".into()),
            });
        }
        if told.is_none_or(|(before, at)| before != left && now - at >= TELL) {
            printer.note(format!("{left} instances are still there"));
            told = Some((left, now));
        }
        tokio::time::sleep(LOOK).await;
    }
}
