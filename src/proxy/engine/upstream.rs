//! A connection to an upstream.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout, timeout_at},
};

use super::{
    local,
    pool::Link,
    stream::Stream,
    tls::{Failed, Tls},
    wire::Wire,
    worker::Worker,
};
use crate::{
    clock,
    config::Address,
    proxy::{room::Occupied, snapshot::Upstream},
};

/// A host name is looked up again after so long.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// Names that are remembered at most; past it all are forgotten and looked up again.
const RESOLVED: usize = 1024;

/// An open connection to an upstream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: Wire,
    /// It was used before.
    pub(super) reused: bool,
    /// Whose it is.
    pub(super) upstream: u64,
    /// It began with the address of one client, and may carry nobody else's requests.
    pub(super) once: bool,
    /// Its place among those that may be open.
    pub(super) open: Option<Occupied>,
}

impl Connection {
    /// One that was used before.
    pub(super) fn used((stream, open): Link, upstream: u64) -> Self {
        Self { wire: Wire::new(stream), reused: true, upstream, once: false, open }
    }
}

/// Finds upstreams by their names; all threads share it.
#[derive(Debug, Default)]
pub(super) struct Names {
    resolved: Mutex<HashMap<Address, (Instant, SocketAddr)>>,
    /// One name is looked up at a time: a resolver that does not answer must not be asked by every request.
    looking: tokio::sync::Mutex<()>,
}

/// Connects anew within one time, and shakes hands within another, but not past `deadline`. `opening` is sent before
/// anything else, `open` is its place among those that may be open.
pub(super) async fn connect(
    to: &Upstream,
    worker: &Worker,
    (within, shaking): (Duration, Duration),
    deadline: Option<Instant>,
    opening: Option<&[u8]>,
    open: Occupied,
) -> io::Result<Connection> {
    let names = &worker.shared.names;
    let address = match to.fixed {
        Some(address) => address,
        None => names.resolve(&to.address, within).await?,
    };
    let until = clock::now() + within;
    let mut tcp = timeout_at(until, local::connect(address)).await??;
    tcp.set_nodelay(true)?;
    if let Some(opening) = opening {
        timeout_at(until, tcp.write_all(opening)).await??;
    }
    let stream = match &to.tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            let session = tls.connect(&to.address.host).map_err(io::Error::other)?;
            let mut stream = Tls::client(tcp, session, worker.crypt.clone());
            let shaken = clock::now() + shaking;
            let shaken = deadline.map_or(shaken, |deadline| shaken.min(deadline));
            timeout_at(shaken, poll_fn(|cx| stream.poll_handshake(cx))).await?.map_err(refused)?;
            Stream::Tls(Box::new(stream))
        }
    };
    let (wire, once) = (Wire::new(stream), opening.is_some());
    Ok(Connection { wire, reused: false, upstream: to.id, once, open: Some(open) })
}

/// Whether this process may open nothing more.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether there is no connection for want of something that is this machine's.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let wants = [Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    is_out_of_descriptors(error)
        || wants.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Why hands were not shaken with an upstream, in words.
fn refused(failed: Failed) -> io::Error {
    match failed {
        Failed::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        Failed::PlainHttp => io::Error::other("it speaks plain HTTP, and the service has `tls`"),
        Failed::Strange => io::Error::other("it does not speak TLS, and the service has `tls`"),
        Failed::Gone => io::ErrorKind::UnexpectedEof.into(),
    }
}

impl Names {
    /// The address of a name. One that was found before is good as long as no newer one is found.
    async fn resolve(&self, to: &Address, within: Duration) -> io::Result<SocketAddr> {
        let looking = match self.known(to) {
            Some((address, true)) => return Ok(address),
            Some((address, false)) => match self.looking.try_lock() {
                Ok(looking) => looking,
                Err(_) => return Ok(address),
            },
            None => timeout(within, self.looking.lock()).await?,
        };
        let before = match self.known(to) {
            // Somebody else has found it meanwhile.
            Some((address, true)) => return Ok(address),
            other => other.map(|(address, _)| address),
        };
        let found = match timeout(within, tokio::net::lookup_host((to.host.as_str(), to.port))).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(late) => Err(late.into()),
        };
        let address = match (found, before) {
            // A name such as `localhost` has an address of each family and its server often only the older one.
            (Ok(found), before) => found.iter().find(|a| a.is_ipv4()).or(found.first()).copied().or(before),
            (Err(_), Some(before)) => Some(before),
            (Err(error), None) => return Err(error),
        };
        let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if resolved.len() >= RESOLVED {
            resolved.clear();
        }
        resolved.insert(to.clone(), (clock::now(), address));
        drop(looking);
        Ok(address)
    }

    /// What was found before, and whether it is new.
    fn known(&self, to: &Address) -> Option<(SocketAddr, bool)> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.get(to).map(|(at, address)| (*address, clock::now().duration_since(*at) < RESOLVED_FOR))
    }
}
