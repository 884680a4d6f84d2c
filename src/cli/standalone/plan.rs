//! The configs of a standalone cloud, made in code.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZero,
    time::Duration,
};

use super::{Args, Failure, data::Data};
use crate::{
    config::{
        Address, BaseUrl, DEFAULT_GRACE, Etcd, Log, Server,
        agent::{self, Driver, ProcessDriver, Reserve},
        auth::{Auth, RootToken},
        controller::{self, Registries, StoreKind},
        proxy::{
            DECISIONS, Does, Endings, Entry, Health, Kind, Limits, Listener, Proxy, Reads, Rule, Secret,
            Service, Upstream,
        },
        registry::{self, LOG_KEEP, Replication, Role, Storage},
    },
    model::{ServiceName, UpstreamName},
    telemetry::Access,
    wire::node::CapacityMode,
};

/// Name of the controllers' listener and service.
pub(super) const CONTROLLERS: &str = "controllers";
/// Name of the registries' listener and service.
pub(super) const REGISTRIES: &str = "registries";

/// VMs at once on each node.
const CAPACITY: u32 = 2;
/// A newcomer's disk is not a build host's: a share of it would refuse pulls where there is room enough.
const AGENT_RESERVE: u64 = 256 * 1024 * 1024;
/// All servers are in this process: a probe costs nothing, and a start should be quick.
const PROBE: Duration = Duration::from_millis(500);

/// Where something that listens there is reached from this machine.
pub(super) fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Back ends listen on loopback and let the system pick: only the proxy reaches them.
const BACK_END: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn server(name: String) -> Server {
    Server {
        listen: BACK_END,
        name,
        grace: DEFAULT_GRACE,
        address_file: None,
        advertise: None,
        zone: None,
        tls: None,
    }
}

/// A registry: the first one is the writer, the others copy from it and from those before them.
pub(super) fn registry(number: u16, data: &Data, before: &[SocketAddr], auth: &Auth) -> registry::Registry {
    let mut others = before.iter().copied().map(url);
    let role = match others.next() {
        None => Role::Writer { peers: Vec::new(), alone: false },
        Some(writer) => Role::Replica { writer, peers: others.collect() },
    };
    registry::Registry {
        server: server(format!("r{number}")),
        log: Log::default(),
        auth: auth.clone(),
        access: Access::Off,
        storage: Storage::Disk(data.registry(number)),
        limits: registry::Limits::default(),
        upkeep: Default::default(),
        replication: Replication { role, log_keep: LOG_KEEP, tls: None },
        members: None,
    }
}

/// A controller; the shared store is given to it beside this.
pub(super) fn controller(
    number: u16,
    args: &Args,
    (data, auth): (&Data, &Auth),
    registries: SocketAddr,
) -> controller::Controller {
    let kind = match args.etcd.as_slice() {
        [] => StoreKind::Embedded(data.store()),
        members => StoreKind::Etcd(Etcd::plain(members.to_vec())),
    };
    let address = url(registries);
    controller::Controller {
        server: server(format!("c{number}")),
        log: Log::default(),
        auth: auth.clone(),
        store: controller::Store { kind, cluster: "main".into(), upkeep: controller::Upkeep::default() },
        registries: Some(Registries {
            node_address: address.clone(),
            push_address: None,
            address,
            timeout: Duration::from_secs(5),
            tls: None,
        }),
        timeouts: controller::Timeouts::default(),
        limits: controller::Limits::default(),
        events: Default::default(),
        mac_pool: controller::MacPool::default(),
        web: controller::Web::default(),
    }
}

/// Who may use the controllers and registries: with a root token whoever has it, or an API key; else everybody.
pub(super) fn auth(args: &Args) -> Result<Auth, Failure> {
    let root_token = args.shown.token()?;
    Ok(Auth { enabled: root_token.is_some(), api_keys: true, root_token, ..Auth::default() })
}

/// Who may use the admin API.
pub(super) fn entry(args: &Args) -> Result<Entry, Failure> {
    let listen = args.admin_addr;
    match args.admin_token.as_deref() {
        Some("off") => Ok(Entry::Anybody),
        Some(token) => Entry::token(token).map(Entry::Token).map_err(|why| Failure::Usage {
            error: format!("the admin token {why}"),
            hint: Some("make one by `openssl rand -hex 32`".into()),
        }),
        None if listen.ip().is_loopback() => Ok(Entry::Local),
        None => Err(Failure::Usage {
            error: format!("other machines reach the admin API at `{listen}`, and nobody is asked for a token"),
            hint: Some(
                "set SWITCHYARD_ADMIN_TOKEN to one, or `--admin-token off` if something else keeps strangers out".into(),
            ),
        }),
    }
}

