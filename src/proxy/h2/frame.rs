//! Frames, RFC 9113 §4.1 and §6: taken apart with the rules that need no memory, and written.

/// What a client says first, RFC 9113 §3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before a frame's payload.
pub const HEAD: usize = 9;

/// The largest payload, until something else is agreed on; here it never is.
pub const LARGEST: usize = 16 * 1024;

/// The window of a stream and of a connection, until something else is said.
pub const WINDOW: u32 = 65_535;

/// No window may be larger.
pub const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// The last stream that there can be.
pub const LAST: u32 = (1 << 31) - 1;

/// `END_STREAM`.
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Bytes of one setting.
const SETTING: usize = 6;
/// And of a priority.
const DEPENDS: usize = 5;

/// RFC 9113 §6; [`Kind::Other`] is to be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the RFC names them")]
pub enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    RstStream = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    Other,
}

/// RFC 9113 §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the RFC names them")]
pub enum Code {
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    CompressionError = 9,
    EnhanceYourCalm = 11,
}

/// What of a broken rule is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection.
    Connection(Code),
    /// The frame's stream.
    Stream(Code),
}

/// What is before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload.
    pub length: usize,
    /// Whose it is.
    pub kind: Kind,
    /// What they mean depends on the kind.
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
}

/// A payload, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A piece of a body, and whether it is the last one. Its padding is gone, but counts for the windows.
    Data(&'a [u8], bool),
    /// The beginning of a block of fields; whether its stream ends with it, and whether it is the whole block.
    Headers(&'a [u8], bool, bool),
    /// The block goes on; whether it is over.
    Continuation(&'a [u8], bool),
    /// The stream is given up.
    Reset,
    /// Settings, [`settings`] reads them.
    Settings(&'a [u8]),
    /// Ours were heard.
    SettingsHeard,
    /// To be sent back.
    Ping(&'a [u8]),
    /// Ours came back.
    Pong(&'a [u8]),
    /// So much more may be sent.
    Window(u32),
    /// Nothing that matters here.
    Nothing,
}

impl Head {
    /// The first of these bytes, if they are enough.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk::<HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        // The reserved bit is passed over.
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]) })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Takes the payload apart, which has `length` bytes.
    pub fn take(self, payload: &[u8]) -> Result<Frame<'_>, Fault> {
        let connection = |code| Err(Fault::Connection(code));
        let of_connection = matches!(self.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        let either = matches!(self.kind, Kind::WindowUpdate | Kind::Other);
        if !either && of_connection != (self.stream == 0) {
            return connection(Code::ProtocolError);
        }
        match self.kind {
            Kind::Data => Ok(Frame::Data(self.unpadded(payload)?, self.has(END_STREAM))),
            Kind::Headers => {
                let mut block = self.unpadded(payload)?;
                if self.has(PRIORITY) {
                    block = block.get(DEPENDS..).ok_or(Fault::Connection(Code::FrameSizeError))?;
                }
                Ok(Frame::Headers(block, self.has(END_STREAM), self.has(END_HEADERS)))
            }
            Kind::Continuation => Ok(Frame::Continuation(payload, self.has(END_HEADERS))),
            Kind::Priority if payload.len() != DEPENDS => Err(Fault::Stream(Code::FrameSizeError)),
            Kind::RstStream if payload.len() != 4 => connection(Code::FrameSizeError),
            Kind::RstStream => Ok(Frame::Reset),
            Kind::Settings if self.has(ACK) && !payload.is_empty() => connection(Code::FrameSizeError),
            Kind::Settings if self.has(ACK) => Ok(Frame::SettingsHeard),
            Kind::Settings if !payload.len().is_multiple_of(SETTING) => connection(Code::FrameSizeError),
            Kind::Settings => Ok(Frame::Settings(payload)),
            // Clients may not, and nobody may to a server.
            Kind::PushPromise => connection(Code::ProtocolError),
            Kind::Ping if payload.len() != 8 => connection(Code::FrameSizeError),
            Kind::Ping if self.has(ACK) => Ok(Frame::Pong(payload)),
            Kind::Ping => Ok(Frame::Ping(payload)),
            Kind::GoAway if payload.len() < 8 => connection(Code::FrameSizeError),
            Kind::WindowUpdate => {
                let &[a, b, c, d] = payload else { return connection(Code::FrameSizeError) };
                match u32::from_be_bytes([a & 0x7f, b, c, d]) {
                    0 if self.stream == 0 => connection(Code::ProtocolError),
                    0 => Err(Fault::Stream(Code::ProtocolError)),
                    by => Ok(Frame::Window(by)),
                }
            }
            Kind::Priority | Kind::GoAway | Kind::Other => Ok(Frame::Nothing),
        }
    }

    fn unpadded(self, payload: &[u8]) -> Result<&[u8], Fault> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let fault = Fault::Connection(Code::ProtocolError);
        let (padding, rest) = payload.split_first().ok_or(Fault::Connection(Code::FrameSizeError))?;
        let length = rest.len().checked_sub(usize::from(*padding)).ok_or(fault)?;
        Ok(rest.get(..length).unwrap_or_default())
    }
}

