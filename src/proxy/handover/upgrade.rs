//! The running side: starts a successor, hands everything over, and stops accepting only once that one does.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::mpsc,
};
use tracing::{error, info, warn};

use super::{
    frame,
    program::Program,
    run_dir::{OldMark, RunDir},
    successor::VARIABLE,
    tickets, verdicts,
};
use crate::{
    clock,
    model::OURS,
    proxy::{engine::Running, members, passive::ejections, pins, record::ProxyMetrics, snapshot::Live},
    supervise::{Handle as Tasks, Stage, Stop, StopSource},
    telemetry::chain,
    wire::handover::{Inventory, Old, Outcome, PROTOCOL, Said, Socket, Told, Upgraded},
};

/// A successor that is not ready by then is ended, and the running process goes on.
pub(super) const READY: Duration = Duration::from_secs(30);

/// After it was told to go it accepts within a moment, or not at all.
const SERVING: Duration = Duration::from_secs(10);

/// A successor that ended has said why by then, if it could.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Replaced processes that may be alive: with two, the next upgrade is refused until one has ended.
const OLD: usize = 2;

/// How often a replaced process says what it still has.
const TELLS: Duration = Duration::from_secs(1);

/// Why there is no successor. The running process goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Without a directory there is nothing to meet in.
    #[error("this proxy has no `proxy.run_dir`, so it cannot be upgraded: restart it")]
    NoRunDir,
    /// One at a time.
    #[error("an upgrade is under way already")]
    UnderWay,
    /// It was replaced, or it stops.
    #[error("this process accepts no connections any more: it was replaced or is stopping")]
    Ending,
    /// Too many were replaced already.
    #[error(
        "{0} are not done with their connections yet: wait for one of them, or end it with SIGTERM, which gives it `shutdown.grace`"
    )]
    TooManyOld(String),
    /// The binary.
    #[error("`{program}` could not be started")]
    Start {
        /// What.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("the successor ended before it served ({status}): {why}")]
    Ended {
        /// How.
        status: String,
        /// What it said last.
        why: String,
    },
    /// It took too long.
    #[error("the successor was not ready within {} s and was ended", READY.as_secs())]
    Late,
    /// It began, and then did not accept.
    #[error("the successor did not accept within {} s of being told to and was ended", SERVING.as_secs())]
    Mute,
    /// The conversation with it.
    #[error("the successor could not be spoken to")]
    Io(#[from] std::io::Error),
}

impl UpgradeError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::UnderWay | Self::TooManyOld(_))
    }
}

/// Whether the listeners may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::proxy) enum Phase {
    /// By a reload.
    #[default]
    Serving,
    /// They are handed over.
    Upgrading,
    /// They are the successor's.
    Replaced,
}

/// Somebody has come to the control socket because of an upgrade.
#[derive(Debug)]
pub(in crate::proxy) enum Arrival {
    TakesOver { pid: Option<u32>, stream: UnixStream },
    Failed { pid: Option<u32>, why: String },
}

impl Arrival {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::TakesOver { pid, .. } | Self::Failed { pid, .. } => *pid,
        }
    }
}

/// What a proxy that can be upgraded needs for it.
#[derive(Debug)]
pub(in crate::proxy) struct Handover {
    pub(in crate::proxy) dir: RunDir,
    pub(in crate::proxy) program: Program,
    pub(in crate::proxy) generation: u64,
    pub(in crate::proxy) running: Running,
    pub(in crate::proxy) live: Arc<Live>,
    pub(in crate::proxy) metrics: ProxyMetrics,
    pub(in crate::proxy) admin: (SocketAddr, TcpListener),
    pub(in crate::proxy) tasks: Tasks,
    pub(in crate::proxy) phase: Arc<Mutex<Phase>>,
    /// Where who comes to the control socket is sent while an upgrade is under way.
    pub(in crate::proxy) expecting: Mutex<Option<mpsc::Sender<Arrival>>>,
    /// Asked for when there is a successor; its process id is there then.
    pub(in crate::proxy) replaced: StopSource,
    pub(in crate::proxy) by: Mutex<Option<u32>>,
}