/// The proxy, which does not know its controllers yet.
pub(super) fn proxy(args: &Args, (entry, auth): (Entry, &Auth), registries: &[SocketAddr]) -> Proxy {
    let access = match &args.access_log {
        None => Access::Off,
        Some(file) if file.as_os_str() == "stdout" => Access::Stdout,
        Some(file) => Access::File(file.clone()),
    };
    let named = registries.iter().zip(1..).map(|(address, number)| upstream(format!("r{number}"), *address));
    let mut registries = service(REGISTRIES, Kind::Registry, named.collect());
    (registries.writer, registries.reads) = (Some(0), Reads::REPLICATED);
    registries.authorization = shown(auth);
    Proxy {
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        zone: None,
        zero_copy: true,
        log: Log::default(),
        progress: Some(Proxy::PROGRESS),
        trace: None,
        access,
        admin: args.admin_addr,
        entry,
        decisions: DECISIONS,
        address_file: None,
        listeners: vec![
            listener(CONTROLLERS, args.controllers_addr, 0),
            listener(REGISTRIES, args.registries_addr, 1),
        ],
        // A request that comes before the controllers are known is held, as when none is healthy.
        services: vec![service(CONTROLLERS, Kind::Controller, Vec::new()), registries],
        limits: Limits::default(),
        endings: Endings::default(),
        run_dir: None,
    }
}

/// Makes the controllers known to the proxy's config.
pub(super) fn add_controllers(proxy: &mut Proxy, controllers: &[SocketAddr]) {
    for service in proxy.services.iter_mut().filter(|service| service.kind == Kind::Controller) {
        let named =
            controllers.iter().zip(1..).map(|(address, number)| upstream(format!("c{number}"), *address));
        service.upstreams = named.collect();
    }
}

/// An agent, joined through the proxy like any other.
pub(super) fn agent(number: u16, data: &Data, controllers: SocketAddr, auth: &Auth) -> agent::Agent {
    agent::Agent {
        controllers: vec![url(controllers)],
        driver: Driver::Process(ProcessDriver::default()),
        data: data.agent(number),
        node_id: None,
        name: format!("node-{number}"),
        host: Ipv4Addr::LOCALHOST.to_string(),
        capacity: CAPACITY,
        capacity_mode: CapacityMode::Number,
        force_overrides: false,
        groups: Vec::new(),
        drain_mode: false,
        heartbeat: Duration::from_secs(5),
        request_timeout: Duration::from_secs(60),
        dial_timeout: Duration::from_secs(15),
        reserve: Reserve::Bytes(AGENT_RESERVE),
        vm_prefix: "mgmtManaged".into(),
        start_timeout: Duration::from_secs(90),
        authorization: shown(auth),
        api_key: None,
        update: None,
        tls: None,
        log: Log::default(),
        grace: DEFAULT_GRACE,
    }
}

/// What the parts of this cloud show each other.
fn shown(auth: &Auth) -> Option<Secret> {
    auth.root_token.as_ref().map(RootToken::authorization)
}

fn listener(name: &str, bind: SocketAddr, service: usize) -> Listener {
    Listener {
        name: name.into(),
        bind: vec![bind],
        tls: None,
        rules: vec![Rule { host: None, path: None, does: Does::Send(service) }],
        trusted: Vec::new(),
        proxy_protocol: Vec::new(),
        expose: Vec::new(),
        http2: false,
        limits: Default::default(),
    }
}

fn service(name: &str, kind: Kind, upstreams: Vec<Upstream>) -> Service {
    let name = ServiceName::parse(name).expect("a constant of letters");
    let health = Health { interval: PROBE, rise: 1, ..Health::default() };
    Service { health, ..Service::plain(name, kind, upstreams) }
}

fn upstream(name: String, address: SocketAddr) -> Upstream {
    let name = UpstreamName::parse(name).expect("a letter and a number");
    Upstream::plain(name, Address { host: address.ip().to_string(), port: address.port() })
}

fn url(address: SocketAddr) -> BaseUrl {
    format!("http://{address}").parse().expect("an IP address and a port that is open make a URL")
}
