//! `switchyard permission …`: groups of callers, and what they may do.

use serde_json::json;

use super::{
    Failure, Printer,
    cloud::{Reach, Told, View, or_dash, usage},
    role,
    table::table,
    words::counted,
};
use crate::{
    auth::keys::may_be_given,
    client::{ClientError, Controllers},
    wire::permission::PermissionGroup,
};

/// Permissions of a row that are named; the others are counted.
const NAMED: usize = 4;

/// Arguments of `permission`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the groups of callers and what they may do
    #[command(visible_alias = "ls")]
    List(Looked),
    /// Show what one group may do, and what each permission opens
    Show(Show),
    /// Make a group that may do this
    Create(Given),
    /// Say what a group may do from now on, and nothing else
    Set(Given),
    /// Delete a group: its callers may do what their other groups may
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// List the permissions that there are
    Names(Looked),
}

#[derive(Debug, clap::Args)]
struct Looked {
    #[command(flatten)]
    shown: View,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The group, as API keys and certificates name it
    #[arg(value_name = "GROUP", value_parser = name)]
    group: String,
    #[command(flatten)]
    shown: View,
}

#[derive(Debug, clap::Args)]
struct Given {
    /// The group, as API keys and certificates name it
    #[arg(value_name = "GROUP", value_parser = name)]
    group: String,
    /// What it may do; `switchyard permission names` lists what there is
    #[arg(value_name = "PERMISSION", required_unless_present = "none", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    permissions: Vec<String>,
    /// It may do nothing
    #[arg(long, conflicts_with = "permissions")]
    none: bool,
    #[command(flatten)]
    told: Told,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// The group, as API keys and certificates name it
    #[arg(value_name = "GROUP", value_parser = name)]
    group: String,
    #[command(flatten)]
    told: Told,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => role::once(list(args, printer))?,
        Command::Show(args) => role::once(show(args, printer))?,
        Command::Create(args) => role::once(create(args, printer))?,
        Command::Set(args) => role::once(set(args, printer))?,
        Command::Delete(args) => role::once(delete(args, printer))?,
        Command::Names(args) => role::once(names(args, printer))?,
    }
}

async fn list(args: &Looked, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || client.permission_groups().await.map_err(|error| reach.failure(&error));
    let show = |all: &Vec<PermissionGroup>| {
        args.shown.output.print(printer, all, || listed(all))?;
        if all.is_empty() {
            printer.note("no groups yet: `switchyard permission create GROUP PERMISSION…` makes one");
        }
        Ok(())
    };
    args.shown.run(printer, look, show).await
}

fn listed(all: &[PermissionGroup]) -> String {
    let row = |group: &PermissionGroup| {
        let cells = [group.name.clone(), group.permissions.len().to_string(), few(&group.permissions)];
        (cells, Vec::new())
    };
    table(&["GROUP", "PERMISSIONS", "WHICH"], &all.iter().map(row).collect::<Vec<_>>())
}

/// The first of them, and how many more there are.
fn few(names: &[String]) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => or_dash(&first),
        more => format!("{first} and {more} more"),
    }
}

async fn show(args: &Show, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    // What each opens is said by the controllers: they may know more than this program. Who may see the groups alone sees the
    // names.
    let about = client.permissions().await.unwrap_or_default();
    let look = async || {
        let all = client.permission_groups().await.map_err(|error| reach.failure(&error))?;
        all.into_iter().find(|one| one.name == args.group).ok_or_else(|| missing(reach, &args.group))
    };
    let show = |group: &PermissionGroup| {
        args.shown.output.print(printer, group, || {
            let row = |name: &String| {
                let opens = about.get(name).map_or("", |one| &one.description);
                ([name.clone(), or_dash(opens)], Vec::new())
            };
            let rows: Vec<_> = group.permissions.iter().map(row).collect();
            table(&["PERMISSION", "OPENS"], &rows)
        })?;
        if group.permissions.is_empty() {
            printer.note(format!("`{}` may do nothing", group.name));
        }
        Ok(())
    };
    args.shown.run(printer, look, show).await
}

async fn names(args: &Looked, printer: Printer) -> Result<(), Failure> {
    let reach = &args.shown.reach;
    let client = reach.client()?;
    let look = async || client.permissions().await.map_err(|error| reach.failure(&error));
    let show = |all: &std::collections::BTreeMap<String, _>| {
        args.shown.output.print(printer, all, || {
            let row = |(name, one): (&String, &crate::wire::permission::Described)| {
                ([name.clone(), or_dash(&one.description)], Vec::new())
            };
            table(&["PERMISSION", "OPENS"], &all.iter().map(row).collect::<Vec<_>>())
        })
    };
    args.shown.run(printer, look, show).await
}

async fn create(args: &Given, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    // The call that makes one changes one that is there: whoever mistypes a name would take permissions from others.
    let all = client.permission_groups().await.map_err(|error| reach.failure(&error))?;
    if all.iter().any(|one| one.name == args.group) {
        let hint = "`switchyard permission set` says what it may do from now on";
        return Err(usage(format!("there is a group `{}` already", args.group), hint));
    }
    given(args, &client, "made", printer).await
}

async fn set(args: &Given, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let all = client.permission_groups().await.map_err(|error| reach.failure(&error))?;
    if !all.iter().any(|one| one.name == args.group) {
        return Err(missing(reach, &args.group));
    }
    given(args, &client, "changed", printer).await
}

/// A name that can be a segment of a path.
fn name(text: &str) -> Result<String, String> {
    match may_be_given(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("1 to 256 bytes, no control characters, slashes and backslashes, and not `.` or `..`".into())
        }
    }
}

async fn given(args: &Given, client: &Controllers, done: &str, printer: Printer) -> Result<(), Failure> {
    let group = client.set_permissions(&args.group, &args.permissions).await;
    let group = group.map_err(|error| match &error {
        ClientError::Refused { status: 400, message, .. } if message.starts_with("permissions: ") => {
            let what = message.split(';').next().unwrap_or(message);
            usage(what.to_owned(), "`switchyard permission names` lists those that there are")
        }
        error => args.told.reach.failure(error),
    })?;
    let text = format!("{done}: {} may do {}", group.name, counted(group.permissions.len(), "thing"));
    args.told.output.print(printer, &group, || text)
}

async fn delete(args: &Delete, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let all = client.permission_groups().await.map_err(|error| reach.failure(&error))?;
    if !all.iter().any(|one| one.name == args.group) {
        return Err(missing(reach, &args.group));
    }
    client.delete_permission_group(&args.group).await.map_err(|error| reach.failure(&error))?;
    args.told.done(printer, &json!({ "group": args.group }), &format!("deleted: {}", args.group))
}

fn missing(reach: &Reach, group: &str) -> Failure {
    reach.missing("group of callers", group, "switchyard permission list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_a_few_permissions_and_counts_the_others() {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(String::from).to_vec();
        assert_eq!(few(&[]), "-");
        assert_eq!(few(names.get(..2).unwrap()), "a, b");
        assert_eq!(few(&names), "a, b, c, d and 2 more");
    }
}
