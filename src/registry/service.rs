//! The role's door: open, address, run.

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::{
    apikeys::ApiKeys,
    content::{Content, disk},
    counted::{HttpMetrics, measure},
    feed,
    journal::{self, Journal, JournalError, Opening},
    log::{Log, LogError},
    notes::Notes,
    oci, position,
    quota::Quotas,
    replicate::{
        Replica, ReplicaError,
        fetch::{FetchError, Fetcher},
    },
    repositories::Repositories,
    standing::{Copying, Standing},
    state::{App, Health, RegistryMetrics},
    upkeep::{self, gc::Collector, scrub::Scrubber},
    vendor,
    writer::{Writer, Writes, leases, start},
};
use crate::{
    auth::{
        Auth,
        files::Files,
        gate,
        routes::{Manner, routes},
        signed,
    },
    client::{Credentials, Login},
    clock,
    config::{
        self, BaseUrl,
        registry::{Members, Role},
    },
    http::{
        AccessLog, AccessWriter, BindError, BodyRoom, Secure, bind, health_routes, request_id, serve_files,
        write_address_file,
    },
    model::{Position, full_version},
    store::{Member, Registration, Store, StoreError, etcd::EtcdStore, keys::Keys},
    supervise::{Handle, OnEnd, Stage, Stop},
    telemetry::{Access, Metrics, MetricsError},
    wire::replication as wire,
};

/// The role under which registries are members.
const ROLE: &str = "registry";

/// For one request to the store.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// A loop that ended is started again after so long.
const RESTART: Duration = Duration::from_secs(1);

/// Bytes of manifests that are being received, all together. Full: 429, and the client tries again.
const MANIFESTS: usize = 64 * 1024 * 1024;

/// A manifest that takes longer to arrive is refused.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(60);

/// Below these lie large files.
const FILES: &[&str] = &["/v2/", "/replication/v1/blobs/"];

