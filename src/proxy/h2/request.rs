//! The head of a request, written as one of HTTP/1.1 while its fields are read: what the guard looks at, the steps decide
//! on and upstreams get is the same for both.
//!
//! What is malformed by RFC 9113 §8 is found here; what is left is for the guard.

use std::ops::Range;

use super::hpack::Kind;
use crate::proxy::{
    guard::{Refusal, head::HeadLimits},
    h1::{fields::is_token, framing},
};

/// Room that is kept between two heads at most.
const KEPT: usize = 1024;

/// Cookies may come in crumbs: so many fields may be one.
const CRUMBS: usize = 4;

/// Why a block of fields is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its stream is reset.
    Malformed,
    /// It is answered so.
    Refused(Refusal),
}

/// A head that is let by so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// `content-length`.
    pub length: Option<u64>,
    /// It is a `HEAD`.
    pub bodiless: bool,
}

/// Takes the fields of one head after the other.
#[derive(Debug, Default)]
pub struct Request {
    text: Vec<u8>,
    /// Pseudo-fields, one behind the other, until all of them are there.
    pseudo: Vec<u8>,
    method: Option<Range<usize>>,
    scheme: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    path: Option<Range<usize>>,
    cookies: Vec<u8>,
    length: Option<u64>,
    /// The request line is written.
    lined: bool,
    malformed: bool,
    refused: Option<Refusal>,
    most: usize,
    /// Fields that may still come. The guard counts them as HTTP/1.1 does, this one what it takes to read them.
    fields: usize,
}

impl Request {
    /// Forgets what was before.
    pub fn begin(&mut self, limits: HeadLimits) {
        for room in [&mut self.text, &mut self.pseudo, &mut self.cookies] {
            room.clear();
        }
        (self.method, self.scheme, self.authority, self.path) = (None, None, None, None);
        (self.length, self.lined, self.malformed, self.refused) = (None, false, false, None);
        self.most = limits.bytes;
        self.fields = limits.fields.saturating_mul(CRUMBS);
    }

    /// Gives back room: nothing is under way.
    pub fn rest(&mut self) {
        for room in [&mut self.text, &mut self.pseudo, &mut self.cookies] {
            if room.capacity() > KEPT {
                *room = Vec::new();
            }
        }
    }

    /// The next field.
    pub fn field(&mut self, name: &[u8], value: &[u8], kind: Kind) {
        let place = match kind {
            Kind::Method => &mut self.method,
            Kind::Scheme => &mut self.scheme,
            Kind::Authority => &mut self.authority,
            Kind::Path => &mut self.path,
            _ => return self.ordinary(name, value, kind),
        };
        // Behind other fields, or twice.
        self.malformed |= self.lined || place.is_some();
        let begin = self.pseudo.len();
        if begin + value.len() > self.most {
            *place = Some(begin..begin);
            return self.refuse(Refusal::HeadTooLong);
        }
        self.pseudo.extend_from_slice(value);
        *place = Some(begin..self.pseudo.len());
    }

    fn refuse(&mut self, why: Refusal) {
        self.refused.get_or_insert(why);
    }

