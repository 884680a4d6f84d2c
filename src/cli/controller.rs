//! `switchyard controller -c FILE`.

use std::path::PathBuf;

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
};
use crate::{
    config::{self, Env, controller::Controller as Config},
    controller::Controller,
    supervise::Stage,
};

/// Arguments of `controller`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file; see conf/controller.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

struct Running {
    file: PathBuf,
    config: Config,
}

impl Hooks for Running {
    fn reload(&mut self) {
        role::checked_only(config::load_controller(&self.file, &Env::of_process()), &self.config);
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let (config, notes) =
        config::load_controller(&args.config, &Env::of_process()).map_err(|f| printer.refused(&f))?;
    let setting = Setting { log: config.log.clone(), notes, grace: config.server.grace, threads: None };
    role::run(&setting, printer, async |tree| {
        let name = format!("controller {}", config.server.name);
        let opened = Controller::open(config.clone(), tree.handle()).await;
        let controller = opened.map_err(|error| Failure::runtime("the controller did not start", &error))?;
        role::listening(config.log.format, printer, &name, controller.address());
        tree.handle().start_vital(Stage::Edge, name, |stop| controller.run(stop));
        Ok((tree, Running { file: args.config.clone(), config }))
    })
}
