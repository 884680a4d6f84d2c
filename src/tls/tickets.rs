//! Keys of session tickets. A ticket holds all that a session needs, encrypted for ourselves: nothing is kept here for a
//! client. Keys live in memory, are used for [`USED`] and good for as long again, and may be handed to a successor, so
//! that its clients go on with their sessions.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    rand,
};
use rustls::server::ProducesTickets;

use crate::clock;

/// New tickets are made with a key for so long. With nonces by chance a key is good for 2³² tickets: that would be
/// 200,000 a second.
const USED: Duration = Duration::from_secs(6 * 3600);

/// So long after it was made a key opens tickets.
const GOOD: Duration = Duration::from_secs(12 * 3600);

/// Bytes of a key's name, which its tickets begin with.
const NAME: usize = 16;

/// Bytes of a key.
const SECRET: usize = 32;

/// The keys of one listener.
pub(super) struct Tickets {
    keys: ArcSwap<Keys>,
    /// Whoever has it makes the next key; nobody waits for it.
    turn: Mutex<()>,
}

#[derive(Clone)]
struct Keys {
    current: Arc<Key>,
    /// The one before: it makes no tickets any more.
    previous: Option<Arc<Key>>,
}

struct Key {
    of: TicketKey,
    aead: LessSafeKey,
}

/// A key, to be handed on.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// What its tickets begin with.
    pub name: [u8; NAME],
    /// Who has it can read what is said in the sessions that its tickets resume.
    pub secret: [u8; SECRET],
    /// When it was made, since boot.
    pub made: Duration,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKey").field("made", &self.made).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("current", &self.keys.load().current.of).finish_non_exhaustive()
    }
}

impl Tickets {
    /// With a key of its own. Fails when the system gives no random numbers.
    pub(super) fn new() -> Result<Self, Unspecified> {
        let keys = Keys { current: Arc::new(Key::make(clock::boot())?), previous: None };
        Ok(Self { keys: ArcSwap::from_pointee(keys), turn: Mutex::default() })
    }

    /// Its keys, the one in use first.
    pub(super) fn keys(&self) -> Vec<TicketKey> {
        let keys = self.keys.load();
        keys.all().map(|key| key.of.clone()).collect()
    }

    /// Goes on with these, the one in use first; without any it goes on with its own.
    pub(super) fn take(&self, keys: &[TicketKey]) {
        let mut keys = keys.iter().filter_map(|key| Key::of(key.clone()).ok().map(Arc::new));
        if let Some(current) = keys.next() {
            self.keys.store(Arc::new(Keys { current, previous: keys.next() }));
        }
    }

    fn seal(&self, message: &[u8], at: Duration) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        if keys.current.is_within(USED, at) {
            return keys.current.seal(message).ok();
        }
        // Who comes while another makes the next key uses the old one once more.
        let Ok(_turn) = self.turn.try_lock() else { return keys.current.seal(message).ok() };
        let keys = self.keys.load();
        if keys.current.is_within(USED, at) {
            return keys.current.seal(message).ok();
        }
        let current = Arc::new(Key::make(at).ok()?);
        let sealed = current.seal(message).ok();
        self.keys.store(Arc::new(Keys { current, previous: Some(keys.current.clone()) }));
        sealed
    }

    fn open(&self, ticket: &[u8], at: Duration) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_at_checked(NAME)?;
        let keys = self.keys.load();
        let key = keys.all().find(|key| key.of.name == name && key.is_within(GOOD, at))?;
        key.open(sealed).ok()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(GOOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::boot())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, clock::boot())
    }
}

impl Keys {
    fn all(&self) -> impl Iterator<Item = &Arc<Key>> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

impl Key {
    fn make(at: Duration) -> Result<Self, Unspecified> {
        let mut of = TicketKey { name: [0; NAME], secret: [0; SECRET], made: at };
        rand::fill(&mut of.name)?;
        rand::fill(&mut of.secret)?;
        Self::of(of)
    }