    fn ordinary(&mut self, name: &[u8], value: &[u8], kind: Kind) {
        self.line();
        // Each may mean a long one in a table, for a byte.
        let Some(fields) = self.fields.checked_sub(1) else {
            self.malformed |= kind == Kind::Malformed;
            return self.refuse(Refusal::TooManyHeaders);
        };
        self.fields = fields;
        if self.text.len() + self.cookies.len() + name.len() + value.len() + 4 > self.most {
            // What is behind it is looked at, and not kept.
            self.refuse(Refusal::HeadTooLong);
            self.malformed |= kind == Kind::Malformed;
            return;
        }
        match kind {
            Kind::Malformed => self.malformed = true,
            Kind::Spaced => self.refuse(Refusal::ForbiddenByte),
            Kind::Cookie => {
                // RFC 9113 §8.2.3: a client may take them apart; HTTP/1.1 knows one field of them.
                self.cookies.extend_from_slice(if self.cookies.is_empty() { b"cookie: " } else { b"; " });
                self.cookies.extend_from_slice(value);
            }
            Kind::Host => match &self.authority {
                // RFC 9113 §8.3.1: it says the same, or the request is malformed.
                Some(of) if self.pseudo.get(of.clone()) != Some(value) => self.refuse(Refusal::OtherHost),
                Some(_) => {}
                None => self.add(name, value),
            },
            Kind::Length => {
                match (framing::length(value), self.length) {
                    (None, _) => self.malformed = true,
                    (length, Some(before)) => self.malformed |= length != Some(before),
                    (length, None) => self.length = length,
                }
                // Said twice it is the guard's.
                self.add(name, value);
            }
            _ => self.add(name, value),
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        add(&mut self.text, name, value);
    }

    /// Writes the request line and the host; the pseudo-fields are all there, or never will be.
    fn line(&mut self) {
        if std::mem::replace(&mut self.lined, true) {
            return;
        }
        if self.refused.is_some() {
            // One of them is too long, and not here.
            return;
        }
        let part = |of: &Option<Range<usize>>| of.clone().and_then(|of| self.pseudo.get(of));
        let (Some(method), authority) = (part(&self.method), part(&self.authority)) else {
            self.malformed = true;
            return;
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            self.malformed = true;
            return;
        }
        if method == b"CONNECT" {
            // RFC 9113 §8.5.
            let whole = self.scheme.is_none() && self.path.is_none() && authority.is_some();
            self.malformed |= !whole;
            return self.refuse(Refusal::Connect);
        }
        let (Some(scheme), Some(path)) = (part(&self.scheme), part(&self.path)) else {
            self.malformed = true;
            return;
        };
        let odd = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"+-.".contains(byte);
        if path.is_empty() || scheme.iter().any(odd) {
            self.malformed = true;
            return;
        }
        // §8.3.1: there is no absolute form. And what is no target would be read as something else on its line.
        let fits = matches!(scheme, b"http" | b"https")
            && matches!(path.first(), Some(b'/' | b'*'))
            && !path.iter().any(|byte| matches!(byte, b' ' | b'\t'));
        if fits {
            self.text.reserve(self.pseudo.len() + 512);
            for part in [method, b" ", path, b" HTTP/1.1\r\n"] {
                self.text.extend_from_slice(part);
            }
        }
        if let Some(authority) = authority {
            add(&mut self.text, b"host", authority);
        }
        if !fits {
            self.refuse(Refusal::BadRequestLine);
        }
    }

    /// The block is over: its head, with the empty line, is [`Request::text`]. `ended`: its stream is, too.
    pub fn end(&mut self, ended: bool) -> Result<Begun, Fault> {
        self.line();
        // A length is that of the data.
        if self.malformed || (ended && self.length.is_some_and(|length| length > 0)) {
            return Err(Fault::Malformed);
        }
        if !self.cookies.is_empty() {
            self.text.extend_from_slice(&self.cookies);
            self.text.extend_from_slice(b"\r\n");
        }
        self.text.extend_from_slice(b"\r\n");
        if let Some(why) = self.refused {
            return Err(Fault::Refused(why));
        }
        if self.text.len() > self.most {
            return Err(Fault::Refused(Refusal::HeadTooLong));
        }
        Ok(Begun { length: self.length, bodiless: self.is_bodiless() })
    }

    /// Whether it is a `HEAD`.
    pub fn is_bodiless(&self) -> bool {
        self.method.clone().and_then(|of| self.pseudo.get(of)) == Some(b"HEAD")
    }

    /// The head.
    pub fn text(&self) -> &[u8] {
        &self.text
    }
}

fn add(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        text.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::h2::hpack::{Reader, Writer};

    const LIMITS: HeadLimits = HeadLimits { bytes: 400, fields: 100 };

    fn of(fields: &[(&str, &str)], ended: bool) -> Result<String, Fault> {
        let (mut writer, mut block) = (Writer::default(), Vec::new());
        for (name, value) in fields {
            writer.field(name.as_bytes(), value.as_bytes(), &mut block);
        }
        let mut request = Request::default();
        // Nothing is left of one that was before.
        for _ in 0..2 {
            request.begin(LIMITS);
            Reader::default().read(&block, |name, value, kind| request.field(name, value, kind)).unwrap();
            request.end(ended).ok();
        }
        request.begin(LIMITS);
        Reader::default().read(&block, |name, value, kind| request.field(name, value, kind)).unwrap();
        request.end(ended)?;
        Ok(String::from_utf8(request.text().to_vec()).unwrap().replace("\r\n", "\n"))
    }

    fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Result<String, Fault> {
        let first = [(":method", method), (":scheme", "http"), (":authority", "a:80"), (":path", path)];
        of(&[&first, more].concat(), false)
    }

    const MALFORMED: Result<String, Fault> = Err(Fault::Malformed);

    fn refused(why: Refusal) -> Result<String, Fault> {
        Err(Fault::Refused(why))
    }

    #[test]
    fn a_head_is_that_of_http_1() {
        assert_eq!(
            head("PUT", "/x?y=z", &[("content-length", "3"), ("x-a", "1"), ("te", "trailers")]).unwrap(),
            "PUT /x?y=z HTTP/1.1\nhost: a:80\ncontent-length: 3\nx-a: 1\nte: trailers\n\n"
        );
        assert_eq!(head("GET", "/", &[]).unwrap(), "GET / HTTP/1.1\nhost: a:80\n\n");
        let hostless = [(":path", "*"), (":scheme", "https"), (":method", "OPTIONS"), ("host", "b")];
        assert_eq!(of(&hostless, true).unwrap(), "OPTIONS * HTTP/1.1\nhost: b\n\n");
    }

    #[test]
    fn cookies_become_one_field() {
        let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
        let head = head("GET", "/", &crumbs).unwrap();
        assert_eq!(head, "GET / HTTP/1.1\nhost: a:80\nx: y\ncookie: a=1; b=2; c=3; d=4\n\n");
    }

    #[test]
    fn the_host_is_one() {
        assert_eq!(head("GET", "/", &[("host", "a:80")]).unwrap(), "GET / HTTP/1.1\nhost: a:80\n\n");
        assert_eq!(head("GET", "/", &[("host", "A:80")]), refused(Refusal::OtherHost));
        assert_eq!(head("GET", "/", &[("host", "a:80"), ("host", "b")]), refused(Refusal::OtherHost));
        let both = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a"), ("host", "b")];
        assert_eq!(of(&both, true).unwrap(), "GET / HTTP/1.1\nhost: a\nhost: b\n\n", "the guard refuses it");
    }

    #[test]
    fn what_is_no_request_for_a_proxy_is_refused() {
        assert_eq!(of(&[(":method", "CONNECT"), (":authority", "a")], true), refused(Refusal::Connect));
        assert_eq!(head("CONNECT", "/", &[]), MALFORMED);
        for path in ["a", "http://a/", "/a b", "/a HTTP/1.1", "/\ta", "?x"] {
            assert_eq!(head("GET", path, &[]), refused(Refusal::BadRequestLine), "{path}");
        }
        for (scheme, wanted) in [
            ("ftp", refused(Refusal::BadRequestLine)),
            ("", refused(Refusal::BadRequestLine)),
            ("h:", MALFORMED),
        ] {
            let fields = [(":method", "GET"), (":scheme", scheme), (":authority", "a"), (":path", "/")];
            assert_eq!(of(&fields, true), wanted, "{scheme}");
        }
        for value in ["y ", " y", "\ty", " "] {
            assert_eq!(head("GET", "/", &[("x", value)]), refused(Refusal::ForbiddenByte));
        }
        for long in [("x", &*"y".repeat(400)), ("cookie", &*"y".repeat(370)), (&*"x".repeat(400), "y")] {
            assert_eq!(head("GET", "/", &[long]), refused(Refusal::HeadTooLong));
            assert_eq!(head("GET", "/", &[long, ("X", "")]), MALFORMED, "it is looked at all the same");
        }
        assert_eq!(head("GET", &format!("/{}", "y".repeat(400)), &[]), refused(Refusal::HeadTooLong));
    }

    #[test]
    fn what_means_a_long_field_over_and_over_is_not_looked_at_for_long() {
        let many = vec![("host", "a:80"); LIMITS.fields * CRUMBS];
        assert!(head("GET", "/", &many).is_ok());
        assert_eq!(head("GET", "/", &[&many[..], &many[..1]].concat()), refused(Refusal::TooManyHeaders));
        assert_eq!(head("GET", "/", &[&many[..], &[("x", ""), ("X", "")]].concat()), MALFORMED);
    }

    #[test]
    fn what_is_malformed_is_no_request_at_all() {
        for (name, value) in [
            ("connection", "close"),
            ("keep-alive", "5"),
            ("proxy-connection", ""),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "gzip"),
            ("te", "trailers, x"),
            ("X", "1"),
            ("x y", "1"),
            ("x:y", "1"),
            ("x\r\ny", "1"),
            ("", "1"),
            ("x", "a\r\nb: c"),
            ("x", "\0"),
            ("x", "\u{7f}"),
            (":foo", "x"),
            (":status", "200"),
            (":protocol", "websocket"),
            (":path", "/"),
            (":method", "GET"),
            ("content-length", "x"),
            ("content-length", "+1"),
            ("content-length", ""),
        ] {
            assert_eq!(head("GET", "/", &[(name, value)]), MALFORMED, "{name:?}: {value:?}");
            assert_eq!(head("GET", "/", &[("x", "y"), (name, value)]), MALFORMED, "{name:?}: {value:?}");
        }
        for bad in ["", "G T", "G\u{e9}"] {
            assert_eq!(head(bad, "/", &[]), MALFORMED, "{bad:?}");
        }
        assert_eq!(head("GET", "", &[]), MALFORMED);
        let whole = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        for missing in 0..3 {
            let mut fields = whole.to_vec();
            fields.remove(missing);
            assert_eq!(of(&fields, true), MALFORMED);
        }
        let lengths = |one, other| head("PUT", "/", &[("content-length", one), ("content-length", other)]);
        assert_eq!(lengths("1", "2"), MALFORMED);
        assert!(lengths("1", "1").is_ok(), "the guard refuses it");
        let ended = [&whole[..], &[("content-length", "1")]].concat();
        assert_eq!(of(&ended, true), MALFORMED);
        assert!(of(&ended, false).is_ok());
    }
}