/// A setting of the client's that matters to who answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Bytes of the table that compressed fields may use.
    Table(u32),
    /// The window that streams begin with.
    Window(u32),
    /// The largest payload.
    Largest(usize),
}

/// How many settings a payload has.
pub fn settings_in(payload: &[u8]) -> u32 {
    u32::try_from(payload.len() / SETTING).unwrap_or(u32::MAX)
}

/// Reads settings in their order; others than these are passed over. RFC 9113 §6.5.2.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = Result<Setting, Code>> {
    payload.chunks_exact(SETTING).filter_map(|one| {
        let &[a, b, c, d, e, f] = one else { return None };
        let value = u32::from_be_bytes([c, d, e, f]);
        match u16::from_be_bytes([a, b]) {
            1 => Some(Ok(Setting::Table(value))),
            2 if value > 1 => Some(Err(Code::ProtocolError)),
            4 if i64::from(value) > LARGEST_WINDOW => Some(Err(Code::FlowControlError)),
            4 => Some(Ok(Setting::Window(value))),
            5 => match usize::try_from(value) {
                Ok(largest @ LARGEST..=0xff_ffff) => Some(Ok(Setting::Largest(largest))),
                _ => Some(Err(Code::ProtocolError)),
            },
            _ => None,
        }
    })
}

/// Writes what is before a payload. One that is too long to be said is cut by its writer.
pub fn head(kind: Kind, flags: u8, stream: u32, length: usize) -> [u8; HEAD] {
    let [.., a, b, c] = length.to_be_bytes();
    let [s, t, u, v] = stream.to_be_bytes();
    [a, b, c, kind as u8, flags, s, t, u, v]
}

/// Writes a whole frame of a few bytes.
pub fn write(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&head(kind, flags, stream, payload.len()));
    out.extend_from_slice(payload);
}

/// `RST_STREAM`.
pub fn reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    write(out, Kind::RstStream, 0, stream, &(code as u32).to_be_bytes());
}

/// `GOAWAY`.
pub fn go_away(out: &mut Vec<u8>, last: u32, code: Code) {
    let ([a, b, c, d], [e, f, g, h]) = (last.to_be_bytes(), (code as u32).to_be_bytes());
    write(out, Kind::GoAway, 0, 0, &[a, b, c, d, e, f, g, h]);
}

/// `WINDOW_UPDATE`.
pub fn window(out: &mut Vec<u8>, stream: u32, by: u32) {
    write(out, Kind::WindowUpdate, 0, stream, &by.to_be_bytes());
}

/// The settings that a server begins with.
pub fn hello(out: &mut Vec<u8>, streams: u32, list: u32) {
    let ([a, b, c, d], [e, f, g, h]) = (streams.to_be_bytes(), list.to_be_bytes());
    write(out, Kind::Settings, 0, 0, &[0, 3, a, b, c, d, 0, 6, e, f, g, h]);
}

/// That settings were heard.
pub fn heard(out: &mut Vec<u8>) {
    write(out, Kind::Settings, ACK, 0, &[]);
}

