//! One form of a path: the one that is decided on is the one that is forwarded.
//!
//! Percent-encoded letters, digits and `-._~` mean the same as the plain ones (RFC 3986 §6.2.2.2), so they
//! are written plainly; repeated slashes, which clients make by joining `http://front:8090/` and `/api/…`,
//! become one. What is left that servers read differently is refused.

use std::borrow::Cow;

use super::{Refusal, head};

/// The target of a request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path in its one form.
    pub path: Cow<'a, str>,
    /// The query with its question mark; empty if there is none.
    pub query: &'a str,
}

/// Path and query as they came, of a target in origin, absolute or asterisk form.
pub fn split(target: &str) -> (&str, &str) {
    // `head` has checked it: what is not in absolute form begins with the path.
    let rest = match target.as_bytes() {
        [b'/' | b'*', ..] => target,
        bytes => {
            head::absolute(bytes).and_then(|(_, rest)| std::str::from_utf8(rest).ok()).unwrap_or_default()
        }
    };
    let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    (if path.is_empty() { "/" } else { path }, query)
}

/// The host that a target in absolute form names.
pub fn authority(target: &str) -> Option<&str> {
    let (authority, _) = head::absolute(target.as_bytes())?;
    std::str::from_utf8(authority).ok()
}

/// Brings `path` (no query) into that form.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    let tidy = rewrite(path)?;
    if tidy.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Refusal::AmbiguousPath("it has dot segments"));
    }
    Ok(Cow::Owned(tidy))
}

/// Whether it is in that form already, as nearly all are: nothing encoded, no slash or dot behind a slash.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let odd = matches!(byte, b'%' | b'\\' | 0x80..) || (before == b'/' && matches!(byte, b'/' | b'.'));
        before = byte;
        !odd
    })
}

fn rewrite(path: &str) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => return Err(Refusal::AmbiguousPath("it has a backslash")),
            b'/' if out.ends_with('/') => {}
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let code = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                match code.and_then(|code| u8::try_from(code).ok()) {
                    None => {
                        return Err(Refusal::AmbiguousPath(
                            "a percent sign is not followed by two hex digits",
                        ));
                    }
                    Some(b'/' | b'\\') => return Err(Refusal::AmbiguousPath("it has an encoded slash")),
                    Some(0..0x20 | 0x7f) => {
                        return Err(Refusal::AmbiguousPath("it has an encoded control character"));
                    }
                    Some(plain) if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                        out.push(char::from(plain));
                    }
                    // The hex digits of one code are written in upper case: one form for each.
                    Some(other) => out.push_str(&format!("%{other:02X}")),
                }
            }
            plain if plain.is_ascii() => out.push(char::from(plain)),
            _ => return Err(Refusal::AmbiguousPath("it has bytes that must be percent-encoded")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_paths_get_one_form() {
        for (given, wanted) in [
            ("/api/v1/vm", "/api/v1/vm"),
            ("//api//v1/vm", "/api/v1/vm"),
            ("/api/v1/%76m", "/api/v1/vm"),
            ("/%6detrics", "/metrics"),
            ("/v2/a/blobs/sha256%3aabc", "/v2/a/blobs/sha256%3Aabc"),
            ("/.well-known/x", "/.well-known/x"),
            ("*", "*"),
        ] {
            assert_eq!(normalise(given).unwrap(), wanted, "{given}");
        }
    }

    #[test]
    fn a_target_is_taken_apart_in_every_form() {
        for (target, path, query) in [
            ("/a?b=c?d", "/a", "?b=c?d"),
            ("/a", "/a", ""),
            ("*", "*", ""),
            ("http://h:1/a?b", "/a", "?b"),
            ("HTTPS://h", "/", ""),
            ("http://h?b", "/", "?b"),
        ] {
            assert_eq!(split(target), (path, query), "{target}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for bad in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0a",
            "/a%",
            "/a%4",
            "/a%zz",
            "/\u{fc}",
        ] {
            assert!(normalise(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_stable(path in "/[a-z/.%0-9A-F\\\\]{0,30}") {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once).unwrap();
                prop_assert_eq!(&twice, &once);
                prop_assert!(!once.contains("//"));
            }
        }
    }
}
