//! Connections that ask for files. Their requests are answered from here, with the handlers of the router and the
//! bytes sent by the system straight from the file (`sendfile(2)`); a connection on which anything else is asked goes
//! on at the library's server, for the rest of its life.
//!
//! What is answered here is narrow on purpose: a whole head that has arrived at once, `GET` or `HEAD` in HTTP/1.1, below
//! one of a few paths, without a body, an expectation or an upgrade. The head is looked at and left in the socket, so
//! that whatever is not of that form is read by the library from its first byte.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use rustix::net::{RecvFlags, SendFlags};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tower_service::Service;

use super::{
    guarded::Patience,
    part::{FromFiles, Part, Parts},
    serve::Peer,
};
use crate::{clock, supervise::Stop};

/// Longest head that is answered here; a longer one is the library's.
const HEAD: usize = 8 * 1024;

/// Most fields in such a head.
const FIELDS: usize = 64;

/// What one send takes at most before others have their turn.
const SEND: u64 = 4 * 1024 * 1024;

/// The served side of a port.
pub(super) struct Direct {
    pub(super) router: Router,
    /// Requests below these are answered here.
    pub(super) paths: &'static [&'static str],
    pub(super) patience: Patience,
    /// Where other connections go on.
    pub(super) others: mpsc::Sender<(TcpStream, SocketAddr)>,
}