/// Why a registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The storage.
    #[error(transparent)]
    Storage(#[from] disk::OpenError),
    /// The change log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Bringing log and catalogues into step.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Following the writer.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// Fetching blobs.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The file that scripts read the port from.
    #[error("cannot write the address file")]
    AddressFile(#[source] io::Error),
    /// `[log] access`.
    #[error("access log {} could not be opened", place(.to))]
    AccessLog {
        /// Where it is to go.
        to: Access,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mistake of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The store in which it makes itself known.
    #[error("`members.etcd` cannot be used")]
    Members(#[from] StoreError),
}

fn place(access: &Access) -> String {
    match access {
        Access::File(path) => format!("`{}`", path.display()),
        Access::Stdout | Access::Off => "on standard output".into(),
    }
}

/// A registry whose storage is locked and whose port is open.
pub struct Registry {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    http: HttpMetrics,
    gate: gate::Gate,
    access: AccessLog,
    lines: Option<AccessWriter>,
    grace: Duration,
    tasks: Handle,
    others: Others,
    /// Whether it collects garbage by itself.
    gc: bool,
    /// Looks for damage.
    scrubber: Option<Scrubber>,
    /// Of a writer: fetches what was damaged from its peers.
    heals: Option<Fetcher>,
    /// The certificates that it has in use.
    files: Files,
    /// Everything goes inside it, if there is some.
    tls: Option<Secure>,
    /// How the other registries are spoken to.
    towards: Credentials,
    /// Makes it known to proxies.
    registration: Option<Registration>,
}

/// What it has to do with the other registries while it runs.
enum Others {
    /// Asks them at start whether their history is newer than its own; nobody, if an operator says so.
    Asks(Vec<BaseUrl>),
    /// Copies from them.
    Follows(Box<Replica>, Fetcher),
}

impl Registry {
    /// Locks the storage, makes good what a kill left, and opens the port. Nothing is served or copied yet.
    pub async fn open(config: config::registry::Registry, tasks: Handle) -> Result<Self, OpenError> {
        let settings = disk::DiskSettings::of(&config);
        let (path, shared) = (settings.path.clone(), settings.shared);
        let name = config.server.name.clone();
        let disk = disk::Disk::open(settings).await?;
        let cleaned = disk.cleaned();
        let space = disk.space().await.map_err(|error| error.to_string());
        let condition = disk.condition().await;
        let content: Arc<dyn Content> = Arc::new(disk);
        let role = config.replication.role;
        let login = Login::root(config.auth.root_token.as_ref());
        let towards = Credentials::new(login, config.replication.tls.clone());
        let journal = if shared {
            Journal::without_log(content.clone(), &tasks)
        } else {
            journal(content.clone(), path, &role, (&name, &towards), &tasks).await?
        };
        let metrics = RegistryMetrics::new()?;
        metrics.removed(cleaned);
        let (access, lines) = AccessLog::open(&config.access)
            .await
            .map_err(|source| OpenError::AccessLog { to: config.access.clone(), source })?;
        let http = HttpMetrics::new(&metrics.all, access.clone())?;
        let (standing, others) = match role.clone() {
            Role::Writer { alone: true, .. } => (Standing(None), Others::Asks(Vec::new())),
            Role::Writer { peers, .. } => (Standing(None), Others::Asks(peers)),
            Role::Replica { writer, peers } => {
                let sources = std::iter::once(writer.clone()).chain(peers.clone()).collect();
                let fetcher = Fetcher::new(content.clone(), sources, &towards, &metrics.all)?;
                let from = (writer, peers, &towards);
                let replica =
                    Replica::new(name.clone(), from, content.clone(), journal.clone(), fetcher.handle())
                        .await?;
                let copying = Copying { status: replica.status(), fetcher: fetcher.handle() };
                (Standing(Some(copying)), Others::Follows(Box::new(replica), fetcher))
            }
        };
        let listener = bind(config.server.listen, "server.listen")?;
        let address = listener.local_addr().map_err(OpenError::AddressFile)?;
        if let Some(file) = &config.server.address_file {
            write_address_file(file, address).map_err(OpenError::AddressFile)?;
        }
        let healer = match (&others, &role) {
            (Others::Follows(_, fetcher), _) => Some((fetcher.handle(), None)),
            (Others::Asks(_), Role::Writer { peers, .. }) if !peers.is_empty() => {
                let fetcher = Fetcher::new(content.clone(), peers.clone(), &towards, &metrics.all)?;
                Some((fetcher.handle(), Some(fetcher)))
            }
            (Others::Asks(_), _) => None,
        };
        let (healer, heals) = healer.unzip();
        let repositories = Repositories::new(content, journal.clone());
        let keys = Arc::new(ApiKeys::new(repositories.clone()));
        let gate = gate::Gate::new(Auth::new(&config.auth, "registry", keys), &metrics.all)?;
        let (notes, upkeep) = (Notes::default(), config.upkeep.clone());
        let callers = config.auth.certificates.as_ref().map(|known| known.callers.clone());
        let asked = [("replication.tls", towards.tls().cloned())];
        let files = Files::new(config.server.tls.clone(), callers, asked, &metrics.all)?;
        let tls = config.server.tls.clone().map(|tls| Secure::new(tls, &metrics.all)).transpose()?;
        let scrubber =
            Scrubber::new(repositories.clone(), upkeep.scrub.clone(), notes.clone(), healer, &metrics.all)?;
        let scrubber = upkeep.scrub.enabled.then_some(scrubber);
        let app = App {
            collector: Collector::new(repositories.clone(), upkeep.gc.clone(), notes.clone(), &metrics.all)?,
            quotas: Quotas::new(repositories.clone(), upkeep.quota, notes.clone(), &metrics.all)?,
            role: match role {
                Role::Writer { .. } => wire::Role::Writer,
                Role::Replica { .. } => wire::Role::Replica,
            },
            standing,
            health: Arc::new(Health::new(
                name.clone(),
                config.limits.reserve,
                (space, condition),
                journal,
                (notes, files.clone()),
            )),
            repositories,
            name,
            log_keep: config.replication.log_keep,
            bodies: BodyRoom::new(config.limits.manifest, MANIFESTS, MANIFEST_PATIENCE),
            limits: config.limits,
            metrics,
        };
        let registration = match &config.members {
            Some(members) => {
                let reached = config.server.reached_at(address).to_string();
                Some(registration(members, &app.name, reached, config.server.zone.clone()).await?)
            }
            None => None,
        };
        let grace = config.server.grace;
        let gc = upkeep.gc.enabled;
        let heals = heals.flatten();
        Ok(Self {
            listener,
            address,
            app,
            http,
            gate,
            access,
            lines,
            grace,
            tasks,
            others,
            gc,
            scrubber,
            heals,
            files,
            tls,
            towards,
            registration,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The access log; its file is opened anew when it was moved away.
    pub fn access_log(&self) -> AccessLog {
        self.access.clone()
    }

    /// Serves until stopped; running transfers end within the grace.
    pub async fn run(self, stop: Stop) -> io::Result<()> {
        let app = self.app.clone();
        self.tasks.start(Stage::Loops, "registry upkeep", OnEnd::Restart(RESTART), move |stop| {
            upkeep::run(app.clone(), stop)
        });
        if self.gc {
            let collector = self.app.collector.clone();
            self.tasks.start(Stage::Loops, "registry garbage", OnEnd::Restart(RESTART), move |stop| {
                collector.clone().run(stop)
            });
        }
        if !self.files.are_none() {
            let files = self.files;
            self.tasks.start(Stage::Loops, "registry certificates", OnEnd::Restart(RESTART), move |stop| {
                files.clone().keep(stop)
            });
        }
        if let Some(fetcher) = self.heals {
            self.tasks.start(Stage::Loops, "registry fetcher", OnEnd::Restart(RESTART), move |stop| {
                fetcher.clone().run(stop)
            });
        }
        if let Some(scrubber) = self.scrubber {
            self.tasks.start(Stage::Loops, "registry scrub", OnEnd::Restart(RESTART), move |stop| {
                scrubber.clone().run(stop)
            });
        }
        if let Some(lines) = self.lines {
            self.tasks.finish_at(Stage::Store, "registry access log", |stop| lines.run(stop));
        }
        match self.others {
            Others::Asks(peers) if peers.is_empty() => {}
            Others::Asks(peers) => {
                let (name, journal) = (self.app.name.clone(), self.app.repositories.journal().clone());
                let towards = self.towards;
                journal.unsettle();
                let ask = move |stop| start::run(name, journal, (peers, towards.clone()), stop);
                self.tasks.finish_at(Stage::Loops, "registry start", ask);
            }
            Others::Follows(replica, fetcher) => {
                let again = OnEnd::Restart(RESTART);
                self.tasks
                    .start(Stage::Loops, "registry fetcher", again, move |stop| fetcher.clone().run(stop));
                self.tasks
                    .start(Stage::Loops, "registry replica", again, move |stop| (*replica).clone().run(stop));
            }
        }
        if let Some(registration) = self.registration {
            let leased = registration.clone();
            self.tasks.finish_at(Stage::Leases, "registry lease", |stop| leased.keep_lease(stop));
            let again = OnEnd::Restart(RESTART);
            self.tasks.start(Stage::Loops, "registry membership", again, move |stop| {
                let registration = registration.clone();
                async move {
                    registration.run(stop).await;
                    Ok::<_, Infallible>(())
                }
            });
        }
        let role = self.app.role.as_str();
        tracing::info!(address = %self.address, role, "registry serves");
        serve_files(
            self.listener,
            self.tls,
            router(self.app, self.http, self.gate, stop.clone()),
            FILES,
            stop,
            self.grace,
        )
        .await
    }
}

/// The journal with its log, which is in the storage's directory: the lock on that is the log's, too.
async fn journal(
    content: Arc<dyn Content>,
    path: PathBuf,
    role: &Role,
    (name, towards): (&str, &Credentials),
    tasks: &Handle,
) -> Result<Journal, OpenError> {
    let opened = tokio::task::spawn_blocking(move || Log::open(&path.join("log"))).await;
    let log = opened.unwrap_or_else(|gone| Err(LogError::Damaged(format!("opening it failed: {gone}"))))?;
    let writer = writer(&log, role)?;
    let opening = match role {
        Role::Writer { peers, alone: true } => Opening::Anew(name, start::newest_epoch(peers, towards).await),
        Role::Writer { .. } => Opening::Writer(name),
        Role::Replica { .. } => Opening::Replica,
    };
    Ok(Journal::open(content, log, writer, opening, tasks).await?)
}

/// How it makes itself known. Whether the store can be reached does not matter here.
async fn registration(
    members: &Members,
    name: &str,
    address: String,
    zone: Option<String>,
) -> Result<Registration, OpenError> {
    let store: Arc<dyn Store> = Arc::new(EtcdStore::open(&members.etcd, STORE_PATIENCE).await?);
    let run = uuid::Uuid::new_v4().simple().to_string();
    let member = Member { address, version: full_version(), zone, run };
    Ok(Registration::new(store, &Keys::new(&members.cluster), ROLE, name, member))
}

/// Whether writes are taken at first, and from when on changes are acknowledged.
fn writer(log: &Log, role: &Role) -> Result<Writer, OpenError> {
    let writes = match role {
        Role::Writer { peers, alone } if *alone || peers.is_empty() => Writes::Taken,
        Role::Writer { .. } => {
            Writes::NotNow("it asks its peers first whether one of them was made the writer".into())
        }
        Role::Replica { writer, .. } => {
            Writes::Never(format!("it is a replica; pushes, deletes and reverts go to the writer, {writer}"))
        }
    };
    // Leases of the run before may still be live, or those of another writer whose place this one takes.
    let known = matches!(role, Role::Writer { peers, .. } if !peers.is_empty());
    let was_replica = log.note(journal::ROLE)?.as_deref() == Some(wire::Role::Replica.as_str().as_bytes());
    let instead = was_replica || (known && log.history().head == Position::ZERO);
    if instead {
        // Also if this start is cut short and the next one comes soon.
        log.put_note(journal::LEASED, Some(b"1"))?;
    }
    let leased = instead || log.note(journal::LEASED)?.is_some();
    Ok(Writer::new(if leased { clock::boot() + leases::AT_WRITER } else { Duration::ZERO }, writes))
}

fn router(app: App, http: HttpMetrics, door: gate::Gate, stop: Stop) -> Router {
    let metrics = app.clone();
    let journal = app.repositories.journal().clone();
    let oci = axum::routing::any(oci::serve);
    Router::new()
        .route("/v2", oci.clone())
        .route("/v2/", oci.clone())
        .route("/v2/{*rest}", oci)
        .merge(vendor::routes())
        .merge(routes(&door, Manner::Registry, "/v1/apikey"))
        .fallback(unknown)
        .with_state(app.clone())
        .layer(middleware::from_fn_with_state(journal, position::stamp))
        .merge(feed::routes(app.clone(), stop))
        .merge(health_routes(app.health))
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.metrics_text()) }),
        )
        .layer(middleware::from_fn_with_state(door.clone(), gate::admit))
        .layer(middleware::from_fn_with_state(door, signed::look))
        .layer(middleware::from_fn_with_state(http, measure))
        .layer(middleware::from_fn(request_id))
}

/// As Go's default mux says it.
async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}
