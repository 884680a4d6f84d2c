//! A connection's end inside TLS: records of plain bytes out of what comes, and into what goes. Between two records it
//! has no buffer: what was read is decrypted where it lies, in memory that the thread's connections share.

mod session;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use rustls::{CommonState, Error, client::UnbufferedClientConnection, server::UnbufferedServerConnection};
use tokio::net::TcpStream;

use self::session::{Session, Step};
use super::{
    stream::{poll_recv, poll_send, send_now},
    wire::SCRATCH,
};

/// Plain bytes of a record at most (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

/// A record's header (RFC 8446 §5.1).
const HEADER: usize = 5;

/// A record on the wire at most, of either version (RFC 5246 §6.2.3).
const WIRE: usize = HEADER + RECORD + 2048;

/// Records of as many plain bytes as are read at once, and one that was cut in two before.
const CRYPT: usize = SCRATCH + 2 * WIRE;

/// Read at once while hands are shaken: certificates, mostly.
const FLIGHT: usize = 16 * 1024;

/// Plain bytes that are encrypted and sent at once: all that is read at once. A reader that sleeps is woken once for them
/// and not four times; one that is slow has them wait in memory.
const SEALED: usize = 16 * RECORD;

/// What of our own may wait to go out with the next record: a ticket, the end of a handshake.
const LEAD: usize = 8 * 1024;

/// Where a thread's connections encrypt and decrypt, one at a time.
#[derive(Debug)]
pub(super) struct Crypt(Mutex<Box<[u8]>>);

impl Crypt {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![0; CRYPT].into_boxed_slice()))
    }

    fn lock(&self) -> MutexGuard<'_, Box<[u8]>> {
        // Bytes have no state that could be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why hands were not shaken.
#[derive(Debug)]
pub(super) enum Failed {
    /// The other side does not do it right, or does not like ours.
    Tls(Error),
    /// It speaks plain HTTP.
    PlainHttp,
    /// What it speaks is not TLS.
    Strange,
    /// It closed, or was lost.
    Gone,
}

/// The connection's end.
pub(super) struct Tls {
    tcp: TcpStream,
    session: Session,
    crypt: Arc<Crypt>,
    /// The beginning of a record.
    inbox: Vec<u8>,
    /// Decrypted, and waiting from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Encrypted, and waiting from `out_at` on.
    out: Vec<u8>,
    out_at: usize,
    /// So many bytes of what the caller wants to write are in `out`; it has not been told so.
    promised: usize,
    /// The other side has said that it has no more to say.
    ended: bool,
    /// We have.
    shut: bool,
    /// What ends here must not look as if it were meant to.
    cut: bool,
    /// The other side has broken the rules: the session may not be asked for anything more.
    broken: bool,
    /// Hands were not shaken: what is said from now on is said as it is.
    bare: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Tls {
    /// The side that is connected to.
    pub(super) fn server(tcp: TcpStream, session: UnbufferedServerConnection, crypt: Arc<Crypt>) -> Self {
        Self::new(tcp, Session::Server(session), crypt)
    }

    /// The side that connects.
    pub(super) fn client(tcp: TcpStream, session: UnbufferedClientConnection, crypt: Arc<Crypt>) -> Self {
        Self::new(tcp, Session::Client(session), crypt)
    }

    fn new(tcp: TcpStream, session: Session, crypt: Arc<Crypt>) -> Self {
        Self {
            tcp,
            session,
            crypt,
            inbox: Vec::new(),
            plain: Vec::new(),
            plain_at: 0,
            out: Vec::new(),
            out_at: 0,
            promised: 0,
            ended: false,
            shut: false,
            cut: false,
            broken: false,
            bare: false,
        }
    }

    /// The socket under it.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What was agreed on, and what the other side has shown.
    pub(super) fn common(&self) -> &CommonState {
        self.session.common()
    }

    /// Whether something can be had without the socket, be it the end.
    pub(super) fn has_plain(&self) -> bool {
        self.plain_at < self.plain.len() || self.ended
    }

    /// Whether the other side has said that it has no more to say.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Goes on without TLS, only to end: the other side is told as far as it can be.
    pub(super) fn give_up(&mut self) {
        if !self.broken && !self.session.common().is_handshaking() {
            self.seal_end();
        }
        self.say();
        (self.bare, self.shut) = (true, true);
        (self.inbox, self.plain, self.plain_at) = (Vec::new(), Vec::new(), 0);
    }

    /// From now on an end is no proper end; or is one again.
    pub(super) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Shakes hands.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let mut first = self.inbox.is_empty();
        loop {
            if !self.session.common().is_handshaking() && !self.ends_the_handshake() {
                // What is still to be said goes out with the first bytes that are written.
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_out(cx)).map_err(|_| Failed::Gone)?;
            if !self.session.common().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            // The one that connects speaks first.
            let began = matches!(self.session, Session::Server(_)) || !first;
            let came = if began { ready!(self.poll_came(cx, FLIGHT, first)) } else { self.begin() };
            first = false;
            match came {
                Ok(0) if began => return Poll::Ready(Err(Failed::Gone)),
                Ok(_) => {}
                Err(failed) => return Poll::Ready(Err(failed)),
            }
        }
    }

