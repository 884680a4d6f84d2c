//! `proxy.toml`, checked.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

pub use super::vendor::{Lists, Secret, Vendor};
use super::{
    Address, BaseUrl, Etcd, Log,
    auth::Signing,
    bounds::{BodyCaps, Bounds},
};
use crate::{
    model::{ServiceName, UpstreamName, ZoneName, proxy_protocol::Version},
    tls,
};

pub use crate::telemetry::Access;

pub use super::choosing::{Balance, Bears, Key, Sticky};
pub use super::entry::Entry;
pub use super::health::{Health, HttpProbe, Passive, ProbeKind, ProbeMethod};
pub use super::timeouts::{Floor, UpstreamTimeouts};

/// Everything a proxy is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// Worker threads; one per core if not given.
    pub threads: usize,
    /// The zone that it is in: upstreams of the same one are preferred.
    pub zone: Option<ZoneName>,
    /// Large bodies move without being copied, where the system can do that.
    pub zero_copy: bool,
    /// `[log]`.
    pub log: Log,
    /// `[log] access`.
    pub access: Access,
    /// `[log] progress`: a transfer has a line once in so long; none when it is `off`.
    pub progress: Option<Duration>,
    /// `[trace]`, if requests are to be parts of traces.
    pub trace: Option<Trace>,
    /// `[admin] listen`.
    pub admin: SocketAddr,
    /// `[admin] token_file`, `[admin] token`: who may use it.
    pub entry: Entry,
    /// `[admin] decisions`: so many requests that are over each thread keeps, for `explain --request`.
    pub decisions: usize,
    /// Where to write the admin address once it is open, for scripts that gave port 0.
    pub address_file: Option<PathBuf>,
    /// `[[listener]]`, in file order; at least one.
    pub listeners: Vec<Listener>,
    /// `[service.NAME]`, in file order; at least one.
    pub services: Vec<Service>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[shutdown]`.
    pub endings: Endings,
    /// Where its control socket and pid file are, if it can be upgraded. What the file does not say is chosen by whoever
    /// starts it.
    pub run_dir: Option<PathBuf>,
}

impl Proxy {
    /// A transfer has a line once in so long, if nothing is said.
    pub const PROGRESS: Duration = Duration::from_secs(30);
}

/// Of `decisions`, if nothing else is said: some seconds of a busy proxy, and about half a MiB to a thread.
pub const DECISIONS: usize = 1024;

/// `[shutdown]`: how long what runs may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endings {
    /// When the process is told to stop.
    pub grace: Duration,
    /// When a successor has taken over, or a reload has removed the listener.
    pub drain: Duration,
}

impl Default for Endings {
    fn default() -> Self {
        // A template of 100 GiB takes most of an hour at 300 Mbit/s.
        Self { grace: super::DEFAULT_GRACE, drain: Duration::from_secs(3600) }
    }
}

/// `[trace]` with `context = "join"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The share of the traces begun here that are recorded, 0 to 1; those begun elsewhere say so themselves.
    pub sample: f64,
    /// Where what is recorded goes to: a collector that takes OTLP over HTTP.
    pub otlp: Option<BaseUrl>,
    /// As what this proxy is shown there.
    pub service: String,
}

/// `[[listener]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: String,
    /// Addresses; at least one.
    pub bind: Vec<SocketAddr>,
    /// What its connections are wrapped in.
    pub tls: Option<tls::Server>,
    /// First match wins; the last one matches everything or the rest is 404.
    pub rules: Vec<Rule>,
    /// Peers whose identity and forwarding headers are believed: networks as address and prefix length.
    pub trusted: Vec<Network>,
    /// Peers whose connections begin with a PROXY header; nobody else's does.
    pub proxy_protocol: Vec<Network>,
    /// Paths of ours that are otherwise hidden: `/metrics`, `/replication/`.
    pub expose: Vec<String>,
    /// HTTP/2 is spoken with clients that begin with it, besides HTTP/1.1.
    pub http2: bool,
    /// What its clients may take.
    pub limits: ListenerLimits,
}

/// `limits` of a listener, besides those of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections at once.
    pub connections: Option<usize>,
    /// Of one client.
    pub bounds: Bounds,
}

