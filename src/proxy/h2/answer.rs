//! The head of an answer, taken from the text of HTTP/1.1 that the steps and the engine write.

use smallvec::SmallVec;

use super::{
    frame::{self, END_HEADERS, END_STREAM, HEAD, Kind},
    hpack::Writer,
};
use crate::proxy::h1::{
    Framing,
    fields::{is_forbidden, is_token},
    framing,
};

/// Names and values that are on the stack; more are not.
type Lines<'a> = SmallVec<[(&'a [u8], &'a [u8]); 32]>;

/// A name that is longer is put into lower case elsewhere.
const NAME: usize = 64;

/// What was to be written is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled;

/// What of an answer's head its stream has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Another one follows.
    pub interim: bool,
    /// How its body goes; [`Framing::UntilClose`]: until the stream is ended.
    pub body: Framing,
}

/// Whose head it is, and what may be sent to them.
#[derive(Debug, Clone, Copy)]
pub struct To {
    /// The stream.
    pub stream: u32,
    /// Its request is a `HEAD`.
    pub bodiless: bool,
    /// The largest payload.
    pub largest: usize,
}

/// Writes the frames of a whole head, the empty line included.
pub fn head(text: &[u8], to: To, writer: &mut Writer, out: &mut Vec<u8>) -> Result<Told, Garbled> {
    let (line, fields) = split(text).ok_or(Garbled)?;
    let digits = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).ok_or(Garbled)?;
    let status = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Garbled)?;
    let mut lined = Lines::new();
    lines(fields, &mut lined)?;
    // All of it is known before the writer's table changes.
    let told = told(status, to.bodiless, &lined)?;
    let ends = !told.interim && matches!(told.body, Framing::None | Framing::Length(0));
    block(to, ends, out, |out| {
        writer.begin(out);
        writer.status(status, out);
        for (name, value) in &lined {
            write(writer, name, value, out);
        }
    });
    Ok(told)
}

/// Writes the frames of trailers, whole lines of which nothing is known.
pub fn trailers(text: &[u8], to: To, writer: &mut Writer, out: &mut Vec<u8>) -> Result<(), Garbled> {
    let mut fields = Lines::new();
    lines(text, &mut fields)?;
    let fit = |(name, value): &(&[u8], &[u8])| {
        !name.is_empty()
            && name.iter().all(|byte| is_token(*byte))
            && !value.iter().any(|byte| is_forbidden(*byte))
    };
    if !fields.iter().all(fit) {
        return Err(Garbled);
    }
    block(to, true, out, |out| {
        writer.begin(out);
        for (name, value) in &fields {
            write(writer, name, value, out);
        }
    });
    Ok(())
}

fn told(status: u16, bodiless: bool, fields: &Lines<'_>) -> Result<Told, Garbled> {
    let mut length = None;
    for (name, value) in fields {
        if name.eq_ignore_ascii_case(b"content-length") {
            let read = framing::length(value).ok_or(Garbled)?;
            if length.replace(read).is_some() {
                return Err(Garbled);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Garbled);
        }
    }
    let body = match status {
        101 => return Err(Garbled),
        100..=199 | 204 | 304 => Framing::None,
        200..=599 if bodiless => Framing::None,
        200..=599 => length.map_or(Framing::UntilClose, Framing::Length),
        _ => return Err(Garbled),
    };
    Ok(Told { interim: status < 200, body })
}

/// Writes one block as frames of a size that may be.
fn block(to: To, ends: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let length = out.len() - begin - HEAD;
    let end = if ends { END_STREAM } else { 0 };
    if length <= to.largest {
        set(out, begin, &frame::head(Kind::Headers, end | END_HEADERS, to.stream, length));
        return;
    }
    let whole = out.split_off(begin + HEAD);
    let mut pieces = whole.chunks(to.largest.max(1)).peekable();
    if let Some(first) = pieces.next() {
        set(out, begin, &frame::head(Kind::Headers, end, to.stream, first.len()));
        out.extend_from_slice(first);
    }
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        frame::write(out, Kind::Continuation, last, to.stream, piece);
    }
}

fn set(out: &mut [u8], at: usize, head: &[u8; HEAD]) {
    if let Some(place) = out.get_mut(at..at + HEAD) {
        place.copy_from_slice(head);
    }
}

/// RFC 9113 §8.2: names are in lower case; and what concerns one connection is no field of HTTP/2.
fn write(writer: &mut Writer, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if !name.iter().any(u8::is_ascii_uppercase) {
        if name != b"connection" {
            writer.field(name, value, out);
        }
        return;
    }
    let mut room = [0; NAME];
    let mut long = Vec::new();
    let lower = match room.get_mut(..name.len()) {
        Some(room) => {
            room.copy_from_slice(name);
            room
        }
        None => {
            long.extend_from_slice(name);
            &mut long[..]
        }
    };
    lower.make_ascii_lowercase();
    if lower != b"connection" {
        writer.field(lower, value, out);
    }
}

/// The line before the first end of one, and what is behind it.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'\n', text)?;
    let line = text.get(..at)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), text.get(at + 1..)?))
}

