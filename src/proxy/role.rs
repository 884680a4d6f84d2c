//! The role's door: open, run, reload.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::oneshot,
};

use super::{
    admin, certificates, cohort,
    engine::{Engine, EngineEnded, Running},
    follow,
    handover::{
        self, Handover, Inherited, Link, Phase, Program, RunDir, RunDirError, TakeError, UpgradeError,
        take_tickets,
    },
    members,
    orders::{self, NotNow, Orders},
    pins,
    record::{Decisions, ProxyMetrics},
    reload::{self, Before, Fixtures, LastReload, ReloadError},
    snapshot::Live,
    source::{ReloadRefused, Source, Taken, Which},
    transfers::{self, Transfers},
};
use crate::{
    clock,
    config::proxy,
    http::{AccessLog, AccessWriter, BindError, adopt, bind, not_bound, write_address_file},
    model::OURS,
    supervise::{Handle as Tasks, Stage, Stop, StopSource},
    telemetry::{Access, MetricsError},
    wire::{
        config::InUse,
        handover::{Process, Upgraded},
    },
};

/// Why a proxy does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access log.
    #[error("access log `{path}` could not be opened")]
    AccessLog {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file for scripts.
    #[error("`{path}` could not be written")]
    AddressFile {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A mistake of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A thread of the engine ended, and its connections with it.
    #[error("a thread of the engine ended although nobody asked it to")]
    Engine,
    /// The admin server ended.
    #[error("the admin server ended")]
    Admin(#[source] io::Error),
    /// The directory for upgrades.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// This process was to take over from another.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// What would be started at an upgrade.
    #[error("the path of this program could not be found out")]
    Program(#[source] io::Error),
}

/// A proxy with its ports open.
pub struct Proxy {
    engine: Engine,
    admin: TcpListener,
    admin_address: SocketAddr,
    handle: Handle,
    log: AccessLog,
    link: Option<Link>,
    control: Option<UnixListener>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("listeners", &self.addresses().listeners)
            .field("admin", &self.admin_address)
            .finish()
    }
}

/// Where a proxy is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Each listener's name and address, in config order; several of a name when it binds several.
    pub listeners: Vec<(String, SocketAddr)>,
    /// The admin listener.
    pub admin: SocketAddr,
}

impl Addresses {
    /// The first address of the listener of this name.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(n, _)| n == name).map(|(_, address)| *address)
    }
}

impl Proxy {
    /// Opens ports and logs and begins probing. An error leaves nothing behind.
    pub async fn open(config: proxy::Proxy, tasks: Tasks) -> Result<Self, ProxyError> {
        Self::open_with(config, tasks, Inherited::default()).await
    }

