//! Listening sockets: which are open, which a config wants, and how the one becomes the other.
//!
//! A reload opens everything new before anything is changed, so a port that cannot be had changes nothing. A socket that
//! is wanted no more is closed only after what waits in its queue was accepted: closing it would reset those. One whose
//! listener has another name now is not opened anew but duplicated: both ends share the one queue, and nothing in it is
//! lost. A single socket of several on one port is never closed while the others stay, nor one whose address a wider one of
//! the same listener covers.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tracing::info;

use super::{ending::Ending, local};
use crate::{
    clock,
    config::proxy::Listener,
    http::{Beside, BindError, adopt, bind_for_threads, more, not_bound},
    proxy::{
        record::{ProxyMetrics, metrics::Connections},
        snapshot::{Held, Live, Snapshot},
    },
};

/// One address of one listener, as a config names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Spot {
    /// The listener's name.
    pub(in crate::proxy) listener: String,
    /// As configured.
    pub(in crate::proxy) bind: SocketAddr,
    /// Which of the listener's equal addresses: port 0 may stand there several times.
    pub(in crate::proxy) nth: usize,
}

/// Sockets of one spot that another process has opened.
#[derive(Debug)]
pub(in crate::proxy) struct Taken {
    pub(in crate::proxy) spot: Spot,
    pub(in crate::proxy) sockets: Vec<TcpListener>,
}

impl Spot {
    /// Every address of a config.
    pub(in crate::proxy) fn all(listeners: &[Listener]) -> Vec<Self> {
        let of = |listener: &Listener| {
            let binds = listener.bind.iter().enumerate();
            let spot = |(at, bind): (usize, &SocketAddr)| Self {
                listener: listener.name.clone(),
                bind: *bind,
                nth: listener.bind.iter().take(at).filter(|other| *other == bind).count(),
            };
            binds.map(spot).collect::<Vec<_>>()
        };
        listeners.iter().flat_map(of).collect()
    }

    /// Whether a socket that was opened for `self`, and is at `address`, is what `wanted` asks for. The listener's name
    /// matters only where the system picks the port.
    fn serves(&self, address: SocketAddr, wanted: &Self) -> bool {
        match wanted.bind.port() {
            0 => self == wanted,
            _ => self.bind == wanted.bind || address == wanted.bind,
        }
    }
}

/// What the connections of one spot share.
#[derive(Debug)]
pub(super) struct Door {
    /// The listener's name.
    pub(super) listener: String,
    pub(super) open: Connections,
    /// Asked for when a reload wants it no more.
    pub(super) ending: Ending,
    /// The last snapshot that had the listener: what its connections still ask is answered by that.
    last: OnceLock<Arc<Snapshot>>,
}

impl Door {
    /// Everything a request may read, beginning `now`, and the listener's place in it.
    pub(super) fn find(&self, now: Held) -> (Held, usize) {
        if let Some(place) = now.place_of(&self.listener) {
            return (now, place);
        }
        // A reload removed it; it said by then what was before.
        let snapshot = self.last.get().map_or(now, |last| Held::of(last.clone()));
        let place = snapshot.place_of(&self.listener).unwrap_or(usize::MAX);
        (snapshot, place)
    }

    /// Looks at the snapshot that knows the listener, as it is now or as it was at last, and at its place in it.
    pub(super) fn with<T>(&self, live: &Live, look: impl FnOnce(&Snapshot, usize) -> T) -> Option<T> {
        let now = live.peek();
        let of = |snapshot: &Snapshot| snapshot.place_of(&self.listener);
        match of(&now) {
            Some(place) => Some(look(&now, place)),
            None => self.last.get().and_then(|last| Some(look(last, of(last)?))),
        }
    }

    /// Looks at what the config says of the listener.
    pub(super) fn look<T>(&self, live: &Live, look: impl FnOnce(&Listener) -> T) -> Option<T> {
        self.with(live, |snapshot, place| snapshot.listeners.get(place).map(look)).flatten()
    }
}

/// The open sockets of one spot.
#[derive(Debug)]
pub(super) struct Group {
    /// Never the same for two.
    pub(super) id: u64,
    spot: Spot,
    address: SocketAddr,
    pub(super) door: Arc<Door>,
    /// Kept for a successor. What is accepted from are duplicates.
    sockets: Vec<TcpListener>,
    by_thread: Vec<Mutex<Vec<TcpListener>>>,
}