impl Listener {
    /// Whether who connects to this address reaches this very listener, as far as the config says.
    pub fn is_at(&self, address: &Address) -> bool {
        let ip: std::net::IpAddr = match address.host.as_str() {
            "localhost" => std::net::Ipv4Addr::LOCALHOST.into(),
            host => match host.parse() {
                Ok(ip) => ip,
                Err(_) => return false,
            },
        };
        self.bind.iter().any(|bind| {
            bind.port() == address.port
                && (bind.ip() == ip || (bind.ip().is_unspecified() && ip.is_loopback()))
        })
    }
}

/// One routing rule. `service = "x"` in the file is one rule that matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Only this host, lower case, without port.
    pub host: Option<String>,
    /// Only below this path, on segment borders; begins with a slash.
    pub path: Option<String>,
    /// What becomes of it.
    pub does: Does,
}

/// What a rule does with the requests that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// They go to the service of this place in [`Proxy::services`].
    Send(usize),
    /// `deny = 403`: they are refused, and told so.
    Forbid,
    /// `deny = 404`: they are answered as if nothing were there.
    Hide,
}

impl Rule {
    /// The service that it sends requests to.
    pub fn service(&self) -> Option<usize> {
        match self.does {
            Does::Send(place) => Some(place),
            Does::Forbid | Does::Hide => None,
        }
    }
}

/// Whether each request that `later` matches is matched by `earlier`: host and path of two rules.
pub fn covers(earlier: (Option<&str>, Option<&str>), later: (Option<&str>, Option<&str>)) -> bool {
    let host = earlier.0.is_none() || earlier.0 == later.0;
    let path = match (earlier.1, later.1) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => {
            later.strip_prefix(earlier).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    host && path
}

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Any address in it.
    pub address: std::net::IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

impl Network {
    /// Whether `ip` is in it. An IPv4 address that came in mapped to IPv6 counts as IPv4.
    pub fn contains(&self, ip: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, ip.to_canonical()) {
            (V4(net), V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits.min(32))).unwrap_or(0);
                (u32::from(net) & mask) == (u32::from(ip) & mask)
            }
            (V6(net), V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits.min(128))).unwrap_or(0);
                (u128::from(net) & mask) == (u128::from(ip) & mask)
            }
            _ => false,
        }
    }
}

/// As it is written in a file: an address alone is one.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        match self.bits {
            bits if bits == most => self.address.fmt(f),
            bits => write!(f, "{}/{bits}", self.address),
        }
    }
}

/// What kind of servers a service has: it decides routes, error format and retry rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Controllers.
    Controller,
    /// Registries.
    Registry,
}

impl Kind {
    /// The word of config, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Registry => "registry",
        }
    }
}

/// `[service.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What its servers are.
    pub kind: Kind,
    /// How the next one is picked.
    pub balance: Balance,
    /// What of a request its place is found by, with [`Balance::ConsistentHash`].
    pub hash: Key,
    /// What ties a client to one upstream.
    pub sticky: Option<Sticky>,
    /// One that comes back has its whole weight after so long.
    pub slow_start: Duration,
    /// What each upstream bears that says nothing else of itself.
    pub bears: Bears,
    /// How long a request may wait for an eligible upstream.
    pub hold: Hold,
    /// Answers that a repeatable request is tried again for, once.
    pub retry_status: Vec<u16>,
    /// 503 with `Retry-After` for everything; probes go on.
    pub maintenance: bool,
    /// At least one, unless `discovery` finds them.
    pub upstreams: Vec<Upstream>,
    /// The PROXY header that connections to upstreams begin with, before TLS.
    pub proxy_protocol: Option<Version>,
    /// What connections to them are wrapped in, those of probes too.
    pub tls: Option<tls::Upstream>,
    /// The registry of replicated storage that takes writes, by its place in `upstreams`. Without one every
    /// upstream takes them: controllers, and registries on shared storage.
    pub writer: Option<usize>,
    /// Which registry may answer reads.
    pub reads: Reads,
    /// `token_file`: what the proxy's own questions to our registries show, as `Authorization`.
    pub authorization: Option<Secret>,
    /// `sign_key_file`: what is said of clients is signed with it.
    pub sign: Option<Signing>,
    /// What is special about the vendor's registries.
    pub vendor: Vendor,
    /// Probing.
    pub health: Health,
    /// What traffic says.
    pub passive: Passive,
    /// Timeouts towards upstreams.
    pub timeouts: UpstreamTimeouts,
    /// Most attempts of one request.
    pub attempts: u32,
    /// How many of them there may be besides the first ones.
    pub retry_budget: RetryBudget,
    /// Agents are served from one version at a time.
    pub cohorts: Option<Cohorts>,
    /// Where more upstreams are found; then `upstreams` may be empty.
    pub discovery: Option<Discovery>,
}