    fn of(of: TicketKey) -> Result<Self, Unspecified> {
        Ok(Self { aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &of.secret)?), of })
    }

    fn is_within(&self, time: Duration, at: Duration) -> bool {
        at.saturating_sub(self.of.made) < time
    }

    /// Its name, a nonce, and what is encrypted.
    fn seal(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut sealed = message.to_vec();
        let of = Nonce::assume_unique_for_key(nonce);
        self.aead.seal_in_place_append_tag(of, Aad::from(self.of.name), &mut sealed)?;
        Ok([&self.of.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(Unspecified)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce)?;
        let mut plain = sealed.to_vec();
        let length = self.aead.open_in_place(nonce, Aad::from(self.of.name), &mut plain)?.len();
        plain.truncate(length);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn begun() -> (Tickets, Duration) {
        let tickets = Tickets::new().unwrap();
        let made = tickets.keys()[0].made;
        (tickets, made)
    }

    #[test]
    fn a_key_is_used_for_six_hours_and_good_for_six_more() {
        let (tickets, made) = begun();
        let first = tickets.seal(b"first", made).unwrap();
        let name = tickets.keys()[0].name;
        tickets.seal(b"x", made + 6 * HOUR - Duration::from_secs(1)).unwrap();
        assert_eq!(tickets.keys()[0].name, name);
        let second = tickets.seal(b"second", made + 6 * HOUR).unwrap();
        assert_ne!(tickets.keys()[0].name, name);
        assert_eq!(tickets.keys()[1].name, name);
        let open = |ticket: &[u8], hours| tickets.open(ticket, made + hours * HOUR);
        assert_eq!(open(&first, 11).as_deref(), Some(&b"first"[..]));
        assert_eq!((open(&first, 12), open(&second, 12).as_deref()), (None, Some(&b"second"[..])));
        // Nobody has made a ticket for long: the key in use is not good either.
        assert_eq!(open(&second, 18), None);
        tickets.seal(b"third", made + 18 * HOUR).unwrap();
        assert_eq!(tickets.keys().len(), 2, "never more than two");
    }

    #[test]
    fn a_successor_goes_on_with_them_and_nobody_else_can() {
        let ((before, made), (after, _), (other, _)) = (begun(), begun(), begun());
        let old = before.seal(b"old", made).unwrap();
        let new = before.seal(b"new", made + 7 * HOUR).unwrap();
        after.take(&before.keys());
        let at = made + 8 * HOUR;
        assert_eq!(after.open(&old, at).as_deref(), Some(&b"old"[..]));
        assert_eq!(after.open(&new, at).as_deref(), Some(&b"new"[..]));
        // And the other way round, while both serve.
        assert_eq!(before.open(&after.seal(b"x", at).unwrap(), at).as_deref(), Some(&b"x"[..]));
        assert_eq!((other.open(&old, at), other.open(&new, at)), (None, None));
        let own = other.keys();
        other.take(&[]);
        assert_eq!(other.keys(), own);
        assert!(!format!("{own:?} {other:?}").contains("secret"));
    }

    proptest! {
        /// Whatever is changed of a ticket, or cut off, it opens nothing.
        #[test]
        fn a_ticket_that_was_tampered_with_is_none(
            message in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<proptest::sample::Index>(),
            flip in 1..=255u8,
            cut in any::<proptest::sample::Index>(),
        ) {
            let (tickets, made) = begun();
            let ticket = tickets.seal(&message, made).unwrap();
            prop_assert_eq!(tickets.open(&ticket, made), Some(message));
            let mut other = ticket.clone();
            other[at.index(ticket.len())] ^= flip;
            prop_assert_eq!(tickets.open(&other, made), None);
            prop_assert_eq!(tickets.open(&ticket[..cut.index(ticket.len())], made), None);
        }
    }
}