impl Group {
    /// Every socket is some thread's, and every thread has one.
    fn new(spot: Spot, mut sockets: Vec<TcpListener>, to: &Listeners) -> Result<Self, BindError> {
        let threads = to.threads;
        let key = key_of(&spot);
        let failed = |error| not_bound(error, spot.bind, &key);
        let nowhere = || std::io::Error::other("no socket was handed over");
        let address =
            sockets.first().ok_or_else(nowhere).and_then(TcpListener::local_addr).map_err(failed)?;
        if sockets.len() < threads
            && let Some(first) = sockets.first()
        {
            match more(first, threads - sockets.len()) {
                Ok(others) => sockets.extend(others),
                Err(error) => {
                    tracing::debug!(listener.address = %address, error = %error, "threads share the queue of a socket");
                }
            }
        }
        for socket in &sockets {
            local::listens(socket, address.ip());
        }
        let mut by_thread: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
        for turn in 0..threads.max(sockets.len()) {
            let Some(socket) = sockets.get(turn % sockets.len()) else { continue };
            let socket = socket.try_clone().map_err(failed)?;
            if let Some(of_thread) = by_thread.get_mut(turn % threads) {
                of_thread.push(socket);
            }
        }
        let door = Arc::new(Door {
            listener: spot.listener.clone(),
            open: to.metrics.connections(&spot.listener),
            ending: Ending::default(),
            last: OnceLock::new(),
        });
        let id = rand::random();
        let by_thread = by_thread.into_iter().map(Mutex::new).collect();
        Ok(Self { id, spot, address, door, sockets, by_thread })
    }

    /// The same sockets under another name.
    fn renamed(&self, spot: Spot, to: &Listeners) -> Result<Self, BindError> {
        let again = self.sockets.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
        let sockets = again.map_err(|error| not_bound(error, spot.bind, &key_of(&spot)))?;
        Self::new(spot, sockets, to)
    }

