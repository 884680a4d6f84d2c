//! The command line: one file per subcommand, each a function of its arguments and a [`Printer`].
//!
//! Exit codes: 0 well, 1 failed while running, 2 bad usage or config. Nothing here decides anything that
//! another room could decide.

mod admin;
mod login;
mod trust;
mod agent;
mod check;
mod cohort;
mod dump_config;
mod orders;
mod reload;
mod status;
mod explain;
mod import;
mod controller;
mod registry;
mod template;
mod cloud;
mod vm;
mod node;
mod group;
mod permission;
mod proxy;
mod upgrade;
mod standalone;
mod role;
mod loaded;
mod output;
mod table;
mod words;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

pub use output::Printer;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "switchyard",
    version = VERSION,
    about = "The high-availability front of a VM-image build cloud, and the whole cloud behind it",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Ours, and the level of the vendor's API that we are compatible with.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (compatible with 1.51.2)");

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole cloud in this process, on one directory: the way to try it out
    Standalone(standalone::Args),
    /// Run a proxy in front of controllers and registries
    Proxy(proxy::Args),
    /// Replace a running proxy by the binary now on disk, without a connection being lost
    Upgrade(upgrade::Args),
    /// Show services, upstreams, listeners and processes of a running proxy, and what operators have said
    Status(status::Args),
    /// Let an upstream take nothing new; what it has ends by itself
    Drain(orders::Drain),
    /// Let a drained upstream take requests again
    Undrain(orders::Undrain),
    /// Give an upstream another weight than the config says, or that again
    Weight(orders::Weight),
    /// Answer everything of a service 503, or nothing, whatever the config says; or go by that again
    Maintenance(orders::Maintenance),
    /// Have a running proxy read its config again; a bad one is refused in the words of `check`
    Reload(reload::Args),
    /// Print what a running proxy goes by, defaults included, as a config file; secrets are left out
    DumpConfig(dump_config::Args),
    /// Show which version a proxy serves the agents of a service from, or say which it is to be
    Cohort(cohort::Args),
    /// Say which upstream a request would go to and why, against a running proxy; nothing is sent to it
    Explain(explain::Args),
    /// Validate config files of any role; exit 2 and point at file:line:column if one is wrong
    Check(check::Check),
    /// Translate a config of nginx or haproxy into ours, with a word about every line of it
    Import(import::Args),
    /// Run a controller: stateless, its state is in etcd
    Controller(controller::Args),
    /// Run a registry: templates as OCI images and under the vendor's paths
    Registry(registry::Args),
    /// Push, pull, list and delete templates at a registry, or through a proxy
    Template(template::Args),
    /// Start, look at, change and delete instances, at a controller or through a proxy
    Vm(vm::Args),
    /// Look at the hosts of VMs, configure, drain and forget them
    Node(node::Args),
    /// Make groups of nodes, and put nodes into them
    Group(group::Args),
    /// Say what groups of callers may do, and look at it
    Permission(permission::Args),
    /// Run a node agent on a VM host, or make its node known and unknown
    Agent(agent::Args),
    /// Stand for a VM
    #[command(hide = true)]
    VmProcess(agent::VmProcess),
}

/// Why a subcommand ends without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or config that was shown already: exit 2.
    Shown,
    /// Bad usage or config: exit 2.
    Usage { error: String, hint: Option<String> },
    /// It failed while running: exit 1.
    Runtime { error: String, hint: Option<String> },
    /// Whoever waited for it has interrupted the wait: exit 130, as if the signal had ended it.
    Interrupted { error: String, hint: String },
}

impl Failure {
    /// Something failed while running, with its causes in one line.
    pub(crate) fn runtime(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Runtime { error: format!("{what}: {}", crate::telemetry::chain(error)), hint: None }
    }

    /// With one more thing that helps, unless that was said.
    pub(crate) fn with_hint(self, more: &str) -> Self {
        match self {
            Self::Runtime { error, hint } => {
                let hint = hint.map_or_else(|| more.to_owned(), |hint| format!("{hint}; {more}"));
                Self::Runtime { error, hint: Some(hint) }
            }
            said => said,
        }
    }

    /// What went wrong, in one line.
    pub(crate) fn error(&self) -> &str {
        match self {
            Self::Shown => "its config is wrong; its log has the faults",
            Self::Usage { error, .. } | Self::Runtime { error, .. } | Self::Interrupted { error, .. } => {
                error
            }
        }
    }

    pub(crate) fn show(&self, printer: Printer) {
        match self {
            Self::Shown => {}
            Self::Usage { error, hint } | Self::Runtime { error, hint } => {
                printer.error(error, hint.as_deref());
            }
            Self::Interrupted { error, hint } => printer.error(error, Some(hint)),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Shown | Self::Usage { .. } => 2,
            Self::Runtime { .. } => 1,
            Self::Interrupted { .. } => 130,
        }
    }
}

/// Runs the command line and says how the process should end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    loaded::give_back();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Clap exits 2 on bad usage and 0 after help and version, as we do.
        Err(error) => error.exit(),
    };
    let printer = Printer::new();
    let result = match &cli.command {
        Command::Standalone(args) => standalone::run(args, printer),
        Command::Proxy(args) => proxy::run(args, printer),
        Command::Upgrade(args) => upgrade::run(args, printer),
        Command::Status(args) => status::run(args, printer),
        Command::Drain(args) => orders::drain(args, printer),
        Command::Undrain(args) => orders::undrain(args, printer),
        Command::Weight(args) => orders::weight(args, printer),
        Command::Maintenance(args) => orders::maintenance(args, printer),
        Command::Reload(args) => reload::run(args, printer),
        Command::DumpConfig(args) => dump_config::run(args, printer),
        Command::Cohort(args) => cohort::run(args, printer),
        Command::Explain(args) => explain::run(args, printer),
        Command::Check(args) => check::run(args, printer),
        Command::Import(args) => import::run(args, printer),
        Command::Controller(args) => controller::run(args, printer),
        Command::Registry(args) => registry::run(args, printer),
        Command::Template(args) => template::run(args, printer),
        Command::Vm(args) => vm::run(args, printer),
        Command::Node(args) => node::run(args, printer),
        Command::Group(args) => group::run(args, printer),
        Command::Permission(args) => permission::run(args, printer),
        Command::Agent(args) => agent::run(args, printer),
        Command::VmProcess(args) => return agent::vm_process(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show(printer);
            ExitCode::from(failure.code())
        }
    }
}
