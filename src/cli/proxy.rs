//! `switchyard proxy -c FILE`.

use std::path::PathBuf;

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
};
use crate::{
    config::{self, Env},
    proxy::{Handle, Proxy},
    supervise::Stage,
};

/// Arguments of `proxy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file; see conf/proxy.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

struct Running {
    handle: Handle,
}

impl Hooks for Running {
    /// A bad file is refused with the words of `check`, and the old config serves on.
    fn reload(&mut self) {
        // What comes of it is logged and counted where it happens.
        drop(self.handle.reload_again());
    }

    fn reopen_logs(&mut self) {
        self.handle.reopen_logs();
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let (config, notes) =
        config::load_proxy(&args.config, &Env::of_process()).map_err(|f| printer.refused(&f))?;
    let (format, grace) = (config.log.format, config.grace);
    let setting = Setting { log: config.log.clone(), notes, grace, threads: Some(config.threads) };
    role::run(&setting, printer, async |tree| {
        let opened = Proxy::open(config, tree.handle()).await;
        let proxy = opened.map_err(|error| Failure::runtime("the proxy did not start", &error))?;
        let addresses = proxy.addresses();
        for (name, address) in &addresses.listeners {
            role::listening(format, printer, &format!("listener {name}"), *address);
        }
        role::listening(format, printer, "admin", addresses.admin);
        let (handle, file) = (proxy.handle(), args.config.clone());
        handle.reads(move || match config::load_proxy(&file, &Env::of_process()) {
            Ok((config, _)) => Ok(config),
            Err(faults) => Err(faults.to_string()),
        });
        tree.handle().start_vital(Stage::Edge, "proxy", |stop| proxy.run(stop));
        Ok((tree, Running { handle }))
    })
}