    /// Whether the other side cannot go on without what is to be said. After the handshake of TLS 1.3 a server has but
    /// tickets to give, and a client the end of its part, which its first request brings along.
    fn ends_the_handshake(&self) -> bool {
        let is_13 = self.session.common().protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        self.out_at < self.out.len() && (!is_13 || self.out.len() - self.out_at > LEAD)
    }

    /// The first message of the one that connects.
    fn begin(&mut self) -> Result<usize, Failed> {
        let Self { session, out, .. } = self;
        session.open(&mut [], out, &mut |_| {}).map_err(Failed::Tls)?;
        Ok(0)
    }

    /// Reads and uses once while hands are shaken; how many bytes came.
    fn poll_came(&mut self, cx: &mut Context<'_>, most: usize, first: bool) -> Poll<Result<usize, Failed>> {
        let Self { tcp, session, crypt, inbox, plain, out, ended, broken, .. } = self;
        let mut crypt = crypt.lock();
        let held = inbox.len();
        crypt[..held].copy_from_slice(inbox);
        let read = match ready!(poll_recv(tcp, cx, &mut crypt[held..], most)) {
            Ok(read) if read > 0 => read,
            _ => return Poll::Ready(Err(Failed::Gone)),
        };
        // RFC 8446 §5.1: what a record can begin with.
        match crypt[0] {
            20..=23 => {}
            letter if first && letter.is_ascii_uppercase() => return Poll::Ready(Err(Failed::PlainHttp)),
            _ if first => return Poll::Ready(Err(Failed::Strange)),
            _ => {}
        }
        let came = &mut crypt[..held + read];
        let opened = session.open(came, out, &mut |bytes| plain.extend_from_slice(bytes));
        *broken |= opened.is_err();
        let (used, over) = opened.map_err(Failed::Tls)?;
        *ended |= over;
        keep(inbox, came.get(used..).unwrap_or_default());
        if inbox.len() > WIRE {
            return Poll::Ready(Err(Failed::Strange));
        }
        Poll::Ready(Ok(read))
    }

