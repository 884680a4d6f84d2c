//! A head that the guard has let by, taken apart.

use std::mem::MaybeUninit;

use crate::proxy::{
    Head,
    ctx::Protocol,
    h1::{Fields, Framing},
};

/// Fields that a request's head may have at most, whatever the config allows.
const FIELDS: usize = 256;

/// Takes a head apart that the guard has let by, and shows it. `stream`: it is one of HTTP/2, written as HTTP/1.1.
pub(in crate::proxy) fn parsed<T>(
    head: &[u8],
    framing: Framing,
    stream: bool,
    peer: &str,
    look: impl FnOnce(&Head<'_>) -> T,
) -> Option<T> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let ended = parser.parse_request_with_uninit_headers(&mut parsed, head, &mut room).ok()?;
    if ended != httparse::Status::Complete(head.len()) {
        return None;
    }
    let protocol = match parsed.version? {
        _ if stream => Protocol::Http2,
        0 => Protocol::Http10,
        _ => Protocol::Http11,
    };
    Some(look(&Head {
        method: parsed.method?,
        target: parsed.path?,
        protocol,
        fields: Fields::new(parsed.headers),
        framing,
        peer,
        length: head.len(),
    }))
}