/// `discovery`: where upstreams come from that the file does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Where they are looked for.
    pub source: Source,
    /// Upstreams that are taken from it at most.
    pub most: usize,
}

/// Where upstreams are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Among the members of a cluster that live servers write into etcd.
    Etcd {
        /// Which etcd.
        etcd: Etcd,
        /// Which cloud's keys.
        cluster: String,
    },
    /// Behind a name.
    Dns(Dns),
}

/// A name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// With a dot at its end: no search list is tried.
    pub name: String,
    /// The port of its addresses; without one its services are asked for, which have ports of their own.
    pub port: Option<u16>,
    /// Who is asked, if not whom the system asks.
    pub resolver: Option<SocketAddr>,
}

impl Source {
    /// What the admin API shows.
    pub fn describe(&self) -> String {
        match self {
            Self::Etcd { cluster, .. } => format!("etcd, cluster `{cluster}`"),
            Self::Dns(Dns { name, port: Some(port), .. }) => format!("dns, `{name}` at port {port}"),
            Self::Dns(Dns { name, port: None, .. }) => format!("dns, services of `{name}`"),
        }
    }
}

/// `cohort`: when a version takes over from another one. There with `cohorts = true` alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cohorts {
    /// Share of the upstreams that must be healthy and of it.
    pub quorum: f64,
    /// For so long.
    pub settle: Duration,
    /// Nobody of the version that agents are served from is there for so long: then whoever is.
    pub fallback: Duration,
}

impl Default for Cohorts {
    fn default() -> Self {
        // With half of them a cloud of two can be upgraded one after the other, and no other cloud is left with less.
        Self { quorum: 0.5, settle: Duration::from_secs(60), fallback: Duration::from_secs(30) }
    }
}

/// `retry_budget`: how many further attempts of requests a service bears, over ten seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Share of the requests, 0 to 1.
    pub ratio: f64,
    /// A second, besides.
    pub min: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min: 10 }
    }
}

/// Which registry may answer a read; the rules are those of `docs/replication.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// How an upstream shows that it has what is asked for.
    pub freshness: Freshness,
    /// The writer is asked for no reads.
    pub write_only: bool,
    /// What may be answered while nothing can be known to be fresh.
    pub stale: StaleReads,
    /// How long a read waits for a replica that lacks a change, from when the proxy learnt of that change.
    pub fresh_wait: Duration,
}

impl Reads {
    /// Of replicated storage, if nothing else is said.
    pub const REPLICATED: Self = Self {
        freshness: Freshness::Position,
        write_only: false,
        stale: StaleReads::WriterLost,
        fresh_wait: Duration::from_secs(1),
    };
}

/// Of shared storage, where every upstream has everything, and of controllers.
impl Default for Reads {
    fn default() -> Self {
        Self { freshness: Freshness::None, ..Self::REPLICATED }
    }
}

/// How an upstream shows that it has what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// By its position in the writer's log.
    Position,
    /// By its list of templates, compared with the writer's: for the vendor's registries.
    Catalogue,
    /// Not at all: any upstream may answer.
    None,
}

impl Freshness {
    /// The word of config and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Catalogue => "catalogue",
            Self::None => "none",
        }
    }
}

/// Which reads are answered although they may miss the last pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReads {
    /// Those that come while the writer cannot be reached.
    WriterLost,
    /// None.
    Never,
    /// Those, and what merely lagging replicas answer when nobody else will.
    Allow,
}

