//! The side of the successor: takes over from the process that started it.

use std::{
    io,
    io::Write,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixStream as BlockingStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixStream, time::timeout};

use super::{Found, Inherited, frame};
use crate::{
    model::OURS,
    proxy::{
        engine::{Spot, Taken},
        orders::Orders,
    },
    wire::handover::{Ask, FAILED, Inventory, PROTOCOL, Said, Socket, TAKE_OVER, Told},
};

/// Names the control socket of the process to take over from. Its name begins with a line, so that it is taken for no
/// key of a config.
pub(super) const VARIABLE: &str = "_SWITCHYARD_TAKE_OVER";

/// For each message of the predecessor. It has given up by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the reason why a successor fails; longer ones are cut.
const WHY: usize = 16 * 1024;

/// Why nothing could be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It is not there, or broke off.
    #[error("the process to take over from could not be spoken to at `{socket}`")]
    Io {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not want to.
    #[error("the process to take over from refused: {0}")]
    Refused(String),
    /// It speaks differently.
    #[error(
        "the process to take over from is version {version} and speaks protocol {protocol}, this is version {OURS} and speaks {PROTOCOL}: restart it instead"
    )]
    Protocol {
        /// Its version.
        version: String,
        /// Its protocol.
        protocol: u32,
    },
    /// It belongs to somebody else.
    #[error("the process to take over from runs as user {0}, not as ours")]
    Stranger(u32),
    /// It gave something else than it said.
    #[error("the process to take over from handed over something that is no listening socket for `{0}`")]
    NoSocket(String),
}

/// The process that started this one to be replaced by it.
#[derive(Debug, Clone)]
pub struct Predecessor {
    socket: PathBuf,
}

impl Predecessor {
    /// None in a process that nobody started for that.
    pub fn of_process() -> Option<Self> {
        std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(|path| Self { socket: path.into() })
    }

    /// Takes over what it has. It goes on serving.
    pub async fn take(&self) -> Result<Inherited, TakeError> {
        let failed = |source| TakeError::Io { socket: self.socket.clone(), source };
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let mut stream = UnixStream::connect(&self.socket).await.map_err(failed)?;
        let peer = stream.peer_cred().map_err(failed)?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(TakeError::Stranger(peer.uid()));
        }
        frame::send(&mut stream, &ask(TAKE_OVER, String::new())).await.map_err(failed)?;
        let inventory = timeout(PATIENCE, frame::receive::<Inventory>(&mut stream));
        let Inventory {
            protocol,
            version,
            refused,
            generation,
            sockets,
            verdicts,
            cohorts,
            ejections,
            pools,
            tickets,
            pins,
            orders,
        } = inventory.await.map_err(late)?.map_err(failed)?;
        if !refused.is_empty() {
            return Err(TakeError::Refused(refused));
        }
        if protocol != PROTOCOL {
            return Err(TakeError::Protocol { version, protocol });
        }
        let fds = timeout(PATIENCE, frame::receive_fds(&stream, sockets.len()));
        let fds = fds.await.map_err(late)?.map_err(failed)?;
        let (listeners, admin) = sorted(sockets.into_iter().zip(fds))?;
        let link = Some(Link { stream, socket: self.socket.clone() });
        let known = Found { verdicts, ejections, orders: Arc::new(Orders::new(orders, None)) };
        Ok(Inherited {
            listeners,
            admin,
            known,
            cohorts,
            pools,
            tickets,
            pins,
            generation: generation + 1,
            link,
        })
    }

    /// Tells it why this process gives up. What cannot be told it learns from this process' end.
    pub fn failed(&self, why: &str) {
        let told = || {
            let mut stream = BlockingStream::connect(&self.socket)?;
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            let why: String = why.chars().take(WHY).collect();
            stream.write_all(&frame::encode(&ask(FAILED, why))?)
        };
        if let Err(error) = told() {
            tracing::debug!(error = %error, "the process to take over from could not be told");
        }
    }
}

pub(super) fn ask(what: &str, why: String) -> Ask {
    Ask { protocol: PROTOCOL, version: OURS.into(), ask: what.into(), why }
}

/// Brings together what belongs to one address.
fn sorted(
    all: impl Iterator<Item = (Socket, OwnedFd)>,
) -> Result<(Vec<Taken>, Option<TcpListener>), TakeError> {
    let (mut listeners, mut admin): (Vec<Taken>, _) = (Vec::new(), None);
    for (Socket { listener, bind, nth }, fd) in all {
        if !is_listening(&fd) {
            return Err(TakeError::NoSocket(listener.unwrap_or_else(|| "admin.listen".into())));
        }
        let socket = TcpListener::from(fd);
        let Some(listener) = listener else {
            admin = Some(socket);
            continue;
        };
        let Ok(bind) = bind.parse() else { return Err(TakeError::NoSocket(format!("{listener} on {bind}"))) };
        let spot = Spot { listener, bind, nth };
        match listeners.iter_mut().find(|taken| taken.spot == spot) {
            Some(taken) => taken.sockets.push(socket),
            None => listeners.push(Taken { spot, sockets: vec![socket] }),
        }
    }
    Ok((listeners, admin))
}

/// Whether connections can be accepted from it.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn is_listening(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(fd.as_fd()).unwrap_or(false)
}

/// Whether it is a socket of streams: there is no way to ask for more.
#[cfg(target_vendor = "apple")]
pub(super) fn is_listening(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_type(fd.as_fd()).is_ok_and(|found| found == rustix::net::SocketType::STREAM)
}

/// The conversation with the predecessor, after it has given everything.
#[derive(Debug)]
pub(in crate::proxy) struct Link {
    stream: UnixStream,
    socket: PathBuf,
}

impl Link {
    /// Says that everything is open; completes when it is time to accept.
    pub(in crate::proxy) async fn ready(&mut self) -> Result<(), TakeError> {
        let socket = self.socket.clone();
        let failed = |source| TakeError::Io { socket: socket.clone(), source };
        frame::send(&mut self.stream, &Said::Ready).await.map_err(failed)?;
        let told = timeout(PATIENCE, frame::receive::<Told>(&mut self.stream)).await;
        let Told::Go = told.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        Ok(())
    }

    /// Says that this process accepts. The predecessor stops to, then.
    pub(in crate::proxy) async fn serving(mut self) -> Result<(), TakeError> {
        let sent = frame::send(&mut self.stream, &Said::Serving).await;
        sent.map_err(|source| TakeError::Io { socket: self.socket.clone(), source })
    }
}
