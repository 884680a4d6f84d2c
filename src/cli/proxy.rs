//! `switchyard proxy -c FILE`.

use std::path::{Path, PathBuf};

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
};
use crate::{
    config::{self, Env, EnvNote, Faults},
    proxy::{
        Handle, Proxy,
        handover::{Inherited, Passed, Predecessor, default_run_dir, passed},
    },
    supervise::{Stage, Tree},
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

    fn upgrade(&mut self) {
        self.handle.upgrade();
    }

    fn replaced(&self) -> impl Future<Output = u32> {
        self.handle.replaced()
    }

    fn patience(&self) -> Option<std::time::Duration> {
        Some(self.handle.patience())
    }

    fn hurry(&self) {
        self.handle.hurry();
    }
}

/// The config, with everything that is not said chosen.
pub(super) fn load(file: &Path) -> Result<(config::proxy::Proxy, Vec<EnvNote>), Faults> {
    let (mut config, notes) = config::load_proxy(file, &Env::of_process())?;
    config.run_dir.get_or_insert_with(|| default_run_dir(file));
    Ok((config, notes))
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    // Before there are threads.
    let passed = passed();
    let predecessor = Predecessor::of_process();
    let failed = |why: &str| {
        if let Some(predecessor) = &predecessor {
            predecessor.failed(why);
        }
    };
    let (config, notes) = load(&args.config).map_err(|faults| {
        failed(&faults.to_string());
        printer.refused(&faults)
    })?;
    let setting = Setting {
        log: config.log.clone(),
        notes,
        grace: config.endings.grace,
        threads: Some(config.threads),
    };
    let served = role::run(&setting, printer, async |tree| {
        let passed = passed.map_err(|error| Failure::runtime("the proxy did not start", &error))?;
        start(args, printer, config, tree, predecessor.as_ref(), passed).await
    });
    if let Err(failure) = &served {
        failed(failure.error());
    }
    served
}

async fn start(
    args: &Args,
    printer: Printer,
    config: config::proxy::Proxy,
    tree: Tree,
    predecessor: Option<&Predecessor>,
    passed: Vec<Passed>,
) -> Result<(Tree, Running), Failure> {
    let not_started = |error: &dyn std::error::Error| Failure::runtime("the proxy did not start", error);
    let format = config.log.format;
    let inherited = match predecessor {
        Some(predecessor) => predecessor.take().await.map_err(|error| not_started(&error))?,
        None => Inherited::passed(&config, passed).map_err(|error| not_started(&error))?,
    };
    let opened = Proxy::open_with(config, tree.handle(), inherited).await;
    let proxy = opened.map_err(|error| not_started(&error))?;
    let addresses = proxy.addresses();
    for (name, address) in &addresses.listeners {
        role::listening(format, printer, &format!("listener {name}"), *address);
    }
    role::listening(format, printer, "admin", addresses.admin);
    let (handle, file) = (proxy.handle(), args.config.clone());
    handle.reads(move || match load(&file) {
        Ok((config, _)) => Ok(config),
        Err(faults) => Err(faults.to_string()),
    });
    tree.handle().start_vital(Stage::Edge, "proxy", |stop| proxy.run(stop));
    // It is ready when it accepts, and a successor only when it is the one that does.
    tokio::select! {
        () = handle.serves() => Ok((tree, Running { handle })),
        ended = tree.ended() => Err(Failure::Runtime { error: ended.to_string(), hint: None }),
    }
}
