//! What comes: frames, by the rules of RFC 9113 §5 and §6.

use tokio::time::Instant;

use super::{
    super::{
        meter::{AN_ECHO, Broken},
        streams::{Place, Waits},
    },
    Block, LAST_CALL, Leaving, Mux, Of, Opened, Refused,
};
use crate::proxy::h2::{
    frame::{self, Code, Frame, Head, LARGEST, LARGEST_WINDOW, Setting},
    request,
};

/// Streams that were reset here and whose frames may still be on their way. Past it the oldest is forgotten, and what
/// comes for it is told so once more.
const RESET: usize = 128;

/// Frames of a block at least, whatever it may have in bytes.
const CONTINUED: usize = 5;

impl Mux {
    /// Takes in a whole frame.
    pub(in crate::proxy::engine::http2) fn take(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Opened>, Broken> {
        let rule = |code| Err(Broken::rule(code));
        let goes_on = matches!(head.kind, frame::Kind::Continuation);
        if self.block.as_ref().map(|block| block.stream) != goes_on.then_some(head.stream) {
            return rule(Code::ProtocolError);
        }
        let frame = match head.take(payload) {
            Ok(frame) => frame,
            Err(frame::Fault::Connection(code)) => return rule(code),
            Err(frame::Fault::Stream(code)) => {
                self.meter.idle(1, now)?;
                return self.wrong(head.stream, code, now).map(|()| None);
            }
        };
        if !std::mem::replace(&mut self.begun, true) && !matches!(frame, Frame::Settings(_)) {
            return rule(Code::ProtocolError);
        }
        match frame {
            Frame::Data(data, ended) => self.data(head, data, ended, now)?,
            Frame::Headers(piece, ended, whole) => {
                self.meter.request();
                let of = self.whose(head.stream)?;
                if whole {
                    return self.fields(head.stream, ended, of, piece, now);
                }
                let bytes = piece.to_vec();
                self.block = Some(Block { stream: head.stream, ended, of, bytes, frames: 0 });
            }
            Frame::Continuation(piece, whole) => {
                let Some(mut block) = self.block.take() else { return rule(Code::ProtocolError) };
                let most = self.limits.block();
                block.frames += 1;
                if block.frames > CONTINUED.max(most / LARGEST + 1) || block.bytes.len() + piece.len() > most
                {
                    return Err(Broken::FLOOD);
                }
                block.bytes.extend_from_slice(piece);
                if whole {
                    return self.fields(block.stream, block.ended, block.of, &block.bytes, now);
                }
                self.block = Some(block);
            }
            Frame::Reset => {
                self.meter.reset(now)?;
                if self.is_idle(head.stream) {
                    return rule(Code::ProtocolError);
                }
                if let Some(place) = self.streams.find(head.stream) {
                    self.cut(place);
                }
            }
            Frame::Settings(payload) => {
                // Each of them may change every stream, and a frame has room for thousands.
                let settings = frame::settings_in(payload);
                self.meter.idle(settings.max(1), now)?;
                for setting in frame::settings(payload) {
                    self.set(setting.map_err(Broken::rule)?)?;
                }
                frame::heard(&mut self.out);
            }
            Frame::Ping(payload) => {
                self.meter.idle(1, now)?;
                frame::ping(&mut self.out, true, payload);
            }
            Frame::Pong(payload) if self.leaving == Leaving::Told && payload == LAST_CALL => {
                self.leaving = Leaving::Heard;
                frame::go_away(&mut self.out, self.last, Code::NoError);
            }
            Frame::Pong(_) => self.meter.idle(AN_ECHO, now)?,
            Frame::Window(by) => {
                self.meter.idle(1, now)?;
                self.allow(head.stream, i64::from(by), now)?;
            }
            Frame::SettingsHeard | Frame::Nothing => self.meter.idle(1, now)?,
        }
        Ok(None)
    }

    /// Whether the client has not begun it yet, or never can.
    fn is_idle(&self, stream: u32) -> bool {
        stream > self.last || stream.is_multiple_of(2)
    }

    /// Whose a block is that begins on this stream.
    fn whose(&mut self, stream: u32) -> Result<Of, Broken> {
        if stream.is_multiple_of(2) {
            return Err(Broken::rule(Code::ProtocolError));
        }
        if stream > self.last {
            if self.leaving == Leaving::Heard {
                return Ok(Of::Nobody);
            }
            self.last = stream;
            return Ok(Of::Request);
        }
        // On its way when the stream was reset; or a stream that is long over, or was passed by.
        let known = self.streams.find(stream).is_some() || self.reset.contains(&stream);
        if known { Ok(Of::Stream) } else { Err(Broken::rule(Code::ProtocolError)) }
    }

    /// A whole block has come.
    fn fields(
        &mut self,
        stream: u32,
        ended: bool,
        of: Of,
        block: &[u8],
        now: Instant,
    ) -> Result<Option<Opened>, Broken> {
        let broken = |_| Broken::rule(Code::CompressionError);
        if of != Of::Request {
            let mut malformed = !ended;
            let trailer = |name: &[u8], _: &[u8], _| malformed |= name.first() == Some(&b':');
            self.reader.read(block, trailer).map_err(broken)?;
            // Those of requests go no further.
            if of == Of::Stream
                && let Some(place) = self.streams.find(stream)
            {
                self.trailers(place, malformed, now)?;
            }
            return Ok(None);
        }
        let Self { request, reader, .. } = self;
        request.begin(self.limits.head);
        reader.read(block, |name, value, kind| request.field(name, value, kind)).map_err(broken)?;
        if self.streams.len() >= self.limits.streams {
            self.refused.too_many += 1;
            self.send_reset(stream, Code::RefusedStream);
            return Ok(None);
        }
        let (length, refused) = match request.end(ended) {
            Ok(begun) => (begun.length, None),
            Err(request::Fault::Refused(why)) => (None, Some(why)),
            Err(request::Fault::Malformed) => {
                self.wrong(stream, Code::ProtocolError, now)?;
                return Ok(None);
            }
        };
        let bodiless = request.is_bodiless();
        let place = self.streams.open(stream, self.first_room, length, ended);
        Ok(Some(Opened { place, refused, bodiless, ended }))
    }

    fn trailers(&mut self, place: Place, malformed: bool, now: Instant) -> Result<(), Broken> {
        let Some(stream) = self.streams.get(place).filter(|stream| !stream.cut) else { return Ok(()) };
        let short = stream.length.is_some_and(|left| left > 0);
        let (id, code) = match stream.ended {
            true => (stream.id, Code::StreamClosed),
            false if malformed || short => (stream.id, Code::ProtocolError),
            false => {
                stream.ended = true;
                stream.wake(Waits::Body);
                return Ok(());
            }
        };
        self.wrong(id, code, now)
    }

    fn data(&mut self, head: Head, data: &[u8], ended: bool, now: Instant) -> Result<(), Broken> {
        if self.is_idle(head.stream) && self.leaving != Leaving::Heard {
            return Err(Broken::rule(Code::ProtocolError));
        }
        if data.is_empty() && !ended {
            self.meter.idle(1, now)?;
        }
        let counts = u32::try_from(head.length).unwrap_or(u32::MAX);
        self.window -= i64::from(counts);
        if self.window < 0 {
            return Err(Broken::rule(Code::FlowControlError));
        }
        let Some(place) = self.streams.find(head.stream) else {
            self.meter.idle(1, now)?;
            self.owe(counts);
            if head.stream <= self.last && !self.reset.contains(&head.stream) {
                self.send_reset(head.stream, Code::StreamClosed);
            }
            return Ok(());
        };
        let padding = counts - u32::try_from(data.len()).unwrap_or(counts);
        let Some(stream) = self.streams.get(place) else { return Ok(()) };
        if stream.cut {
            self.owe(counts);
            return Ok(());
        }
        stream.window -= i64::from(counts);
        let left = stream.length.map(|left| left.checked_sub(data.len() as u64));
        let wrong = if stream.ended {
            Some(Code::StreamClosed)
        } else if stream.window < 0 {
            Some(Code::FlowControlError)
        } else if left == Some(None) || (ended && left.flatten().is_some_and(|left| left > 0)) {
            Some(Code::ProtocolError)
        } else {
            None
        };
        if let Some(code) = wrong {
            self.owe(counts);
            return self.wrong(head.stream, code, now);
        }
        stream.length = left.flatten();
        stream.ended = ended;
        stream.came(data);
        stream.wake(Waits::Body);
        if padding > 0 {
            self.taken(place, padding);
        }
        Ok(())
    }

    fn set(&mut self, setting: Setting) -> Result<(), Broken> {
        match setting {
            Setting::Table(most) => self.writer.allow(usize::try_from(most).unwrap_or(usize::MAX)),
            Setting::Window(window) => {
                let by = i64::from(window) - std::mem::replace(&mut self.first_room, i64::from(window));
                // RFC 9113 §6.9.2: those that are under way change with it, below nothing even.
                let mut fits = true;
                for stream in self.streams.each() {
                    fits &= stream.allow(by);
                }
                if !fits {
                    return Err(Broken::rule(Code::FlowControlError));
                }
            }
            // No larger frames are written than everybody takes.
            Setting::Largest(_) => {}
        }
        Ok(())
    }

    fn allow(&mut self, id: u32, by: i64, now: Instant) -> Result<(), Broken> {
        if id == 0 {
            self.room += by;
            let fits = self.room <= LARGEST_WINDOW;
            return if fits { Ok(()) } else { Err(Broken::rule(Code::FlowControlError)) };
        }
        if self.is_idle(id) && self.leaving != Leaving::Heard {
            return Err(Broken::rule(Code::ProtocolError));
        }
        let place = self.streams.find(id);
        let stream = place.and_then(|place| self.streams.get(place)).filter(|stream| !stream.cut);
        let fits = stream.is_none_or(|stream| stream.allow(by));
        if fits { Ok(()) } else { self.wrong(id, Code::FlowControlError, now) }
    }

    /// What a stream has done ends it.
    fn wrong(&mut self, id: u32, code: Code, now: Instant) -> Result<(), Broken> {
        if self.is_idle(id) {
            // There is nothing yet that could be reset.
            return Err(Broken::rule(code));
        }
        self.refused.malformed += 1;
        if let Some(place) = self.streams.find(id) {
            self.cut(place);
        }
        self.send_reset(id, code);
        self.meter.reset(now)
    }

    /// A stream is over before its end: its holder is told, and what lies here of it is dropped.
    fn cut(&mut self, place: Place) {
        let Some(stream) = self.streams.get(place) else { return };
        stream.cut = true;
        stream.wake(Waits::End);
        let dropped = stream.drop_body();
        self.owe(u32::try_from(dropped).unwrap_or(u32::MAX));
    }

    pub(super) fn send_reset(&mut self, id: u32, code: Code) {
        frame::reset(&mut self.out, id, code);
        if self.reset.len() >= RESET {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether a block is not whole.
    pub(in crate::proxy::engine::http2) fn is_amid(&self) -> bool {
        self.block.is_some()
    }

    /// Whether the client's settings have come.
    pub(in crate::proxy::engine::http2) fn has_begun(&self) -> bool {
        self.begun
    }

    /// What was refused since the last call.
    pub(in crate::proxy::engine::http2) fn refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }
}
