//! Clients that never stop asking. Whatever is not a whole, right answer is noted, and so is a connection that was refused.

use std::{
    io,
    net::{SocketAddr, TcpStream},
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
};

/// What the clients of one test have seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    small: AtomicUsize,
    polls: AtomicUsize,
    transfers: AtomicUsize,
    wrong: Mutex<Vec<String>>,
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
        for _ in 0..3 {
            clients.run("kept", move |seen, wire| small(seen, wire, controllers));
            clients.run("new", move |seen, wire| {
                *wire = None;
                small(seen, wire, controllers)
            });
            clients.run("poll", move |seen, wire| poll(seen, wire, controllers));
        }
        for _ in 0..2 {
            clients.run("download", move |seen, wire| download(seen, wire, registries));
            clients.run("upload", move |seen, wire| upload(seen, wire, registries));
        }
        clients
    }

    fn run(
        &mut self,
        name: &'static str,
        act: impl Fn(&Seen, &mut Option<Wire>) -> io::Result<()> + Send + 'static,
    ) {
        let seen = self.seen.clone();
        self.threads.push(thread::spawn(move || {
            let mut wire = None;
            while !seen.stop.load(Ordering::SeqCst) {
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
            thread.join().ok();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The kept connection, or a new one.
fn wire(wire: &mut Option<Wire>, to: SocketAddr) -> io::Result<&mut Wire> {
    if wire.is_none() {
        *wire = Some(Wire::new(TcpStream::connect(to)?));
    }
    wire.as_mut().ok_or_else(|| io::Error::other("it was just put there"))
}

/// A whole exchange; the connection is given up when the answer says so.
fn ask(kept: &mut Option<Wire>, to: SocketAddr, request: &str) -> io::Result<Answer> {
    let answer = wire(kept, to)?.ask(request)?;
    if answer.head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        *kept = None;
    }
    match answer.status() {
        200 | 201 => Ok(answer),
        status => Err(io::Error::other(format!("{status} {}", answer.text()))),
    }
}

fn small(seen: &Seen, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    ask(kept, to, "GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.small.fetch_add(1, Ordering::SeqCst);
    // Enough of them for every moment, and time for others on this machine.
    thread::sleep(Duration::from_millis(2));
    Ok(())
}

fn poll(seen: &Seen, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    let answer = ask(kept, to, "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.polls.fetch_add(1, Ordering::SeqCst);
    if answer.text() == "nothing yet" {
        Ok(())
    } else {
        Err(io::Error::other("another answer than the poll's"))
    }
}

fn download(seen: &Seen, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    let answer = ask(kept, to, "GET /v2/a/blobs/slow HTTP/1.1\r\nHost: a\r\n\r\n")?;
    seen.transfers.fetch_add(1, Ordering::SeqCst);
    let right =
        answer.body.len() == BLOB && answer.body.iter().enumerate().all(|(at, byte)| *byte == blob_byte(at));
    if right { Ok(()) } else { Err(io::Error::other(format!("{} other bytes", answer.body.len()))) }
}

fn upload(seen: &Seen, kept: &mut Option<Wire>, to: SocketAddr) -> io::Result<()> {
    const PIECES: usize = 20;
    let body: Vec<u8> = (0..BLOB).map(blob_byte).collect();
    let wire = wire(kept, to)?;
    wire.send(format!("PUT /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BLOB}\r\n\r\n"))?;
    for piece in body.chunks(BLOB / PIECES) {
        wire.send(piece)?;
        thread::sleep(Duration::from_millis(50));
    }
    let answer = wire.answer(false)?;
    if answer.head.get("connection").is_some() {
        *kept = None;
    }
    seen.transfers.fetch_add(1, Ordering::SeqCst);
    let right = (answer.status(), answer.text()) == (201, BLOB.to_string());
    if right { Ok(()) } else { Err(io::Error::other(format!("{} {}", answer.status(), answer.text()))) }
}
