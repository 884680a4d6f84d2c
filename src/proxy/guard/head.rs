//! The raw head, byte by byte.
//!
//! Every parser behind us forgives something (a bare LF, a repeated length), and no two forgive the same;
//! what they could disagree on must not reach them.

use super::Refusal;
use crate::proxy::h1::{
    Framing,
    fields::{is_forbidden, is_token},
    framing, scan,
};

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, the empty line included.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// Whether a head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Read on.
    More,
    /// It ends before this offset.
    Complete(usize),
}

/// Looks for the end of the head. `from` is how much of `bytes` was scanned before without finding it.
pub fn scan(bytes: &[u8], from: usize, limits: HeadLimits) -> Result<Scan, Refusal> {
    match scan::end_of_head(bytes, from, limits.bytes) {
        Ok(Some(end)) => Ok(Scan::Complete(end)),
        Ok(None) => Ok(Scan::More),
        Err(scan::Fault::TooLong) => Err(Refusal::HeadTooLong),
        Err(scan::Fault::BareLineEnd) => Err(Refusal::BareLineEnd),
    }
}

/// Checks a complete head, the empty line included, and says how what follows it is framed: not at all, by a length,
/// or in chunks.
pub fn check(head: &[u8], limits: HeadLimits) -> Result<Framing, Refusal> {
    let head = head.strip_suffix(b"\r\n\r\n").ok_or(Refusal::BadRequestLine)?;
    let mut lines = Lines(Some(head));
    let line = lines.next().ok_or(Refusal::BadRequestLine)??;
    let RequestLine { authority, old } = request_line(line)?;
    let mut fields = Fields::default();
    for (count, line) in lines.enumerate() {
        if count >= limits.fields {
            return Err(Refusal::TooManyHeaders);
        }
        fields.add(line?)?;
    }
    fields.check(old, authority)
}

/// Lines between CR LF; a CR or LF on its own is an error.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0?;
        let Some(at) = memchr::memchr2(b'\r', b'\n', rest) else {
            self.0 = None;
            return Some(Ok(rest));
        };
        let (line, end) = rest.split_at(at);
        let Some(rest) = end.strip_prefix(b"\r\n") else {
            self.0 = None;
            return Some(Err(Refusal::BareLineEnd));
        };
        self.0 = Some(rest);
        Some(Ok(line))
    }
}

struct RequestLine<'a> {
    /// Of an absolute-form target.
    authority: Option<&'a [u8]>,
    /// HTTP/1.0.
    old: bool,
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    if line.iter().any(|b| *b < 0x20 || *b == 0x7f) {
        return Err(Refusal::ForbiddenByte);
    }
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::BadRequestLine);
    };
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        other if other.starts_with(b"HTTP/") => return Err(Refusal::BadVersion),
        _ => return Err(Refusal::BadRequestLine),
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(Refusal::BadRequestLine);
    }
    if method == b"CONNECT" {
        return Err(Refusal::Connect);
    }
    if target.contains(&b'#') {
        return Err(Refusal::AmbiguousPath("it has a fragment"));
    }
    let (authority, rest) = match target {
        [b'/', ..] => (None, target),
        b"*" if method == b"OPTIONS" => (None, target),
        _ => {
            let (authority, rest) = absolute(target).ok_or(Refusal::BadRequestLine)?;
            if authority.is_empty() {
                return Err(Refusal::BadHost);
            }
            (Some(authority), rest)
        }
    };
    // Parsers behind us encode such bytes, refuse them or let them by, each in its own way.
    if !is_plain(rest) || authority.is_some_and(|authority| !is_authority(authority)) {
        return Err(Refusal::AmbiguousPath("it has bytes that must be percent-encoded"));
    }
    Ok(RequestLine { authority, old })
}

/// Authority, and path with query, of a target in absolute form.
pub fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = after(b"http://").or_else(|| after(b"https://"))?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// Whether every parser takes these bytes of a path or query for themselves. Bytes beyond ASCII must be UTF-8; in a
/// path they are refused later, in a query they travel as they are.
fn is_plain(target: &[u8]) -> bool {
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at..]),
        None => (target, &[][..]),
    };
    let in_path = |b: &u8| matches!(b, 0x21 | b'"' | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7a | b'{' | 0x7c | b'}' | 0x7e | 0x80..);
    let in_query = |b: &u8| matches!(b, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e | 0x80..);
    path.iter().all(in_path)
        && query.iter().all(in_query)
        && (target.is_ascii() || std::str::from_utf8(target).is_ok())
}

fn is_authority(authority: &[u8]) -> bool {
    http::uri::Authority::try_from(authority).is_ok()
}

