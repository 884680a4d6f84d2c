//! The head of an answer, taken from the text of HTTP/1.1 that the steps and the engine write.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    proxy::h1::{
        Fields, Framing,
        answer::{self, Garbled},
        framing,
    },
    wire::headers,
};

/// Fields of an answer at most: those of an upstream, and what is added here.
const FIELDS: usize = answer::FIELDS + 16;

/// An answer's head, and how its body goes.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    /// [`Framing::UntilClose`]: until the stream is ended.
    pub(super) body: Framing,
}

/// Reads a whole head, the empty line included. `bodiless`: the request was a `HEAD`.
pub(super) fn read(head: &[u8], bodiless: bool) -> Result<Head, Garbled> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let parsed = answer::parse(head, &mut room)?;
    let body = framing::of_answer(bodiless, parsed.status, false, &parsed.fields).map_err(|_| Garbled)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(parsed.status).map_err(|_| Garbled)?;
    *response.headers_mut() = fields(&parsed.fields)?;
    Ok(Head { response, body })
}

/// Reads trailers, whole lines.
pub(super) fn trailers(lines: &[u8]) -> Result<HeaderMap, Garbled> {
    let mut out = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or(Garbled)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        add(&mut out, name, value)?;
    }
    Ok(out)
}

/// RFC 9113 §8.2.2: what concerns one connection is no field of HTTP/2.
fn fields(given: &Fields<'_>) -> Result<HeaderMap, Garbled> {
    let mut out = HeaderMap::with_capacity(given.iter().count());
    for (name, value) in given.iter() {
        let of_connection = name.eq_ignore_ascii_case("connection");
        if !of_connection {
            add(&mut out, name.as_bytes(), value)?;
        }
    }
    Ok(out)
}

fn add(to: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), Garbled> {
    let name = HeaderName::from_bytes(name).map_err(|_| Garbled)?;
    let mut value = HeaderValue::from_bytes(value).map_err(|_| Garbled)?;
    // RFC 7541 §7.1.3: a secret in the table could be guessed at. And an id that never comes again would only push out
    // of it what does.
    value.set_sensitive(name == header::SET_COOKIE || name == headers::REQUEST_ID);
    to.try_append(name, value).map_err(|_| Garbled)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str, bodiless: bool) -> Result<Head, Garbled> {
        read(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes(), bodiless)
    }

    #[test]
    fn the_body_goes_as_the_head_says() {
        for (lines, bodiless, body) in [
            ("HTTP/1.1 200 OK\ncontent-length: 5", false, Framing::Length(5)),
            ("HTTP/1.1 200 OK\ncontent-length: 5", true, Framing::None),
            ("HTTP/1.1 200 OK\nconnection: close", false, Framing::UntilClose),
            ("HTTP/1.1 204 No Content", false, Framing::None),
            ("HTTP/1.1 304 Not Modified\ncontent-length: 5", false, Framing::None),
            ("HTTP/1.1 103 Early Hints\nlink: </x>", false, Framing::None),
        ] {
            assert_eq!(of(lines, bodiless).unwrap().body, body, "{lines}");
        }
    }

    #[test]
    fn nothing_of_the_connection_is_a_field_and_names_are_in_lower_case() {
        let head =
            of("HTTP/1.1 200 OK\nX-One: 1\nConnection: close\nx-one: 2\nContent-Length: 0", false).unwrap();
        let fields: Vec<_> =
            head.response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x-one", &b"1"[..]), ("x-one", b"2"), ("content-length", b"0")]);
    }

    #[test]
    fn trailers_are_read_line_by_line() {
        let trailers = trailers(b"a: 1\r\nB:  2 \r\n").unwrap();
        assert_eq!((trailers["a"].as_bytes(), trailers["b"].as_bytes()), (&b"1"[..], &b"2"[..]));
        assert!(super::trailers(b"no colon\r\n").is_err());
    }
}