    /// The sockets of one thread. Only the first who asks gets them.
    pub(super) fn of_thread(&self, number: usize) -> Vec<TcpListener> {
        let of = self.by_thread.get(number);
        of.map(|of| std::mem::take(&mut *of.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }
}

fn key_of(spot: &Spot) -> String {
    format!("listener `{}`, bind", spot.listener)
}

/// Whether what no config wants any more stays all the same, for a wider address of its listener is wanted: who comes between
/// the last accept from a socket and its end is lost, and here somebody would have served him.
fn is_beneath(listener: &str, address: SocketAddr, wanted: &[Arc<Group>]) -> bool {
    let covers = |wide: SocketAddr| {
        wide.ip().is_unspecified() && wide.is_ipv4() == address.is_ipv4() && wide.port() == address.port()
    };
    !wanted.iter().any(|group| group.address == address)
        && wanted.iter().any(|group| group.door.listener == listener && covers(group.address))
}

/// All of a proxy's.
#[derive(Debug)]
pub(in crate::proxy) struct Listeners {
    open: watch::Sender<Vec<Arc<Group>>>,
    threads: usize,
    metrics: ProxyMetrics,
}

/// What a reload has opened, not in place yet. Dropped, it was never there.
#[derive(Debug)]
pub(in crate::proxy) struct Change(Vec<Arc<Group>>);

impl Listeners {
    /// Opens what this config wants; what was `taken` over is not opened but used. An error leaves none open.
    pub(super) fn open(
        listeners: &[Listener],
        threads: usize,
        taken: Vec<Taken>,
        metrics: &ProxyMetrics,
    ) -> Result<Self, BindError> {
        let (open, metrics) = (watch::Sender::new(Vec::new()), metrics.clone());
        let made = Self { open, threads: threads.max(1), metrics };
        let mut known = Vec::with_capacity(taken.len());
        for Taken { spot, sockets } in taken {
            for socket in &sockets {
                adopt(socket).map_err(|error| not_bound(error, spot.bind, &key_of(&spot)))?;
            }
            let address = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(spot.bind);
            known.push((spot, address, Some(sockets)));
        }
        let mut groups = Vec::new();
        for spot in Spot::all(listeners) {
            let found = known
                .iter_mut()
                .find(|(of, address, sockets)| sockets.is_some() && of.serves(*address, &spot));
            let group = match found.and_then(|(_, _, sockets)| sockets.take()) {
                Some(sockets) => Group::new(spot, sockets, &made)?,
                None => {
                    let ports = known.iter().map(|(_, address, _)| address.port());
                    made.bind(spot, ports)?
                }
            };
            groups.push(Arc::new(group));
        }
        for (spot, address, sockets) in known {
            if let Some(sockets) = sockets.filter(|_| is_beneath(&spot.listener, address, &groups)) {
                groups.push(Arc::new(Group::new(spot, sockets, &made)?));
            }
        }
        made.open.send_replace(groups);
        Ok(made)
    }

    fn bind(&self, spot: Spot, mut ours: impl Iterator<Item = u16>) -> Result<Group, BindError> {
        let port = spot.bind.port();
        let beside = if port != 0 && ours.any(|our| our == port) { Beside::Ours } else { Beside::Nobody };
        let sockets = bind_for_threads(spot.bind, &key_of(&spot), self.threads, beside)?;
        Group::new(spot, sockets, self)
    }

    /// Opens what a config wants and is not open yet. An error leaves everything as it was.
    pub(in crate::proxy) fn prepare(&self, listeners: &[Listener]) -> Result<Change, BindError> {
        let now = self.open.borrow().clone();
        let mut next: Vec<Arc<Group>> = Vec::new();
        for spot in Spot::all(listeners) {
            let free = |group: &&Arc<Group>| !next.iter().any(|taken| taken.address == group.address);
            let found = now.iter().filter(free).find(|group| group.spot.serves(group.address, &spot));
            let group = match found {
                Some(group) if group.door.listener == spot.listener => group.clone(),
                Some(group) => Arc::new(group.renamed(spot, self)?),
                None => Arc::new(self.bind(spot, now.iter().map(|group| group.address.port()))?),
            };
            next.push(group);
        }
        for group in &now {
            if is_beneath(&group.door.listener, group.address, &next) {
                next.push(group.clone());
            }
        }
        Ok(Change(next))
    }

    /// Puts it in place. `put` swaps the snapshot; connections of a listener that goes keep to the one `before`, and
    /// have so long to end.
    pub(in crate::proxy) fn change(
        &self,
        change: Change,
        before: &Arc<Snapshot>,
        next: Snapshot,
        drain: Duration,
        put: impl FnOnce(Snapshot),
    ) {
        let Change(groups) = change;
        let now = self.open.borrow().clone();
        let stays = |group: &Arc<Group>| groups.iter().any(|other| other.id == group.id);
        let (going, coming): (Vec<_>, Vec<_>) = (
            now.iter().filter(|group| !stays(group)).cloned().collect(),
            groups.iter().filter(|group| !now.iter().any(|old| old.id == group.id)).cloned().collect(),
        );
        for group in &going {
            if next.place_of(&group.door.listener).is_none() {
                // Nobody else sets it, and nobody twice: a listener goes once.
                drop(group.door.last.set(before.clone()));
            }
        }
        // Only now: who does not find its listener in the next one finds it in the one before.
        put(next);
        self.open.send_replace(groups);
        for group in &coming {
            info!(listener.name = group.door.listener, listener.address = %group.address, "listener opened");
        }
        for group in &going {
            info!(listener.name = group.door.listener, listener.address = %group.address, "listener closed, its connections drain");
            group.door.ending.ask_gently(clock::now() + drain);
        }
    }

    /// Follows what is open.
    pub(super) fn follow(&self) -> watch::Receiver<Vec<Arc<Group>>> {
        self.open.subscribe()
    }

    /// Where it listens: name of the listener and address, in config order.
    pub(in crate::proxy) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.open.borrow().iter().map(|group| (group.door.listener.clone(), group.address)).collect()
    }

    /// Duplicates of every socket, for a successor.
    pub(in crate::proxy) fn duplicates(&self) -> std::io::Result<Vec<Taken>> {
        let groups = self.open.borrow().clone();
        let of = |group: &Arc<Group>| {
            let sockets = group.sockets.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
            let listener = group.door.listener.clone();
            Ok(Taken { spot: Spot { listener, ..group.spot.clone() }, sockets })
        };
        groups.iter().map(of).collect()
    }

    /// Closes what is kept for a successor: whoever still accepts has duplicates.
    pub(super) fn let_go(&self) {
        self.open.send_replace(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, bind: &[&str]) -> Listener {
        Listener {
            name: name.into(),
            bind: bind.iter().map(|bind| bind.parse().unwrap()).collect(),
            rules: Vec::new(),
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            tls: None,
            expose: Vec::new(),
            http2: false,
            limits: Default::default(),
        }
    }

    fn open(listeners: &[Listener], threads: usize, taken: Vec<Taken>) -> Listeners {
        Listeners::open(listeners, threads, taken, &ProxyMetrics::new().unwrap()).unwrap()
    }

    fn shares(listeners: &Listeners) -> Vec<usize> {
        let groups = listeners.open.borrow();
        (0..listeners.threads).map(|thread| groups[0].of_thread(thread).len()).collect()
    }

    #[tokio::test]
    async fn what_stays_is_not_opened_again_and_an_error_changes_nothing() {
        let first = [listener("a", &["127.0.0.1:0", "127.0.0.1:0"]), listener("b", &["127.0.0.1:0"])];
        let listeners = open(&first, 2, Vec::new());
        let before = listeners.addresses();
        let Change(same) = listeners.prepare(&first).unwrap();
        assert!(same.iter().zip(listeners.open.borrow().iter()).all(|(a, b)| a.id == b.id));
        // Its port, but named now, and under another name.
        let named = [listener("c", &[&before[2].1.to_string()])];
        let Change(renamed) = listeners.prepare(&named).unwrap();
        assert_eq!((renamed[0].address, renamed[0].door.listener.as_str()), (before[2].1, "c"));
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener("d", &["127.0.0.1:0", &other.local_addr().unwrap().to_string()]);
        let error = listeners.prepare(&[taken]).unwrap_err().to_string();
        assert!(error.contains("listener `d`, bind") && error.contains("is in use"), "{error}");
        assert_eq!(listeners.addresses(), before);
    }

    #[tokio::test]
    async fn an_address_stays_open_beneath_a_wider_one_of_its_listener_and_nowhere_else() {
        let first = [listener("a", &["127.0.0.1:0"])];
        let listeners = open(&first, 2, Vec::new());
        let narrow = listeners.addresses()[0].1;
        let put = |to: &Listeners, Change(groups): Change| to.open.send_replace(groups);
        let wide = format!("0.0.0.0:{}", narrow.port());
        let wider = [listener("a", &[&wide])];
        let change = listeners.prepare(&wider).unwrap();
        let at: Vec<_> = change.0.iter().map(|group| group.address).collect();
        assert_eq!(at, [wide.parse().unwrap(), narrow]);
        put(&listeners, change);
        // Once, whatever is changed then; a successor goes on with it.
        assert_eq!(listeners.prepare(&wider).unwrap().0.len(), 2);
        let successor = open(&wider, 2, listeners.duplicates().unwrap());
        assert_eq!(successor.addresses(), listeners.addresses());
        let narrower = listeners.prepare(&[listener("a", &[&narrow.to_string()])]).unwrap();
        assert_eq!(narrower.0.iter().map(|group| group.address).collect::<Vec<_>>(), [narrow]);
        // It is another listener's now.
        let others = [listener("a", &[&wide]), listener("b", &[&narrow.to_string()])];
        let others = listeners.prepare(&others).unwrap();
        let of: Vec<_> = others.0.iter().map(|group| (group.door.listener.as_str(), group.address)).collect();
        assert_eq!(of, [("a", wide.parse().unwrap()), ("b", narrow)]);
        assert!(listeners.prepare(&[listener("c", &[&wide])]).unwrap().0.iter().all(|g| g.address != narrow));
    }

    #[tokio::test]
    async fn a_successor_serves_every_socket_with_fewer_threads_and_gives_each_one_with_more() {
        let config = [listener("a", &["127.0.0.1:0"])];
        let old = open(&config, 3, Vec::new());
        let fewer = open(&config, 2, old.duplicates().unwrap());
        assert_eq!(shares(&fewer), [2, 1]);
        let more = open(&config, 5, fewer.duplicates().unwrap());
        assert_eq!(shares(&more), [1, 1, 1, 1, 1]);
        assert_eq!(more.addresses(), old.addresses());
        assert_eq!(more.duplicates().unwrap()[0].sockets.len(), 5);
    }
}
