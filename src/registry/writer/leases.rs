//! Which proxies must know of a change before it is acknowledged. Pure: time comes in as an argument.
//!
//! A proxy that holds a lease answers reads by what it knows. So the writer acknowledges a change only when every
//! proxy with a live lease has confirmed it, or that lease has run out. The proxy counts its lease from when it
//! sent the poll, the writer a longer one from when it received it: the proxy's ends first, whatever the network
//! does. See `docs/replication.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::model::Position;

/// What a proxy is told: it counts from when it sent the poll.
pub const AT_PROXY: Duration = Duration::from_secs(2);

/// What the writer counts, from when it received the poll.
pub const AT_WRITER: Duration = Duration::from_secs(3);

/// A poll of a proxy is answered after so long even without news: a third of the lease, so that two polls may be
/// lost before it runs out.
pub const PARKED: Duration = Duration::from_millis(660);

/// A poll that does not confirm a change which has waited for so long renews nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A proxy that was too slow gets a lease again after it has kept pace for so long.
const PROBATION: Duration = Duration::from_secs(5);

/// A proxy that was not heard of for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Proxies at once. Another one gets no lease and serves as without: the writer.
pub const PROXIES: usize = 64;

/// What is known of all proxies.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    proxies: BTreeMap<String, Proxy>,
    /// Changes that are not acknowledged yet, and since when.
    waiting: BTreeMap<Position, Duration>,
    /// Nothing is acknowledged before: leases of an earlier run may be live.
    mute_until: Duration,
}

#[derive(Debug, Clone)]
struct Proxy {
    /// It knows of all changes up to here.
    confirmed: Position,
    /// Its lease ends; in the past when it has none.
    until: Duration,
    /// It was last heard of.
    seen: Duration,
    /// It was too slow, and has kept pace since then.
    probation: Option<Duration>,
}

/// Whether a change may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It may.
    Yes,
    /// Not before somebody confirms, or this moment.
    Until(Duration),
}

/// One proxy as it stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// It knows of all changes up to here.
    pub confirmed: Position,
    /// Since it was last heard of.
    pub ago: Duration,
    /// What is left of its lease; zero when it has none.
    pub left: Duration,
    /// It was too slow and has to keep pace for a while.
    pub probation: bool,
}

impl Leases {
    /// With nothing acknowledged before `mute_until`.
    pub fn new(mute_until: Duration) -> Self {
        Self { mute_until, ..Self::default() }
    }

    /// A poll came in that confirms all up to `after`. Tells whether it renews the proxy's lease.
    pub fn polled(&mut self, name: &str, after: Position, now: Duration) -> bool {
        self.expire(now);
        // One that does not confirm what has waited for long is too slow, however often it asks.
        let overdue = self.waiting.iter().any(|(at, since)| *at > after && *since + PATIENCE <= now);
        if !self.proxies.contains_key(name) && self.proxies.len() >= PROXIES {
            return false;
        }
        let proxy = self.proxies.entry(name.to_owned()).or_insert(Proxy {
            confirmed: after,
            until: Duration::ZERO,
            seen: now,
            probation: None,
        });
        if let Some(since) = &mut proxy.probation {
            // A gap, or a change that is overdue, and the time begins anew.
            if overdue || now.saturating_sub(proxy.seen) > AT_WRITER {
                *since = now;
            }
            if now.saturating_sub(*since) >= PROBATION {
                proxy.probation = None;
            }
        }
        proxy.seen = now;
        proxy.confirmed = proxy.confirmed.max(after);
        let granted = !overdue && proxy.probation.is_none();
        if granted {
            proxy.until = now + AT_WRITER;
        }
        debug_assert!(self.holds(now));
        granted
    }

    /// A proxy stops, and answers no more reads.
    pub fn released(&mut self, name: &str) {
        self.proxies.remove(name);
    }

    /// A change is in the log; it waits to be acknowledged until [`Leases::over`].
    pub fn appended(&mut self, position: Position, now: Duration) {
        self.expire(now);
        self.waiting.insert(position, now);
    }

    /// Whether a change may be acknowledged.
    pub fn settled(&mut self, position: Position, now: Duration) -> Settled {
        self.expire(now);
        let behind = self.proxies.values().filter(|proxy| proxy.until > now && proxy.confirmed < position);
        let blocked = behind.map(|proxy| proxy.until).min();
        match blocked {
            _ if self.mute_until > now => Settled::Until(self.mute_until),
            Some(until) => Settled::Until(until),
            None => Settled::Yes,
        }
    }

    /// Nobody waits for this change any more.
    pub fn over(&mut self, position: Position) {
        self.waiting.remove(&position);
    }

    /// All proxies, in order of name.
    pub fn standing(&mut self, now: Duration) -> Vec<Standing> {
        self.expire(now);
        let one = |(name, proxy): (&String, &Proxy)| Standing {
            name: name.clone(),
            confirmed: proxy.confirmed,
            ago: now.saturating_sub(proxy.seen),
            left: proxy.until.saturating_sub(now),
            probation: proxy.probation.is_some(),
        };
        self.proxies.iter().map(one).collect()
    }

    /// Puts those on probation whose lease ran out while a change waited for them, and forgets the silent.
    fn expire(&mut self, now: Duration) {
        for proxy in self.proxies.values_mut().filter(|proxy| proxy.until <= now && proxy.probation.is_none())
        {
            let waited = |(at, since): (&Position, &Duration)| *at > proxy.confirmed && *since < proxy.until;
            if self.waiting.iter().any(waited) {
                proxy.probation = Some(now);
            }
        }
        self.proxies.retain(|_, proxy| now.saturating_sub(proxy.seen) < FORGOTTEN);
    }

