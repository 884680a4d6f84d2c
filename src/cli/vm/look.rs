//! `switchyard vm list`, `show` and `why`.

use clap::builder::NonEmptyStringValueParser;
use indicatif::HumanBytes;

use super::{Failure, Printer};
use crate::{
    cli::{
        cloud::{View, node_id, or_dash},
        table::table,
    },
    client::{ClientError, InstancesLike},
    clock,
    model::{InstanceState, Timestamp},
    wire::{
        cloud,
        vm::{Vm, VmInfo},
    },
};

/// Arguments of `vm list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    shown: View,
    /// Their ids alone, one a line
    #[arg(long, conflicts_with = "output")]
    ids: bool,
    /// Those in this state; several are several
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Those on this node, by name or id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Those of this template, by its id (at our controllers by its name, too)
    #[arg(long, value_name = "ID")]
    template: Option<String>,
    /// Those that were started for this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Those with this free text
    #[arg(long, value_name = "TEXT")]
    external_id: Option<String>,
    /// Those with this label
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

/// Arguments of `vm show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The instance
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    shown: View,
}

/// Arguments of `vm why`.
#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// The instance
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    shown: View,
}

pub(super) async fn list(args: &List, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let like = InstancesLike {
        states: args.state.clone(),
        node: match &args.node {
            Some(named) => Some(node_id(reach, &client, named).await?),
            None => None,
        },
        template: args.template.clone(),
        group: args.group.clone(),
        external_id: args.external_id.clone(),
        name: args.name.clone(),
    };
    let look = async || client.instances_like(&like).await.map_err(|error| reach.failure(&error));
    let show = |all: &Vec<Vm>| {
        let shown: Vec<&Vm> = all.iter().collect();
        if args.ids {
            shown.iter().for_each(|vm| printer.data(&vm.instance_id));
            return Ok(());
        }
        args.shown.output.print(printer, &shown, || listed(&shown))?;
        if all.is_empty() {
            printer.note("no such instances: `switchyard vm start TEMPLATE` makes one");
        }
        Ok(())
    };
    args.shown.run(printer, look, show).await
}

pub(super) async fn show(args: &Show, printer: Printer) -> Result<(), Failure> {
    let print = |vm: &Vm| args.shown.output.print(printer, vm, || page(vm));
    args.shown.run(printer, async || one(&args.shown, &args.id).await, print).await
}

pub(super) async fn why(args: &Why, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || match client.why(&args.id).await {
        Ok(Some(why)) => Ok(Reason::Whole(Box::new(why))),
        Ok(None) => Err(reach.missing("instance", &args.id, "switchyard vm list")),
        // The vendor's controllers know what they say of an instance, and no more.
        Err(ClientError::Strange { .. }) => Ok(Reason::Message(Box::new(one(&args.shown, &args.id).await?))),
        Err(error) => Err(reach.failure(&error)),
    };
    let print = |why: &Reason| {
        args.shown.output.print(printer, why, || match why {
            Reason::Whole(why) => told(why),
            Reason::Message(vm) => reason(vm),
        })
    };
    args.shown.run(printer, look, print).await
}

/// What is known of why.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Reason {
    Whole(Box<cloud::Why>),
    Message(Box<Vm>),
}

fn told(why: &cloud::Why) -> String {
    let mut lines = vec![format!("{}: {}", why.state.as_str(), why.why)];
    if let Some(queue) = &why.queue {
        lines.push(format!(
            "{} of {} that wait come first, {} of them ask for the same; priority {}, {:.0} after {:.0} s",
            queue.ahead,
            queue.waiting,
            queue.ahead_of_its_kind,
            queue.priority,
            queue.aged_priority,
            queue.age_seconds
        ));
    }
    if !why.nodes.is_empty() {
        let row = |node: &cloud::NodeWhy| {
            let template = match (node.has_template, node.layers_there) {
                (true, _) => "there".to_owned(),
                (false, 0) => "-".to_owned(),
                (false, bytes) => format!("{} of it", HumanBytes(bytes)),
            };
            ([node.node_id.clone(), or_dash(&node.node_name), template, node.why.clone()], Vec::new())
        };
        let rows: Vec<_> = why.nodes.iter().map(row).collect();
        lines.push(String::new());
        lines.push(table(&["NODE", "NAME", "TEMPLATE", "WHY NOT"], &rows));
    }
    if why.nodes_total > why.nodes.len() && !why.nodes.is_empty() {
        lines.push(format!("and {} nodes more", why.nodes_total - why.nodes.len()));
    }
    lines.join("\n")
}

