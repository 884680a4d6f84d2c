//! A body on its way from one socket to the other, taken out of one framing and put into another. Nothing is read
//! while something waits to be written, so a slow reader slows the sender.

use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{
    lanes::Ticket,
    splice::{self, Filled, Splice},
    stream::Stream,
    wire::{SCRATCH, Scratch, Wire},
};
use crate::proxy::{
    forward::{
        self,
        floor::{Meter, Moved, Noted, Side},
    },
    guard::Refusal,
    h1::{
        Framing,
        chunked::{self, Decoder},
    },
};

/// So much of a request's body is kept, so that it can be sent again.
const KEPT: usize = 64 * 1024;

/// A body of up to so many bytes that is at hand leaves in one write with its head.
const WITH_HEAD: usize = 16 * 1024;

/// Of a body of more bytes the rest waits for its turns: others are served before it.
const LARGE: u64 = 256 * 1024;

/// Read at once of a body in chunks: what is behind it is the next request, and waits in memory.
const CHUNKS: usize = 64 * 1024;

/// Beyond a body of known length so much of what follows may be read with its end.
const BEYOND: u64 = 4 * 1024;

/// Why a body goes no further. What the system said is of no use to anybody: a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its sender cannot be read.
    From,
    /// Its sender closed before its end.
    Short,
    /// It is not framed as its head says.
    Bad,
    /// It is longer than it may be.
    Large,
    /// Its receiver takes no more.
    To,
}

impl Fault {
    /// What a client is told whose body it is.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Large => Refusal::BodyTooLarge,
            Self::From | Self::Short | Self::Bad | Self::To => Refusal::BadBody,
        }
    }
}

#[derive(Debug)]
enum Decode {
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
}

#[derive(Debug, Clone, Copy)]
enum Encode {
    Plain,
    Chunked,
}

/// The body, and the head before it.
#[derive(Debug)]
pub(super) struct Pump {
    decode: Decode,
    encode: Encode,
    /// The client takes trailers.
    trailers: bool,
    /// What goes before the body: of a request, the part of its head that all attempts share, then what only this one
    /// has.
    lead: Vec<u8>,
    /// Bytes of the shared part.
    shared: usize,
    lead_at: usize,
    /// Re-framed, and waiting from `at` on.
    waiting: Vec<u8>,
    at: usize,
    /// What was written is kept in `waiting`, to be sent again.
    keep: bool,
    /// Bytes of the body itself that there may be, where its head does not say how many there are.
    most: u64,
    /// Something of the body is gone.
    dropped: bool,
    /// All of it was read.
    read_all: bool,
    /// So many bytes of what comes next are not part of it.
    skip: u64,
    /// It moves without being copied. What is in its pipe comes before what is `waiting`, and there is never both.
    splice: Option<Box<Splice>>,
    /// It waits for its turn.
    ticket: Option<Ticket>,
    /// How slow its two sides may be.
    meter: Option<Box<Meter>>,
    /// Bytes of the body itself that were read.
    pub(super) payload: u64,
    /// Bytes that were written since [`Pump::begin`].
    pub(super) written: u64,
}

impl Pump {
    /// A request's body, which goes on framed as it comes, behind `head`, to which each attempt adds; one that ends with
    /// its stream goes on in chunks. `keep`: it may have to be sent again; `most`: longer than that it may not be.
    #[inline(always)]
    pub(super) fn request(head: Vec<u8>, framing: Framing, keep: bool, most: u64) -> Self {
        let to = if framing == Framing::UntilClose { Framing::Chunked } else { framing };
        let mut pump = Self::new(framing, to, keep, false);
        (pump.shared, pump.lead, pump.most) = (head.len(), head, most);
        pump
    }

    /// The body of an answer; `trailers`: they may go on.
    #[inline(always)]
    pub(super) fn answer(from: Framing, to: Framing, trailers: bool) -> Self {
        Self::new(from, to, false, trailers)
    }

