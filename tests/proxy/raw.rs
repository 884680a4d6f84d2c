//! HTTP/1.1 by hand, so that a test can send what no client library would.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

#[path = "../support/openapi.rs"]
#[allow(dead_code, reason = "one test binary looks at all of it")]
pub mod openapi;

/// No single read or write of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The head of a request or an answer.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub first: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default()
    }

    pub fn word(&self, at: usize) -> &str {
        self.first.split(' ').nth(at).unwrap_or_default()
    }
}

/// A connection, from either side.
pub struct Wire {
    pub tcp: TcpStream,
    read: Box<dyn BufRead + Send>,
    write: Box<dyn Write + Send>,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }
}

impl Wire {
    pub fn new(tcp: TcpStream) -> Self {
        let halves = (tcp.try_clone().unwrap(), tcp.try_clone().unwrap());
        Self::over(tcp, halves.0, halves.1)
    }

    /// What is read and written over a socket in another way than as it is.
    pub fn over(
        tcp: TcpStream,
        read: impl Read + Send + 'static,
        write: impl Write + Send + 'static,
    ) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { read: Box::new(BufReader::new(read)), write: Box::new(write), tcp }
    }

    pub fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).unwrap())
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.write.write_all(bytes.as_ref())
    }

    /// `None`: closed before the first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            if self.read.read_line(&mut line)? == 0 {
                return if head.first.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                return Ok(Some(head));
            }
            match line.split_once(':') {
                Some((name, value)) if !head.first.is_empty() => {
                    head.fields.push((name.to_owned(), value.trim().to_owned()));
                }
                _ => head.first = line.to_owned(),
            }
        }
    }

    /// Gives the body of `head` to `each` piece by piece; how many bytes there were.
    pub fn body(&mut self, head: &Head, to_end: bool, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        if head.get("transfer-encoding").is_some() {
            let mut total = 0;
            loop {
                let mut line = String::new();
                self.read.read_line(&mut line)?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                total += self.exactly(size, &mut each)?;
                let mut end = [0; 2];
                self.read.read_exact(&mut end)?;
                if size == 0 {
                    return Ok(total);
                }
            }
        }
        match head.get("content-length") {
            Some(length) => self.exactly(length.parse().unwrap(), &mut each),
            None if to_end => {
                let mut whole = Vec::new();
                self.read.read_to_end(&mut whole)?;
                each(&whole);
                Ok(whole.len() as u64)
            }
            None => Ok(0),
        }
    }

    fn exactly(&mut self, mut left: u64, each: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let size = left;
        let mut piece = vec![0; 64 * 1024];
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = self.read.read(&mut piece[..most])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            each(&piece[..n]);
            left -= n as u64;
        }
        Ok(size)
    }

    /// The next final answer, whole.
    pub fn answer(&mut self, head_request: bool) -> io::Result<Answer> {
        loop {
            let head = self.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if (100..200).contains(&head.status()) {
                continue;
            }
            let mut body = Vec::new();
            if !head_request && !matches!(head.status(), 204 | 304) {
                self.body(&head, true, |piece| body.extend_from_slice(piece))?;
            }
            return Ok(Answer { head, body });
        }
    }

    /// Sends one request and takes its answer.
    pub fn ask(&mut self, request: &str) -> io::Result<Answer> {
        self.send(request)?;
        self.answer(request.starts_with("HEAD "))
    }

    /// Whether the other side has closed, without a byte left.
    pub fn closed(&mut self) -> bool {
        matches!(self.read.fill_buf(), Ok([]) | Err(_))
    }

    /// The same, but one that merely stays silent for as long as a read may take has not closed.
    pub fn ended(&mut self) -> bool {
        match self.read.fill_buf() {
            Ok(left) => left.is_empty(),
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// From now on no single read takes longer.
    pub fn patience(self, patience: Duration) -> Self {
        self.tcp.set_read_timeout(Some(patience)).unwrap();
        self
    }
}

/// One request on a connection of its own.
pub fn ask(to: SocketAddr, request: &str) -> Answer {
    let answer = Wire::connect(to).ask(request);
    let answer = answer.unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"));
    // Whatever a test asks of an admin API is held against what is said of it.
    if answer.head.get("switchyard-admin").is_some() {
        let kind = answer.head.get("content-type").unwrap_or_default();
        openapi::check(request, answer.status(), kind, &answer.body);
    }
    answer
}

/// `GET path`, on a connection of its own.
pub fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, &format!("GET {path} HTTP/1.1\r\nHost: front\r\n\r\n"))
}

/// A request with a body of known length.
pub fn with_body(method: &str, path: &str, extra: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: front\r\n{extra}Content-Length: {}\r\n\r\n{body}", body.len())
}
