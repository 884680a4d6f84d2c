//! `switchyard registry -c FILE`, and what looks at registries and after them.

mod fsck;
mod gc;
mod status;

use std::path::PathBuf;

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
};
use crate::{
    config::{
        self, Env,
        registry::{Registry as Config, Role},
    },
    http::AccessLog,
    registry::Registry,
    supervise::Stage,
};

/// Arguments of `registry`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The config file; see conf/registry.toml
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Of a writer: do not ask its peers whether one of them was made the writer, and begin a new epoch. Say it only
    /// when no other registry takes pushes
    #[arg(long)]
    alone: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print how registries stand: role, epoch, position, lag, what is being fetched, and why one serves reads or not
    Status(status::Args),
    /// Delete what nothing needs any more, or tell what that is; what was wanted lately stays, as `[gc]` says
    Gc(gc::Args),
    /// Look through the storage of a registry that does not run: explain what is wrong, and mend it
    Fsck(fsck::Args),
}

struct Running {
    file: PathBuf,
    config: Config,
    access: AccessLog,
}

impl Hooks for Running {
    fn reload(&mut self) {
        role::checked_only(config::load_registry(&self.file, &Env::of_process()), &self.config);
    }

    fn reopen_logs(&mut self) {
        self.access.reopen();
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Some(Command::Status(args)) => return status::run(args, printer),
        Some(Command::Gc(args)) => return gc::run(args, printer),
        Some(Command::Fsck(args)) => return fsck::run(args, printer),
        None => {}
    }
    // Clap has made sure of it.
    let file = args.config.clone().unwrap_or_default();
    let (mut config, notes) =
        config::load_registry(&file, &Env::of_process()).map_err(|f| printer.refused(&f))?;
    // What a reload compares with is the file's; the flag is of this start.
    let written = config.clone();
    if args.alone {
        let Role::Writer { alone, .. } = &mut config.replication.role else {
            return Err(Failure::Usage {
                error: format!("`--alone` is given to a replica (`{}`)", file.display()),
                hint: Some(
                    "it is for a writer whose peers cannot be reached or are behind a newer history".into(),
                ),
            });
        };
        *alone = true;
    }
    let setting = Setting { log: config.log.clone(), notes, grace: config.server.grace, threads: None };
    role::run(&setting, printer, async |tree| {
        let name = format!("registry {}", config.server.name);
        let opened = Registry::open(config.clone(), tree.handle()).await;
        let registry = opened.map_err(|error| Failure::runtime("the registry did not start", &error))?;
        role::listening(config.log.format, printer, &name, registry.address());
        let access = registry.access_log();
        tree.handle().start_vital(Stage::Edge, name, |stop| registry.run(stop));
        Ok((tree, Running { file, config: written, access }))
    })
}
