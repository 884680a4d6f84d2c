//! `switchyard node list` and `show`.

use clap::builder::NonEmptyStringValueParser;
use indicatif::HumanBytes;

use super::{Failure, Printer};
use crate::{
    cli::{
        cloud::{View, find_node, or_dash},
        table::table,
    },
    client::NodesLike,
    wire::{
        cloud::{CommandWaits, NodeWaits},
        command::CommandState,
        node::{CapacityMode, Node},
    },
};

/// Arguments of `node list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    shown: View,
    /// Those in this state
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Those of this group, by name or id
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// Arguments of `node show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The node, by id or name
    #[arg(value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    node: String,
    #[command(flatten)]
    shown: View,
}

/// Arguments of `node why`.
#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// The node, by id or name
    #[arg(value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
    node: String,
    #[command(flatten)]
    shown: View,
}

pub(super) async fn list(args: &List, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let like = NodesLike { states: args.state.clone(), group: args.group.clone(), name: None };
    let look = async || client.nodes_like(&like).await.map_err(|error| reach.failure(&error));
    let show = |all: &Vec<Node>| {
        args.shown.output.print(printer, all, || listed(all))?;
        if all.is_empty() {
            printer.note("no such nodes: `switchyard agent join URL` on a host makes it one");
        }
        Ok(())
    };
    args.shown.run(printer, look, show).await
}

pub(super) async fn show(args: &Show, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || find_node(reach, &client, &args.node).await;
    args.shown.run(printer, look, |node| args.shown.output.print(printer, node, || page(node))).await
}

pub(super) async fn why(args: &Why, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || {
        let id = find_node(reach, &client, &args.node).await?.node_id;
        let found = client.node_why(&id).await.map_err(|error| reach.failure(&error))?;
        found.ok_or_else(|| reach.missing("node", &args.node, "switchyard node list"))
    };
    args.shown.run(printer, look, |waits| args.shown.output.print(printer, waits, || waiting(waits))).await
}

fn waiting(waits: &NodeWaits) -> String {
    let mut lines = vec![format!("{}: {}", waits.node_id, waits.why)];
    if !waits.commands.is_empty() {
        let row = |one: &CommandWaits| {
            let state = match one.state {
                CommandState::Waiting => "waiting",
                CommandState::Running => "running",
                CommandState::Done => "done",
                CommandState::Failed => "failed",
            };
            ([one.id.to_string(), one.what.clone(), state.to_owned(), one.why.clone()], Vec::new())
        };
        let rows: Vec<_> = waits.commands.iter().map(row).collect();
        lines.push(String::new());
        lines.push(table(&["COMMAND", "WHAT", "STATE", "WHY"], &rows));
    }
    lines.join("\n")
}

fn groups(node: &Node) -> String {
    node.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn listed(all: &[Node]) -> String {
    let row = |node: &Node| {
        let cells = [
            node.node_id.clone(),
            or_dash(&node.node_name),
            node.state.as_str().to_owned(),
            format!("{}/{}", node.vm_count, node.capacity),
            node.host_arch.as_str().to_owned(),
            HumanBytes(node.free_disk_space).to_string(),
            or_dash(&groups(node)),
            or_dash(&node.ip_address),
        ];
        (cells, Vec::new())
    };
    let head = ["ID", "NAME", "STATE", "VMS", "ARCH", "FREE DISK", "GROUPS", "HOST"];
    table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

fn page(node: &Node) -> String {
    let mut lines = vec![node.node_id.clone()];
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {name:<12} {value}"));
        }
    };
    line("name", node.node_name.clone());
    line("state", node.state.as_str().to_owned());
    line("host", node.ip_address.clone());
    line("machine", format!("{}, {} cores, {} GB", node.host_arch.as_str(), node.cpu_count, node.ram));
    line("VMs", format!("{} of {} run", node.vm_count, node.capacity));
    if node.capacity_mode == CapacityMode::Resource {
        let or_own = |n: u64| if n == 0 { "its own".into() } else { n.to_string() };
        let (cpus, ram) = (or_own(node.vcpu_override.into()), or_own(node.ram_override));
        line("room", format!("by resources: {cpus} processors, {ram} GB"));
    }
    line("in use", format!("{} processors, {} MB by VMs", node.vcpu_count, node.vram));
    line("load", format!("processors {:.0} %, memory {:.0} %", node.cpu_util * 100.0, node.ram_util * 100.0));
    let disk = [node.free_disk_space, node.disk_size, node.anka_disk_usage]
        .map(|bytes| HumanBytes(bytes).to_string());
    line("disk", format!("{} of {} free, {} of templates and VMs", disk[0], disk[1], disk[2]));
    line("groups", groups(node));
    line(
        "hypervisor",
        format!("{} {}", node.anka_version.product, node.anka_version.version).trim().to_owned(),
    );
    line("agent", node.agent_version.clone());
    line("reported", node.last_updated.to_string());
    for template in &node.templates {
        line("template", format!("{}:{} ({})", template.name, template.tag, template.uuid));
    }
    lines.join("\n")
}