    /// Reads plain bytes into `room`, `most` at most; 0 is the end. A connection that ends without that having been
    /// said is an error: somebody may have cut it.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.bare {
            return poll_recv(&self.tcp, cx, room, most);
        }
        let most = most.min(room.len());
        loop {
            let waiting = self.plain.get(self.plain_at..).unwrap_or_default();
            if !waiting.is_empty() {
                let count = waiting.len().min(most);
                room[..count].copy_from_slice(&waiting[..count]);
                self.plain_at += count;
                if self.plain_at == self.plain.len() {
                    (self.plain, self.plain_at) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(count));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            let count = ready!(self.poll_open(cx, &mut room[..most]))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    /// Reads once from the socket, and decrypts into `room`; what has no place there waits.
    fn poll_open(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, session, crypt, inbox, plain, out, ended, broken, .. } = self;
        let mut crypt = crypt.lock();
        let held = inbox.len();
        crypt[..held].copy_from_slice(inbox);
        // As much as fills the room, with what records add.
        let most = room.len() + room.len() / 64 + 64;
        let read = ready!(poll_recv(tcp, cx, &mut crypt[held..], most))?;
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let came = &mut crypt[..held + read];
        let mut count = 0;
        let opened = session.open(came, out, &mut |bytes| {
            let fits = bytes.len().min(room.len() - count);
            room[count..count + fits].copy_from_slice(&bytes[..fits]);
            count += fits;
            plain.extend_from_slice(&bytes[fits..]);
        });
        // Why it is an error the other side is told when it is dropped.
        *broken |= opened.is_err();
        let (used, over) = opened.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        *ended |= over;
        keep(inbox, came.get(used..).unwrap_or_default());
        if inbox.len() > WIRE || out.len() > LEAD {
            // A record is longer than any may be, or the other side asks for answers and takes none.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(count))
    }

    /// Writes once; how many plain bytes are on their way whole. After [`Poll::Pending`] the next call must bring the
    /// same bytes again: some of them may be encrypted already.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bare {
            return poll_send(&self.tcp, cx, bytes);
        }
        if self.broken || self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.promised > 0 || self.out.len() - self.out_at > LEAD {
                ready!(self.poll_out(cx))?;
                let promised = std::mem::take(&mut self.promised);
                if promised > 0 {
                    return Poll::Ready(Ok(promised));
                }
            }
            // Nothing is encrypted only to wait.
            ready!(self.tcp.poll_write_ready(cx))?;
            let taken = self.seal_and_send(cx, bytes)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    /// Encrypts, and sends once with what is to be said before; how many plain bytes went out in whole records. What
    /// did not go out is promised.
    fn seal_and_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        let Self { tcp, session, crypt, inbox, plain, out, out_at, promised, .. } = self;
        let mut crypt = crypt.lock();
        let bytes = bytes.get(..SEALED).unwrap_or(bytes);
        let (lead, sealed) = loop {
            let lead = out.len() - *out_at;
            let (before, room) = crypt.split_at_mut(lead);
            before.copy_from_slice(&out[*out_at..]);
            let mut keep = |came: &[u8]| plain.extend_from_slice(came);
            let (used, stepped) = session.step(inbox, out, &mut keep, Some((bytes, room)));
            inbox.drain(..used.min(inbox.len()));
            match stepped {
                Ok(Step::Wrote(sealed)) => break (lead, sealed),
                Ok(Step::Again) => {}
                Ok(Step::Used | Step::Ended) => return Err(io::ErrorKind::NotConnected.into()),
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        let all = &crypt[..lead + sealed];
        let sent = match poll_send(tcp, cx, all) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        if sent == all.len() {
            (*out, *out_at) = (Vec::new(), 0);
            return Ok(bytes.len());
        }
        let whole = plain_of(&all[lead..], sent.saturating_sub(lead), bytes.len());
        *promised = bytes.len() - whole;
        (*out, *out_at) = (all[sent..].to_vec(), 0);
        Ok(whole)
    }

    /// Sends what is encrypted.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            self.out_at += ready!(poll_send(&self.tcp, cx, &self.out[self.out_at..]))?;
        }
        if !self.out.is_empty() {
            (self.out, self.out_at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Says that no more is written, and then writes no more.
    pub(super) fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            self.shut = true;
            if !self.broken {
                self.seal_end();
            }
        }
        ready!(self.poll_out(cx))?;
        Poll::Ready(rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Write).map_err(io::Error::from))
    }

    fn seal_end(&mut self) {
        let Self { session, inbox, plain, out, .. } = self;
        // What is to be said before.
        while let (used, Ok(Step::Again)) =
            session.step(inbox, out, &mut |bytes| plain.extend_from_slice(bytes), None)
        {
            inbox.drain(..used.min(inbox.len()));
        }
        let mut end = [0; 128];
        let sealed = session.end(inbox, &mut end);
        out.extend_from_slice(end.get(..sealed).unwrap_or_default());
    }

    /// Sends what is to be said, as far as it can be said at once.
    fn say(&mut self) {
        let rest = self.out.get(self.out_at..).unwrap_or_default();
        if !rest.is_empty() && send_now(&self.tcp, rest).is_err() {
            tracing::debug!("a connection was lost before its other side was told why it ends");
        }
        (self.out, self.out_at) = (Vec::new(), 0);
    }
}

/// A connection that is closed says so, unless it is cut, or is in the middle of something.
impl Drop for Tls {
    fn drop(&mut self) {
        if self.shut || self.cut || self.promised > 0 || self.session.common().is_handshaking() {
            return;
        }
        if !self.broken {
            self.seal_end();
        }
        self.say();
    }
}

/// Keeps what is left in memory of its own; no memory if nothing is.
fn keep(inbox: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *inbox = Vec::new();
    } else {
        inbox.clear();
        inbox.extend_from_slice(rest);
    }
}

/// Plain bytes in the records that are whole in the first `sent` bytes of `sealed`, which holds `all` of them.
fn plain_of(sealed: &[u8], sent: usize, all: usize) -> usize {
    let (mut at, mut plain) = (0, 0);
    while let Some(header) = sealed.get(at..at + HEADER) {
        at += HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if at > sent {
            break;
        }
        plain += RECORD.min(all - plain);
    }
    plain
}

#[cfg(test)]
mod tests;
