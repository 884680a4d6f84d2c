//! What every server role has.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::telemetry::LogFormat;

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
}

/// How long a stop may take if nothing is said: the longest poll (10 s) and a little.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(15);
