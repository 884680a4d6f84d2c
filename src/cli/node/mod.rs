//! `switchyard node …`: the hosts of VMs looked at, configured, drained and forgotten.

mod change;
mod look;
mod templates;

use super::{Failure, Printer, role};

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the nodes
    #[command(visible_alias = "ls")]
    List(look::List),
    /// Show one node
    Show(look::Show),
    /// Say why a node takes no starts, and what it has to do beside them
    Why(look::Why),
    /// Change the settings of a node
    Config(change::Config),
    /// Have a node take no new starts; what runs there runs on
    Drain(change::Drain),
    /// Have a drained node take starts again
    Undrain(change::Undrain),
    /// Have nodes bring a template to their disks, without a start
    Distribute(templates::Distribute),
    /// Have nodes delete a template from their disks; versions in use stay
    RemoveTemplate(templates::Remove),
    /// Have every agent install its newest program and go on as that
    Update(templates::Update),
    /// Forget a node; what it had is failed. One that lives joins again
    #[command(visible_alias = "rm")]
    Delete(change::Delete),
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => role::once(look::list(args, printer))?,
        Command::Show(args) => role::once(look::show(args, printer))?,
        Command::Why(args) => role::once(look::why(args, printer))?,
        Command::Config(args) => role::once(change::config(args, printer))?,
        Command::Drain(args) => role::once(change::drain(args, printer))?,
        Command::Undrain(args) => role::once(change::undrain(args, printer))?,
        Command::Distribute(args) => role::once(templates::distribute(args, printer))?,
        Command::RemoveTemplate(args) => role::once(templates::remove(args, printer))?,
        Command::Update(args) => role::once(templates::update(args, printer))?,
        Command::Delete(args) => role::once(change::delete(args, printer))?,
    }
}
