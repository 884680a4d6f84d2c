//! An origin that keeps what reached it, and forgives nothing: what it reads must be in the one form that the proxy
//! writes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::proxy::guard::identity::is_identity;

use super::echo;
use crate::upstream::ABLE;

/// Bytes as text, one character each: header values are not always UTF-8.
pub fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A request as the origin read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Request {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn echo(&self) -> String {
        echo(&self.method, &self.target, &self.body)
    }
}

/// What came over one connection, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// A request, whole.
    Whole(Request),
    /// The proxy closed the connection in the middle of this one.
    Partial(Request),
    /// Bytes that are no request in the one form, and why.
    Broken(String),
}

/// The recording origin. Stops when dropped.
pub struct Origin {
    pub address: SocketAddr,
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    reached: Mutex<Vec<Reached>>,
    /// Requests that have begun and are not whole yet.
    under_way: AtomicUsize,
}

impl Origin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (record, stop) = (Arc::<Record>::default(), Arc::<AtomicBool>::default());
        let (kept, stopped) = (record.clone(), stop.clone());
        let accepting = thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let kept = kept.clone();
                thread::spawn(move || kept.serve(tcp));
            }
        });
        Self { address, record, stop, accepting: Some(accepting) }
    }

    /// How much has reached it so far.
    pub fn count(&self) -> usize {
        self.record.reached.lock().unwrap().len()
    }

    /// What has reached it since there were `count`.
    pub fn since(&self, count: usize) -> Vec<Reached> {
        self.record.reached.lock().unwrap()[count..].to_vec()
    }

    /// The last whole request.
    pub fn last(&self) -> Option<Request> {
        self.record.reached.lock().unwrap().iter().rev().find_map(|reached| match reached {
            Reached::Whole(request) => Some(request.clone()),
            _ => None,
        })
    }

    /// Requests that have begun and neither ended nor were cut off.
    pub fn under_way(&self) -> usize {
        self.record.under_way.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

impl Record {
    fn note(&self, reached: Reached) {
        self.reached.lock().unwrap().push(reached);
    }

    fn serve(&self, mut tcp: TcpStream) {
        tcp.set_nodelay(true).ok();
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            let mut continued = false;
            let request = loop {
                match read(&bytes) {
                    Ok(Reading::Whole(request, used)) => {
                        bytes.drain(..used);
                        break request;
                    }
                    Ok(Reading::More(so_far)) => {
                        let expects = so_far.as_ref().is_some_and(|so_far| so_far.get("expect").is_some());
                        if expects && !std::mem::replace(&mut continued, true) {
                            tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
                        }
                        let begun = !bytes.is_empty();
                        self.under_way.fetch_add(usize::from(begun), Ordering::SeqCst);
                        let got = tcp.read(&mut piece).unwrap_or(0);
                        if got == 0 && begun {
                            self.note(Reached::Partial(so_far.unwrap_or_default()));
                        }
                        self.under_way.fetch_sub(usize::from(begun), Ordering::SeqCst);
                        if got == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&piece[..got]);
                    }
                    Err(why) => {
                        self.note(Reached::Broken(format!("{why}: {}", bytes.escape_ascii())));
                        tcp.shutdown(Shutdown::Both).ok();
                        return;
                    }
                }
            };
            let probe = request.target == "/readyz" && request.get("x-forwarded-for").is_none();
            let (echo, head) = (request.echo(), request.method == "HEAD");
            let text = if probe { ABLE } else { echo.as_str() };
            if !probe {
                let fault = fault(&request);
                self.note(fault.map_or(Reached::Whole(request), Reached::Broken));
            }
            let length = text.len();
            let text = if head { "" } else { text };
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Echo: {echo}\r\n\r\n{text}");
            if tcp.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Fields that end with a connection.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "te",
    "trailer",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// What a whole request has that the proxy should not have let by.
fn fault(request: &Request) -> Option<String> {
    if request.target == "/readyz" {
        return None;
    }
    let upgrade = request.all("connection").iter().all(|value| value.eq_ignore_ascii_case("upgrade"))
        && request.all("upgrade").iter().all(|value| !value.eq_ignore_ascii_case("h2c"));
    for (name, value) in &request.fields {
        let said = format!("`{name}: {value}` was passed on");
        if HOP_BY_HOP.contains(&name.as_str())
            && !(upgrade && matches!(name.as_str(), "connection" | "upgrade"))
        {
            return Some(said);
        }
        if is_identity(name) && (name.contains('_') || name.starts_with("ssl-client-")) {
            return Some(said);
        }
    }
    if request.all("x-forwarded-for") != ["127.0.0.1"] {
        return Some(format!("x-forwarded-for: {:?}", request.all("x-forwarded-for")));
    }
    let dropped = ["content-length", "transfer-encoding", "host"];
    let forged = |name: &str| is_identity(name) || HOP_BY_HOP.contains(&name) || dropped.contains(&name);
    request.trailers.iter().find(|(name, _)| forged(name)).map(|(name, _)| format!("trailer `{name}`"))
}

enum Reading {
    Whole(Request, usize),
    /// With what is known of it, once its head is complete.
    More(Option<Request>),
}

/// A line up to CR LF; an error if either stands on its own.
pub fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, String> {
    let rest = &bytes[*at..];
    let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else { return Ok(None) };
    match (rest[end], rest.get(end + 1)) {
        (b'\r', None) => Ok(None),
        (b'\r', Some(b'\n')) => {
            *at += end + 2;
            Ok(Some(&rest[..end]))
        }
        _ => Err("a bare CR or LF".into()),
    }
}

pub fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `Name: value`, one space, nothing around the value.
fn field(line: &[u8]) -> Result<(String, String), String> {
    let colon = line.iter().position(|b| *b == b':').ok_or("a field without a colon")?;
    let (name, rest) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| token(*b)) {
        return Err("a bad field name".into());
    }
    let value = match rest {
        [] => rest,
        [b' ', value @ ..] => value,
        _ => return Err("no space behind the colon".into()),
    };
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return Err("white space around a value".into());
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err("a control character in a value".into());
    }
    Ok((latin(name).to_ascii_lowercase(), latin(value)))
}