    // Inlined, so that it is made where it stays.
    #[inline(always)]
    fn new(from: Framing, to: Framing, keep: bool, trailers: bool) -> Self {
        let decode = match from {
            Framing::Length(length) => Decode::Length(length),
            Framing::Chunked => Decode::Chunked(Box::default()),
            Framing::UntilClose => Decode::UntilClose,
            Framing::None | Framing::Upgraded => Decode::Length(0),
        };
        let read_all = matches!(decode, Decode::Length(0));
        Self {
            decode,
            encode: if to == Framing::Chunked { Encode::Chunked } else { Encode::Plain },
            trailers,
            lead: Vec::new(),
            shared: 0,
            lead_at: 0,
            waiting: Vec::new(),
            at: 0,
            keep,
            most: u64::MAX,
            dropped: false,
            read_all,
            skip: 0,
            splice: None,
            ticket: None,
            meter: None,
            payload: 0,
            written: 0,
        }
    }

    /// It may not be too slow from here on.
    pub(super) fn measure(&mut self, meter: Option<Meter>) {
        self.meter = meter.map(Box::new);
    }

    /// Takes from `bytes`, which came behind the head of an answer, what belongs to it. Gives how many that were, and
    /// those of them that go on as they are: they are to be written behind the head, at [`Pump::begin`].
    pub(super) fn prepare_from<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, &'a [u8]), Fault> {
        match (&mut self.decode, self.encode) {
            _ if self.read_all => Ok((0, &[])),
            (Decode::Length(left), Encode::Plain) => {
                let ours = share(left, bytes.len());
                self.read_all = *left == 0;
                self.payload += ours as u64;
                Ok((ours, bytes.get(..ours).unwrap_or_default()))
            }
            _ => self.take(bytes).map(|used| (used, &[][..])),
        }
    }

    /// Bytes of it that lie in memory.
    pub(super) fn in_memory(&self) -> u64 {
        (self.lead.len() + self.waiting.len()) as u64
    }

    /// The part of a request's head that all attempts share.
    pub(super) fn head(&self) -> &[u8] {
        self.lead.get(..self.shared).unwrap_or_default()
    }

    /// From the start, behind the head that `rest` completes. What is at hand of a small body goes with it.
    ///
    /// Only while [`Pump::is_at_hand`].
    pub(super) fn begin(&mut self, rest: impl FnOnce(&mut Vec<u8>)) {
        self.lead.truncate(self.shared);
        rest(&mut self.lead);
        (self.lead_at, self.at, self.written) = (0, 0, 0);
        if self.waiting.len() <= WITH_HEAD {
            self.lead.extend_from_slice(&self.waiting);
            self.at = self.waiting.len();
        }
        self.begin_meter();
    }

    /// The next bytes that come are not part of it: its sender begins from the start.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.skip = bytes;
        if let Some(splice) = &mut self.splice {
            splice.other_sender();
        }
        self.begin_meter();
    }

    fn begin_meter(&mut self) {
        let moved = self.metered_bytes();
        if let Some(meter) = &mut self.meter {
            meter.begin(moved);
        }
    }

    fn metered_bytes(&self) -> Moved {
        // What is skipped came all the same.
        Moved { from: self.payload.wrapping_sub(self.skip), to: self.written }
    }

    /// Looks whether one side is too slow. To be called when it waits; `counts`: the one that it waits for is able to go
    /// on.
    pub(super) fn note(&mut self, now: Instant, to: &Stream, counts: bool) -> Noted {
        if self.meter.is_none() {
            return Noted::Fine;
        }
        let side = if self.is_blocked() { Side::To } else { Side::From };
        // Whoever waits for a turn waits for us.
        let waits = (counts && self.ticket.is_none()).then_some(side);
        let moved = self.metered_bytes();
        self.meter
            .as_mut()
            .map_or(Noted::Fine, |meter| meter.note(now, moved, waits, || splice::queued(to.tcp()?)))
    }

    /// Who it waits for, if nothing is wrong with either side; `None`: for its turn.
    pub(super) fn waits_for(&self) -> Option<Side> {
        let side = if self.is_blocked() { Side::To } else { Side::From };
        self.ticket.is_none().then_some(side)
    }

    /// Bytes of the body itself, when its head says how many there are.
    pub(super) fn length(&self) -> Option<u64> {
        match self.decode {
            Decode::Length(left) => Some(self.payload + left),
            Decode::Chunked(_) | Decode::UntilClose => None,
        }
    }

    /// What changes whenever anything moves.
    pub(super) fn moved(&self) -> (u64, u64, u64) {
        (self.written, self.payload, self.skip)
    }

    /// Whether all that was read of it is still there.
    pub(super) fn is_at_hand(&self) -> bool {
        !self.dropped
    }

    /// Whether nothing of it is left to be read from its sender.
    pub(super) fn is_read(&self) -> bool {
        self.read_all
    }

    /// Whether it waits for its receiver rather than for its sender.
    pub(super) fn is_blocked(&self) -> bool {
        self.lead_at < self.lead.len()
            || self.at < self.waiting.len()
            || self.pipe().is_some_and(Splice::is_blocked)
    }

    /// When it should be polled again although nothing has happened.
    pub(super) fn look_at(&self) -> Option<Instant> {
        // Its turn comes by itself.
        let below = self.pipe().filter(|_| self.ticket.is_none()).and_then(Splice::look_at);
        let slow = self.meter.as_ref().and_then(|meter| meter.look_at());
        [below, slow].into_iter().flatten().min()
    }

    /// No more of it will be asked for: the sender's socket is as it was before, for whoever reads it next.
    pub(super) fn release(&mut self, from: &Stream) {
        if let (Some(splice), Some(from)) = (&mut self.splice, from.plain())
            && let Err(error) = splice.release(from)
        {
            tracing::debug!(error = %error, "a socket kept its low-water mark");
        }
    }

    fn pipe(&self) -> Option<&Splice> {
        self.splice.as_deref()
    }

    /// Goes on until all is written, or one side has to be waited for.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.payload >= LARGE {
                ready!(scratch.turns.poll(cx, &mut self.ticket));
            }
            let before = self.payload + self.written;
            let moved = self.poll_move(cx, from, to, scratch);
            if self.payload >= LARGE {
                scratch.turns.spend(self.payload + self.written - before);
            }
            if ready!(moved)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Moves something once; whether that was the end of it.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Poll<Result<bool, Fault>> {
        ready!(self.poll_flush(cx, to, scratch)).map_err(|_| Fault::To)?;
        if self.read_all {
            return Poll::Ready(Ok(true));
        }
        if from.ahead.is_empty() {
            ready!(self.poll_fill(cx, from, to, scratch))?;
        } else {
            self.take_ahead(from)?;
        }
        ready!(self.poll_flush(cx, to, scratch)).map_err(|_| Fault::To)?;
        Poll::Ready(Ok(self.read_all))
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Poll<io::Result<()>> {
        while self.lead_at < self.lead.len() {
            let written = ready!(to.poll_write(cx, &self.lead[self.lead_at..]))?;
            self.lead_at += written;
            self.written += written as u64;
        }
        if self.shared == 0 && !self.lead.is_empty() {
            (self.lead, self.lead_at) = (Vec::new(), 0);
        }
        if let (Some(splice), Some(to)) = (&mut self.splice, to.plain()) {
            while splice.is_blocked() {
                self.written += ready!(splice.poll_flush(cx, to, &scratch.pipes))? as u64;
            }
        }
        while self.at < self.waiting.len() {
            let written = ready!(to.poll_write(cx, &self.waiting[self.at..]))?;
            self.at += written;
            self.written += written as u64;
        }
        if !self.keep && !self.waiting.is_empty() {
            (self.waiting, self.at, self.dropped) = (Vec::new(), 0, true);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what was read ahead, as far as it belongs to the body.
    pub(super) fn take_ahead(&mut self, from: &mut Wire) -> Result<(), Fault> {
        if self.read_all || from.ahead.is_empty() {
            return Ok(());
        }
        let ahead = std::mem::take(&mut from.ahead);
        let used = self.take(&ahead)?;
        if used < ahead.len() {
            from.ahead = ahead;
            from.used(used);
        }
        Ok(())
    }

    /// Takes from its sender once, without copying if that can be.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Poll<Result<(), Fault>> {
        if let Some(left) = self.spliced(scratch)
            && let (Some(from), Some(_)) = (from.stream.plain(), to.plain())
        {
            let splice = self.splice.get_or_insert_default();
            match ready!(splice.poll_fill(cx, from, left, &scratch.pipes)).map_err(|_| Fault::From)? {
                Filled::NoPipe => {}
                Filled::Bytes(0) => return Poll::Ready(self.ended()),
                Filled::Bytes(moved) => {
                    let left = left.saturating_sub(moved as u64);
                    self.decode = Decode::Length(left);
                    self.payload += moved as u64;
                    (self.dropped, self.read_all) = (true, left == 0);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.poll_copy(cx, from, to, scratch)
    }

    /// How much is left, if that may move without being copied.
    fn spliced(&self, scratch: &Scratch) -> Option<u64> {
        match (&self.decode, self.encode) {
            (Decode::Length(left), Encode::Plain)
                if scratch.pipes.offered && !self.keep && self.skip == 0 =>
            {
                (*left >= splice::LEAST || self.splice.is_some()).then_some(*left)
            }
            _ => None,
        }
    }

    /// Reads once, and writes what needs no re-framing from where it was read.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Stream,
        scratch: &Scratch,
    ) -> Poll<Result<(), Fault>> {
        let most = match self.decode {
            Decode::Length(left) => {
                usize::try_from(left.saturating_add(self.skip).saturating_add(BEYOND)).unwrap_or(SCRATCH)
            }
            Decode::Chunked(_) => CHUNKS,
            Decode::UntilClose => SCRATCH,
        };
        ready!(from.stream.poll_readable(cx)).map_err(|_| Fault::From)?;
        let mut room = scratch.lock();
        let read = ready!(from.stream.poll_read(cx, &mut room, most)).map_err(|_| Fault::From)?;
        let bytes = &room[..read];
        if read == 0 {
            return Poll::Ready(self.ended());
        }
        let plain = match (&mut self.decode, self.encode) {
            (Decode::Length(left), Encode::Plain) if !self.keep && self.skip == 0 => {
                let ours = share(left, read);
                self.read_all = *left == 0;
                Some(ours)
            }
            (Decode::UntilClose, Encode::Plain) => Some(read),
            _ => None,
        };
        let used = match plain {
            Some(ours) => {
                self.payload += ours as u64;
                let written = match to.poll_write(cx, &bytes[..ours]) {
                    Poll::Ready(written) => written.map_err(|_| Fault::To)?,
                    Poll::Pending => 0,
                };
                self.written += written as u64;
                self.dropped = true;
                self.waiting.extend_from_slice(&bytes[written..ours]);
                ours
            }
            None => self.take(bytes)?,
        };
        from.ahead.extend_from_slice(&bytes[used..]);
        Poll::Ready(Ok(()))
    }

    /// Takes what belongs to the body into `waiting`; how many bytes that were.
    fn take(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut used = share(&mut self.skip, input.len());
        while used < input.len() && !self.read_all {
            let rest = &input[used..];
            let (step, data) = match &mut self.decode {
                Decode::Length(left) => {
                    let ours = share(left, rest.len());
                    self.read_all = *left == 0;
                    (ours, 0..ours)
                }
                Decode::Chunked(decoder) => {
                    let step = decoder.next(rest).map_err(|_| Fault::Bad)?;
                    self.read_all = decoder.is_over();
                    (step.used, step.data)
                }
                Decode::UntilClose => (rest.len(), 0..rest.len()),
            };
            used += step;
            self.payload += data.len() as u64;
            if self.payload > self.most {
                return Err(Fault::Large);
            }
            match self.encode {
                Encode::Plain => self.waiting.extend_from_slice(&rest[data]),
                Encode::Chunked => chunked::encode(&rest[data], &mut self.waiting),
            }
        }
        if self.read_all {
            self.end();
        }
        self.keep &= self.waiting.len() <= KEPT;
        Ok(used)
    }

    /// The sender has closed.
    fn ended(&mut self) -> Result<(), Fault> {
        if !matches!(self.decode, Decode::UntilClose) {
            return Err(Fault::Short);
        }
        self.read_all = true;
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        if let Encode::Chunked = self.encode {
            chunked::encode_end(&self.passed_trailers(), &mut self.waiting);
        }
    }

    /// The trailers that may go on, as lines. In chunks they have gone on with the last one.
    pub(super) fn passed_trailers(&self) -> Vec<u8> {
        match &self.decode {
            Decode::Chunked(decoder) if self.trailers => forward::trailers(decoder.trailers()),
            _ => Vec::new(),
        }
    }
}

/// How many of `there` bytes belong to what `left` of are wanted; they are wanted no more.
fn share(left: &mut u64, there: usize) -> usize {
    let ours = usize::try_from(*left).map_or(there, |left| left.min(there));
    *left -= ours as u64;
    ours
}
