//! `switchyard upgrade`: a running proxy is replaced by the binary now on disk, and nobody notices.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Failure, Printer, admin::Reach, proxy, role};
use crate::{
    client::ClientError,
    clock,
    proxy::handover::{AskError, ask_upgrade},
    telemetry::chain,
    wire::handover::{Outcome, Upgraded},
};

/// Between two tries while old processes are busy.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file that the proxy runs with: its `run_dir` is where it is found, without its admin address
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["run_dir", "admin"])]
    config: Option<PathBuf>,
    /// Or that directory itself
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    run_dir: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// While two replaced processes are still busy, wait for so long until one has ended
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = crate::cli::words::time)]
    wait: Duration,
}

/// What came of one try.
enum Tried {
    Done(Upgraded),
    /// It may work later.
    Busy(Failure),
    Failed(Failure),
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let run_dir = match (&args.run_dir, &args.config) {
        (Some(dir), _) => Some(dir.clone()),
        (None, Some(file)) => proxy::load(file).map_err(|faults| printer.refused(&faults))?.0.run_dir,
        (None, None) => None,
    };
    let begun = clock::now();
    let upgraded = role::once(async {
        loop {
            let tried = match &run_dir {
                Some(dir) => by_directory(dir).await,
                None => by_address(&args.reach).await,
            };
            match tried {
                Tried::Done(upgraded) => return Ok(upgraded),
                Tried::Busy(_) if begun.elapsed() + PAUSE <= args.wait => tokio::time::sleep(PAUSE).await,
                Tried::Busy(failure) | Tried::Failed(failure) => return Err(failure),
            }
        }
    })??;
    printer.data(format!(
        "process {} serves (upgrade {}, {:.1} s); the one before ends with its last connection, of {}",
        upgraded.pid,
        upgraded.generation,
        begun.elapsed().as_secs_f64(),
        upgraded.connections
    ));
    Ok(())
}

/// Over the control socket.
async fn by_directory(run_dir: &Path) -> Tried {
    let answered = ask_upgrade(run_dir).await.map_err(|error: AskError| Failure::Runtime {
        error: chain(&error),
        hint: Some(
            "is it running, as this user, and with this `proxy.run_dir`? Its log names it at start".into(),
        ),
    });
    match answered {
        Ok(Outcome { done: true, pid, generation, connections, .. }) => {
            Tried::Done(Upgraded { pid, generation, connections })
        }
        Ok(Outcome { busy, why, .. }) => not_done(busy, format!("no upgrade: {why}")),
        Err(failure) => Tried::Failed(failure),
    }
}

/// Over the admin API.
async fn by_address(reach: &Reach) -> Tried {
    let client = match reach.client() {
        Ok(client) => client,
        Err(failure) => return Tried::Failed(failure),
    };
    match client.upgrade().await {
        Ok(upgraded) => Tried::Done(upgraded),
        Err(ClientError::Refused { status: status @ (409 | 500 | 503), message, .. }) => {
            not_done(status == 503, message)
        }
        Err(error) => Tried::Failed(reach.failure(&error)),
    }
}

fn not_done(busy: bool, error: String) -> Tried {
    let hint = match busy {
        true => "wait for it by `--wait 10m`",
        false => "the running process goes on as before",
    };
    let failure = Failure::Runtime { error, hint: Some(hint.into()) };
    if busy { Tried::Busy(failure) } else { Tried::Failed(failure) }
}
