//! A wire that can be cut: a TCP relay between a client and one address.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Carries everything.
    Whole,
    /// Swallows everything, both ways: connections stay open and nothing arrives, as behind a dead switch.
    Dark,
    /// Refuses new connections and resets old ones.
    Cut,
}

/// Relays connections to one address. Dropping it ends all of them.
pub struct Relay {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    carried: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((target.ip(), 0)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let (wire, state) = watch::channel(Wire::Whole);
        let carried = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let count = carried.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, target, state.clone(), count.clone()));
            }
        });
        Self { address, wire, carried, _tasks: tasks }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

async fn relay(
    client: TcpStream,
    target: SocketAddr,
    mut wire: watch::Receiver<Wire>,
    carried: Arc<AtomicU64>,
) {
    // A connection that comes in the dark waits for the light, like a SYN that is sent again.
    if wire.wait_for(|w| *w != Wire::Dark).await.is_err() || *wire.borrow() == Wire::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut cut = wire.clone();
    tokio::select! {
        // Both halves are dropped at once: the peers see an end or a reset, never a clean close of one side.
        _ = cut.wait_for(|w| *w == Wire::Cut) => {}
        () = async {
            tokio::join!(
                carry(from_client, to_server, wire.clone(), &carried),
                carry(from_server, to_client, wire.clone(), &carried),
            );
        } => {}
    }
}

async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    carried: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        // In the dark bytes wait in the socket, as they do in a sender that gets no acknowledgement.
        if wire.wait_for(|w| *w != Wire::Dark).await.is_err() {
            return;
        }
        if n == 0 {
            // Passed on as it came: the other direction may still have much to say.
            drop(to.shutdown().await);
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        carried.fetch_add(n as u64, Ordering::Relaxed);
    }
}