    /// The same, with what another process had before.
    pub async fn open_with(
        config: proxy::Proxy,
        tasks: Tasks,
        inherited: Inherited,
    ) -> Result<Self, ProxyError> {
        let Inherited {
            listeners,
            admin,
            mut known,
            cohorts,
            pools,
            tickets,
            pins: clients,
            generation,
            link,
        } = inherited;
        let dir = config.run_dir.as_deref().map(RunDir::open).transpose()?;
        if let Some(dir) = dir.as_ref().filter(|_| link.is_none()) {
            dir.is_free().await?;
        }
        let metrics = ProxyMetrics::new()?;
        let engine = Engine::bind(&config, listeners, &metrics)?;
        let unknown = |source| not_bound(source, config.admin, "admin.listen");
        let admin = match admin {
            Some(socket) => {
                adopt(&socket).map_err(unknown)?;
                TcpListener::from_std(socket).map_err(unknown)?
            }
            None => bind(config.admin, "admin.listen")?,
        };
        let admin_address = admin.local_addr().map_err(unknown)?;
        let (log, writer) = AccessLog::open(&config.access).await.map_err(|source| {
            let path = match &config.access {
                Access::File(path) => path.clone(),
                Access::Stdout | Access::Off => PathBuf::from("stdout"),
            };
            ProxyError::AccessLog { path, source }
        })?;
        if let Some(path) = &config.address_file {
            write_address_file(path, admin_address)
                .map_err(|source| ProxyError::AddressFile { path: path.clone(), source })?;
        }
        let kept = duplicate(&admin).map_err(unknown)?;
        let program = dir.as_ref().map(|_| Program::of_process()).transpose().map_err(ProxyError::Program)?;
        // A successor does that when it serves.
        let control = match &dir {
            Some(dir) if link.is_none() => Some(dir.listen()?),
            _ => None,
        };
        // Nothing fails any more: now tasks may begin.
        if let Some(writer) = writer {
            start_writer(&tasks, writer);
        }
        // A predecessor knows better than what was kept for a start.
        let run_dir = config.run_dir.clone();
        let said = match (&link, run_dir.as_deref()) {
            (None, Some(dir)) => orders::KEPT.recall(dir),
            _ => known.orders.all(),
        };
        if !said.is_empty() {
            tracing::info!(orders = said.len(), "what operators have said before goes on");
        }
        known.orders = Arc::new(Orders::new(said, run_dir.clone()));
        let live = Arc::new(Live::new(reload::snapshot(&config, Before::Found(&known), &tasks, &metrics)));
        if !pools.is_empty() {
            members::handed(&live.load(), &pools);
            live.put(members::next(&config, &live.load(), Some(&known), &tasks, &metrics));
        }
        take_tickets(&live.load(), &tickets);
        pins::hand(&live.load(), &clients);
        let fresh = run_dir
            .as_deref()
            .filter(|_| link.is_none())
            .map(|dir| cohort::KEPT.recall(dir))
            .unwrap_or_default();
        for (known, from_before) in
            fresh.iter().map(|known| (known, true)).chain(cohorts.iter().map(|known| (known, false)))
        {
            let service = live.peek().services.iter().find(|s| s.name.as_str() == known.service).cloned();
            if let Some(cohort) = service.as_ref().and_then(|service| service.cohort.as_ref()) {
                if from_before { cohort.remember(known) } else { cohort.handed(known) }
            }
        }
        let (looked_at, counted) = (live.clone(), metrics.clone());
        tasks.finish_at(Stage::Loops, "cohorts", |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = cohort::keep(looked_at, counted, run_dir) => {}
            }
        });
        let watched = live.clone();
        tasks.finish_at(Stage::Loops, "certificates", |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = certificates::watch(watched) => {}
            }
        });
        let running = engine.handle();
        let phase: Arc<Mutex<Phase>> = Arc::default();
        let handover = dir.zip(program).map(|(dir, program)| {
            Arc::new(Handover {
                dir,
                program,
                generation,
                running: running.clone(),
                live: live.clone(),
                metrics: metrics.clone(),
                admin: (config.admin, kept),
                tasks: tasks.clone(),
                phase: phase.clone(),
                expecting: Mutex::default(),
                replaced: StopSource::new(),
                by: Mutex::default(),
            })
        });
        let transfers: Arc<Transfers> = Arc::default();
        let (listed, looked_at) = (transfers.clone(), live.clone());
        let (written, counted) = (log.clone(), metrics.clone());
        tasks.finish_at(Stage::Loops, "transfers", |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = transfers::keep(listed, looked_at, written, counted) => {}
            }
        });
        let handle = Handle {
            live,
            transfers,
            fixtures: Arc::new(Fixtures::of(&config)),
            metrics,
            log: log.clone(),
            decisions: Decisions::default(),
            tasks,
            source: Arc::default(),
            running,
            phase,
            handover,
            serving: StopSource::new(),
            last_reload: Arc::default(),
            config: Arc::new(Taken::first(&config)),
        };
        let kept = handle.clone();
        handle.tasks.finish_at(Stage::Loops, "members", |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = members::keep(kept) => {}
            }
        });
        Ok(Self { engine, admin, admin_address, handle, log, link, control })
    }

    /// Where it is reached; port 0 is resolved here.
    pub fn addresses(&self) -> Addresses {
        Addresses { listeners: self.handle.running.listeners.addresses(), admin: self.admin_address }
    }

    /// For reloads and log rotation.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `stop`, then drains: within the grace, or, if a successor serves, in its own time.
    pub async fn run(self, stop: Stop) -> Result<(), ProxyError> {
        let Self { engine, admin, handle, log, mut link, control, .. } = self;
        if let Some(link) = &mut link {
            // Until it has leases of its own the predecessor's are worth more to reads.
            let snapshot = handle.live.load();
            tokio::select! {
                () = follow::settled(&snapshot) => {}
                () = stop.requested() => return Ok(()),
            }
            tokio::select! {
                ready = link.ready() => ready?,
                () = stop.requested() => return Ok(()),
            }
        }
        let routes = admin::routes(handle.clone());
        let (running, grace) = (handle.running.clone(), handle.live.load().endings.grace);
        let (live, metrics, transfers) =
            (handle.live.clone(), handle.metrics.clone(), handle.transfers.clone());
        let records = (log, handle.decisions.clone());
        let engine = engine.run(live, metrics, records, transfers, running.ending.clone());
        // A successor answers for this process at once, whatever else waits for the stop.
        let admin_stop = StopSource::new();
        let admin = crate::http::serve(admin, None, routes, admin_stop.stop(), grace);
        let beside = async {
            running.up.requested().await;
            handle.begin(link, control).await;
            handle.replaced().await;
        };
        let engine = async { engine.await.map_err(|EngineEnded| ProxyError::Engine) };
        let admin = async { admin.await.map_err(ProxyError::Admin) };
        let beside = async {
            // A stop may come before it is up.
            tokio::select! {
                () = beside => {}
                () = stop.requested() => {}
            }
            handle.end();
            admin_stop.request();
            Ok(())
        };
        tokio::try_join!(engine, admin, beside).map(|_| ())
    }
}

