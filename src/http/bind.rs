//! Opening a port, with an error that says who has it.

use std::{io, net::SocketAddr, path::Path};

use tokio::net::{TcpListener, TcpSocket};

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error("{address} is in use{holder}; stop that program or choose another port for `{key}`")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// ` by NAME (pid N)`, or empty when it cannot be found out.
        holder: String,
        /// The config key or flag to change.
        key: String,
    },
    /// Anything else.
    #[error("cannot listen on {address} (`{key}`)")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The config key or flag to change.
        key: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Connections that may wait to be accepted. Full: the system drops new ones, and clients try again.
const BACKLOG: u32 = 4096;

/// Listens on `address`; `key` is the config key or flag it came from.
pub fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = socket(address)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| failed(source, address, key))
}

/// Who else may listen on the port that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nobody: another program there is an error.
    Nobody,
    /// This process, or the one that it takes over from: the one address contains the other.
    Ours,
}

/// Listens on `address` once for each of `threads`: the system deals new connections out among them. Connections that
/// are accepted send small packets at once.
pub fn bind_for_threads(
    address: SocketAddr,
    key: &str,
    threads: usize,
    beside: Beside,
) -> Result<Vec<std::net::TcpListener>, BindError> {
    let open = || {
        let first = socket(address)?;
        if beside == Beside::Ours {
            share(&first)?;
        }
        first.bind(address)?;
        // Only now: a port that is shared from the first could be had although another program listens there. And for
        // one thread too: a successor may have more.
        share(&first)?;
        let first = listen(first)?;
        let mut all = more(&first, threads.saturating_sub(1))?;
        all.insert(0, first);
        Ok(all)
    };
    open().map_err(|source| failed(source, address, key))
}

/// Opens so many more sockets of the same port, among which new connections are dealt out. An error when `first` was
/// opened by somebody else, the service manager say: then its queue has to be shared.
pub fn more(first: &std::net::TcpListener, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let address = first.local_addr()?;
    (0..count).map(|_| another(first, address)).collect()
}

/// Brings a socket that another process has opened into the state of one of ours.
pub fn adopt(socket: &std::net::TcpListener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
    Ok(())
}

/// The port cannot be had, for this reason.
pub fn not_bound(source: io::Error, address: SocketAddr, key: &str) -> BindError {
    failed(source, address, key)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn listen(socket: TcpSocket) -> io::Result<std::net::TcpListener> {
    // What is accepted inherits it.
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    socket.listen(BACKLOG)?.into_std()
}

#[cfg(target_os = "linux")]
fn share(first: &TcpSocket) -> io::Result<()> {
    first.set_reuseport(true)
}

#[cfg(target_os = "linux")]
fn another(first: &std::net::TcpListener, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    // One that was inherited may not be shared yet.
    rustix::net::sockopt::set_socket_reuseport(first, true)?;
    let socket = socket(address)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    listen(socket)
}

// Elsewhere connections are not dealt out among sockets of one port: the threads take turns at one socket.
#[cfg(not(target_os = "linux"))]
fn share(_first: &TcpSocket) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn another(first: &std::net::TcpListener, _address: SocketAddr) -> io::Result<std::net::TcpListener> {
    first.try_clone()
}

fn failed(source: io::Error, address: SocketAddr, key: &str) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse { address, holder: holder(address.port()), key: key.into() }
    } else {
        BindError::Other { address, key: key.into(), source }
    }
}

/// Writes the address that was chosen, for scripts that asked for port 0. Complete at once: written beside,
/// then renamed.
pub fn write_address_file(path: &Path, address: SocketAddr) -> io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("{address}\n"))?;
    std::fs::rename(beside, path)
}

#[cfg(target_os = "linux")]
fn holder(port: u16) -> String {
    linux::holder(port).map_or_else(String::new, |(name, pid)| format!(" by {name} (pid {pid})"))
}

#[cfg(not(target_os = "linux"))]
fn holder(_port: u16) -> String {
    String::new()
}

#[cfg(target_os = "linux")]
mod linux {
    //! proc(5): `/proc/net/tcp` gives the socket's inode, `/proc/<pid>/fd` who has it.

    use std::fs;

    pub(super) fn holder(port: u16) -> Option<(String, u32)> {
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
            fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
                let listening = *state == "0A";
                let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
                (listening && local_port == port).then(|| format!("socket:[{inode}]"))
            })
        })?;
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let has = fs::read_dir(process.path().join("fd"))
                .ok()?
                .flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == inode.as_str()));
            let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            has.then(|| (name().trim().to_owned(), pid))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_thread_has_a_socket_and_nobody_else_gets_the_port() {
        let sockets = bind_for_threads("127.0.0.1:0".parse().unwrap(), "x", 3, Beside::Nobody).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        for error in [bind(address, "x").err(), bind_for_threads(address, "x", 3, Beside::Nobody).err()] {
            assert!(matches!(error, Some(BindError::InUse { .. })), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_port_of_one_thread_can_be_opened_for_more_later() {
        let first = bind_for_threads("127.0.0.1:0".parse().unwrap(), "x", 1, Beside::Nobody).unwrap();
        let address = first[0].local_addr().unwrap();
        let others = more(&first[0], 2).unwrap();
        assert!(others.iter().all(|socket| socket.local_addr().unwrap() == address));
    }

    #[tokio::test]
    async fn an_address_that_contains_one_of_ours_can_be_had_beside_it() {
        let first = bind_for_threads("127.0.0.1:0".parse().unwrap(), "x", 2, Beside::Nobody).unwrap();
        let all = SocketAddr::new("0.0.0.0".parse().unwrap(), first[0].local_addr().unwrap().port());
        assert!(bind_for_threads(all, "x", 2, Beside::Nobody).is_err());
        assert!(bind_for_threads(all, "x", 2, Beside::Ours).is_ok());
    }

    #[tokio::test]
    async fn a_port_in_use_names_its_holder_and_the_key() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "x").unwrap();
        let error = bind(first.local_addr().unwrap(), "admin.listen").unwrap_err().to_string();
        assert!(error.contains("admin.listen"), "{error}");
        if cfg!(target_os = "linux") {
            assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        }
    }
}