async fn one(shown: &View, id: &str) -> Result<Vm, Failure> {
    let reach = &shown.reach;
    let found = reach.client()?.instance(id).await.map_err(|error| reach.failure(&error))?;
    found.ok_or_else(|| reach.missing("instance", id, "switchyard vm list"))
}

/// Instances that were just started, with what one needs to get at them.
pub(super) fn started(all: &[&Vm]) -> String {
    listed(all)
}

fn listed(all: &[&Vm]) -> String {
    let now = clock::wall();
    let row = |vm: &&Vm| {
        let state = match vm.instance_state {
            InstanceState::Pulling => format!("Pulling {}", share(vm)),
            other => other.as_str().to_owned(),
        };
        let cells = [
            vm.instance_id.clone(),
            state,
            or_dash(&vm.name),
            template(vm),
            or_dash(&vm.node_id),
            or_dash(vm.vminfo.as_ref().map_or("", |info| &info.ip)),
            age(vm.cr_time, now),
        ];
        let note = (!vm.message.is_empty()).then(|| vm.message.clone());
        (cells, note.into_iter().collect())
    };
    let head = ["ID", "STATE", "NAME", "TEMPLATE", "NODE", "IP", "AGE"];
    table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

fn template(vm: &Vm) -> String {
    if vm.tag.is_empty() { vm.vmid.clone() } else { format!("{}:{}", vm.vmid, vm.tag) }
}

fn share(vm: &Vm) -> String {
    let share = serde_json::to_value(vm.progress).ok().and_then(|share| share.as_f64()).unwrap_or(0.0);
    format!("{:.0} %", share * 100.0)
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(since).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn reason(vm: &Vm) -> String {
    let state = vm.instance_state.as_str();
    if vm.message.is_empty() {
        format!("{state}: there is nothing to say about it")
    } else {
        format!("{state}: {}", vm.message)
    }
}

fn page(vm: &Vm) -> String {
    let mut lines = vec![vm.instance_id.clone()];
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("  {name:<12} {value}"));
        }
    };
    line("state", vm.instance_state.as_str());
    line("message", &vm.message);
    if vm.instance_state == InstanceState::Pulling {
        line("pulled", &share(vm));
    }
    line("template", &template(vm));
    line("version", &vm.version.map(|version| version.to_string()).unwrap_or_default());
    line("arch", vm.arch.map_or("", |arch| arch.as_str()));
    line("name", &vm.name);
    line("external id", &vm.external_id);
    for (key, value) in &vm.metadata {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line("metadata", &format!("{key} = {value}"));
    }
    line("node", &vm.node_id);
    line("group", &vm.group_id);
    line("MAC address", &vm.mac_address);
    line("VLAN", &vm.vlan);
    line("USB device", &vm.usb_device);
    line("created", &vm.cr_time.to_string());
    line("changed", &vm.ts.to_string());
    if let Some(info) = &vm.vminfo {
        running(info, &mut line);
    }
    if let Some(script) = &vm.startup_script {
        let how = if script.did_timeout {
            "ran out of time".into()
        } else {
            format!("ended with {}", script.return_code)
        };
        line("script", &how);
        for error in &script.errors {
            line("", error);
        }
        line("stdout", script.stdout.trim_end());
        line("stderr", script.stderr.trim_end());
    }
    lines.join("\n")
}

fn running(info: &VmInfo, line: &mut impl FnMut(&str, &str)) {
    line("VM", &format!("{} ({})", info.name, info.uuid));
    line("status", &info.status);
    line("size", &format!("{} processors, {}", info.cpu_cores, info.ram));
    line("IP", &info.ip);
    line("host", &info.host_ip);
    line("VNC port", &info.vnc_port.map(|port| port.to_string()).unwrap_or_default());
    for rule in &info.port_forwarding {
        line(
            "port",
            &format!(
                "{} {}: {} of the VM at {} of the host",
                rule.protocol, rule.name, rule.guest_port, rule.host_port
            ),
        );
    }
}