fn duplicate(admin: &TcpListener) -> io::Result<std::net::TcpListener> {
    use std::os::fd::AsFd;
    Ok(admin.as_fd().try_clone_to_owned()?.into())
}

/// The last to stop: it writes the lines of the requests that end while everything else does.
fn start_writer(tasks: &Tasks, writer: AccessWriter) {
    tasks.finish_at(Stage::Store, "access log", |stop| writer.run(stop));
}

/// Acts on a running proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) live: Arc<Live>,
    fixtures: Arc<Fixtures>,
    pub(super) metrics: ProxyMetrics,
    pub(super) transfers: Arc<Transfers>,
    log: AccessLog,
    pub(super) decisions: Decisions,
    tasks: Tasks,
    source: Arc<Source>,
    pub(super) running: Running,
    phase: Arc<Mutex<Phase>>,
    handover: Option<Arc<Handover>>,
    serving: StopSource,
    pub(super) last_reload: Arc<LastReload>,
    /// The config that was taken last: what is found is put behind what it lists.
    config: Arc<Taken>,
}

impl Handle {
    /// Puts a checked config in place, whole. Running requests end under the one they began with.
    ///
    /// Errors leave the old config in place.
    pub fn reload(&self, config: &proxy::Proxy) -> Result<(), ReloadError> {
        let taken = {
            // Held to the end: two at once must not change the same listeners, nor one while they are handed over.
            let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            match *phase {
                Phase::Serving => self.put(config),
                Phase::Upgrading => Err(ReloadError::Upgrading),
                Phase::Replaced => Err(ReloadError::Replaced),
            }
        };
        self.metrics.reloaded(taken.is_ok());
        self.last_reload.ended(taken.as_ref().err().map(ToString::to_string));
        match &taken {
            Ok(()) => tracing::info!(generation = self.live.load().generation, "config reloaded"),
            Err(error) => tracing::error!(error = %error, "config not taken, the old one goes on"),
        }
        taken
    }

    /// Takes what an operator says beside the config, and tells those that wait.
    pub(super) fn order<T>(&self, say: impl FnOnce(&Orders) -> T) -> Result<T, NotNow> {
        // Held to the end: not beside a reload, nor once a successor has been told.
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match *phase {
            Phase::Serving => {}
            Phase::Upgrading => return Err(NotNow::Upgrading),
            Phase::Replaced => return Err(NotNow::Replaced),
        }
        let snapshot = self.live.load();
        let said = say(&snapshot.orders);
        snapshot.orders.apply(&snapshot);
        self.live.touch();
        Ok(said)
    }

    /// The config that was taken last.
    pub(super) fn config(&self) -> Arc<proxy::Proxy> {
        self.config.which().config
    }

    /// The same, and which one that is.
    pub(super) fn in_use(&self) -> (Arc<proxy::Proxy>, InUse) {
        let Which { config, generation, since } = self.config.which();
        (config, InUse { generation, since, refused: self.last_reload.refused() })
    }

    fn put(&self, config: &proxy::Proxy) -> Result<(), ReloadError> {
        let (live, listeners) = (&self.live, &self.running.listeners);
        reload::reload(live, listeners, &self.fixtures, config, &self.tasks, &self.metrics)?;
        self.config.put(config, live.peek().generation);
        Ok(())
    }

    /// Puts a snapshot in place that has what was found since. Also in a process that was replaced: its connections go on.
    pub(super) fn refresh(&self) {
        // Held to the end: not beside a reload.
        let _phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.config();
        let before = self.live.load();
        self.live.put(members::next(&config, &before, None, &self.tasks, &self.metrics));
        self.metrics.forget_others(&self.live.peek());
    }

    /// Names what [`Handle::reload_again`] reads. The first call counts.
    pub fn reads(&self, read: impl Fn() -> Result<proxy::Proxy, String> + Send + Sync + 'static) {
        self.source.is(read);
    }

