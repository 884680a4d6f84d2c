//! Handshake secrets and session tokens: whoever has the servers' key can check one, so that no server has to remember
//! any. Pure: time and chance are arguments.
//!
//! ```text
//!   secret   time (5) · nonce (8) · MAC (14)                  over key id, generation, time, nonce
//!   token    1 · generation (16) · end (8) · MAC (32)         over key id, session id, generation, end
//! ```
//!
//! Both name the key's generation: those of a key that was deleted are void for another one of its name.

use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::same;

/// The key's generation: drawn when it is made.
pub type Generation = [u8; 16];

/// What makes two secrets of one second different.
pub type Nonce = [u8; 8];

/// How long a secret may be shown (`reference/authentication.md` §4.2).
pub const SECRET_SECONDS: u64 = 180;

/// Another server's clock may be so far ahead of ours.
const SKEW_SECONDS: u64 = 60;

/// Rounds from the root token to the servers' key. A session token is in its holder's hands, who could try root tokens
/// against it: each try is to cost as much as a start of the server does.
const ROUNDS: u32 = 200_000;

const SECRET: usize = 27;
const TOKEN: usize = 57;

/// Why a secret or a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Not made by these servers for this.
    Wrong,
    /// It was.
    Late,
}

/// The servers' key. Cheap to clone.
#[derive(Clone)]
pub struct Sealer(hmac::Key);

impl Sealer {
    /// That of all servers of one kind that have this root token: sessions of one kind are none of the other.
    pub fn derive(root_token: &str, kind: &str) -> Self {
        const MANY: NonZeroU32 = NonZeroU32::new(ROUNDS).expect("it is not zero");
        let salt = format!("switchyard sessions 1 {kind}");
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, MANY, salt.as_bytes(), root_token.as_bytes(), &mut key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// A secret for the holder of this key, made at `now`.
    pub fn secret(&self, id: &str, generation: &Generation, now: u64, nonce: &Nonce) -> String {
        let mut text = Vec::with_capacity(SECRET);
        text.extend_from_slice(&now.to_be_bytes()[3..]);
        text.extend_from_slice(nonce);
        let mac = self.mac(b"secret", &[id.as_bytes(), generation, &text]);
        text.extend_from_slice(&mac.as_ref()[..14]);
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Whether it is one of this key's, and in time; tells what it is to be remembered by, and until when.
    pub fn opened(
        &self,
        text: &str,
        id: &str,
        generation: &Generation,
        now: u64,
    ) -> Result<(Nonce, u64), Bad> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Bad::Wrong)?;
        let (Some((begin, mac)), SECRET) = (bytes.split_at_checked(13), bytes.len()) else {
            return Err(Bad::Wrong);
        };
        let expected = self.mac(b"secret", &[id.as_bytes(), generation, begin]);
        if !same(mac, &expected.as_ref()[..14]) {
            return Err(Bad::Wrong);
        }
        let (mut made, mut nonce) = ([0; 8], Nonce::default());
        made[3..].copy_from_slice(&begin[..5]);
        nonce.copy_from_slice(&begin[5..]);
        let made = u64::from_be_bytes(made);
        let until = made.saturating_add(SECRET_SECONDS);
        if now > until || made > now.saturating_add(SKEW_SECONDS) {
            Err(Bad::Late)
        } else {
            Ok((nonce, until))
        }
    }

