//! What every role's process does around the role itself: log, tasks, signals, readiness, stopping.

use std::{pin::pin, time::Duration};

use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{Failure, Printer, loaded};
use crate::{
    config::{EnvNote, Log},
    supervise::{Signal, Tree, signals},
    telemetry::{LogFormat, LogSettings, set_up},
};

/// What a process needs to know before its role is opened.
pub(super) struct Setting {
    /// `[log]`.
    pub(super) log: Log,
    /// What became of variables; logged first of all.
    pub(super) notes: Vec<EnvNote>,
    /// How long a stop may take.
    pub(super) grace: Duration,
    /// Worker threads; one per core if not given.
    pub(super) threads: Option<usize>,
}

/// What a running role does on signals other than the stop.
pub(super) trait Hooks {
    /// `SIGHUP`.
    fn reload(&mut self);

    /// `SIGUSR1`.
    fn reopen_logs(&mut self) {}

    /// `SIGUSR2`.
    fn upgrade(&mut self) {
        warn!("only a proxy is upgraded while it runs: restart this process");
    }

    /// Completes when another process has taken over; its id.
    fn replaced(&self) -> impl Future<Output = u32> {
        std::future::pending()
    }

    /// Completes when this process is to become the program that is on the disk now.
    fn outdated(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    /// Everything has ended in order, so that it may become that.
    fn become_it(&mut self) {}

    /// How long the end may take, if that is not what it was at the start.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// A stop was asked for while the end after a replacement was waited for.
    fn hurry(&self) {}
}

/// Runs a role from its opening to its end: `open` binds and starts it in the tree, and gives its hooks.
pub(super) fn run<H, Open, Opening>(setting: &Setting, printer: Printer, open: Open) -> Result<(), Failure>
where
    H: Hooks,
    Open: FnOnce(Tree) -> Opening,
    Opening: Future<Output = Result<(Tree, H), Failure>>,
{
    let log = LogSettings { format: setting.log.format, filter: setting.log.filter.clone() };
    set_up(&log).map_err(|error| Failure::Usage { error: format!("`log.filter`: {error}"), hint: None })?;
    tell(&setting.notes);
    loaded::give_back();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = setting.threads {
        builder.worker_threads(threads);
    }
    let runtime =
        builder.enable_all().build().map_err(|error| Failure::runtime("the runtime cannot start", &error))?;
    let result = runtime.block_on(live(setting.grace, printer, open));
    // Whatever still blocks a thread (a slow disk, say) must not hold the process.
    runtime.shutdown_timeout(LAST_MOMENT);
    result
}

/// Does one thing that needs a runtime, such as a call to a server.
pub(super) fn once<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::runtime("the runtime cannot start", &error))?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_MOMENT);
    Ok(done)
}

/// After the time that requests have, so that what cuts them can say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A role that is asked to stop while it opens has so long to be open, and to stop in order then.
const NEARLY: Duration = Duration::from_millis(500);

/// What is left to blocking calls after everything else has stopped.
const LAST_MOMENT: Duration = Duration::from_millis(200);

fn tell(notes: &[EnvNote]) {
    for note in notes {
        let (variable, effect) = (note.variable.as_str(), note.text.as_str());
        if note.honoured {
            info!(env.variable = variable, env.effect = effect, "environment variable honoured");
        } else {
            warn!(env.variable = variable, env.effect = effect, "environment variable ignored");
        }
    }
}