    /// Reads the config anew and puts it in place, whole. Blocks while it reads.
    ///
    /// Errors leave the old config in place, and are logged.
    pub fn reload_again(&self) -> Result<(), ReloadRefused> {
        let _turn = self.source.turn();
        let config = self.source.read().inspect_err(|refused| {
            if let ReloadRefused::Bad(faults) = refused {
                self.metrics.reloaded(false);
                self.last_reload.ended(Some(faults.clone()));
                tracing::error!(faults = %faults, "config refused: the old one serves on");
            }
        })?;
        Ok(self.reload(&config)?)
    }

    /// Opens the access log anew: it was moved away. Processes that this one has replaced are told to as well, for nobody
    /// else knows of them.
    pub fn reopen_logs(&self) {
        self.log.reopen();
        if let Some(handover) = &self.handover {
            handover.tell_old_to_reopen();
        }
    }

    /// Completes when it accepts, and whoever it takes over from does no more.
    pub async fn serves(&self) {
        self.serving.stop().requested().await;
    }

    /// Replaces this process by the binary now on disk, in a task of its own. What comes of it is logged.
    pub fn upgrade(&self) {
        match &self.handover {
            Some(handover) => {
                let handover = handover.clone();
                self.tasks.finish("upgrade", async move {
                    // Logged and counted where it happens.
                    drop(handover.upgrade().await);
                });
            }
            None => tracing::error!(error = %UpgradeError::NoRunDir, "no upgrade"),
        }
    }

    /// The same, and what came of it. Goes on when nobody waits for that any more.
    pub(super) async fn upgrade_now(&self) -> Result<Upgraded, UpgradeError> {
        let handover = self.handover.clone().ok_or(UpgradeError::NoRunDir)?;
        let (tell, told) = oneshot::channel();
        self.tasks.finish("upgrade", async move {
            let upgraded = handover.upgrade().await.map(|()| handover.upgraded());
            // Who asked may have gone.
            drop(tell.send(upgraded));
        });
        // Not told: the process stops meanwhile.
        told.await.unwrap_or(Err(UpgradeError::Ending))
    }

    /// Completes when a successor serves; its process id. Then this process is to be stopped.
    pub async fn replaced(&self) -> u32 {
        match &self.handover {
            Some(handover) => {
                handover.replaced.stop().requested().await;
                handover.by.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default()
            }
            None => std::future::pending().await,
        }
    }

    /// How long its end may take: of a replaced process longer than of one that stops.
    pub fn patience(&self) -> Duration {
        let endings = self.live.peek().endings;
        if self.is_replaced() { endings.drain } else { endings.grace }
    }

    /// A replaced process that drains is to stop: what it has left gets the grace.
    pub fn hurry(&self) {
        self.running.ending.ask(clock::now() + self.live.peek().endings.grace);
    }

    /// This process and those it has replaced.
    pub(super) fn process(&self) -> Process {
        let handover = self.handover.as_ref();
        let listeners = self.running.listeners.addresses().into_iter();
        Process {
            pid: std::process::id(),
            version: OURS.into(),
            generation: handover.map_or(0, |handover| handover.generation),
            config: Some(self.in_use().1),
            listeners: listeners.map(|(listener, address)| (listener, address.to_string())).collect(),
            connections: self.running.connections.inside() as u64,
            old: handover.map(|handover| handover.dir.old()).unwrap_or_default(),
        }
    }

    fn is_replaced(&self) -> bool {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) == Phase::Replaced
    }

    /// It accepts: whoever it takes over from may stop to, and it may be upgraded itself.
    async fn begin(&self, link: Option<Link>, control: Option<UnixListener>) {
        if let Some(link) = link
            && let Err(error) = link.serving().await
        {
            // It has died meanwhile: so much the less may this one end.
            tracing::warn!(error = %crate::telemetry::chain(&error), "the replaced process was not told that this one serves");
        }
        if let Some(handover) = &self.handover {
            match control.map_or_else(|| handover.dir.listen(), Ok) {
                Ok(control) => {
                    let (handover, tasks) = (handover.clone(), self.tasks.clone());
                    self.tasks.finish_at(Stage::Edge, "control socket", move |stop| async move {
                        handover::serve(control, handover.clone(), tasks, stop).await;
                        if !handover.replaced.stop().is_requested() {
                            handover.dir.leave();
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(error = %crate::telemetry::chain(&error), "this process cannot be upgraded: it has no control socket");
                }
            }
        }
        self.serving.request();
    }

    /// A stop was asked for.
    fn end(&self) {
        let (ending, until) = (&self.running.ending, clock::now() + self.patience());
        if self.is_replaced() { ending.ask_gently(until) } else { ending.ask(until) }
    }
}
