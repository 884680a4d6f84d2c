//! Upstreams that do what a test tells them, byte by byte.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::raw::{Head, Wire};

/// A request that came, whole.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn method(&self) -> &str {
        self.head.word(0)
    }

    pub fn path(&self) -> &str {
        self.head.word(1)
    }
}

/// What to do with the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    KeepAlive,
    Close,
}

type Serve = dyn Fn(&mut Wire, Head) -> Then + Send + Sync;

/// One upstream. Its `/readyz` answers what `ready` says, until it is dropped.
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    ready: Arc<Mutex<(u16, String)>>,
    /// Probes that came.
    pub probes: Arc<AtomicUsize>,
    /// The heads of the last ones.
    pub probed: Arc<Mutex<Option<Head>>>,
    /// Milliseconds before each answer, those to probes too.
    late: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

/// The body of a server that can do everything and knows idempotency keys.
pub const ABLE: &str =
    r#"{"ready":true,"read":true,"write":true,"poll":true,"why":[],"supports":["idempotency-key"]}"#;

/// A plain 200 with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Upstream {
    /// `serve` reads the body itself.
    pub fn raw(serve: impl Fn(&mut Wire, Head) -> Then + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(serve))
    }

    /// Notes each request, then answers what `answer` says and keeps the connection; an empty answer closes it.
    pub fn start(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// The same at a fixed address, for one that comes back.
    pub fn at(address: SocketAddr, answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = seen.clone();
        let serve = move |wire: &mut Wire, head: Head| {
            let mut body = Vec::new();
            if wire.body(&head, false, |piece| body.extend_from_slice(piece)).is_err() {
                return Then::Close;
            }
            let request = Seen { head, body };
            let text = answer(&request);
            noted.lock().unwrap().push(request);
            if text.is_empty() || wire.send(text).is_err() { Then::Close } else { Then::KeepAlive }
        };
        let listener = TcpListener::bind(address).unwrap();
        let mut made = Self::on(listener, Arc::new(serve));
        made.seen = seen;
        made
    }

    fn on(listener: TcpListener, serve: Arc<Serve>) -> Self {
        let address = listener.local_addr().unwrap();
        let ready = Arc::new(Mutex::new((200, ABLE.to_owned())));
        let stop = Arc::new(AtomicBool::new(false));
        let (probes, probed, late) = (Arc::default(), Arc::default(), Arc::default());
        let says = Says { ready: ready.clone(), probes, probed, late };
        let Says { probes, probed, late, .. } = says.clone();
        let stopped = stop.clone();
        let accepting = thread::spawn(move || {
            let open: Mutex<Vec<std::net::TcpStream>> = Mutex::default();
            while let Ok((tcp, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                open.lock().unwrap().push(tcp.try_clone().unwrap());
                let (serve, says) = (serve.clone(), says.clone());
                thread::spawn(move || connection(Wire::new(tcp), &says, serve.as_ref()));
            }
            // Killed: its connections go with it.
            for tcp in open.lock().unwrap().iter() {
                tcp.shutdown(std::net::Shutdown::Both).ok();
            }
        });
        let accepting = Some(accepting);
        Self { address, seen: Arc::default(), ready, probes, probed, late, stop, accepting }
    }

    /// Says something else of itself from now on.
    pub fn says(&self, status: u16, body: &str) {
        *self.ready.lock().unwrap() = (status, body.to_owned());
    }

    /// Answers everything so much later from now on.
    pub fn slow(&self, by: Duration) {
        self.late.store(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// How many requests were seen.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The only request seen so far.
    pub fn one(&self) -> Seen {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then closes its socket.
        std::net::TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

/// What one says of itself, and when.
#[derive(Clone)]
struct Says {
    ready: Arc<Mutex<(u16, String)>>,
    probes: Arc<AtomicUsize>,
    probed: Arc<Mutex<Option<Head>>>,
    late: Arc<AtomicU64>,
}

fn connection(mut wire: Wire, says: &Says, serve: &Serve) {
    while let Ok(Some(head)) = wire.head() {
        let probe = head.word(1) == "/readyz";
        if probe {
            says.probes.fetch_add(1, Ordering::SeqCst);
            *says.probed.lock().unwrap() = Some(head.clone());
        }
        thread::sleep(Duration::from_millis(says.late.load(Ordering::SeqCst)));
        if probe {
            let (status, body) = says.ready.lock().unwrap().clone();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if wire.send(answer).is_err() {
                return;
            }
            continue;
        }
        if serve(&mut wire, head) == Then::Close {
            wire.tcp.shutdown(std::net::Shutdown::Both).ok();
            return;
        }
    }
}

/// Holds the requests of an upstream until it is opened.
#[derive(Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub fn pass(&self) {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_while(open, |open| !*open).unwrap());
    }

    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}