/// What the fields say about framing and host.
#[derive(Default)]
struct Fields<'a> {
    hosts: usize,
    host: &'a [u8],
    lengths: usize,
    length: Option<u64>,
    codings: usize,
    chunked: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::Folded);
        }
        let colon = memchr::memchr(b':', line).ok_or(Refusal::BadHeaderName)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(Refusal::BadHeaderName);
        }
        if value.iter().any(|b| is_forbidden(*b)) {
            return Err(Refusal::ForbiddenByte);
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            (self.hosts, self.host) = (self.hosts + 1, value);
        } else if name.eq_ignore_ascii_case(b"content-length") {
            (self.lengths, self.length) = (self.lengths + 1, framing::length(value));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            (self.codings, self.chunked) = (self.codings + 1, value.eq_ignore_ascii_case(b"chunked"));
        }
        Ok(())
    }

    fn check(&self, old: bool, authority: Option<&[u8]>) -> Result<Framing, Refusal> {
        if self.hosts == 0 && !old {
            return Err(Refusal::NoHost);
        }
        if self.hosts > 1 || !is_host(self.host) {
            return Err(Refusal::BadHost);
        }
        // Byte by byte: clients write both from one URL, and another spelling of a host is another to some parser.
        if let Some(authority) = authority
            && self.hosts == 1
            && authority != self.host
        {
            return Err(Refusal::OtherHost);
        }
        match (self.lengths, self.codings) {
            (0, 0) => Ok(Framing::None),
            (1.., 1..) => Err(Refusal::BothLengths),
            (1, 0) => self.length.map(Framing::Length).ok_or(Refusal::BadLength),
            (_, 0) => Err(Refusal::BadLength),
            (0, 1) if self.chunked && !old => Ok(Framing::Chunked),
            (0, _) => Err(Refusal::BadCoding),
        }
    }
}

/// Whether it is empty, as RFC 9112 §3.2 allows, or one host and perhaps a port.
fn is_host(value: &[u8]) -> bool {
    // A name or an address of IPv4, perhaps with a port: most are.
    let (name, port) = match memchr::memchr(b':', value) {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &[][..]),
    };
    let usual = !name.is_empty() || value.is_empty();
    if usual
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && port.len() <= 4
        && port.iter().all(u8::is_ascii_digit)
    {
        return true;
    }
    value.iter().all(|b| host_byte(*b))
        && http::uri::Authority::try_from(value)
            .is_ok_and(|parsed| !parsed.host().is_empty() && port_fits(&parsed))
}

/// Behind a colon there are digits, or nothing.
fn port_fits(authority: &http::uri::Authority) -> bool {
    let rest = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let digits = rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    rest.is_empty() || rest == ":" || (digits && authority.port_u16().is_some())
}

