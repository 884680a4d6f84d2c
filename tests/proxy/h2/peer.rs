//! A client of HTTP/2 that writes frames by hand and holds the proxy to RFC 9113 in what it gets back: frames of a legal
//! size, on streams of its own, in a legal order, within its windows.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustls::ClientConnection;
use switchyard::clock;

use super::hpack::{self, Fields, Reader};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The window of a stream and of a connection, until something else is said.
const WINDOW: i64 = 65_535;

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// One setting's bytes.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// All that is encrypted goes out.
fn write_tls(tls: &mut ClientConnection, tcp: &mut TcpStream) -> std::io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(tcp)?;
    }
    Ok(())
}

/// The fields that every request has.
pub fn request(method: &str, path: &str) -> Fields {
    [(":method", method), (":scheme", "http"), (":authority", "front"), (":path", path)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// The same, with more behind them.
pub fn request_with(method: &str, path: &str, more: &[(&str, &str)]) -> Fields {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    request(method, path).into_iter().chain(more).collect()
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ended {
    #[default]
    Not,
    /// Cleanly.
    Whole,
    /// By `RST_STREAM`, with this code.
    Reset(u32),
}

/// What came on one stream.
#[derive(Debug, Clone, Default)]
pub struct Got {
    pub interims: Vec<Fields>,
    pub head: Option<Fields>,
    pub body: Vec<u8>,
    /// Bytes of the body, also when they are not kept.
    pub length: u64,
    pub trailers: Option<Fields>,
    pub ended: Ended,
    /// It was reset with this code after it had ended.
    pub reset_after: Option<u32>,
}

impl Got {
    pub fn status(&self) -> u16 {
        self.get(":status").and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.head.as_ref()?.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection.
pub struct Peer {
    pub tcp: TcpStream,
    /// It is inside TLS.
    tls: Option<Box<ClientConnection>>,
    input: Vec<u8>,
    reader: Reader,
    /// Which stream's block of fields goes on, and how it ends.
    block: Option<(u32, bool, Vec<u8>)>,
    pub streams: BTreeMap<u32, Got>,
    next: u32,
    /// Last stream and code of each `GOAWAY`.
    pub goaways: Vec<(u32, u32)>,
    pub pongs: Vec<[u8; 8]>,
    /// Frames of each kind that came.
    pub count: [u64; 10],
    /// The proxy's settings.
    pub settings: BTreeMap<u16, u32>,
    pub closed: bool,
    /// Windows are opened again as soon as something came.
    pub greedy: bool,
    /// Pings are answered.
    pub polite: bool,
    /// Bodies are kept.
    pub keep: bool,
    /// What comes need not be frames.
    pub lenient: bool,
    /// What the proxy may send, by connection (0) and stream.
    windows: BTreeMap<u32, i64>,
    first_window: i64,
    /// What may be sent to the proxy.
    pub room: BTreeMap<u32, i64>,
}

impl Peer {
    /// Connects and sends nothing yet.
    pub fn bare(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).unwrap(), None)
    }

    /// The same over a connection that is there; `tls`: whose hands are shaken.
    pub fn over(tcp: TcpStream, tls: Option<ClientConnection>) -> Self {
        tcp.set_nodelay(true).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            tcp,
            tls: tls.map(Box::new),
            input: Vec::new(),
            reader: Reader::default(),
            block: None,
            streams: BTreeMap::new(),
            next: 1,
            goaways: Vec::new(),
            pongs: Vec::new(),
            count: [0; 10],
            settings: BTreeMap::new(),
            closed: false,
            greedy: true,
            polite: true,
            keep: true,
            lenient: false,
            windows: BTreeMap::from([(0, WINDOW)]),
            first_window: WINDOW,
            room: BTreeMap::from([(0, WINDOW)]),
        }
    }

    /// Connects and says hello.
    pub fn connect(to: SocketAddr) -> Self {
        Self::with(to, &[])
    }

    /// The same, with these settings.
    pub fn with(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::bare(to).hello(settings)
    }

    /// Says hello.
    pub fn hello(self, settings: &[(u16, u32)]) -> Self {
        let mut peer = self;
        let payload: Vec<u8> = settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat());
        if let Some((_, window)) = settings.iter().find(|(id, _)| *id == 4) {
            peer.first_window = i64::from(*window);
        }
        peer.until("the proxy's settings", |peer| !peer.settings.is_empty() || peer.closed);
        peer
    }

    /// The next stream is at least this one: others were begun by hand.
    pub fn skip_to(&mut self, stream: u32) {
        self.next = self.next.max(stream);
    }

    /// Sends bytes; a connection that is closed meanwhile is seen when it is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else {
            self.tcp.write_all(bytes).ok();
            return;
        };
        for piece in bytes.chunks(16_384) {
            if tls.writer().write_all(piece).is_err() || write_tls(tls, &mut self.tcp).is_err() {
                return;
            }
        }
    }

    /// The id of the next stream.
    pub fn id(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        self.room.insert(id, i64::from(self.settings.get(&4).copied().unwrap_or(65_535)));
        id
    }

    /// Begins a request; its stream.
    pub fn begin(&mut self, fields: &[(String, String)], end: bool) -> u32 {
        let id = self.id();
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, id, &hpack::block(fields)));
        id
    }

    /// Sends a piece of a body, without a look at the windows.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.send(&frame(DATA, u8::from(end), stream, bytes));
    }

    /// Sends a body within the windows, and takes in what comes meanwhile.
    pub fn body(&mut self, stream: u32, mut bytes: &[u8]) {
        loop {
            let room = self.room[&0].min(self.room[&stream]);
            let size = bytes.len().min(16_384).min(usize::try_from(room).unwrap_or(0));
            if size > 0 || bytes.is_empty() {
                let (piece, rest) = bytes.split_at(size);
                *self.room.get_mut(&0).unwrap() -= size as i64;
                *self.room.get_mut(&stream).unwrap() -= size as i64;
                self.data(stream, piece, rest.is_empty());
                if rest.is_empty() {
                    return;
                }
                bytes = rest;
                continue;
            }
            self.until("room for the body", |peer| {
                peer.closed || peer.room[&0].min(peer.room[&stream]) > 0 || peer.is_over(stream)
            });
            if self.closed || self.is_over(stream) {
                return;
            }
        }
    }

    /// One request without a body, and its answer.
    pub fn ask(&mut self, fields: &[(String, String)]) -> Got {
        let stream = self.begin(fields, true);
        self.finish(stream)
    }

    pub fn get(&mut self, path: &str) -> Got {
        self.ask(&request("GET", path))
    }

    /// Waits until the stream, or the connection, is over.
    pub fn finish(&mut self, stream: u32) -> Got {
        self.until("the end of a stream", |peer| peer.closed || peer.is_over(stream));
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    pub fn is_over(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|got| got.ended != Ended::Not)
    }

    /// Waits until the proxy has closed the connection; the code of its last `GOAWAY`.
    pub fn close(&mut self) -> Option<u32> {
        self.until("the end of the connection", |peer| peer.closed);
        self.goaways.last().map(|(_, code)| *code)
    }

    /// Whether it is served still: a ping comes back, and a request is answered.
    pub fn is_alive(&mut self) -> bool {
        let before = self.pongs.len();
        self.send(&frame(PING, 0, 0, b"are you?"));
        self.until("an echo", |peer| peer.closed || peer.pongs.len() > before);
        !self.closed
    }

    /// Takes in what comes until it holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = clock::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {:?}", self.goaways);
            self.step(begun + PATIENCE);
        }
    }

    /// Takes in what comes for so long.
    pub fn idle(&mut self, time: Duration) {
        let end = clock::now() + time;
        while clock::now() < end && !self.closed {
            self.step(end);
        }
    }

    fn step(&mut self, end: tokio::time::Instant) {
        let left = end.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
        self.tcp.set_read_timeout(Some(left)).unwrap();
        let mut piece = [0; 32 * 1024];
        let read = match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).read(&mut piece),
            None => self.tcp.read(&mut piece),
        };
        match read {
            Ok(0) => self.closed = true,
            Ok(read) => self.input.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.closed = true,
        }
        if self.lenient {
            self.input.clear();
        }
        let mut at = 0;
        while let Some(head) = self.input.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            assert!(length <= 16_384, "a frame of {length} bytes was never agreed on");
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let Some(payload) = self.input.get(at + 9..at + 9 + length) else { break };
            let payload = payload.to_vec();
            at += 9 + length;
            self.took(kind, flags, stream, &payload);
        }
        self.input.drain(..at);
    }

    fn took(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        assert!(stream < 1 << 31, "the reserved bit is set");
        assert!(
            self.block.as_ref().is_none_or(|(of, ..)| *of == stream && kind == CONTINUATION),
            "a block of fields is interrupted"
        );
        self.count[usize::from(kind)] += 1;
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            DATA => {
                let length = payload.len() as i64;
                let got = self.streams.get_mut(&stream).expect("data comes behind a head");
                assert!(got.head.is_some() && got.ended == Ended::Not, "data where none may be: {got:?}");
                got.length += payload.len() as u64;
                if self.keep {
                    got.body.extend_from_slice(payload);
                }
                for of in [0, stream] {
                    let window = self.windows.entry(of).or_insert(self.first_window);
                    *window -= length;
                    assert!(*window >= 0, "more than the window of {of} was sent");
                }
                if flags & END_STREAM != 0 {
                    got.ended = Ended::Whole;
                }
                if self.greedy && length > 0 {
                    self.open(0, payload.len());
                    self.open(stream, payload.len());
                }
            }
            HEADERS => self.fields(stream, flags & END_STREAM != 0, flags, payload.to_vec()),
            CONTINUATION => {
                let (_, end, mut block) = self.block.take().expect("a block goes on");
                block.extend_from_slice(payload);
                self.fields(stream, end, flags, block);
            }
            RST_STREAM => {
                let code = word(0);
                let got = self.streams.entry(stream).or_default();
                match got.ended {
                    Ended::Not => got.ended = Ended::Reset(code),
                    // RFC 9113 §8.1: the rest of the request is not wanted.
                    Ended::Whole if got.reset_after.is_none() => got.reset_after = Some(code),
                    other => panic!("a stream that is {other:?} was reset again with {code}"),
                }
            }
            SETTINGS if flags & ACK == 0 => {
                for one in payload.chunks(6) {
                    let value = u32::from_be_bytes(one[2..6].try_into().unwrap());
                    self.settings.insert(u16::from_be_bytes([one[0], one[1]]), value);
                }
                self.settings.entry(0).or_default();
                self.send(&frame(SETTINGS, ACK, 0, b""));
            }
            PING if flags & ACK != 0 => self.pongs.push(payload.try_into().unwrap()),
            PING if self.polite => self.send(&frame(PING, ACK, 0, payload)),
            GOAWAY => self.goaways.push((word(0), word(4))),
            WINDOW_UPDATE => *self.room.entry(stream).or_default() += i64::from(word(0)),
            PUSH_PROMISE | PRIORITY => panic!("a proxy pushes nothing and has no priorities"),
            _ => {}
        }
    }

    fn fields(&mut self, stream: u32, end: bool, flags: u8, block: Vec<u8>) {
        if flags & END_HEADERS == 0 {
            self.block = Some((stream, end, block));
            return;
        }
        assert!(stream % 2 == 1 && stream < self.next, "stream {stream} was never begun");
        let fields = self.reader.read(&block);
        let of_connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
        for (name, _) in &fields {
            assert!(!of_connection.contains(&name.as_str()), "{name} has no place in HTTP/2");
            assert_eq!(*name, name.to_lowercase());
        }
        let got = self.streams.entry(stream).or_default();
        assert_eq!(got.ended, Ended::Not, "a head behind the end");
        let statuses: Vec<&str> = fields
            .iter()
            .filter(|(name, _)| name.starts_with(':'))
            .map(|(_, value)| value.as_str())
            .collect();
        match (statuses.as_slice(), &got.head) {
            ([interim], None) if interim.starts_with('1') => {
                assert!(!end, "an interim answer ends nothing");
                got.interims.push(fields);
            }
            ([_], None) => got.head = Some(fields),
            ([], Some(_)) => {
                assert!(end, "trailers end a stream");
                got.trailers = Some(fields);
            }
            other => panic!("fields where none may be: {other:?}"),
        }
        if end {
            got.ended = Ended::Whole;
        }
    }

    /// Lets the proxy send so much more.
    pub fn open(&mut self, stream: u32, bytes: usize) {
        let first = self.first_window;
        *self.windows.entry(stream).or_insert(if stream == 0 { WINDOW } else { first }) += bytes as i64;
        self.send(&frame(WINDOW_UPDATE, 0, stream, &u32::try_from(bytes).unwrap().to_be_bytes()));
    }
}