/// What is undone when an upgrade comes to nothing, however that comes.
struct UnderWay<'h>(&'h Handover);

impl<'h> UnderWay<'h> {
    fn begin(handover: &'h Handover) -> Result<Self, UpgradeError> {
        let mut phase = lock(&handover.phase);
        match *phase {
            Phase::Serving => *phase = Phase::Upgrading,
            Phase::Upgrading => return Err(UpgradeError::UnderWay),
            Phase::Replaced => return Err(UpgradeError::Ending),
        }
        Ok(Self(handover))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *lock(&self.0.expecting) = None;
        let mut phase = lock(&self.0.phase);
        if *phase == Phase::Upgrading {
            *phase = Phase::Serving;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holds one value, whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handover {
    /// Replaces this process by the binary now on disk. When this completes well, the successor accepts, and this process
    /// is to be stopped; otherwise it goes on as if nothing had been.
    pub(in crate::proxy) async fn upgrade(&self) -> Result<(), UpgradeError> {
        let begun = clock::now();
        let result = self.try_upgrade().await;
        self.metrics.upgraded(result.is_ok());
        match &result {
            Ok(pid) => {
                let took = begun.elapsed().as_secs_f64();
                info!(successor.pid = pid, took.seconds = took, "a successor serves");
            }
            Err(error) => error!(error = %chain(error), "no successor serves, this process goes on"),
        }
        result.map(drop)
    }

    async fn try_upgrade(&self) -> Result<u32, UpgradeError> {
        if self.running.ending.is_asked() {
            return Err(UpgradeError::Ending);
        }
        let _under_way = UnderWay::begin(self)?;
        let old = self.dir.old();
        if old.len() >= OLD {
            let each = old.iter().map(|old| {
                format!("process {} ({} connections, until {})", old.pid, old.connections, old.until)
            });
            return Err(UpgradeError::TooManyOld(each.collect::<Vec<_>>().join(" and ")));
        }
        // One that speaks without being the successor is turned away at once; the successor speaks twice at most.
        let (sender, arrivals) = mpsc::channel(4);
        *lock(&self.expecting) = Some(sender);
        info!(program.path = %self.program.path.display(), "a successor is started");
        let mut child = self.start()?;
        let pid = child.id().unwrap_or_default();
        let mut talk = Talk { handover: self, pid, arrivals, mark: None };
        let talked = tokio::select! {
            talked = talk.through(&mut child) => talked,
            () = self.running.ending.asked() => Err(UpgradeError::Ending),
        };
        let mark = talk.mark.take();
        match (talked, mark) {
            (Ok(()), Some(mark)) => {
                *lock(&self.phase) = Phase::Replaced;
                *lock(&self.by) = Some(pid);
                self.tell_until_the_end(mark);
                self.replaced.request();
                Ok(pid)
            }
            (talked, _) => {
                if let Err(error) = child.kill().await {
                    warn!(error = %error, successor.pid = pid, "the successor could not be ended");
                }
                talked.and(Err(UpgradeError::Ending)).map(|()| pid)
            }
        }
    }

    fn start(&self) -> Result<Child, UpgradeError> {
        let Program { path, arguments } = &self.program;
        let mut command = Command::new(path);
        command.args(arguments).env(VARIABLE, self.dir.socket()).stdin(Stdio::null());
        command.spawn().map_err(|source| UpgradeError::Start { program: path.display().to_string(), source })
    }

    /// Sends who has come to the upgrade that waits; gives it back when none does.
    pub(super) fn arrived(&self, arrival: Arrival) -> Option<Arrival> {
        let expecting = lock(&self.expecting);
        let Some(sender) = expecting.as_ref() else { return Some(arrival) };
        sender.try_send(arrival).err().map(|error| match error {
            mpsc::error::TrySendError::Full(arrival) | mpsc::error::TrySendError::Closed(arrival) => arrival,
        })
    }

    fn old(&self) -> Old {
        let now = clock::now();
        let left = self
            .running
            .ending
            .until()
            .map_or_else(|| self.live.peek().endings.drain, |until| until.saturating_duration_since(now));
        let since = clock::wall();
        Old {
            pid: std::process::id(),
            generation: self.generation,
            since,
            until: since.plus(left),
            connections: self.running.connections.inside() as u64,
        }
    }

    /// Keeps the mark true until everything else has ended.
    fn tell_until_the_end(&self, mark: OldMark) {
        let (running, first) = (self.running.clone(), self.old());
        self.tasks.finish_at(Stage::Store, "tells what is left", move |stop: Stop| async move {
            let mut failed = false;
            while !stop.is_requested() {
                let left = running.ending.until().map(|until| until.saturating_duration_since(clock::now()));
                let until = left.map_or(first.until, |left| clock::wall().plus(left));
                let now = Old { connections: running.connections.inside() as u64, until, ..first.clone() };
                if let Err(error) = mark.tell(&now)
                    && !std::mem::replace(&mut failed, true)
                {
                    warn!(error = %error, "what this replaced process still has could not be written");
                }
                tokio::select! {
                    () = stop.requested() => {}
                    () = tokio::time::sleep(TELLS) => {}
                }
            }
        });
    }

    /// Has replaced processes open their logs anew.
    pub(in crate::proxy) fn tell_old_to_reopen(&self) {
        for old in self.dir.old().into_iter().filter(|old| old.pid != std::process::id()) {
            let pid = i32::try_from(old.pid).ok().and_then(rustix::process::Pid::from_raw);
            let told = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::USR1));
            if let Some(Err(error)) = told {
                warn!(error = %error, process.id = old.pid, "a replaced process was not told to open its log anew");
            }
        }
    }

    /// What came of an upgrade, for who asked.
    pub(super) fn outcome(&self, result: Result<(), UpgradeError>) -> Outcome {
        let state = self.state();
        match result {
            Ok(()) => {
                let Upgraded { pid, generation, connections } = self.upgraded();
                Outcome { done: true, pid, generation, connections, ..state }
            }
            Err(error) => Outcome { busy: error.is_busy(), why: chain(&error), ..state },
        }
    }

    /// Who serves, once a successor does.
    pub(in crate::proxy) fn upgraded(&self) -> Upgraded {
        Upgraded {
            pid: lock(&self.by).unwrap_or_default(),
            generation: self.generation + 1,
            connections: self.running.connections.inside() as u64,
        }
    }

    /// This process, as the answer to an upgrade that came to nothing.
    pub(super) fn state(&self) -> Outcome {
        Outcome {
            protocol: PROTOCOL,
            done: false,
            busy: false,
            pid: std::process::id(),
            generation: self.generation,
            connections: self.running.connections.inside() as u64,
            why: String::new(),
        }
    }
}

/// One conversation with a successor.
struct Talk<'h> {
    handover: &'h Handover,
    pid: u32,
    arrivals: mpsc::Receiver<Arrival>,
    /// There as soon as the successor may accept.
    mark: Option<OldMark>,
}