/// A ping, or the echo of one.
pub fn ping(out: &mut Vec<u8>, echo: bool, payload: &[u8]) {
    write(out, Kind::Ping, if echo { ACK } else { 0 }, 0, payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Result<Frame<'_>, Fault> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = Head::read(&[0, 0, length, kind, flags, 0x80, 0, 0, stream]).unwrap();
        assert_eq!((head.length, head.stream), (payload.len(), u32::from(stream)));
        head.take(payload)
    }

    #[test]
    fn a_frame_has_the_length_and_the_stream_of_its_kind() {
        use Code::{FrameSizeError as Size, ProtocolError as Protocol};
        let connection = |code| Err(Fault::Connection(code));
        for (kind, flags, stream, payload, wanted) in [
            (0, 0, 1, &b"ab"[..], Ok(Frame::Data(b"ab", false))),
            (0, 9, 1, b"\x01ab", Ok(Frame::Data(b"a", true))),
            (0, 8, 1, b"\x02ab", Ok(Frame::Data(b"", false))),
            (0, 8, 1, b"\x03ab", connection(Protocol)),
            (0, 8, 1, b"", connection(Size)),
            (0, 0, 0, b"", connection(Protocol)),
            (1, 5, 1, b"ab", Ok(Frame::Headers(b"ab", true, true))),
            (1, 0x28, 1, b"\x01\0\0\0\0\0ab", Ok(Frame::Headers(b"a", false, false))),
            (1, 0x20, 1, b"\0\0\0\0", connection(Size)),
            (1, 0, 0, b"", connection(Protocol)),
            (2, 0, 1, b"\0\0\0\0\0", Ok(Frame::Nothing)),
            (2, 0, 1, b"\0\0\0\0", Err(Fault::Stream(Size))),
            (2, 0, 0, b"\0\0\0\0\0", connection(Protocol)),
            (3, 0, 1, b"\0\0\0\x08", Ok(Frame::Reset)),
            (3, 0, 1, b"\0\0\0", connection(Size)),
            (3, 0, 0, b"\0\0\0\x08", connection(Protocol)),
            (4, 1, 0, b"", Ok(Frame::SettingsHeard)),
            (4, 1, 0, b"\0\0\0\0\0\0", connection(Size)),
            (4, 0, 0, b"\0\0\0\0\0", connection(Size)),
            (4, 0, 1, b"", connection(Protocol)),
            (5, 4, 1, b"\0\0\0\x02", connection(Protocol)),
            (6, 0, 0, b"12345678", Ok(Frame::Ping(b"12345678"))),
            (6, 1, 0, b"12345678", Ok(Frame::Pong(b"12345678"))),
            (6, 0, 0, b"1234567", connection(Size)),
            (6, 0, 1, b"12345678", connection(Protocol)),
            (7, 0, 0, b"\0\0\0\0\0\0\0\0why", Ok(Frame::Nothing)),
            (7, 0, 0, b"\0\0\0\0\0\0\0", connection(Size)),
            (7, 0, 1, b"\0\0\0\0\0\0\0\0", connection(Protocol)),
            (8, 0, 0, b"\x80\0\0\x01", Ok(Frame::Window(1))),
            (8, 0, 1, b"\x7f\xff\xff\xff", Ok(Frame::Window((1 << 31) - 1))),
            (8, 0, 0, b"\0\0\0\0", connection(Protocol)),
            (8, 0, 1, b"\0\0\0\0", Err(Fault::Stream(Protocol))),
            (8, 0, 1, b"\0\0\0", connection(Size)),
            (9, 4, 1, b"ab", Ok(Frame::Continuation(b"ab", true))),
            (9, 4, 0, b"", connection(Protocol)),
            (77, 0xff, 0, b"whatever", Ok(Frame::Nothing)),
            (77, 0, 1, b"", Ok(Frame::Nothing)),
        ] {
            assert_eq!(take(kind, flags, stream, payload), wanted, "{kind} {flags} {stream} {payload:?}");
        }
        assert_eq!(Head::read(&[0; 8]), None);
    }

    #[test]
    fn settings_are_within_their_bounds() {
        let one = |id: u16, value: u32| {
            let bytes = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
            settings(&bytes).next()
        };
        assert_eq!(one(1, 7), Some(Ok(Setting::Table(7))));
        assert_eq!((one(2, 1), one(2, 2)), (None, Some(Err(Code::ProtocolError))));
        assert_eq!(one(4, (1 << 31) - 1), Some(Ok(Setting::Window((1 << 31) - 1))));
        assert_eq!(one(4, 1 << 31), Some(Err(Code::FlowControlError)));
        assert_eq!(one(5, 16_383), Some(Err(Code::ProtocolError)));
        assert_eq!(one(5, 16_384), Some(Ok(Setting::Largest(16_384))));
        assert_eq!(one(5, 1 << 24), Some(Err(Code::ProtocolError)));
        assert_eq!((one(3, 9), one(6, 9), one(0x7777, 7)), (None, None, None));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        reset(&mut out, 3, Code::RefusedStream);
        go_away(&mut out, LAST, Code::EnhanceYourCalm);
        window(&mut out, 0, 9);
        hello(&mut out, 128, 40_000);
        heard(&mut out);
        ping(&mut out, true, b"12345678");
        let mut kinds = Vec::new();
        let mut rest = &out[..];
        while let Some(head) = Head::read(rest) {
            let (frame, behind) = rest[HEAD..].split_at(head.length);
            assert!(head.take(frame).is_ok(), "{head:?}");
            kinds.push(head.kind);
            rest = behind;
        }
        use Kind::{GoAway, Ping, RstStream, Settings, WindowUpdate};
        assert_eq!(kinds, [RstStream, GoAway, WindowUpdate, Settings, Settings, Ping]);
        assert!(rest.is_empty());
    }
}