/// Fields up to the empty line.
pub fn fields(bytes: &[u8], at: &mut usize) -> Result<Option<Vec<(String, String)>>, String> {
    let mut found = Vec::new();
    loop {
        match line(bytes, at)? {
            None => return Ok(None),
            Some([]) => return Ok(Some(found)),
            Some(text) => found.push(field(text)?),
        }
    }
}

/// Reads one request in the one form.
fn read(bytes: &[u8]) -> Result<Reading, String> {
    let mut at = 0;
    let Some(first) = line(bytes, &mut at)? else { return Ok(Reading::More(None)) };
    let parts: Vec<_> = first.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return Err("a bad request line".into()) };
    if method.is_empty() || !method.iter().all(|b| token(*b)) {
        return Err("a bad method".into());
    }
    if !(target.starts_with(b"/") || target == b"*") || target.iter().any(|b| *b <= 0x20 || *b == 0x7f) {
        return Err("a bad target".into());
    }
    let (method, target) = (latin(method), latin(target));
    let Some(fields) = fields(bytes, &mut at)? else { return Ok(Reading::More(None)) };
    let mut request = Request { method, target, fields, ..Request::default() };
    if request.all("host").len() != 1 {
        return Err(format!("hosts: {:?}", request.all("host")));
    }
    match (&request.all("content-length")[..], &request.all("transfer-encoding")[..]) {
        ([], []) => Ok(Reading::Whole(request, at)),
        ([length], []) => {
            let length = plain_number(length).ok_or("a bad length")?;
            let rest = &bytes[at..];
            let have = rest.len().min(length);
            request.body = rest[..have].to_vec();
            let whole = have == length;
            Ok(if whole { Reading::Whole(request, at + length) } else { Reading::More(Some(request)) })
        }
        ([], ["chunked"]) => chunks(request, bytes, at),
        other => Err(format!("framing {other:?}")),
    }
}

fn plain_number(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Chunks without extensions.
fn chunks(mut request: Request, bytes: &[u8], mut at: usize) -> Result<Reading, String> {
    loop {
        let Some(size) = line(bytes, &mut at)? else { return Ok(Reading::More(Some(request))) };
        if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("a bad chunk size".into());
        }
        let size = usize::from_str_radix(&latin(size), 16).map_err(|error| error.to_string())?;
        if size == 0 {
            let Some(trailers) = fields(bytes, &mut at)? else { return Ok(Reading::More(Some(request))) };
            request.trailers = trailers;
            return Ok(Reading::Whole(request, at));
        }
        let rest = &bytes[at..];
        request.body.extend_from_slice(&rest[..rest.len().min(size)]);
        match rest.get(size..) {
            Some([b'\r', b'\n', ..]) => at += size + 2,
            None | Some([] | [b'\r']) => return Ok(Reading::More(Some(request))),
            Some(_) => return Err("no CR LF behind a chunk".into()),
        }
    }
}