impl Talk<'_> {
    async fn through(&mut self, child: &mut Child) -> Result<(), UpgradeError> {
        let ready = tokio::time::timeout(READY, self.until_ready(child)).await;
        let mut stream = ready.map_err(|_| UpgradeError::Late)??;
        // Before it goes, so that no moment has three.
        self.mark = Some(self.handover.dir.mark_old(&self.handover.old())?);
        frame::send(&mut stream, &Told::Go).await?;
        let serving = tokio::time::timeout(SERVING, self.said(&mut stream, child)).await;
        match serving.map_err(|_| UpgradeError::Mute)?? {
            Said::Serving => Ok(()),
            Said::Ready => Err(frame::invalid("it said that it is ready twice").into()),
        }
    }

    /// Gives it everything, and waits until it is ready.
    async fn until_ready(&mut self, child: &mut Child) -> Result<UnixStream, UpgradeError> {
        let mut stream = loop {
            let arrival = tokio::select! {
                biased;
                Some(arrival) = self.arrivals.recv() => arrival,
                status = child.wait() => return Err(self.ended(status?).await),
            };
            let ours = arrival.pid() == Some(self.pid);
            match arrival {
                Arrival::TakesOver { stream, .. } if ours => break stream,
                Arrival::Failed { why, .. } if ours => return Err(self.failed(child, why).await),
                Arrival::TakesOver { pid, mut stream } => {
                    warn!(
                        process.id = pid,
                        successor.pid = self.pid,
                        "another process than the successor wanted the sockets"
                    );
                    let why = format!("process {} was started to take over; it must be that one", self.pid);
                    frame::send(&mut stream, &Inventory::refused(why)).await?;
                }
                Arrival::Failed { .. } => {}
            }
        };
        self.give(&mut stream).await?;
        match self.said(&mut stream, child).await? {
            Said::Ready => Ok(stream),
            Said::Serving => Err(frame::invalid("it serves without having been told to").into()),
        }
    }

    async fn give(&self, stream: &mut UnixStream) -> Result<(), UpgradeError> {
        let from = self.handover;
        let taken = from.running.listeners.duplicates()?;
        let (bind, admin) = &from.admin;
        let mut sockets = vec![Socket { listener: None, bind: bind.to_string(), nth: 0 }];
        let mut fds = vec![admin.as_fd()];
        for group in &taken {
            for socket in &group.sockets {
                let spot = &group.spot;
                sockets.push(Socket {
                    listener: Some(spot.listener.clone()),
                    bind: spot.bind.to_string(),
                    nth: spot.nth,
                });
                fds.push(socket.as_fd());
            }
        }
        let inventory = Inventory {
            protocol: PROTOCOL,
            version: OURS.into(),
            refused: String::new(),
            generation: from.generation,
            sockets,
            verdicts: verdicts::all(&from.live.load()),
            cohorts: verdicts::cohorts(&from.live.load()),
            ejections: ejections(&from.live.load()),
            pools: members::known(&from.live.load()),
            tickets: tickets::all(&from.live.load()),
            pins: pins::all(&from.live.load()),
            orders: from.live.load().orders.all(),
        };
        frame::send(stream, &inventory).await?;
        frame::send_fds(stream, &fds).await?;
        Ok(())
    }

    /// The next word of the successor, or how it ended.
    async fn said(&mut self, stream: &mut UnixStream, child: &mut Child) -> Result<Said, UpgradeError> {
        let said = tokio::select! {
            biased;
            said = frame::receive(stream) => said,
            Some(arrival) = self.arrivals.recv() => match arrival {
                Arrival::Failed { pid, why } if pid == Some(self.pid) => return Err(self.failed(child, why).await),
                _ => Err(frame::invalid("it connected twice")),
            },
        };
        match said {
            Ok(said) => Ok(said),
            // It ends, mostly, and says why.
            Err(error) => match tokio::time::timeout(LAST_WORDS, child.wait()).await {
                Ok(status) => Err(self.ended(status?).await),
                Err(_) => Err(error.into()),
            },
        }
    }

    async fn ended(&mut self, status: std::process::ExitStatus) -> UpgradeError {
        let mut why = "its log says why".to_owned();
        let words = async {
            while let Some(arrival) = self.arrivals.recv().await {
                if let Arrival::Failed { pid, why } = arrival
                    && pid == Some(self.pid)
                {
                    return why;
                }
            }
            std::future::pending().await
        };
        if let Ok(said) = tokio::time::timeout(LAST_WORDS, words).await {
            why = said;
        }
        UpgradeError::Ended { status: status.to_string(), why }
    }

    async fn failed(&self, child: &mut Child, why: String) -> UpgradeError {
        let status = match tokio::time::timeout(LAST_WORDS, child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(_)) | Err(_) => "it still ran".into(),
        };
        UpgradeError::Ended { status, why }
    }
}

impl Inventory {
    /// Nothing, and why.
    pub(super) fn refused(why: String) -> Self {
        Self {
            protocol: PROTOCOL,
            version: OURS.into(),
            refused: why,
            generation: 0,
            sockets: Vec::new(),
            verdicts: Vec::new(),
            cohorts: Vec::new(),
            ejections: Vec::new(),
            pools: Vec::new(),
            tickets: Vec::new(),
            pins: Vec::new(),
            orders: Vec::new(),
        }
    }
}
