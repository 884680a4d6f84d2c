//! What every server role has.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use super::Address;
use crate::{telemetry::LogFormat, tls};

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// A tracing filter such as `info,switchyard::proxy=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

/// `[server]` of a controller or registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens; port 0 lets the system pick.
    pub listen: SocketAddr,
    /// Its name among its like: in `members/`, in logs. The host name and port if not given.
    pub name: String,
    /// How long a stop may take.
    pub grace: Duration,
    /// Where to write the chosen address once the port is open, for scripts that gave port 0.
    pub address_file: Option<PathBuf>,
    /// Where proxies reach it, for those that find it by its membership.
    pub advertise: Option<Address>,
    /// Where it stands, for those.
    pub zone: Option<String>,
    /// Everything goes inside TLS, if there is some.
    pub tls: Option<tls::Server>,
}

impl Server {
    /// What its membership says, once its port is open: what the config says, else the address that it listens on. When
    /// that is every address of this machine, the one from which it reaches others.
    pub fn reached_at(&self, bound: SocketAddr) -> Address {
        let host = || match bound.ip().is_unspecified() {
            true => own_address(),
            false => bound.ip().to_string(),
        };
        self.advertise.clone().unwrap_or_else(|| Address { host: host(), port: bound.port() })
    }
}

/// The address from which this machine reaches others. Nothing is sent: connecting a datagram socket only
/// looks the route up (192.0.2.0/24 is for documentation, RFC 5737).
pub(super) fn own_address() -> String {
    let routed = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        socket.local_addr().ok()
    };
    routed().map_or_else(|| Ipv4Addr::LOCALHOST.to_string(), |address| address.ip().to_string())
}

/// How long a stop may take if nothing is said: the longest poll (10 s) and a little.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(15);