    /// A lease is never longer than it may be, none is held on probation beyond its end, and their number is bounded.
    fn holds(&self, now: Duration) -> bool {
        let names: BTreeSet<&String> = self.proxies.keys().collect();
        let fits = |proxy: &Proxy| proxy.until <= now + AT_WRITER && proxy.seen <= now;
        names.len() <= PROXIES && self.proxies.values().all(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Position {
        Position { epoch: 1, seq }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_change_waits_for_every_live_lease_and_for_no_other() {
        let mut leases = Leases::default();
        assert_eq!(leases.settled(at(1), ms(0)), Settled::Yes, "nobody holds a lease");
        assert!(leases.polled("a", at(0), ms(0)) && leases.polled("b", at(0), ms(500)));
        leases.appended(at(1), ms(600));
        assert_eq!(leases.settled(at(1), ms(600)), Settled::Until(ms(3000)));
        leases.polled("a", at(1), ms(700));
        assert_eq!(leases.settled(at(1), ms(700)), Settled::Until(ms(3500)), "b has not confirmed");
        leases.polled("b", at(1), ms(800));
        assert_eq!(leases.settled(at(1), ms(800)), Settled::Yes);
    }

    #[test]
    fn a_proxy_that_dies_is_waited_for_until_its_lease_ends() {
        let mut leases = Leases::default();
        leases.polled("dead", at(0), ms(0));
        leases.appended(at(1), ms(100));
        assert_eq!(leases.settled(at(1), ms(2999)), Settled::Until(ms(3000)));
        assert_eq!(leases.settled(at(1), ms(3000)), Settled::Yes);
        leases.over(at(1));
        leases.appended(at(2), ms(3100));
        assert_eq!(leases.settled(at(2), ms(3100)), Settled::Yes, "the next push is not slow");
    }

    #[test]
    fn one_that_stops_in_order_is_not_waited_for() {
        let mut leases = Leases::default();
        leases.polled("a", at(0), ms(0));
        leases.appended(at(1), ms(100));
        leases.released("a");
        assert_eq!(leases.settled(at(1), ms(100)), Settled::Yes);
    }

    #[test]
    fn one_that_polls_and_never_confirms_loses_its_lease() {
        let mut leases = Leases::default();
        leases.polled("stuck", at(0), ms(0));
        leases.appended(at(1), ms(100));
        let mut settled_at = None;
        for step in 1..100 {
            let now = ms(step * 100);
            leases.polled("stuck", at(0), now);
            if leases.settled(at(1), now) == Settled::Yes {
                settled_at = Some(now);
                break;
            }
        }
        let settled_at = settled_at.unwrap();
        assert!(settled_at <= ms(100) + PATIENCE + AT_WRITER, "{settled_at:?}");
    }

    #[test]
    fn a_slow_proxy_delays_one_push_and_gets_its_lease_back_after_it_kept_pace() {
        let mut leases = Leases::default();
        leases.polled("slow", at(0), ms(0));
        leases.appended(at(1), ms(10));
        assert_eq!(leases.settled(at(1), ms(3000)), Settled::Yes);
        leases.over(at(1));
        // Back again, and keeping pace: no lease at first, so no push waits for it.
        assert!(!leases.polled("slow", at(1), ms(3500)));
        leases.appended(at(2), ms(3600));
        assert_eq!(leases.settled(at(2), ms(3600)), Settled::Yes);
        leases.over(at(2));
        let granted = (8..=20).map(|n| ms(n * 500)).find(|now| leases.polled("slow", at(2), *now));
        let since = granted.unwrap() - ms(3000);
        assert!(since >= PROBATION && since <= PROBATION + ms(1000), "{since:?}");
    }

    #[test]
    fn a_gap_or_an_overdue_change_begins_the_probation_anew() {
        let mut leases = Leases::default();
        leases.polled("slow", at(0), ms(0));
        leases.appended(at(1), ms(10));
        leases.settled(at(1), ms(3000));
        leases.over(at(1));
        assert!(!leases.polled("slow", at(1), ms(6000)));
        assert!(!leases.polled("slow", at(1), ms(10_000)), "it was silent for four seconds");
        leases.appended(at(2), ms(10_100));
        assert!(!leases.polled("slow", at(1), ms(12_900)));
        assert!(!leases.polled("slow", at(2), ms(15_500)), "it had begun anew with the overdue change");
        assert!(leases.polled("slow", at(2), ms(17_950)));
    }

    #[test]
    fn a_fresh_writer_is_mute_while_older_leases_may_live() {
        let mut leases = Leases::new(ms(3000));
        leases.appended(at(1), ms(100));
        assert_eq!(leases.settled(at(1), ms(100)), Settled::Until(ms(3000)));
        assert_eq!(leases.settled(at(1), ms(3000)), Settled::Yes);
    }

    #[test]
    fn more_proxies_than_are_counted_get_no_lease_and_the_silent_are_forgotten() {
        let mut leases = Leases::default();
        for n in 0..PROXIES {
            assert!(leases.polled(&format!("p{n}"), at(0), ms(0)));
        }
        assert!(!leases.polled("one more", at(0), ms(1)));
        assert!(leases.polled("one more", at(0), FORGOTTEN + ms(1)), "the others are gone");
        assert_eq!(leases.standing(FORGOTTEN + ms(1)).len(), 1);
    }
}
