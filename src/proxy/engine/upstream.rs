//! Connecting to an upstream.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use tokio::time::Instant;

use crate::{clock, config::Address, proxy::forward::Limits};

/// A host name is looked up again after so long.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// Names that are remembered at most; past it all are forgotten and looked up again.
const RESOLVED: usize = 1024;

/// Gives Pingora what it needs to connect.
#[derive(Debug, Default)]
pub(super) struct Connect {
    resolved: Mutex<HashMap<Address, (Instant, SocketAddr)>>,
    alone: AtomicU64,
}

impl Connect {
    /// The peer for one attempt. `keep` is how long an unused connection is kept.
    pub(super) async fn peer(&self, to: &Address, limits: &Limits, keep: Duration) -> io::Result<HttpPeer> {
        let address = match to.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, to.port),
            Err(_) => self.resolve(to, limits.connect).await?,
        };
        let mut peer = HttpPeer::new(address, false, String::new());
        let options = &mut peer.options;
        options.connection_timeout = Some(limits.connect);
        options.total_connection_timeout = Some(limits.connect);
        options.read_timeout = limits.read;
        options.write_timeout = Some(limits.write);
        options.idle_timeout = Some(keep);
        // Headers are edited by `forward`; a second opinion could undo what it decided.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        if !limits.pooled {
            // A pool of its own, which nobody ever looks into: so the connection is always a new one.
            peer.group_key = self.alone.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        Ok(peer)
    }

    async fn resolve(&self, to: &Address, within: Duration) -> io::Result<SocketAddr> {
        let now = clock::now();
        let known = {
            let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved
                .get(to)
                .filter(|(at, _)| now.duration_since(*at) < RESOLVED_FOR)
                .map(|(_, address)| *address)
        };
        if let Some(address) = known {
            return Ok(address);
        }
        let lookup = tokio::net::lookup_host((to.host.as_str(), to.port));
        let found: Vec<SocketAddr> = tokio::time::timeout(within, lookup).await??.collect();
        // A name such as `localhost` has an address of each family and its server often only the older one.
        let address = found.iter().find(|a| a.is_ipv4()).or(found.first()).copied();
        let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if resolved.len() >= RESOLVED {
            resolved.clear();
        }
        resolved.insert(to.clone(), (now, address));
        Ok(address)
    }
}