impl Direct {
    /// Accepts until `stop`, then waits for the answers under way.
    pub(super) async fn run(self, mut listener: TcpListener, stop: Stop) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let (socket, peer) = tokio::select! {
                () = stop.requested() => break,
                // Axum's own: waits a second when descriptors run out.
                accepted = axum::serve::Listener::accept(&mut listener) => accepted,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(error = %error, "a connection's handler failed");
                    }
                    continue;
                }
            };
            let (this, stop) = (this.clone(), stop.clone());
            connections.spawn(async move {
                match this.connection(socket, peer, stop).await {
                    Ok(None) => {}
                    // Only at the stop there is nobody who takes it.
                    Ok(Some(socket)) => drop(this.others.send((socket, peer)).await),
                    Err(error) => tracing::debug!(error = %error, peer = %peer, "connection broke off"),
                }
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Answers what it can; gives the connection back with the first request that it cannot.
    async fn connection(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        stop: Stop,
    ) -> io::Result<Option<TcpStream>> {
        let socket = Arc::new(socket);
        loop {
            let seen = tokio::select! {
                () = stop.requested() => return Ok(None),
                seen = tokio::time::timeout(self.patience.quiet, look(&socket, self.paths)) => seen,
            };
            let asked = match seen {
                Ok(seen) => seen?,
                Err(_) => return Ok(None),
            };
            let Asked { mut request, length, last } = match asked {
                Seen::Asked(asked) => *asked,
                Seen::End => return Ok(None),
                Seen::Other => return Ok(Arc::into_inner(socket)),
            };
            skip(&socket, length)?;
            request.extensions_mut().insert(ConnectInfo(Peer::from(peer)));
            let head_only = request.method() == Method::HEAD;
            let mut router = self.router.clone();
            let answer: Result<Response, Infallible> = router.call(request).await;
            let Ok(answer) = answer;
            let last = last || stop.is_requested();
            if !self.answer(&socket, answer, head_only, last).await? || last {
                return Ok(None);
            }
        }
    }

    /// Sends an answer; tells whether the connection may go on.
    async fn answer(
        &self,
        socket: &Arc<TcpStream>,
        answer: Response,
        head_only: bool,
        last: bool,
    ) -> io::Result<bool> {
        let (mut head, body) = answer.into_parts();
        let parts = head.extensions.remove::<FromFiles>().and_then(|files| files.take());
        let bodiless = head_only || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut delimited = bodiless || head.headers.contains_key(header::CONTENT_LENGTH);
        if !delimited && let Some(length) = body.size_hint().exact() {
            head.headers.insert(header::CONTENT_LENGTH, length.into());
            delimited = true;
        }
        let goes_on = delimited && !last;
        let text = written(head.status, &head.headers, !goes_on);
        let empty = bodiless || head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        // A head waits for the body's first bytes, and goes out with them.
        let more = if empty { SendFlags::empty() } else { SendFlags::MORE };
        self.send(socket, &text, more).await?;
        if empty {
            return Ok(goes_on);
        }
        match parts {
            Some(parts) => self.send_parts(socket, parts).await?,
            None => self.send_body(socket, body).await?,
        }
        Ok(goes_on)
    }

    async fn send_body(&self, socket: &TcpStream, mut body: Body) -> io::Result<()> {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                self.send(socket, &data, SendFlags::empty()).await?;
            }
        }
        Ok(())
    }

    async fn send_parts(&self, socket: &Arc<TcpStream>, mut parts: Parts) -> io::Result<()> {
        use futures_util::TryStreamExt as _;
        while let Some(mut part) = parts.try_next().await? {
            while !part.range.is_empty() {
                self.writable(socket).await?;
                part = send_some(socket.clone(), part).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, socket: &TcpStream, mut bytes: &[u8], flags: SendFlags) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable(socket).await?;
            let sent = socket.try_io(Interest::WRITABLE, || Ok(rustix::net::send(socket, bytes, flags)?));
            match sent {
                Ok(sent) => bytes = &bytes[sent.min(bytes.len())..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fails when the client has taken nothing for too long.
    async fn writable(&self, socket: &TcpStream) -> io::Result<()> {
        let stalled = |_| io::Error::from(io::ErrorKind::TimedOut);
        tokio::time::timeout(self.patience.stalled, socket.writable()).await.map_err(stalled)?
    }
}

/// Has the system send as much as the socket takes. On a blocking thread: the file may have to be read first.
async fn send_some(socket: Arc<TcpStream>, mut part: Part) -> io::Result<Part> {
    let permit = part.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
    let sending = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let until = part.range.end.min(part.range.start + SEND);
        while part.range.start < until {
            let count = usize::try_from(until - part.range.start).unwrap_or(usize::MAX);
            let sent = socket.try_io(Interest::WRITABLE, || {
                let mut at = part.range.start;
                Ok(rustix::fs::sendfile(&*socket, &*part.file, Some(&mut at), count)?)
            });
            match sent {
                // The file is shorter than when it was opened: the answer ends as broken, never as complete.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => part.range.start += sent as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(part)
    });
    sending.await.map_err(io::Error::other)?
}

enum Seen {
    /// To be answered here.
    Asked(Box<Asked>),
    /// The client has closed.
    End,
    /// Something else.
    Other,
}

struct Asked {
    request: Request,
    /// Bytes of its head.
    length: usize,
    /// The client wants the connection closed behind it.
    last: bool,
}

/// Waits for bytes and looks at them; they stay where they are. Cancel-safe.
async fn look(socket: &TcpStream, paths: &[&str]) -> io::Result<Seen> {
    loop {
        socket.readable().await?;
        let mut bytes = [0; HEAD];
        let seen = socket.try_io(Interest::READABLE, || {
            let (_, length) = rustix::net::recv(socket, &mut bytes[..], RecvFlags::PEEK)?;
            Ok(length)
        });
        match seen {
            Ok(0) => return Ok(Seen::End),
            Ok(length) => {
                let asked = asked(&bytes[..length], paths);
                return Ok(asked.map_or(Seen::Other, |asked| Seen::Asked(Box::new(asked))));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a head; nothing when it is not whole, or anything but a plain request for a file.
fn asked(bytes: &[u8], paths: &[&str]) -> Option<Asked> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let method = match head.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    let path = head.path?;
    if head.version != Some(1) || !paths.iter().any(|start| path.starts_with(start)) {
        return None;
    }
    let mut request = Request::new(Body::empty());
    let mut last = false;
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        match name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::EXPECT | header::UPGRADE => {
                return None;
            }
            header::CONNECTION => match value.as_bytes() {
                word if word.eq_ignore_ascii_case(b"close") => last = true,
                word if word.eq_ignore_ascii_case(b"keep-alive") => {}
                _ => return None,
            },
            _ => {}
        }
        request.headers_mut().append(name, value);
    }
    // Without a host, or with two, it is no request of HTTP/1.1: the library says so.
    if request.headers().get_all(header::HOST).iter().count() != 1 {
        return None;
    }
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    Some(Asked { request, length, last })
}

/// Takes what was looked at out of the socket.
fn skip(socket: &TcpStream, length: usize) -> io::Result<()> {
    let mut bytes = [0; HEAD];
    let mut left = length;
    while left > 0 {
        match socket.try_read(&mut bytes[..left])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    Ok(())
}

fn written(status: StatusCode, headers: &HeaderMap, last: bool) -> Bytes {
    let mut text = Vec::with_capacity(512);
    let reason = status.canonical_reason().unwrap_or_default();
    text.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in headers {
        // Said below, by who knows.
        if matches!(*name, header::CONNECTION | header::DATE | header::TRANSFER_ENCODING) {
            continue;
        }
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("date: {}\r\n", clock::wall().http_date()).as_bytes());
    if last {
        text.extend_from_slice(b"connection: close\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.into()
}

#[cfg(test)]
mod tests;
