//! What a proxy says of its clients, signed: servers that have the same key believe it of nobody else. Pure: time is an
//! argument.
//!
//! ```text
//!   switchyard-signature: t=1790000000,mac=<64 hex digits>
//!   mac = HMAC-SHA256(key, "switchyard-signature 1\n" t "\n" METHOD " " target "\n" then each value of each field, "name:value\n")
//! ```
//!
//! It is over the request line as it goes out, so that it is of no use for another request, and good for [`WINDOW`] seconds
//! around its time, so that it is of no use for long.

use std::sync::Arc;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};

/// A signature is good for so many seconds before and behind its time.
pub const WINDOW: u64 = 60;

/// Fewer characters can be guessed.
const SHORTEST: usize = 32;

/// More are no key.
const LONGEST: usize = 1024;

/// What is signed besides the request line, in this order, lower case.
pub const SIGNED: [&str; 3] = ["x-forwarded-for", "ssl-client-verify", "ssl-client-cert"];

/// The key of proxies and servers. Cheap to clone, and never shown.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    key: hmac::Key,
    /// What tells it from others.
    digest: [u8; 32],
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(signing key)")
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0.digest, &other.0.digest).is_ok()
    }
}

impl Eq for SigningKey {}

/// Why a signature is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// It is none of this key's for this request.
    Wrong,
    /// It is, of another time: so many seconds ahead of the server's (negative: behind).
    Time(i64),
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As it is sent.
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub target: &'a str,
}

impl SigningKey {
    /// Of the text in a key file; tells what is wrong with it, and not what it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.len() < SHORTEST {
            return Err(format!(
                "has a key of {} characters, and fewer than {SHORTEST} can be guessed",
                text.len()
            ));
        }
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(format!("has more in it than one line of at most {LONGEST} characters"));
        }
        let mut whole = [0; 32];
        whole.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Ok(Self(Arc::new(Inner { key: hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()), digest: whole })))
    }

    /// The header's value, made at `seconds`; `fields` are the values of each of [`SIGNED`].
    pub fn sign<'a, F>(&self, request: Request<'_>, seconds: u64, fields: F) -> String
    where
        F: Fn(&'static str, &mut dyn FnMut(&'a [u8])),
    {
        format!("t={seconds},mac={}", hex::encode(self.mac(request, seconds, fields).as_ref()))
    }

    /// Whether this is the value that was made for the request, at about `now`.
    pub fn check<'a, F>(&self, value: &str, request: Request<'_>, now: u64, fields: F) -> Result<(), Unsigned>
    where
        F: Fn(&'static str, &mut dyn FnMut(&'a [u8])),
    {
        let (seconds, mac) = read(value).ok_or(Unsigned::Wrong)?;
        let made = self.mac(request, seconds, fields);
        verify_slices_are_equal(made.as_ref(), &mac).map_err(|_| Unsigned::Wrong)?;
        if seconds.abs_diff(now) <= WINDOW {
            return Ok(());
        }
        let off = i64::try_from(seconds.abs_diff(now)).unwrap_or(i64::MAX);
        Err(Unsigned::Time(if seconds > now { off } else { -off }))
    }

    fn mac<'a, F>(&self, request: Request<'_>, seconds: u64, fields: F) -> hmac::Tag
    where
        F: Fn(&'static str, &mut dyn FnMut(&'a [u8])),
    {
        let mut mac = hmac::Context::with_key(&self.0.key);
        mac.update(
            format!("switchyard-signature 1\n{seconds}\n{} {}\n", request.method, request.target).as_bytes(),
        );
        for name in SIGNED {
            fields(name, &mut |value| {
                // No value has a line's end in it: none can look like two.
                for part in [name.as_bytes(), b":", value, b"\n"] {
                    mac.update(part);
                }
            });
        }
        mac.sign()
    }
}

fn read(value: &str) -> Option<(u64, Vec<u8>)> {
    let (time, mac) = value.strip_prefix("t=")?.split_once(",mac=")?;
    let digits = (1..=20).contains(&time.len()) && time.bytes().all(|digit| digit.is_ascii_digit());
    let mac = (mac.len() == 64).then(|| hex::decode(mac).ok())??;
    Some((time.parse().ok().filter(|_| digits)?, mac))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const GET: Request<'_> = Request { method: "GET", target: "/api/v1/vm?id=1" };

    fn key(text: &str) -> SigningKey {
        SigningKey::parse(text).unwrap()
    }

    fn fields<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(&'static str, &mut dyn FnMut(&'a [u8])) {
        move |wanted, take| {
            all.iter().filter(|(name, _)| *name == wanted).for_each(|(_, value)| take(value.as_bytes()));
        }
    }

    #[test]
    fn it_is_good_for_one_request_of_one_key_around_its_time() {
        let said =
            [("ssl-client-verify", "SUCCESS"), ("ssl-client-cert", "c"), ("x-forwarded-for", "10.0.0.9")];
        let made = key(KEY).sign(GET, 1000, fields(&said));
        fn checked(
            made: &str,
            key: &SigningKey,
            request: Request<'_>,
            now: u64,
            said: &[(&str, &str)],
        ) -> Result<(), Unsigned> {
            key.check(made, request, now, fields(said))
        }
        let check = |key: &SigningKey, request: Request<'_>, now, said: &[(&str, &str)]| {
            checked(&made, key, request, now, said)
        };
        for now in [940, 1000, 1060] {
            assert_eq!(check(&key(KEY), GET, now, &said), Ok(()), "{now}");
        }
        assert_eq!(check(&key(KEY), GET, 939, &said), Err(Unsigned::Time(61)));
        assert_eq!(check(&key(KEY), GET, 1094, &said), Err(Unsigned::Time(-94)));
        let other = key(&KEY.replace('0', "1"));
        assert_eq!(check(&other, GET, 1000, &said), Err(Unsigned::Wrong));
        assert_ne!(other, key(KEY));
        for request in [Request { method: "PUT", ..GET }, Request { target: "/api/v1/vm?id=2", ..GET }] {
            assert_eq!(check(&key(KEY), request, 1000, &said), Err(Unsigned::Wrong), "{request:?}");
        }
        // One value less, one more, one in another place.
        for place in 0..3 {
            let mut without = said.to_vec();
            without.remove(place);
            assert_eq!(check(&key(KEY), GET, 1000, &without), Err(Unsigned::Wrong));
            let mut twice = said.to_vec();
            twice.push(said[place]);
            assert_eq!(check(&key(KEY), GET, 1000, &twice), Err(Unsigned::Wrong));
        }
        let swapped = [("ssl-client-verify", "c"), ("ssl-client-cert", "SUCCESS"), said[2]];
        assert_eq!(check(&key(KEY), GET, 1000, &swapped), Err(Unsigned::Wrong));
    }

    #[test]
    fn a_key_has_32_characters_and_is_never_shown() {
        for bad in ["", "short", &"x".repeat(1025), "0123456789abcdef\n0123456789abcdef"] {
            let why = SigningKey::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !why.contains(bad), "{why}");
        }
        assert_eq!(key(&format!("{KEY}\n")), key(KEY), "a file ends its line");
        assert!(!format!("{:?}", key(KEY)).contains("0123"));
    }

    proptest! {
        #[test]
        fn what_is_no_signature_is_wrong_and_no_more(text in "(t=[0-9]{0,25},mac=[0-9a-f]{60,68}|.{0,90})") {
            prop_assert_eq!(key(KEY).check(&text, GET, 1000, fields(&[])), Err(Unsigned::Wrong));
        }
    }
}
