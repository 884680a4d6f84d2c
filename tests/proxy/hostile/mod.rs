//! Upstreams and clients that behave as badly as real ones do, and worse: what the client is told, how often each
//! upstream saw the request, how long it took, and what the log says of it.

mod bodies;
mod bounds;
mod crowds;
mod crowd;
mod idle;
mod keeping;
mod late;
mod resume;
mod retries;
mod switching;

use std::{
    collections::VecDeque,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    raw::{Head, Wire},
    upstream::{Then, Upstream, ok},
};

/// No answer, and no end of a connection, takes longer where nothing is waited for on purpose.
const PATIENCE: Duration = Duration::from_secs(6);

/// What an upstream does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A good answer that names the upstream.
    Answer,
    /// This answer, then on with the connection.
    Say(String),
    /// Reads the head, and closes.
    CloseAtHead,
    /// Reads the whole request, and closes.
    Close,
    /// The same, so late.
    CloseAfter(Duration),
    /// Reads the head, and resets.
    ResetAtHead,
    /// Reads the whole request, and resets.
    Reset,
    /// Reads the whole request, writes this, and closes.
    Write(String),
    /// The same, but resets.
    WriteAndReset(String),
    /// Reads the whole request, and then nothing, until the proxy gives up.
    Never,
    /// Reads the whole request, and writes this byte by byte, with so much time between two.
    Trickle(String, Duration),
    /// Reads the head, writes this, and drops what else comes.
    Early(String),
    /// The same, but reads nothing of the body and closes a little later.
    EarlyAndClose(String),
    /// Reads so many bytes of the body, and closes.
    CloseInBody(usize),
    /// Reads so many bytes of the body, and then nothing, until the proxy gives up.
    StallInBody(usize),
}

/// A request that an upstream saw.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Place of the upstream.
    pub host: usize,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn id(&self) -> &str {
        self.head.get("x-request-id").unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Stage {
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
}

/// Upstreams that act in the order in which requests come, whichever of them is chosen; with the acts at an end they
/// answer.
pub struct Hosts {
    pub upstreams: Vec<Upstream>,
    stage: Arc<Stage>,
}

impl Hosts {
    pub fn new(count: usize) -> Self {
        let stage = Arc::<Stage>::default();
        let upstreams = (0..count).map(|host| {
            let stage = stage.clone();
            Upstream::raw(move |wire, head| stage.serve(host, wire, head))
        });
        Self { upstreams: upstreams.collect(), stage }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.upstreams.iter().map(|upstream| upstream.address).collect()
    }

    /// What the next requests get.
    pub fn will(&self, acts: impl IntoIterator<Item = Act>) {
        *self.stage.acts.lock().unwrap() = acts.into_iter().collect();
    }

    /// What was seen of the request with this id.
    pub fn seen(&self, id: &str) -> Vec<Seen> {
        self.stage.seen.lock().unwrap().iter().filter(|seen| seen.id() == id).cloned().collect()
    }
}

impl Stage {
    fn serve(&self, host: usize, wire: &mut Wire, head: Head) -> Then {
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Answer);
        let place = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen { host, head: head.clone(), body: Vec::new() });
            seen.len() - 1
        };
        let most = match act {
            Act::CloseAtHead | Act::ResetAtHead | Act::Early(_) | Act::EarlyAndClose(_) => Some(0),
            Act::CloseInBody(most) | Act::StallInBody(most) => Some(most),
            _ => None,
        };
        if most != Some(0) {
            let mut body = Vec::new();
            let read = match most {
                Some(most) => some(wire, most, &mut body),
                None => wire.body(&head, false, |piece| body.extend_from_slice(piece)).is_ok(),
            };
            self.seen.lock().unwrap()[place].body = body;
            if !read {
                return Then::Close;
            }
        }
        let bare = head.word(0) == "HEAD";
        match act {
            Act::Answer => {
                let text = if bare { String::new() } else { format!("from {host}") };
                if wire.send(ok(&text)).is_ok() { Then::KeepAlive } else { Then::Close }
            }
            Act::Say(text) => {
                if wire.send(text).is_ok() {
                    Then::KeepAlive
                } else {
                    Then::Close
                }
            }
            Act::CloseAtHead | Act::Close | Act::CloseInBody(_) => Then::Close,
            Act::CloseAfter(wait) => {
                thread::sleep(wait);
                Then::Close
            }
            Act::Write(text) => {
                wire.send(text).ok();
                Then::Close
            }
            Act::ResetAtHead | Act::Reset => reset(wire),
            Act::WriteAndReset(text) => {
                wire.send(text).ok();
                // So that what was written is not thrown away with it.
                thread::sleep(Duration::from_millis(100));
                reset(wire)
            }
            Act::Never => {
                until_closed(wire);
                Then::Close
            }
            Act::Early(text) => {
                wire.send(text).ok();
                until_closed(wire);
                Then::Close
            }
            Act::EarlyAndClose(text) => {
                wire.send(text).ok();
                thread::sleep(Duration::from_millis(300));
                Then::Close
            }
            Act::StallInBody(_) => {
                // Reads nothing: that the proxy gave up is seen only by trying to write.
                thread::sleep(Duration::from_secs(3));
                Then::Close
            }
            Act::Trickle(text, pause) => {
                for byte in text.as_bytes() {
                    if wire.send([*byte]).is_err() {
                        return Then::Close;
                    }
                    thread::sleep(pause);
                }
                Then::KeepAlive
            }
        }
    }
}

/// Reads at least so many bytes of what comes, chunk sizes included.
fn some(wire: &mut Wire, most: usize, into: &mut Vec<u8>) -> bool {
    let mut piece = vec![0; 16 * 1024];
    while into.len() < most {
        match wire.tcp.read(&mut piece) {
            Ok(got) if got > 0 => into.extend_from_slice(&piece[..got]),
            _ => return false,
        }
    }
    true
}

/// Reads and drops until the other side has closed.
fn until_closed(wire: &mut Wire) {
    let mut piece = vec![0; 16 * 1024];
    while matches!(wire.tcp.read(&mut piece), Ok(1..)) {}
}

/// Resets the connection at once, however many descriptors of it there are.
fn reset(wire: &mut Wire) -> Then {
    rustix::net::connect_unspec(&wire.tcp).unwrap();
    Then::Close
}