impl StaleReads {
    /// The word of config and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WriterLost => "writer-lost",
            Self::Never => "never",
            Self::Allow => "allow",
        }
    }
}

/// `hold`: how long a request may wait, unsent, for an eligible upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Reads.
    pub read: Duration,
    /// Everything else.
    pub write: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        Self { read: Duration::from_secs(4), write: Duration::from_secs(8) }
    }
}

/// One of `upstreams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: UpstreamName,
    /// Where it is.
    pub address: Address,
    /// Its part of the requests, beside those of the others.
    pub weight: u32,
    /// The zone that it is in.
    pub zone: Option<ZoneName>,
    /// What it bears at once; of what it does not say the service does.
    pub bears: Bears,
}

impl Upstream {
    /// One of weight 1, of no zone and without a limit.
    pub fn plain(name: UpstreamName, address: Address) -> Self {
        Self { name, address, weight: 1, zone: None, bears: Bears::default() }
    }
}

impl Service {
    /// Tries of one request, the first included (design: at most three under one deadline).
    pub const ATTEMPTS: u32 = 3;
    /// Answers of a server that is going away or has lost its store.
    pub const RETRY_STATUS: [u16; 3] = [502, 503, 504];
    /// Long enough to fill caches of metadata, and short beside the minutes of a restart by hand.
    pub const SLOW_START: Duration = Duration::from_secs(10);

    /// One of which nothing is said but this.
    pub fn plain(name: ServiceName, kind: Kind, upstreams: Vec<Upstream>) -> Self {
        Self {
            name,
            kind,
            balance: Balance::of(kind),
            hash: Key::Content,
            sticky: None,
            slow_start: Self::SLOW_START,
            bears: Bears::default(),
            hold: Hold::default(),
            retry_status: Self::RETRY_STATUS.to_vec(),
            maintenance: false,
            upstreams,
            proxy_protocol: None,
            tls: None,
            writer: None,
            reads: Reads::default(),
            authorization: None,
            sign: None,
            vendor: Vendor::default(),
            health: Health::default(),
            passive: Passive::default(),
            timeouts: UpstreamTimeouts::default(),
            attempts: Self::ATTEMPTS,
            retry_budget: RetryBudget::default(),
            cohorts: None,
            discovery: None,
        }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, all listeners together.
    pub connections: usize,
    /// Request head, bytes.
    pub header_bytes: usize,
    /// Header fields.
    pub headers: usize,
    /// Time for a request head.
    pub header_timeout: Duration,
    /// An idle client connection is kept for so long.
    pub keep_alive: Duration,
    /// Requests held at once, per service.
    pub held: usize,
    /// And what of them may lie in memory, in bytes.
    pub held_bytes: u64,
    /// Requests at once of one HTTP/2 connection.
    pub streams: usize,
    /// What one client may take, at all listeners together.
    pub bounds: Bounds,
    /// Leading bits of an IPv6 address that are one client.
    pub ipv6_prefix: u8,
    /// How large bodies may be.
    pub body: BodyCaps,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            header_bytes: 32 * 1024,
            headers: 128,
            header_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(150),
            held: 1024,
            // 64 KiB for each of them, what a stream of HTTP/2 may send unasked.
            held_bytes: 64 * 1024 * 1024,
            streams: 128,
            bounds: Bounds::default(),
            // What a provider gives to one customer at least: each has as many addresses in it as he likes.
            ipv6_prefix: 64,
            body: BodyCaps::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_its_bits_say() {
        let net = |text: &str, bits| Network { address: text.parse().unwrap(), bits };
        assert!(net("10.0.0.0", 8).contains("10.200.1.2".parse().unwrap()));
        assert!(!net("10.0.0.0", 8).contains("11.0.0.1".parse().unwrap()));
        assert!(net("0.0.0.0", 0).contains("1.2.3.4".parse().unwrap()));
        assert!(net("10.0.0.1", 32).contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(net("fd00::", 8).contains("fd12::1".parse().unwrap()));
        assert!(!net("fd00::", 8).contains("10.0.0.1".parse().unwrap()));
    }
}
