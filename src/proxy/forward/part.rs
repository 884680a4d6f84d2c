//! The rest of a blob whose answer broke off: what to ask another registry for, and whether what it answers is that.
//!
//! A blob is named by its digest, so its bytes are the same everywhere; nothing else is ever continued.

use std::io::Write;

use ::http::Method;

use crate::proxy::{
    classify::{Needs, Pace, Route},
    h1::{Fields, Framing, fields::text, framing::length},
};

/// Which bytes of a blob an answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The first.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// Of the whole blob.
    pub total: u64,
    digest: String,
}

/// What an answer to the question for the rest is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It is the rest.
    Fits,
    /// It is the whole blob: so many bytes of it are to be passed over.
    Skip(u64),
    /// It is something else.
    No,
}

/// The part that an answer carries, if it is one that can be continued: of a route that names a digest, and of known
/// length.
pub fn part(
    route: Route,
    method: &Method,
    path: &str,
    status: u16,
    framing: Framing,
    fields: &Fields<'_>,
) -> Option<Part> {
    let blob = route.needs == Needs::Blob && route.pace == Pace::Bulk && *method == Method::GET;
    if !blob {
        return None;
    }
    let digest = path.rsplit('/').next().filter(|name| name.contains(':'))?;
    let Framing::Length(length) = framing else { return None };
    if fields.has("content-encoding") || !is_of(digest, fields) {
        return None;
    }
    let (start, end, total) = match status {
        200 => (0, length, length),
        206 => range(fields)?,
        _ => return None,
    };
    (end.checked_sub(start) == Some(length)).then(|| Part { start, end, total, digest: digest.to_owned() })
}

/// The head that asks for the rest: that of the first request, but for range, conditions and body.
pub fn head(first: &[u8], part: &Part, from: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(first.len() + 64);
    for whole in first.split_inclusive(|byte| *byte == b'\n') {
        let name = whole.split(|byte| *byte == b':').next().unwrap_or_default();
        let other = [
            &b"range"[..],
            b"if-range",
            b"if-match",
            b"if-none-match",
            b"if-modified-since",
            b"if-unmodified-since",
            // A body that came with the first question does not come with this one.
            b"content-length",
            b"transfer-encoding",
            b"expect",
        ];
        if !other.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            out.extend_from_slice(whole);
        }
    }
    // Writing to memory does not fail.
    drop(write!(out, "range: bytes={from}-{}\r\n", part.end.saturating_sub(1)));
    out
}

/// Whether an answer is the rest of `part` from `from` on.
pub fn rest(part: &Part, from: u64, status: u16, framing: Framing, fields: &Fields<'_>) -> Rest {
    if fields.has("content-encoding") || !is_of(&part.digest, fields) {
        return Rest::No;
    }
    match (status, framing) {
        (206, Framing::Length(left))
            if part.end.checked_sub(from) == Some(left)
                && range(fields) == Some((from, part.end, part.total)) =>
        {
            Rest::Fits
        }
        (200, Framing::Length(whole)) if whole == part.total => Rest::Skip(from),
        _ => Rest::No,
    }
}

/// Whether it is of this blob, as far as it says.
fn is_of(digest: &str, fields: &Fields<'_>) -> bool {
    fields.all("docker-content-digest").all(|given| given == digest.as_bytes())
}

