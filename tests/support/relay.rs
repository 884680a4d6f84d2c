//! A wire that can be cut, slow or narrow: a TCP relay between a client and one address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use switchyard::clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
    time::Instant,
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
    /// Carries everything, each piece so much later: a far place.
    Slow(Duration),
    /// Carries so many bytes a second, all connections and both ways together: a thin line.
    Narrow(u64),
}

/// Bytes that are carried at once.
const PIECE: usize = 64 * 1024;

/// Relays connections to one address. Dropping it ends all of them.
pub struct Relay {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// What all connections of a relay have in common.
#[derive(Default)]
struct Counts {
    carried: AtomicU64,
    /// Until when a narrow wire is taken.
    taken: Mutex<Option<Instant>>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        // Not on the scenario's own address: there ports are free for servers that come back.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let (wire, state) = watch::channel(Wire::Whole);
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        let count = counts.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, target, state.clone(), count.clone()));
            }
        });
        Self { address, wire, counts, _tasks: tasks }
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
        self.counts.carried.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// When so many bytes are through, behind all that came before them.
    fn turn(&self, bytes: u64, rate: u64) -> Instant {
        let mut taken = self.taken.lock().expect("no holder panics");
        let from = taken.map_or_else(clock::now, |until| until.max(clock::now()));
        let through = from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        *taken = Some(through);
        through
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut wire: watch::Receiver<Wire>, counts: Arc<Counts>) {
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
                carry(from_client, to_server, wire.clone(), &counts),
                carry(from_server, to_client, wire.clone(), &counts),
            );
        } => {}
    }
}

async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    counts: &Counts,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        // In the dark bytes wait in the socket, as they do in a sender that gets no acknowledgement.
        if wire.wait_for(|w| *w != Wire::Dark).await.is_err() {
            return;
        }
        let state = *wire.borrow();
        match state {
            Wire::Slow(later) => tokio::time::sleep(later).await,
            Wire::Narrow(rate) => tokio::time::sleep_until(counts.turn(n as u64, rate)).await,
            Wire::Whole | Wire::Dark | Wire::Cut => {}
        }
        if n == 0 {
            // Passed on as it came: the other direction may still have much to say.
            drop(to.shutdown().await);
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        counts.carried.fetch_add(n as u64, Ordering::Relaxed);
    }
}
