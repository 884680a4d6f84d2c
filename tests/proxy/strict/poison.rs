//! An upstream whose answers are broken on purpose, and a client that forgives nothing either.
//!
//! Promised for each broken answer: the client gets a right one, or a 502 of ours, or a cut connection if the answer
//! had begun; and nobody after it gets anything but its own answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::config::proxy::Kind;

use super::origin::{fields, latin, line};
use crate::{
    front::{self, Front, eventually},
    raw::{Head, Wire},
    upstream::{Then, Upstream, ok},
};

/// A broken answer, and what may come of it besides a 502.
#[derive(Debug, Clone)]
pub struct Case {
    pub method: &'static str,
    /// Written one after the other, the later ones while the connection is idle.
    pub pieces: Vec<Vec<u8>>,
    /// The upstream closes behind it.
    pub closes: bool,
    /// A right answer.
    pub right: Option<(u16, &'static str)>,
    /// No other will do.
    pub only: bool,
    /// It may be cut off in the middle.
    pub cut: bool,
    /// What it says is more than one answer: its connection is good for nothing afterwards.
    pub spoils: bool,
}

impl Case {
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let pieces = vec![bytes.as_ref().to_vec()];
        Self { method: "GET", pieces, closes: false, right: None, only: false, cut: false, spoils: false }
    }

    /// It closes behind it.
    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// And this, once the proxy has had time to take the first part for all.
    pub fn later(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.pieces.push(bytes.as_ref().to_vec());
        self.spoils()
    }

    /// There is more behind the answer.
    pub fn spoils(self) -> Self {
        Self { spoils: true, ..self }
    }

    pub fn may(self, status: u16, body: &'static str) -> Self {
        Self { right: Some((status, body)), ..self }
    }

    pub fn must(self, status: u16, body: &'static str) -> Self {
        Self { only: true, ..self.may(status, body) }
    }

    pub fn cut(self) -> Self {
        Self { cut: true, ..self }
    }

    pub fn to(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

/// What a client got.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Whole {
        status: u16,
        body: Vec<u8>,
        ours: bool,
        closes: bool,
    },
    Cut,
    /// Bytes that are no answer.
    Nonsense(String),
}

struct Client {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    fn connect(front: &Front) -> Self {
        let tcp = TcpStream::connect(front.address).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
        Self { tcp, bytes: Vec::new() }
    }

    fn ask(&mut self, method: &str, target: &str) -> Got {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: front\r\nContent-Length: 2\r\n\r\n{{}}");
        if self.tcp.write_all(request.as_bytes()).is_err() {
            return Got::Cut;
        }
        let mut piece = vec![0; 64 * 1024];
        loop {
            let got = match self.tcp.read(&mut piece) {
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Got::Nonsense(format!("it hangs behind {}", self.bytes.escape_ascii()));
                }
                Err(_) => return Got::Cut,
            };
            self.bytes.extend_from_slice(&piece[..got]);
            match read(&self.bytes, method == "HEAD", got == 0) {
                Ok(Some((got, used))) => {
                    self.bytes.drain(..used);
                    return got;
                }
                Ok(None) if got == 0 => return Got::Cut,
                Ok(None) => {}
                Err(why) => {
                    let start = &self.bytes[..self.bytes.len().min(300)];
                    return Got::Nonsense(format!("{why}: {}", start.escape_ascii()));
                }
            }
        }
    }
}

/// The next final answer; `end` when nothing more comes.
fn read(bytes: &[u8], bare: bool, end: bool) -> Result<Option<(Got, usize)>, String> {
    let mut at = 0;
    loop {
        let Some(first) = line(bytes, &mut at)? else { return Ok(None) };
        let status =
            first.strip_prefix(b"HTTP/1.1 ").and_then(|rest| latin(rest.get(..3)?).parse::<u16>().ok());
        let control = first.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f);
        let Some(status) = status.filter(|_| !control && matches!(first.get(12), None | Some(b' '))) else {
            return Err("a bad status line".into());
        };
        let Some(fields) = fields(bytes, &mut at)? else { return Ok(None) };
        let all = |name: &str| -> Vec<&str> {
            fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
        };
        if (100..200).contains(&status) {
            if status == 101 {
                return Err("switched to another protocol".into());
            }
            continue;
        }
        let ours = all("switchyard-answered-by") == ["proxy"];
        let closes = all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let whole = |body: &[u8]| Got::Whole { status, body: body.to_vec(), ours, closes };
        let rest = &bytes[at..];
        let (length, coding) = (all("content-length"), all("transfer-encoding"));
        if length.len() > 1 || coding.len() > 1 || (!length.is_empty() && !coding.is_empty()) {
            return Err("framed twice".into());
        }
        if bare || matches!(status, 204 | 304) {
            return Ok(Some((whole(b""), at)));
        }
        return match (length.first(), coding.first()) {
            (Some(length), _) => {
                let length: usize = length.parse().map_err(|_| "a bad length")?;
                Ok(rest.get(..length).map(|body| (whole(body), at + length)))
            }
            (None, Some(&"chunked")) => {
                chunks(bytes, at).map(|found| found.map(|(body, at)| (whole(&body), at)))
            }
            (None, Some(other)) => Err(format!("coded as {other}")),
            (None, None) if !closes => Err("without an end".into()),
            (None, None) => Ok(end.then(|| (whole(rest), bytes.len()))),
        };
    }
}

fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    loop {
        let Some(size) = line(bytes, &mut at)? else { return Ok(None) };
        let size = usize::from_str_radix(&latin(size), 16).map_err(|_| "a bad chunk")?;
        if size == 0 {
            return Ok(fields(bytes, &mut at)?.map(|_| (body, at)));
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        body.extend_from_slice(data.strip_suffix(b"\r\n").ok_or("a bad chunk")?);
        at += size + 2;
    }
}

/// What the upstream counts.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    done: AtomicUsize,
    /// Requests on a connection that had carried a broken answer: the case of it.
    reused: Mutex<Vec<usize>>,
}

/// Serves a connection to its end.
fn serve(wire: &mut Wire, first: Head, cases: &[Case], counts: &Counts) {
    let (mut next, mut broken) = (Some(first), None);
    while let Some(head) = next {
        wire.body(&head, false, |_| {}).ok();
        counts.reused.lock().unwrap().extend(broken);
        let target = head.word(1);
        if let Some(number) = target.strip_prefix("/api/v1/vm?poison=") {
            counts.begun.fetch_add(1, Ordering::SeqCst);
            let place: usize = number.parse().unwrap();
            let case = &cases[place];
            for (at, piece) in case.pieces.iter().enumerate() {
                if at > 0 {
                    // Long enough for the proxy to take what came first for all of it.
                    thread::sleep(Duration::from_millis(30));
                }
                wire.send(piece).ok();
            }
            broken = Some(place);
            counts.done.fetch_add(1, Ordering::SeqCst);
            if case.closes {
                return;
            }
        } else if wire.send(ok(target)).is_err() {
            return;
        }
        next = wire.head().ok().flatten();
    }
}

/// Runs each case on connections that were used before, and looks at everybody who comes after.
pub fn check(cases: Vec<Case>) {
    let (cases, counts) = (Arc::new(cases), Arc::<Counts>::default());
    let (scripts, counted) = (cases.clone(), counts.clone());
    let upstream = Upstream::raw(move |wire, head| {
        serve(wire, head, &scripts, &counted);
        Then::Close
    });
    let front = Front::start(front::config(Kind::Controller, &[upstream.address]));
    let (mut faults, mut spoilt, mut number) = (Vec::new(), Vec::new(), 0);
    let mut sentinel = |client: &mut Client| {
        number += 1;
        let target = format!("/api/v1/status?sentinel={number}");
        match client.ask("GET", &target) {
            Got::Whole { status: 200, body, .. } if body == target.as_bytes() => None,
            other => Some(format!("the next request ({target}) got {other:?}")),
        }
    };
    for (place, case) in cases.iter().enumerate() {
        let mut said = Vec::new();
        let mut client = Client::connect(&front);
        said.extend(sentinel(&mut client));
        let got = client.ask(case.method, &format!("/api/v1/vm?poison={place}"));
        let Counts { begun, done, .. } = &*counts;
        eventually("the upstream has said it all", || {
            begun.load(Ordering::SeqCst) == done.load(Ordering::SeqCst)
        });
        let open = match &got {
            Got::Whole { status: 502, body, ours: true, closes } if !case.only => {
                if !body.is_empty() && !latin(body).contains("\"FAIL\"") {
                    said.push(format!("not in the client's format: {}", latin(body)));
                }
                !closes
            }
            Got::Whole { status, body, ours: false, closes }
                if case.right.is_some_and(|right| right == (*status, latin(body).as_str())) =>
            {
                !closes
            }
            Got::Cut if case.cut => false,
            other => {
                said.push(format!("got {other:?}"));
                false
            }
        };
        for _ in 0..3 {
            if open {
                said.extend(sentinel(&mut client));
            }
            said.extend(sentinel(&mut Client::connect(&front)));
        }
        // After a right answer, and nothing behind it, there is nothing wrong with its connection.
        if case.spoils || !matches!(got, Got::Whole { ours: false, .. }) {
            spoilt.push(place);
        }
        if !said.is_empty() {
            let text = case.pieces.concat();
            let start = &text[..text.len().min(300)];
            faults.push(format!(
                "{} {}\n        {}",
                case.method,
                start.escape_ascii(),
                said.join("\n        ")
            ));
        }
    }
    for place in counts.reused.lock().unwrap().iter().filter(|place| spoilt.contains(place)) {
        let text = cases[*place].pieces.concat();
        let start = &text[..text.len().min(300)];
        faults.push(format!("used again after {} {}", cases[*place].method, start.escape_ascii()));
    }
    let count = faults.len();
    faults.truncate(40);
    assert!(faults.is_empty(), "{count} of {}, such as:\n    {}", cases.len(), faults.join("\n    "));
    front.wait_until("nothing is under way", |view| view.services[0].upstreams[0].outstanding == 0);
}