async fn live<H, Open, Opening>(grace: Duration, printer: Printer, open: Open) -> Result<(), Failure>
where
    H: Hooks,
    Open: FnOnce(Tree) -> Opening,
    Opening: Future<Output = Result<(Tree, H), Failure>>,
{
    let tree = Tree::new();
    let mut asked = signals(&tree).map_err(|error| Failure::runtime("signals cannot be received", &error))?;
    // A store that does not answer must not make the process deaf to a stop.
    let (mut early, mut stopped) = (Vec::new(), false);
    let mut opening = pin!(open(tree));
    let (tree, mut hooks) = tokio::select! {
        opened = &mut opening => opened?,
        () = stop_asked_early(&mut asked, &mut early) => {
            // One that is nearly open serves already, and what it serves ends as at any stop.
            let Ok(Ok(opened)) = tokio::time::timeout(NEARLY, opening).await else { return Ok(()) };
            stopped = true;
            opened
        }
    };
    info!(process.id = std::process::id(), version = crate::model::OURS, "started");
    announce(&[NotifyState::Ready]);
    loaded::give_back();
    for signal in early {
        act(&mut hooks, signal);
    }
    let end = loop {
        if stopped {
            break End::Stop;
        }
        tokio::select! {
            ended = tree.ended() => {
                break End::Failed(Failure::Runtime { error: ended.to_string(), hint: None });
            }
            by = hooks.replaced() => break End::Replaced(by),
            () = hooks.outdated() => break End::Outdated,
            signal = asked.recv() => match signal {
                Some(Signal::Stop) | None => break End::Stop,
                Some(signal) => act(&mut hooks, signal),
            }
        }
    };
    let patience = hooks.patience().unwrap_or(grace);
    match end {
        // The service goes on, in another process.
        End::Replaced(by) => {
            announce(&[NotifyState::MainPid(by)]);
            info!(
                successor.pid = by,
                drain.seconds = patience.as_secs_f64(),
                "replaced, and ends with its last connection"
            );
        }
        // Under the same pid, which is ready again when it says so.
        End::Outdated => {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => announce(&[NotifyState::Reloading, now]),
                Err(error) => warn!(%error, "the service manager was not told that another program goes on"),
            }
            info!(grace.seconds = patience.as_secs_f64(), "another program is to go on");
        }
        End::Stop | End::Failed(_) => {
            announce(&[NotifyState::Stopping]);
            info!(grace.seconds = patience.as_secs_f64(), "stopping");
        }
    }
    let hurried = async {
        if matches!(end, End::Replaced(_)) {
            stop_asked(&mut asked).await;
            info!("a replaced process is to stop: what it has left gets the grace");
            hooks.hurry();
        }
        stop_asked(&mut asked).await;
    };
    tokio::select! {
        () = tree.shut_down(patience + LAST_WORDS) => {
            info!("stopped");
            if matches!(end, End::Outdated) {
                hooks.become_it();
            }
        }
        () = hurried => {
            warn!("stopped at once, on a second signal");
            printer.note("stopped at once: what was running is cut");
        }
    }
    match end {
        End::Failed(failure) => Err(failure),
        End::Stop | End::Replaced(_) | End::Outdated => Ok(()),
    }
}

/// Does what a signal other than the stop asks for.
fn act(hooks: &mut impl Hooks, signal: Signal) {
    match signal {
        Signal::Reload => reload(hooks),
        Signal::ReopenLogs => hooks.reopen_logs(),
        Signal::Upgrade => hooks.upgrade(),
        Signal::Stop => {}
    }
}

/// Why a process ends.
enum End {
    Stop,
    Replaced(u32),
    Outdated,
    Failed(Failure),
}

/// Told to the service manager, for it knows when a reload is over only from that.
fn reload(hooks: &mut impl Hooks) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => announce(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager was not told of the reload"),
    }
    hooks.reload();
    announce(&[NotifyState::Ready]);
}

/// The same while the role opens; what else is asked for meanwhile is kept, each once.
async fn stop_asked_early(asked: &mut mpsc::Receiver<Signal>, early: &mut Vec<Signal>) {
    while let Some(signal) = asked.recv().await {
        if signal == Signal::Stop {
            return;
        }
        if !early.contains(&signal) {
            early.push(signal);
        }
    }
    std::future::pending().await
}

async fn stop_asked(asked: &mut mpsc::Receiver<Signal>) {
    while let Some(signal) = asked.recv().await {
        if signal == Signal::Stop {
            return;
        }
    }
    std::future::pending().await
}

/// Tells the service manager, if there is one.
fn announce(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager could not be told");
    }
}

/// Says where something listens: in the log, and to a person if the log is for one.
pub(super) fn listening(format: LogFormat, printer: Printer, what: &str, address: std::net::SocketAddr) {
    match format {
        LogFormat::Json => info!(listener.name = what, listener.address = %address, "listening"),
        LogFormat::Human => printer.note(format!("listening on {address} ({what})")),
    }
}

/// What a reload does for roles that read their config once: says whether the file is right, and what would
/// change.
pub(super) fn checked_only<T: PartialEq>(
    loaded: Result<(T, Vec<EnvNote>), crate::config::Faults>,
    running: &T,
) {
    match loaded {
        Ok((config, _)) if config == *running => info!("config reloaded: nothing changed"),
        Ok(_) => warn!("config is valid, but its changes need a restart"),
        Err(faults) => error!(faults = %faults, "config refused: the running one stays"),
    }
}
