//! The head of an answer.

use std::mem::MaybeUninit;

use super::{fields::Fields, scan};

/// Bytes of an upstream's head at most. A longer one is no answer.
pub const BYTES: usize = 64 * 1024;

/// Fields of an upstream's head at most.
pub const FIELDS: usize = 256;

/// What came is no answer of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled;

/// The line and fields of an answer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// Its words, as they came.
    pub reason: &'a str,
    /// It is of HTTP/1.0.
    pub old: bool,
    /// Its fields.
    pub fields: Fields<'a>,
}

/// The offset behind the head; `None`: read on. `from` is what was scanned before.
pub fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, Garbled> {
    // What cannot become an answer is not waited for.
    let begins = bytes.iter().zip(b"HTTP/1.").all(|(given, wanted)| given == wanted);
    if !begins {
        return Err(Garbled);
    }
    scan::end_of_head(bytes, from, BYTES).map_err(|_| Garbled)
}

/// Whether a head may be that of an interim answer: its status begins with a 1. Any other needs no parsing to know that.
pub fn may_be_interim(head: &[u8]) -> bool {
    head.get(b"HTTP/1.1 ".len()) == Some(&b'1')
}

/// Parses a whole head, the empty line included.
///
/// Only of bytes whose end [`end`] has found: it refuses line ends that the parser would forgive.
pub fn parse<'a>(
    head: &'a [u8],
    room: &'a mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Answer<'a>, Garbled> {
    let whole = head.len();
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let ended = parser.parse_response_with_uninit_headers(&mut parsed, head, room).map_err(|_| Garbled)?;
    if ended != httparse::Status::Complete(whole) {
        return Err(Garbled);
    }
    // The parser has checked every byte of names and values. It takes an LF alone for the end of a line, but `end` has
    // seen to that.
    let (Some(version), Some(status), Some(reason)) = (parsed.version, parsed.code, parsed.reason) else {
        return Err(Garbled);
    };
    if !(100..=599).contains(&status) {
        return Err(Garbled);
    }
    Ok(Answer { status, reason, old: version == 0, fields: Fields::new(parsed.headers) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Result<(u16, usize), Garbled> {
        let head = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let at = end(head.as_bytes(), 0)?.ok_or(Garbled)?;
        let mut room = [const { MaybeUninit::uninit() }; 8];
        let answer = parse(&head.as_bytes()[..at], &mut room)?;
        Ok((answer.status, answer.fields.iter().count()))
    }

    #[test]
    fn heads_of_http_1_pass_and_nothing_else_does() {
        assert_eq!(of("HTTP/1.1 200 OK\nA: b\nC:"), Ok((200, 2)));
        assert_eq!(of("HTTP/1.0 404 Not Found"), Ok((404, 0)));
        assert_eq!(of("HTTP/1.1 204 "), Ok((204, 0)));
        for bad in [
            "HTTP/2.0 200 OK",
            "nonsense",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 999 Odd",
            "HTTP/1.1 200 OK\nA b: c",
            "HTTP/1.1 200 OK\nA : c",
            "HTTP/1.1 200 OK\nA: c\n folded",
            "HTTP/1.1 200 OK\nA: c\u{0}",
            "HTTP/1.1 200 OK\nA: c\rd",
            "HTTP/1.1 200 OK\na:\na:\na:\na:\na:\na:\na:\na:\na:",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(may_be_interim(b"HTTP/1.1 100 Continue\r\n\r\n") && may_be_interim(b"HTTP/1.0 103 \r\n\r\n"));
        assert!(!may_be_interim(b"HTTP/1.1 200 OK\r\n\r\n") && !may_be_interim(b"HTTP/1.1"));
        assert_eq!(of("HTTP/1.1  100 Continue"), Err(Garbled), "nothing else is one");
        assert_eq!(end(b"HTTP/1.1 200 OK\n\n", 0), Err(Garbled));
        assert_eq!(end(b"HTT", 0), Ok(None));
        assert_eq!(end(b"SSH-2.0", 0), Err(Garbled));
        assert_eq!(end(&[b"HTTP/1.1 200 ", &[b'x'; BYTES][..]].concat(), 0), Err(Garbled));
    }
}
