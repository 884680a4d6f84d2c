//! What the bytes of a client mean, by the letter of RFC 9112 and design §4.6: the reading that the proxy's has to
//! agree with.
//!
//! Where the letter leaves a choice (bytes that a URI should not have, odd hosts) this reads on: a whole request may
//! be forwarded as it stands here, or refused; nothing else.

use super::{
    echo,
    origin::{HOP_BY_HOP, latin, token},
};

/// One request as it must be forwarded, if it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// In the form that is forwarded.
    pub target: String,
    /// Those that reach the upstream as they are, names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes behind the head, chunk sizes and trailers included.
    pub has_body: bool,
    pub after: After,
    /// Of HTTP/1.0, where an expectation is to be ignored (RFC 9110 §10.1.1): passed on or not.
    pub old: bool,
}

/// What becomes of the connection after the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum After {
    #[default]
    Stays,
    /// Of HTTP/1.0 that asks to be kept, or after an upgrade that was not granted: as the answer says.
    MayStay,
    Closes,
}

impl Asked {
    pub fn echo(&self) -> String {
        echo(&self.method, &self.target, &self.body)
    }
}

/// What stands next in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Whole(Asked),
    /// To be refused. With what of a body came before the fault, if the head was good.
    Bad(Option<Vec<u8>>),
    /// More bytes would have to come; with what of a body is there, if the head is complete.
    Partial(Option<Vec<u8>>),
    /// Nothing is left.
    End,
}

/// Reads to the first thing after which nothing can follow.
pub fn read(bytes: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = 0;
    loop {
        let step = next(bytes, &mut at);
        let last = match &step {
            Step::Whole(asked) => asked.after == After::Closes,
            _ => true,
        };
        steps.push(step);
        if last {
            return steps;
        }
    }
}

/// Why there is no line.
enum Line<'a> {
    Of(&'a [u8]),
    More,
    Bad,
}

fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Line<'a> {
    let rest = &bytes[*at..];
    let Some(end) = rest.iter().position(|b| *b == b'\n') else { return Line::More };
    match rest[..end].split_last() {
        Some((b'\r', text)) if !text.contains(&b'\r') => {
            *at += end + 1;
            Line::Of(text)
        }
        _ => Line::Bad,
    }
}

macro_rules! line {
    ($bytes:expr, $at:expr, $body:expr) => {
        match line($bytes, $at) {
            Line::Of(text) => text,
            Line::More => return Step::Partial($body),
            Line::Bad => return Step::Bad($body),
        }
    };
}

fn next(bytes: &[u8], at: &mut usize) -> Step {
    while bytes[*at..].starts_with(b"\r\n") {
        *at += 2;
    }
    if *at == bytes.len() {
        return Step::End;
    }
    let first = line!(bytes, at, None);
    let mut fields = Vec::new();
    loop {
        match line!(bytes, at, None) {
            [] => break,
            text => fields.push(text),
        }
    }
    let (Some((mut asked, old)), Some(fields)) =
        (request_line(first), fields.into_iter().map(field).collect::<Option<Vec<_>>>())
    else {
        return Step::Bad(None);
    };
    let all = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() > 1 || (all("host").is_empty() && !old) {
        return Step::Bad(None);
    }
    asked.after = after(&all("connection"), old, !all("upgrade").is_empty());
    asked.old = old;
    asked.fields = end_to_end(&fields);
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Step::Whole(asked),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            let Ok(length) = length.parse::<u64>() else { return Step::Bad(None) };
            let rest = &bytes[*at..];
            let have = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
            asked.body = rest[..have].to_vec();
            asked.has_body = length > 0;
            *at += have;
            if u64::try_from(have).unwrap() < length {
                return Step::Partial(Some(asked.body));
            }
            Step::Whole(asked)
        }
        ([], [coding]) if !old && coding.eq_ignore_ascii_case("chunked") => chunks(asked, bytes, at),
        _ => Step::Bad(None),
    }
}