    /// The token of a session that ends at `end`.
    pub fn token(&self, id: &str, session: &str, generation: &Generation, end: u64) -> String {
        let mut text = Vec::with_capacity(TOKEN);
        text.push(1);
        text.extend_from_slice(generation);
        text.extend_from_slice(&end.to_be_bytes());
        let mac = self.mac(b"session", &[id.as_bytes(), session.as_bytes(), &text]);
        text.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Whether it is the token of this session; tells of which generation its key was.
    pub fn session(&self, token: &str, id: &str, session: &str, now: u64) -> Result<Generation, Bad> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Bad::Wrong)?;
        let (Some((begin, mac)), TOKEN) = (bytes.split_at_checked(25), bytes.len()) else {
            return Err(Bad::Wrong);
        };
        let expected = self.mac(b"session", &[id.as_bytes(), session.as_bytes(), begin]);
        if !same(mac, expected.as_ref()) || begin[0] != 1 {
            return Err(Bad::Wrong);
        }
        let (mut generation, mut end) = (Generation::default(), [0; 8]);
        generation.copy_from_slice(&begin[1..17]);
        end.copy_from_slice(&begin[17..]);
        if now >= u64::from_be_bytes(end) { Err(Bad::Late) } else { Ok(generation) }
    }

    /// Over what it is for and all parts, each with its length before it, so that none runs into the next.
    fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in std::iter::once(&purpose).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000;
    const FIRST: Generation = [1; 16];
    const NONCE: Nonce = [7; 8];

    fn sealer(token: &str, kind: &str) -> Sealer {
        Sealer::derive(token, kind)
    }

    #[test]
    fn a_secret_is_good_at_every_server_for_three_minutes_and_for_its_key_alone() {
        let (here, there) = (sealer("0123456789", "controller"), sealer("0123456789", "controller"));
        let secret = here.secret("ci-bot", &FIRST, NOW, &NONCE);
        assert_eq!(secret.len(), 36);
        assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')), "{secret}");
        assert_eq!(there.opened(&secret, "ci-bot", &FIRST, NOW + 180), Ok((NONCE, NOW + 180)));
        assert_eq!(there.opened(&secret, "ci-bot", &FIRST, NOW - 60), Ok((NONCE, NOW + 180)));
        assert_eq!(there.opened(&secret, "ci-bot", &FIRST, NOW + 181), Err(Bad::Late));
        assert_eq!(there.opened(&secret, "ci-bot", &FIRST, NOW - 61), Err(Bad::Late));
        assert_eq!(there.opened(&secret, "ci-bo", &FIRST, NOW), Err(Bad::Wrong));
        assert_eq!(there.opened(&secret, "ci-bot", &[2; 16], NOW), Err(Bad::Wrong));
        for other in [sealer("0123456789", "registry"), sealer("1123456789", "controller")] {
            assert_eq!(other.opened(&secret, "ci-bot", &FIRST, NOW), Err(Bad::Wrong));
        }
    }

    #[test]
    fn a_session_ends_when_it_says_and_is_nobody_elses() {
        let sealer = sealer("0123456789", "registry");
        let token = sealer.token("ci-bot", "s-1", &FIRST, NOW);
        assert_eq!(sealer.session(&token, "ci-bot", "s-1", NOW - 1), Ok(FIRST));
        assert_eq!(sealer.session(&token, "ci-bot", "s-1", NOW), Err(Bad::Late));
        assert_eq!(sealer.session(&token, "ci-bot", "s-2", NOW - 1), Err(Bad::Wrong));
        assert_eq!(
            sealer.session(&token, "ci-bots", "-1", NOW - 1),
            Err(Bad::Wrong),
            "no part runs into the next"
        );
        let secret = sealer.secret("ci-bot", &FIRST, NOW, &NONCE);
        assert_eq!(sealer.session(&secret, "ci-bot", "s-1", NOW - 1), Err(Bad::Wrong));
    }

    proptest! {
        #[test]
        fn no_other_text_is_good(flip in 0usize..57, bit in 0u8..8, noise in "\\PC{0,80}") {
            let sealer = Sealer(hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]));
            let token = URL_SAFE_NO_PAD.decode(sealer.token("a", "s", &FIRST, NOW)).unwrap();
            let mut changed = token.clone();
            changed[flip] ^= 1 << bit;
            prop_assert_eq!(sealer.session(&URL_SAFE_NO_PAD.encode(changed), "a", "s", 0), Err(Bad::Wrong));
            prop_assert_eq!(sealer.session(&noise, "a", "s", 0), Err(Bad::Wrong));
            let mut secret = URL_SAFE_NO_PAD.decode(sealer.secret("a", &FIRST, NOW, &NONCE)).unwrap();
            secret[flip % 27] ^= 1 << bit;
            prop_assert_eq!(sealer.opened(&URL_SAFE_NO_PAD.encode(secret), "a", &FIRST, NOW), Err(Bad::Wrong));
            prop_assert_eq!(sealer.opened(&noise, "a", &FIRST, NOW), Err(Bad::Wrong));
        }
    }
}