/// Filled where they are, for they are large.
fn lines<'a>(mut text: &'a [u8], out: &mut Lines<'a>) -> Result<(), Garbled> {
    while let Some((line, rest)) = split(text) {
        text = rest;
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or(Garbled)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Garbled)?;
        out.push((name, value.get(1..).unwrap_or_default().trim_ascii()));
    }
    // What is left has no end.
    if text.is_empty() { Ok(()) } else { Err(Garbled) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::h2::{frame::Frame, hpack::Reader};

    const TO: To = To { stream: 7, bodiless: false, largest: 16_384 };

    /// What a client reads of these frames.
    fn read(reader: &mut Reader, bytes: &[u8], most: usize) -> (bool, Vec<(String, String)>) {
        let (mut rest, mut block, mut ends) = (bytes, Vec::new(), false);
        while let Some(head) = frame::Head::read(rest) {
            assert!(head.length <= most && head.stream == 7);
            let (payload, behind) = rest[HEAD..].split_at(head.length);
            rest = behind;
            match head.take(payload).unwrap() {
                Frame::Headers(piece, end, whole) => {
                    assert!(block.is_empty());
                    ends = end;
                    block.extend_from_slice(piece);
                    assert_eq!(whole, rest.is_empty());
                }
                Frame::Continuation(piece, whole) => {
                    block.extend_from_slice(piece);
                    assert_eq!(whole, rest.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        reader.read(&block, |name, value, _| fields.push((text(name), text(value)))).unwrap();
        (ends, fields)
    }

    fn told(lines: &str, bodiless: bool) -> Result<Told, Garbled> {
        let text = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
        head(text.as_bytes(), To { bodiless, ..TO }, &mut Writer::default(), &mut Vec::new())
    }

    #[test]
    fn the_body_goes_as_the_head_says() {
        for (lines, bodiless, body) in [
            ("HTTP/1.1 200 OK\ncontent-length: 5", false, Framing::Length(5)),
            ("HTTP/1.1 200 OK\ncontent-length: 5", true, Framing::None),
            ("HTTP/1.1 200 OK\nconnection: close", false, Framing::UntilClose),
            ("HTTP/1.1 204 No Content", false, Framing::None),
            ("HTTP/1.1 304 Not Modified\nContent-Length: 5", false, Framing::None),
            ("HTTP/1.1 103 Early Hints\nlink: </x>", false, Framing::None),
        ] {
            let interim = lines.contains("103");
            assert_eq!(told(lines, bodiless), Ok(Told { interim, body }), "{lines}");
        }
        for bad in [
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\ncontent-length: 1\ncontent-length: 1",
            "HTTP/1.1 200 OK\ncontent-length: x",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1 999 Odd",
            "HTTP/1.1 200 OK\nno colon",
            "nonsense",
        ] {
            assert_eq!(told(bad, false), Err(Garbled), "{bad}");
        }
    }

    #[test]
    fn nothing_of_the_connection_is_a_field_and_names_are_in_lower_case() {
        let long = "X-".repeat(50);
        let text = format!(
            "HTTP/1.1 200 OK\r\nX-One: 1\r\nConnection: close\r\nx-one:  2 \r\n{long}: 3\r\nContent-Length: 0\r\n\r\n"
        );
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for _ in 0..3 {
            let mut out = Vec::new();
            head(text.as_bytes(), TO, &mut writer, &mut out).unwrap();
            let (ends, fields) = read(&mut reader, &out, 16_384);
            let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            assert!(ends);
            assert_eq!(
                fields,
                [
                    field(":status", "200"),
                    field("x-one", "1"),
                    field("x-one", "2"),
                    field(&long.to_lowercase(), "3"),
                    field("content-length", "0"),
                ]
            );
        }
    }

    #[test]
    fn a_block_that_is_too_long_for_a_frame_goes_on_in_others() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for length in [10, 16_000, 16_384, 20_000, 60_000] {
            let value = "y".repeat(length);
            let text = format!("HTTP/1.1 200 OK\r\nx: {value}\r\n\r\n");
            let mut out = Vec::new();
            head(text.as_bytes(), TO, &mut writer, &mut out).unwrap();
            let (ends, fields) = read(&mut reader, &out, 16_384);
            assert!(!ends && fields[1].1 == value);
        }
    }

    #[test]
    fn trailers_are_read_line_by_line_and_nothing_else_passes() {
        let mut out = Vec::new();
        let mut writer = Writer::default();
        trailers(b"A: 1\r\nB:  2 \r\n", TO, &mut writer, &mut out).unwrap();
        let (ends, fields) = read(&mut Reader::default(), &out, 16_384);
        assert!(ends);
        assert_eq!(fields, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        for bad in [&b"no colon\r\n"[..], b": 1\r\n", b"a b: 1\r\n", b"a: \0\r\n", b"a: 1"] {
            let before = out.len();
            assert_eq!(trailers(bad, TO, &mut writer, &mut out), Err(Garbled));
            assert_eq!(out.len(), before);
        }
    }
}
