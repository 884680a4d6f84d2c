//! `switchyard group …`: groups of nodes made, changed and deleted, and nodes put into them.

use serde_json::json;

use super::{
    Failure, Printer,
    cloud::{Reach, Told, View, or_dash, usage},
    role,
    table::table,
};
use crate::{
    client::Controllers,
    wire::{
        group::{GroupAsk, NodeGroups},
        node::NodeGroup,
    },
};

/// Arguments of `group`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a group of nodes
    Create(Create),
    /// List the groups
    #[command(visible_alias = "ls")]
    List(List),
    /// Change the name, the description or the fallback of a group
    Update(Update),
    /// Delete a group; its nodes stay
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Put nodes into a group
    Attach(Nodes),
    /// Take nodes out of a group
    Detach(Nodes),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    told: Told,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A group that takes its starts while it has no room, by name or id
    #[arg(long, value_name = "GROUP")]
    fallback: Option<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    shown: View,
}

#[derive(Debug, clap::Args)]
struct Update {
    /// The group, by name or id
    #[arg(value_name = "GROUP")]
    group: String,
    #[command(flatten)]
    told: Told,
    /// Another name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Another text; an empty one takes it away
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Another fallback, by name or id; an empty one takes it away
    #[arg(long, value_name = "GROUP")]
    fallback: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// The group, by name or id
    #[arg(value_name = "GROUP")]
    group: String,
    #[command(flatten)]
    told: Told,
}

#[derive(Debug, clap::Args)]
struct Nodes {
    /// The group, by name or id
    #[arg(value_name = "GROUP")]
    group: String,
    /// The nodes, by id
    #[arg(value_name = "ID", required = true)]
    nodes: Vec<String>,
    #[command(flatten)]
    told: Told,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::Create(args) => role::once(create(args, printer))?,
        Command::List(args) => role::once(list(args, printer))?,
        Command::Update(args) => role::once(update(args, printer))?,
        Command::Delete(args) => role::once(delete(args, printer))?,
        Command::Attach(args) => role::once(regroup(args, true, printer))?,
        Command::Detach(args) => role::once(regroup(args, false, printer))?,
    }
}

async fn create(args: &Create, printer: Printer) -> Result<(), Failure> {
    let ask = GroupAsk {
        name: Some(args.name.clone()),
        description: args.description.clone(),
        fallback_group_id: args.fallback.clone(),
    };
    let reach = &args.told.reach;
    let made = reach.client()?.make_group(&ask).await.map_err(|error| reach.failure(&error))?;
    args.told.output.print(printer, &made, || made.id.clone())
}

async fn list(args: &List, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || client.groups().await.map_err(|error| reach.failure(&error));
    let show = |all: &Vec<NodeGroup>| {
        args.shown.output.print(printer, all, || listed(all))?;
        if all.is_empty() {
            printer.note("no groups yet: `switchyard group create NAME` makes one");
        }
        Ok(())
    };
    args.shown.run(printer, look, show).await
}

fn listed(all: &[NodeGroup]) -> String {
    let name = |id: &Option<String>| {
        let id = id.as_deref().unwrap_or_default();
        or_dash(all.iter().find(|group| group.id == id).map_or(id, |group| &group.name))
    };
    let row = |group: &NodeGroup| {
        let cells = [
            group.name.clone(),
            or_dash(&group.id),
            name(&group.fallback_group_id),
            or_dash(&group.description),
        ];
        (cells, Vec::new())
    };
    table(&["NAME", "ID", "FALLBACK", "DESCRIPTION"], &all.iter().map(row).collect::<Vec<_>>())
}

async fn update(args: &Update, printer: Printer) -> Result<(), Failure> {
    let ask = GroupAsk {
        name: args.name.clone(),
        description: args.description.clone(),
        fallback_group_id: args.fallback.clone(),
    };
    if ask == GroupAsk::default() {
        return Err(usage("nothing was named to change", "say `--name`, `--description` or `--fallback`"));
    }
    let reach = &args.told.reach;
    let client = reach.client()?;
    let id = find(reach, &client, &args.group).await?;
    client.change_group(&id, &ask).await.map_err(|error| about(reach, &args.group, &error))?;
    args.told.done(printer, &json!({ "group": id }), &format!("changed: {}", args.group))
}

async fn delete(args: &Delete, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let id = find(reach, &client, &args.group).await?;
    client.delete_group(&id).await.map_err(|error| about(reach, &args.group, &error))?;
    args.told.done(printer, &json!({ "group": id }), &format!("deleted: {}", args.group))
}

async fn regroup(args: &Nodes, into: bool, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let group = find(reach, &client, &args.group).await?;
    // One by one: the vendor's controllers honour only one node of a call.
    for node in &args.nodes {
        let ask = NodeGroups { group_ids: vec![group.clone()], node_ids: vec![node.clone()] };
        let done = client.regroup(&ask, into).await;
        done.map_err(|error| reach.about("node", node, "switchyard node list", &error))?;
    }
    let what = if into { "in" } else { "no longer in" };
    let text = format!("{what} {}: {}", args.group, args.nodes.join(", "));
    args.told.done(printer, &json!({ "group": group, "nodes": args.nodes }), &text)
}

/// The id of a group. One that is but a name which agents say has none: its name stands for it.
async fn find(reach: &Reach, client: &Controllers, group: &str) -> Result<String, Failure> {
    let all = client.groups().await.map_err(|error| reach.failure(&error))?;
    let of_id = all.iter().find(|one| one.id == group);
    let found = of_id.or_else(|| all.iter().find(|one| one.name == group));
    let found = found.ok_or_else(|| reach.missing("group", group, "switchyard group list"))?;
    Ok(if found.id.is_empty() { found.name.clone() } else { found.id.clone() })
}

fn about(reach: &Reach, group: &str, error: &crate::client::ClientError) -> Failure {
    reach.about("group", group, "switchyard group list", error)
}
