//! The head of a request, written as one of HTTP/1.1: what the guard looks at, the steps decide on and upstreams get is
//! the same for both. Pure.
//!
//! The library has refused by then what is malformed by RFC 9113 §8: pseudo-fields that are missing, repeated, unknown
//! or behind others, names in upper case, fields of one connection, `TE` with anything but `trailers`, lengths that
//! contradict each other or the data. What is left is for [`write()`] and the guard behind it.

use http::{Method, header, request::Parts};

use crate::proxy::guard::{Refusal, head::HeadLimits};

/// Most of a head without its fields.
const LINE: usize = 256;

/// Writes the head; its empty line too.
pub(super) fn write(parts: &Parts, limits: HeadLimits) -> Result<Vec<u8>, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if parts.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Refusal::BadRequestLine);
    }
    let target = parts.uri.path_and_query().ok_or(Refusal::BadRequestLine)?;
    // RFC 9113 §8.3.1: there is no absolute form.
    if !target.as_str().starts_with(['/', '*']) {
        return Err(Refusal::BadRequestLine);
    }
    let mut out = Vec::with_capacity(LINE + parts.headers.len() * 32);
    for part in [parts.method.as_str(), " ", target.as_str(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if let Some(authority) = authority {
        line(&mut out, "host", authority.as_bytes());
    }
    for (name, value) in &parts.headers {
        if out.len() > limits.bytes {
            return Err(Refusal::HeadTooLong);
        }
        // RFC 9113 §8.2.1: white space around a value makes it another one.
        if value.as_bytes().trim_ascii().len() < value.len() {
            return Err(Refusal::ForbiddenByte);
        }
        match *name {
            header::COOKIE => {}
            // RFC 9113 §8.3.1: it says the same, or the request is malformed.
            header::HOST if authority.is_some_and(|authority| authority.as_bytes() != value.as_bytes()) => {
                return Err(Refusal::OtherHost);
            }
            header::HOST if authority.is_some() => {}
            _ => line(&mut out, name.as_str(), value.as_bytes()),
        }
    }
    cookies(parts, &mut out);
    out.extend_from_slice(b"\r\n");
    if out.len() > limits.bytes { Err(Refusal::HeadTooLong) } else { Ok(out) }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// RFC 9113 §8.2.3: a client may take them apart for the sake of compression; HTTP/1.1 knows one field of them.
fn cookies(parts: &Parts, out: &mut Vec<u8>) {
    let mut before: &[u8] = b"cookie: ";
    for crumb in parts.headers.get_all(header::COOKIE) {
        out.extend_from_slice(before);
        out.extend_from_slice(crumb.as_bytes());
        before = b"; ";
    }
    if before == b"; " {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 400, fields: 100 };

    fn of(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<String, Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        write(&parts, LIMITS).map(|head| String::from_utf8(head).unwrap().replace("\r\n", "\n"))
    }

    #[test]
    fn a_head_is_that_of_http_1() {
        assert_eq!(
            of("PUT", "http://a:80/x?y=z", &[("content-length", "3"), ("x-a", "1"), ("te", "trailers")])
                .unwrap(),
            "PUT /x?y=z HTTP/1.1\nhost: a:80\ncontent-length: 3\nx-a: 1\nte: trailers\n\n"
        );
        assert_eq!(of("GET", "https://a", &[]).unwrap(), "GET / HTTP/1.1\nhost: a\n\n");
        assert_eq!(of("GET", "/x", &[("host", "b")]).unwrap(), "GET /x HTTP/1.1\nhost: b\n\n");
        assert_eq!(of("OPTIONS", "*", &[("host", "b")]).unwrap(), "OPTIONS * HTTP/1.1\nhost: b\n\n");
    }

    #[test]
    fn cookies_become_one_field() {
        let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
        let head = of("GET", "http://a/", &crumbs).unwrap();
        assert_eq!(head, "GET / HTTP/1.1\nhost: a\nx: y\ncookie: a=1; b=2; c=3; d=4\n\n");
    }

    #[test]
    fn the_host_is_one() {
        assert_eq!(of("GET", "http://a/", &[("host", "a")]).unwrap(), "GET / HTTP/1.1\nhost: a\n\n");
        assert_eq!(of("GET", "http://a/", &[("host", "A")]), Err(Refusal::OtherHost));
        assert_eq!(of("GET", "http://a/", &[("host", "a"), ("host", "b")]), Err(Refusal::OtherHost));
        let both = of("GET", "/", &[("host", "a"), ("host", "b")]).unwrap();
        assert_eq!(both, "GET / HTTP/1.1\nhost: a\nhost: b\n\n", "the guard refuses it");
    }

    #[test]
    fn what_is_no_request_for_a_proxy_is_refused() {
        assert_eq!(of("CONNECT", "a:80", &[]), Err(Refusal::Connect));
        assert_eq!(of("GET", "ftp://a/", &[]), Err(Refusal::BadRequestLine));
        assert_eq!(of("GET", "http://a/", &[("x", "y ")]), Err(Refusal::ForbiddenByte));
        assert_eq!(of("GET", "http://a/", &[("x", &"y".repeat(400))]), Err(Refusal::HeadTooLong));
    }
}