/// RFC 9110 §14.4, one range of known total: first byte, behind the last one, total.
fn range(fields: &Fields<'_>) -> Option<(u64, u64, u64)> {
    let mut given = fields.all("content-range");
    let value = text(given.next()?)?;
    if given.next().is_some() {
        return None;
    }
    let (span, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, total) =
        (length(first.as_bytes())?, length(last.as_bytes())?, length(total.as_bytes())?);
    let end = last.checked_add(1)?;
    (first <= last && end <= total).then_some((first, end, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::proxy::Kind, proxy::classify};

    fn with<T>(lines: &[(&str, &str)], of: impl Fn(&Fields<'_>) -> T) -> T {
        let parsed: Vec<_> =
            lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        of(&Fields::new(&parsed))
    }

    fn of(line: &str, status: u16, length: u64, lines: &[(&str, &str)]) -> Option<(u64, u64, u64)> {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let route = classify::route(Kind::Registry, &method, path);
        with(lines, |fields| part(route, &method, path, status, Framing::Length(length), fields))
            .map(|part| (part.start, part.end, part.total))
    }

    const BLOB: &str = "GET /v2/a/blobs/sha256:12";

    #[test]
    fn only_blobs_by_their_digest_can_be_continued() {
        assert_eq!(of(BLOB, 200, 10, &[]), Some((0, 10, 10)));
        assert_eq!(of(BLOB, 206, 4, &[("Content-Range", "bytes 3-6/10")]), Some((3, 7, 10)));
        assert_eq!(of(BLOB, 200, 10, &[("docker-content-digest", "sha256:12")]), Some((0, 10, 10)));
        for (line, status, length, field) in [
            ("GET /v2/a/blobs/12", 200, 10, ("x", "")),
            ("HEAD /v2/a/blobs/sha256:12", 200, 10, ("x", "")),
            ("GET /v2/a/manifests/sha256:12", 200, 10, ("x", "")),
            ("GET /download/sha256:12", 200, 10, ("x", "")),
            (BLOB, 404, 10, ("x", "")),
            (BLOB, 206, 4, ("x", "")),
            (BLOB, 206, 5, ("content-range", "bytes 3-6/10")),
            (BLOB, 206, 4, ("content-range", "bytes 3-6/*")),
            (BLOB, 206, 4, ("content-range", "bytes 6-3/10")),
            (BLOB, 206, 4, ("content-range", "bytes 3-6/5")),
            (BLOB, 206, 4, ("content-range", "pages 3-6/10")),
            (BLOB, 200, 10, ("content-encoding", "gzip")),
            (BLOB, 200, 10, ("docker-content-digest", "sha256:34")),
        ] {
            assert_eq!(of(line, status, length, &[field]), None, "{line} {status} {field:?}");
        }
    }

    #[test]
    fn the_rest_is_taken_only_when_it_is_that() {
        let part = Part { start: 2, end: 10, total: 20, digest: "sha256:12".into() };
        let fits = |status, length, lines: &[(&str, &str)]| {
            with(lines, |fields| rest(&part, 5, status, Framing::Length(length), fields))
        };
        assert_eq!(fits(206, 5, &[("content-range", "bytes 5-9/20")]), Rest::Fits);
        assert_eq!(fits(200, 20, &[]), Rest::Skip(5));
        for (status, length, range) in [
            (206, 5, "bytes 4-8/20"),
            (206, 5, "bytes 5-9/21"),
            (206, 6, "bytes 5-10/20"),
            (206, 4, "bytes 5-9/20"),
            (206, 5, "bytes 5-9/*"),
            (200, 19, ""),
            (404, 5, ""),
            (416, 5, "bytes */20"),
        ] {
            assert_eq!(fits(status, length, &[("content-range", range)]), Rest::No, "{status} {range}");
        }
        let other = [("content-range", "bytes 5-9/20"), ("docker-content-digest", "sha256:34")];
        assert_eq!(fits(206, 5, &other), Rest::No);
        let coded = [("content-range", "bytes 5-9/20"), ("content-encoding", "gzip")];
        assert_eq!(fits(206, 5, &coded), Rest::No);
    }

    #[test]
    fn the_question_for_the_rest_has_one_range() {
        let part = Part { start: 2, end: 10, total: 20, digest: "sha256:12".into() };
        let first = b"GET /b HTTP/1.1\r\nhost: a\r\nRange: bytes=2-9\r\nIf-Range: \"x\"\r\ncontent-length: 5\r\naccept: */*\r\n";
        let wanted = "GET /b HTTP/1.1\r\nhost: a\r\naccept: */*\r\nrange: bytes=5-9\r\n";
        assert_eq!(String::from_utf8(head(first, &part, 5)).unwrap(), wanted);
    }
}
