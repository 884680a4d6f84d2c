//! `switchyard registry -c FILE`.

use std::path::PathBuf;

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
};
use crate::{
    config::{self, Env, registry::Registry as Config},
    registry::Registry,
    supervise::Stage,
};

/// Arguments of `registry`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file; see conf/registry.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

struct Running {
    file: PathBuf,
    config: Config,
}

impl Hooks for Running {
    fn reload(&mut self) {
        role::checked_only(config::load_registry(&self.file, &Env::of_process()), &self.config);
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let (config, notes) =
        config::load_registry(&args.config, &Env::of_process()).map_err(|f| printer.refused(&f))?;
    let setting = Setting { log: config.log.clone(), notes, grace: config.server.grace, threads: None };
    role::run(&setting, printer, async |tree| {
        let name = format!("registry {}", config.server.name);
        let opened = Registry::open(config.clone(), tree.handle()).await;
        let registry = opened.map_err(|error| Failure::runtime("the registry did not start", &error))?;
        role::listening(config.log.format, printer, &name, registry.address());
        tree.handle().start_vital(Stage::Edge, name, |stop| registry.run(stop));
        Ok((tree, Running { file: args.config.clone(), config }))
    })
}