/// RFC 3986 `host [":" port]`, no user part.
fn host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8 };

    fn of(lines: &str) -> Result<Framing, Refusal> {
        let head = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
        check(head.as_bytes(), LIMITS)
    }

    #[test]
    fn ordinary_heads_pass() {
        for good in [
            "GET / HTTP/1.1\nHost: a",
            "GET /x?y=z HTTP/1.0",
            "POST /api/v1/vm HTTP/1.1\nHost: a:8090\nContent-Length: 12",
            "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\nhost:\ta \nTransfer-Encoding: Chunked",
            "GET http://a:80/x HTTP/1.1\nHost: a:80",
            "OPTIONS * HTTP/1.1\nHost: a",
            "GET / HTTP/1.1\nHost: [::1]:80\nX-Empty:",
            "GET /?q=\u{fc} HTTP/1.1\nHost: a",
        ] {
            assert!(of(good).is_ok(), "{good}: {:?}", of(good));
        }
    }

    #[test]
    fn what_follows_is_what_the_head_says() {
        assert_eq!(of("GET / HTTP/1.1\nHost: a"), Ok(Framing::None));
        assert_eq!(of("PUT / HTTP/1.1\nHost: a\nContent-Length: 12"), Ok(Framing::Length(12)));
        assert_eq!(of("PUT / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked"), Ok(Framing::Chunked));
    }

    #[test]
    fn each_ambiguity_has_its_own_refusal() {
        use Refusal as R;
        for (bad, why) in [
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 1\nTransfer-Encoding: chunked", R::BothLengths),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 1", R::BadLength),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 1, 1", R::BadLength),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: +1", R::BadLength),
            ("GET / HTTP/1.1\nHost: a\nContent-Length:", R::BadLength),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999", R::BadLength),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", R::BadCoding),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, chunked", R::BadCoding),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", R::BadCoding),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked", R::BadCoding),
            ("GET / HTTP/1.0\nTransfer-Encoding: chunked", R::BadCoding),
            ("GET / HTTP/1.1", R::NoHost),
            ("GET / HTTP/1.1\nHost: a\nHost: a", R::BadHost),
            ("GET / HTTP/1.1\nHost: a/b", R::BadHost),
            ("GET / HTTP/1.1\nHost: u@a", R::BadHost),
            ("GET / HTTP/1.1\nHost: a:b", R::BadHost),
            ("GET / HTTP/1.1\nHost: a:1:2", R::BadHost),
            ("GET / HTTP/1.1\nHost: a:99999", R::BadHost),
            ("GET / HTTP/1.1\nHost: a:+80", R::BadHost),
            ("GET / HTTP/1.1\nHost: [::1", R::BadHost),
            ("GET http:///x HTTP/1.1\nHost:", R::BadHost),
            ("GET http://b/ HTTP/1.1\nHost: a", R::OtherHost),
            ("GET http://A/ HTTP/1.1\nHost: a", R::OtherHost),
            ("GET http://a:80/ HTTP/1.1\nHost: a", R::OtherHost),
            ("GET http://u@a/ HTTP/1.1\nHost: a", R::OtherHost),
            ("GET / HTTP/2.0\nHost: a", R::BadVersion),
            ("GET / http/1.1\nHost: a", R::BadRequestLine),
            ("GET /", R::BadRequestLine),
            ("GET  / HTTP/1.1\nHost: a", R::BadRequestLine),
            ("G(T / HTTP/1.1\nHost: a", R::BadRequestLine),
            ("GET x HTTP/1.1\nHost: a", R::BadRequestLine),
            ("GET * HTTP/1.1\nHost: a", R::BadRequestLine),
            ("GET ftp://a/ HTTP/1.1\nHost: a", R::BadRequestLine),
            ("CONNECT a:80 HTTP/1.1\nHost: a", R::Connect),
            ("GET / HTTP/1.1\nHost: a\n folded", R::Folded),
            ("GET / HTTP/1.1\nHost: a\nBad Name: x", R::BadHeaderName),
            ("GET / HTTP/1.1\nHost : a", R::BadHeaderName),
            ("GET / HTTP/1.1\nHost: a\nnocolon", R::BadHeaderName),
            ("GET / HTTP/1.1\nHost: a\n: x", R::BadHeaderName),
            ("GET / HTTP/1.1\nHost: a\nX: \u{0}", R::ForbiddenByte),
            ("GET /\u{1} HTTP/1.1\nHost: a", R::ForbiddenByte),
            ("GET / HTTP/1.1\nHost: a\nX: b\rc", R::BareLineEnd),
            ("GET /<x> HTTP/1.1\nHost: a", R::AmbiguousPath("it has bytes that must be percent-encoded")),
            ("GET /#x HTTP/1.1\nHost: a", R::AmbiguousPath("it has a fragment")),
            ("GET / HTTP/1.1\nHost: a\na:\na:\na:\na:\na:\na:\na:\na:", R::TooManyHeaders),
        ] {
            assert_eq!(of(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_as_soon_as_it_is_seen() {
        assert_eq!(scan(b"GET / HTTP/1.1\n", 0, LIMITS), Err(Refusal::BareLineEnd));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\n\n", 0, LIMITS), Err(Refusal::BareLineEnd));
    }

    #[test]
    fn a_head_that_never_ends_is_refused_at_its_limit() {
        assert_eq!(scan(&[b'a'; 1024], 0, LIMITS), Ok(Scan::More));
        assert_eq!(scan(&[b'a'; 1025], 1024, LIMITS), Err(Refusal::HeadTooLong));
    }

    proptest! {
        #[test]
        fn the_end_is_found_however_the_bytes_arrive(cut in 0usize..40) {
            let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
            let cut = cut.min(bytes.len());
            let end = 27;
            match scan(&bytes[..cut], 0, LIMITS).unwrap() {
                Scan::Complete(at) => prop_assert!(at == end && cut >= end),
                Scan::More => prop_assert_eq!(scan(bytes, cut, LIMITS), Ok(Scan::Complete(end))),
            }
        }

        #[test]
        fn a_target_is_plain_where_the_uri_parser_says_so(target in "/[ -~]{0,20}|/\\PC{0,10}\\?\\PC{0,10}") {
            // It has no word for what comes behind a fragment, and lets it by.
            prop_assume!(!target.contains('#'));
            prop_assert_eq!(is_plain(target.as_bytes()), http::Uri::try_from(target.as_str()).is_ok(), "{}", target);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            scan(&bytes, 0, LIMITS).ok();
            check(&bytes, LIMITS).ok();
            let mut whole = b"GET / HTTP/1.1\r\n".to_vec();
            whole.extend_from_slice(&bytes);
            whole.extend_from_slice(b"\r\n\r\n");
            check(&whole, LIMITS).ok();
        }
    }
}
