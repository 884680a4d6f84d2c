//! Thousands of connections in one process: an upstream and clients that cost little each.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use switchyard::clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use crate::{raw::Wire, upstream::ABLE};

/// Set where a crowd runs in a process of its own.
const ALONE: &str = "SWITCHYARD_TEST_ALONE";

/// Runs the test of this name in a process of its own, one crowd after the other: a crowd needs more descriptors and
/// memory than other tests should have to reckon with.
pub fn alone(name: &str, test: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    if std::env::var_os(ALONE).is_some() {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        return test();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let ended = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

/// An upstream that serves all its connections on one thread. `…/bytes/N` gets so many bytes, `…/wait/N` an answer
/// after so many milliseconds.
pub struct Light {
    pub address: SocketAddr,
    open: Arc<AtomicUsize>,
    stop: Arc<Notify>,
    serving: Option<thread::JoinHandle<()>>,
}

impl Light {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (open, stop) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()));
        let (counted, stopped) = (open.clone(), stop.clone());
        let serving = thread::spawn(move || {
            run(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let mut connections = JoinSet::new();
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = stopped.notified() => return,
                    };
                    while connections.try_join_next().is_some() {}
                    let Ok((tcp, _)) = accepted else { continue };
                    let open = counted.clone();
                    connections.spawn(async move {
                        open.fetch_add(1, Ordering::SeqCst);
                        serve(tcp).await.ok();
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        });
        Self { address, open, stop, serving: Some(serving) }
    }

    /// Connections that are open, those of probes among them.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(serving) = self.serving.take() {
            serving.join().ok();
        }
    }
}

/// Runs it on this thread.
pub fn run<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}

async fn serve(mut tcp: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if tcp.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        bytes.drain(..end);
        let length =
            head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
        let mut left: usize = length.unwrap_or(0);
        loop {
            let have = left.min(bytes.len());
            bytes.drain(..have);
            left -= have;
            if left == 0 {
                break;
            }
            if tcp.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let number = |what: &str| head.split(what).nth(1)?.split([' ', '?']).next()?.parse::<usize>().ok();
        if let Some(wait) = number("/wait/") {
            tokio::time::sleep(Duration::from_millis(wait as u64)).await;
        }
        let text = match number("/bytes/") {
            Some(count) => "x".repeat(count),
            None if head.contains(" /readyz ") => ABLE.to_owned(),
            None => "fine".to_owned(),
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        tcp.write_all(answer.as_bytes()).await?;
    }
}

/// A client's connection; `room` is how much its system takes in without being read.
pub async fn connect(to: SocketAddr, room: Option<u32>) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(room) = room {
        socket.set_recv_buffer_size(room)?;
    }
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// One client per number, soon all at once; how many went wrong, and one of them.
pub fn crowd<F>(count: usize, client: impl Fn(usize) -> F) -> (usize, Option<String>)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    run(async {
        let mut all = JoinSet::new();
        for n in 0..count {
            all.spawn(client(n));
            if n % 50 == 0 {
                // Not faster than they can be accepted, tests being built without optimisation.
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        let (mut wrong, mut one) = (0, None);
        while let Some(ended) = all.join_next().await {
            if let Err(why) = ended.unwrap() {
                wrong += 1;
                one.get_or_insert(why);
            }
        }
        (wrong, one)
    })
}

/// How promptly a well-behaved client was served.
#[derive(Debug)]
pub struct Served {
    pub median: Duration,
    pub longest: Duration,
    pub count: usize,
}

impl Served {
    /// Bounds with room for a machine that does other things, and far from where anybody had to wait for the crowd.
    pub fn promptly(&self) -> bool {
        self.median < Duration::from_millis(250) && self.longest < Duration::from_secs(3) && self.count > 5
    }
}

/// Runs `meanwhile`, while a client asks over and over, over a connection that it keeps and over new ones.
pub fn well_behaved<T>(to: SocketAddr, meanwhile: impl FnOnce() -> T) -> (T, Served) {
    let over = Arc::<AtomicUsize>::default();
    let seen = over.clone();
    let client = thread::spawn(move || {
        let mut waited = Vec::new();
        let mut kept = Wire::connect(to);
        while seen.load(Ordering::SeqCst) == 0 {
            let begun = clock::now();
            let mut new = None;
            let wire = if waited.len() % 2 == 0 { &mut kept } else { new.insert(Wire::connect(to)) };
            let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\n").unwrap();
            assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
            waited.push(begun.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
        waited
    });
    let result = meanwhile();
    over.store(1, Ordering::SeqCst);
    let mut waited = client.join().unwrap();
    waited.sort_unstable();
    let longest = waited.last().copied().unwrap_or_default();
    (result, Served { median: waited[waited.len() / 2], longest, count: waited.len() })
}
