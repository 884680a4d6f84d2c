//! Clients that never stop asking. Whatever is not a whole, right answer is noted, and so is a connection that was refused.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use switchyard::clock;

use crate::{
    raw::{Answer, Wire},
    rig::{BLOB, blob_byte, until},
    streams,
    ways::{Certificates, Way},
};

/// What the clients of one test have seen.
#[derive(Default)]
pub struct Seen {
    stop: AtomicBool,
    small: AtomicUsize,
    polls: AtomicUsize,
    transfers: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    /// Nobody wants any more.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn small(&self) {
        self.small.fetch_add(1, Ordering::SeqCst);
    }

    pub fn poll(&self) {
        self.polls.fetch_add(1, Ordering::SeqCst);
    }

    pub fn transfer(&self) {
        self.transfers.fetch_add(1, Ordering::SeqCst);
    }
}

/// Clients under way. Dropping ends them.
pub struct Clients {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

/// How much was done.
#[derive(Debug)]
pub struct Done {
    pub small: usize,
    pub polls: usize,
    pub transfers: usize,
}

impl Clients {
    /// Small requests on connections that are kept and on new ones, polls, downloads and uploads.
    pub fn start(controllers: SocketAddr, registries: SocketAddr) -> Self {
        let mut clients = Self { seen: Arc::default(), threads: Vec::new() };
        clients.http1(3, &|| Way::plain(), controllers, registries);
        clients
    }

    /// All of that once more inside TLS, and over HTTP/2 inside TLS and outside.
    pub fn start_secured(
        certificates: &Certificates,
        plain: (SocketAddr, SocketAddr),
        secured: (SocketAddr, SocketAddr),
    ) -> Self {
        let mut clients = Self { seen: Arc::default(), threads: Vec::new() };
        clients.http1(2, &|| certificates.way(false), secured.0, secured.1);
        clients.http2("h2", &|| certificates.way(true), secured);
        clients.http2("h2c", &|| Way::plain(), plain);
        clients
    }

    fn http1(&mut self, each: usize, way: &dyn Fn() -> Way, controllers: SocketAddr, registries: SocketAddr) {
        for _ in 0..each {
            let of = way();
            self.run("kept", move |seen, wire| small(seen, &of, wire, controllers));
            let of = way();
            self.run("new", move |seen, wire| {
                *wire = None;
                small(seen, &of, wire, controllers)
            });
            let of = way();
            self.run("poll", move |seen, wire| poll(seen, &of, wire, controllers));
        }
        for _ in 1..each {
            let of = way();
            self.run("download", move |seen, wire| download(seen, &of, wire, registries));
            let of = way();
            self.run("upload", move |seen, wire| upload(seen, &of, wire, registries));
        }
    }

    fn http2(&mut self, name: &'static str, way: &dyn Fn() -> Way, to: (SocketAddr, SocketAddr)) {
        let (controllers, registries) = to;
        let of = way();
        self.run(name, move |seen, _| streams::run(seen, &of, controllers, false));
        let of = way();
        self.run(name, move |seen, _| streams::run(seen, &of, registries, true));
        let of = way();
        self.run(name, move |seen, _| streams::once(seen, &of, controllers));
    }

    fn run(
        &mut self,
        name: &'static str,
        act: impl Fn(&Seen, &mut Option<Wire>) -> io::Result<()> + Send + 'static,
    ) {
        let seen = self.seen.clone();
        self.threads.push(thread::spawn(move || {
            let mut wire = None;
            while !seen.is_over() {
                let began = clock::now();
                if let Err(error) = act(&seen, &mut wire) {
                    let at = switchyard::clock::wall();
                    let after = began.elapsed();
                    seen.wrong.lock().unwrap().push(format!("{name} at {at} after {after:?}: {error}"));
                    wire = None;
                    // A broken proxy must not fill the memory with it.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }));
    }

    /// What went wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        self.seen.wrong.lock().unwrap().clone()
    }

    /// So many transfers are over.
    pub fn transfers(&self) -> usize {
        self.seen.transfers.load(Ordering::SeqCst)
    }

    /// Until some more small requests were answered.
    pub fn go_on(&self) {
        let small = || self.seen.small.load(Ordering::SeqCst);
        let before = small();
        until("requests go on", || (small() > before + 100).then_some(()));
    }

    /// Ends all of them after what they are at; panics if anything went wrong.
    #[track_caller]
    pub fn end(mut self) -> Done {
        self.stop();
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "{} things went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
        let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        let done = Done {
            small: count(&self.seen.small),
            polls: count(&self.seen.polls),
            transfers: count(&self.seen.transfers),
        };
        assert!(done.small > 20 && done.polls > 0 && done.transfers > 0, "{done:?}");
        done
    }

    fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.seen
                    .wrong
                    .lock()
                    .unwrap()
                    .push("a client panicked: what it got is against the rules".into());
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The kept connection, or a new one.
fn wire<'a>(wire: &'a mut Option<Wire>, way: &Way, to: SocketAddr) -> io::Result<&'a mut Wire> {
    if wire.is_none() {
        *wire = Some(way.wire(to)?);
    }
    wire.as_mut().ok_or_else(|| io::Error::other("it was just put there"))
}

/// A whole exchange; the connection is given up when the answer says so.
fn ask(kept: &mut Option<Wire>, way: &Way, to: SocketAddr, request: &str) -> io::Result<Answer> {
    let answer = wire(kept, way, to)?.ask(request)?;
    if answer.head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        *kept = None;
    }
    match answer.status() {
        200 | 201 => Ok(answer),
        status => Err(io::Error::other(format!("{status} {}", answer.text()))),
    }
}

fn small(seen: &Seen, way: &Way, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    ask(kept, way, to, "GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.small();
    // Enough of them for every moment, and time for others on this machine.
    thread::sleep(Duration::from_millis(2));
    Ok(())
}

fn poll(seen: &Seen, way: &Way, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    let answer = ask(kept, way, to, "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.poll();
    if answer.text() == "nothing yet" {
        Ok(())
    } else {
        Err(io::Error::other("another answer than the poll's"))
    }
}

fn download(seen: &Seen, way: &Way, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    let answer = ask(kept, way, to, "GET /v2/a/blobs/slow HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.transfer();
    let right =
        answer.body.len() == BLOB && answer.body.iter().enumerate().all(|(at, byte)| *byte == blob_byte(at));
    if right { Ok(()) } else { Err(io::Error::other(format!("{} other bytes", answer.body.len()))) }
}

fn upload(seen: &Seen, way: &Way, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    const PIECES: usize = 20;
    let body: Vec<u8> = (0..BLOB).map(blob_byte).collect();
    let wire = wire(kept, way, to)?;
    wire.send(format!("PUT /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BLOB}\r\n\r\n"))?;
    for piece in body.chunks(BLOB / PIECES) {
        wire.send(piece)?;
        thread::sleep(Duration::from_millis(50));
    }
    let answer = wire.answer(false)?;
    if answer.head.get("connection").is_some() {
        *kept = None;
    }
    seen.transfer();
    let right = (answer.status(), answer.text()) == (201, BLOB.to_string());
    if right { Ok(()) } else { Err(io::Error::other(format!("{} {}", answer.status(), answer.text()))) }
}