fn chunks(mut asked: Asked, bytes: &[u8], at: &mut usize) -> Step {
    asked.has_body = true;
    loop {
        let size = line!(bytes, at, Some(asked.body));
        let digits = size.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(size.len());
        let (digits, extension) = size.split_at(digits);
        let begins = matches!(extension.first(), None | Some(b';' | b' ' | b'\t'));
        let control = extension.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f);
        let Ok(size) = usize::from_str_radix(&latin(digits), 16) else { return Step::Bad(Some(asked.body)) };
        // A size that no signed offset holds is nobody's.
        if !begins || control || digits.len() > 16 || size > usize::MAX / 2 {
            return Step::Bad(Some(asked.body));
        }
        if size == 0 {
            loop {
                match line!(bytes, at, Some(asked.body)) {
                    [] => return Step::Whole(asked),
                    text if field(text).is_none() => return Step::Bad(Some(asked.body)),
                    _ => {}
                }
            }
        }
        let rest = &bytes[*at..];
        asked.body.extend_from_slice(&rest[..rest.len().min(size)]);
        match rest.get(size..) {
            Some([b'\r', b'\n', ..]) => *at += size + 2,
            None | Some([] | [b'\r']) => return Step::Partial(Some(asked.body)),
            Some(_) => return Step::Bad(Some(asked.body)),
        }
    }
}

/// The request, and whether it is of HTTP/1.0.
fn request_line(line: &[u8]) -> Option<(Asked, bool)> {
    if line.iter().any(|b| *b < 0x20 || *b == 0x7f) {
        return None;
    }
    let parts: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts[..] else { return None };
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return None,
    };
    if method.is_empty()
        || !method.iter().all(|b| token(*b))
        || method == b"CONNECT"
        || target.contains(&b'#')
    {
        return None;
    }
    let method = latin(method);
    let target = target_of(&latin(target), &method)?;
    Some((Asked { method, target, ..Asked::default() }, old))
}

/// Without scheme and host, slashes merged, unreserved characters plain.
fn target_of(target: &str, method: &str) -> Option<String> {
    let lower = target.to_ascii_lowercase();
    let behind = ["http://", "https://"].iter().find_map(|scheme| {
        let rest = lower.starts_with(scheme).then(|| &target[scheme.len()..])?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        (end > 0).then(|| &rest[end..])
    });
    let rest = match (target, behind) {
        ("*", _) if method == "OPTIONS" => return Some("*".into()),
        (_, Some(behind)) => behind,
        _ if target.starts_with('/') => target,
        _ => return None,
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (rest, String::new()),
    };
    let mut out = String::from("/");
    let mut left = path;
    while let Some(next) = left.chars().next() {
        let code = left.get(1..3).filter(|_| next == '%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.map(char::from) {
            Some(plain) if plain.is_ascii_alphanumeric() || "-._~".contains(plain) => out.push(plain),
            Some(_) => out.push_str(&left[..3].to_ascii_uppercase()),
            None if next == '/' && out.ends_with('/') => {}
            None => out.push(next),
        }
        left = &left[if code.is_some() { 3 } else { next.len_utf8() }..];
    }
    Some(out + &query)
}

/// Name in lower case, value without the white space around it.
fn field(line: &[u8]) -> Option<(String, String)> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let good = !name.is_empty()
        && name.iter().all(|b| token(*b))
        && !value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f);
    good.then(|| (latin(name).to_ascii_lowercase(), latin(value).trim_matches([' ', '\t']).to_owned()))
}

fn tokens<'a>(values: &'a [&str]) -> impl Iterator<Item = String> + use<'a> {
    values.iter().flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

fn after(connection: &[&str], old: bool, upgrade: bool) -> After {
    let asks = |wanted: &str| tokens(connection).any(|token| token == wanted);
    if asks("close") || (old && !asks("keep-alive")) {
        return After::Closes;
    }
    if old || (upgrade && asks("upgrade")) { After::MayStay } else { After::Stays }
}

/// Set or judged elsewhere: by the origin (framing, identity), or by the proxy (ids).
pub fn is_apart(name: &str) -> bool {
    const APART: [&str; 5] =
        ["host", "content-length", "transfer-encoding", "x-request-id", "idempotency-key"];
    APART.contains(&name)
        || HOP_BY_HOP.contains(&name)
        || switchyard::proxy::guard::identity::is_identity(name)
}

/// What the upstream must see unchanged.
fn end_to_end(fields: &[(String, String)]) -> Vec<(String, String)> {
    let named: Vec<_> =
        fields.iter().filter(|(name, _)| name == "connection").map(|(_, value)| value.as_str()).collect();
    let named: Vec<_> = tokens(&named).collect();
    let kept = |(name, _): &&(String, String)| !is_apart(name) && !named.contains(name);
    fields.iter().filter(kept).cloned().collect()
}
