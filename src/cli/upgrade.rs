//! `switchyard upgrade`: a running proxy is replaced by the binary now on disk, and nobody notices.

use std::{path::PathBuf, time::Duration};

use super::{Failure, Printer, proxy, role};
use crate::{clock, proxy::handover::ask_upgrade, wire::handover::Outcome};

/// Between two tries while old processes are busy.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The config file that the proxy runs with: its `run_dir` is where it is found
    #[arg(short, long, value_name = "FILE", required_unless_present = "run_dir", conflicts_with = "run_dir")]
    config: Option<PathBuf>,
    /// Or that directory itself
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// While two replaced processes are still busy, wait for so long until one has ended
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let run_dir = match (&args.run_dir, &args.config) {
        (Some(dir), _) => Some(dir.clone()),
        (None, Some(file)) => proxy::load(file).map_err(|faults| printer.refused(&faults))?.0.run_dir,
        (None, None) => None,
    };
    let Some(run_dir) = run_dir else {
        let hint = Some("name the config file with `-c FILE`, or the directory with `--run-dir DIR`".into());
        return Err(Failure::Usage { error: "it is not said which proxy".into(), hint });
    };
    let begun = clock::now();
    let outcome = role::once(async {
        loop {
            let outcome = ask_upgrade(&run_dir).await?;
            if !outcome.busy || begun.elapsed() + PAUSE > args.wait {
                return Ok(outcome);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })?;
    let outcome: Outcome = outcome.map_err(|error: crate::proxy::handover::AskError| Failure::Runtime {
        error: crate::telemetry::chain(&error),
        hint: Some(
            "is it running, as this user, and with this `proxy.run_dir`? Its log names it at start".into(),
        ),
    })?;
    if !outcome.done {
        let hint = match outcome.busy {
            true => "wait for it by `--wait 10m`",
            false => "the running process goes on as before",
        };
        return Err(Failure::Runtime {
            error: format!("no upgrade: {}", outcome.why),
            hint: Some(hint.into()),
        });
    }
    printer.data(format!(
        "process {} serves (upgrade {}, {:.1} s); the one before ends with its last connection, of {}",
        outcome.pid,
        outcome.generation,
        begun.elapsed().as_secs_f64(),
        outcome.connections
    ));
    Ok(())
}
