//! Which members of a cluster are believed, and until when. Pure: told of keys and time.
//!
//! Whoever may write to the store may write anything: what is no member is refused in words, and no more than so many are
//! kept. A member whose key is gone stays for [`LINGER`]: one that writes it anew under another lease was never away.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    config::{Address, proxy::Upstream},
    model::{UpstreamName, ZoneName, excerpt},
    store::Member,
};

/// How long a member stays whose key is gone.
pub const LINGER: Duration = Duration::from_secs(5);

/// A key that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Its name, cut to what a log line can bear.
    pub name: String,
    /// Why.
    pub why: String,
}

#[derive(Debug)]
struct Entry {
    upstream: Upstream,
    /// Its key is gone.
    leaves: Option<Instant>,
}

/// The members of one role.
#[derive(Debug)]
pub struct Roster {
    most: usize,
    known: BTreeMap<String, Entry>,
}

impl Roster {
    /// Nobody yet, and never more than so many.
    pub fn new(most: usize) -> Self {
        Self { most, known: BTreeMap::new() }
    }

    /// All keys, as they were at one moment. Who is known and not among them begins to leave.
    pub fn listed(&mut self, keys: &[(&str, &[u8])], now: Instant) -> Vec<Refused> {
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names.iter().filter(|name| !keys.iter().any(|(key, _)| key == name)) {
            self.gone(name, now);
        }
        keys.iter().filter_map(|(name, value)| self.put(name, value, now)).collect()
    }

    /// A key was written.
    pub fn put(&mut self, name: &str, value: &[u8], now: Instant) -> Option<Refused> {
        let refuse = |why: String| {
            let name = excerpt(name);
            Some(Refused { name, why })
        };
        let upstream = match read(name, value) {
            Ok(upstream) => upstream,
            Err(why) => {
                self.gone(name, now);
                return refuse(why);
            }
        };
        if !self.known.contains_key(name) && self.known.len() >= self.most {
            return refuse(format!("there are {} already, which is `discovery.most`", self.most));
        }
        self.known.insert(name.to_owned(), Entry { upstream, leaves: None });
        None
    }

    /// A key is gone.
    pub fn gone(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.known.get_mut(name) {
            entry.leaves.get_or_insert(now + LINGER);
        }
    }

    /// Takes out whoever's time is over; says when to ask again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.known.retain(|_, entry| entry.leaves.is_none_or(|leaves| leaves > now));
        self.known.values().filter_map(|entry| entry.leaves).min()
    }

    /// Everybody, by name.
    pub fn list(&self) -> Vec<Upstream> {
        self.known.values().map(|entry| entry.upstream.clone()).collect()
    }
}

fn read(name: &str, value: &[u8]) -> Result<Upstream, String> {
    let name = UpstreamName::parse(name).map_err(|error| error.to_string())?;
    let member = Member::decode(value).map_err(|error| error.to_string())?;
    let shown = excerpt(&member.address);
    let address: Address =
        member.address.parse().map_err(|error| format!("its address `{shown}`: {error}"))?;
    let nowhere = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
    if address.host.parse().is_ok_and(nowhere) {
        return Err(format!("nobody can connect to its address `{shown}`: give it `server.advertise`"));
    }
    // One that cannot be a zone is none.
    let zone = member.zone.and_then(|zone| ZoneName::parse(zone).ok());
    Ok(Upstream { zone, ..Upstream::plain(name, address) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn value(address: &str) -> Vec<u8> {
        format!(r#"{{"v":1,"w":"w","address":"{address}","version":"1","run":"r"}}"#).into_bytes()
    }

    fn names(roster: &Roster) -> Vec<String> {
        roster.list().iter().map(|upstream| upstream.name.to_string()).collect()
    }

    #[test]
    fn who_comes_back_within_a_moment_was_never_away() {
        let (mut roster, now) = (Roster::new(8), clock::now());
        assert_eq!(roster.put("c1", &value("10.0.0.1:1"), now), None);
        assert_eq!(roster.put("c2", &value("10.0.0.2:1"), now), None);
        roster.gone("c1", now);
        assert_eq!(roster.expire(now + LINGER / 2), Some(now + LINGER));
        assert_eq!(names(&roster), ["c1", "c2"]);
        roster.put("c1", &value("10.0.0.1:1"), now);
        assert_eq!(roster.expire(now + LINGER * 2), None);
        assert_eq!(names(&roster), ["c1", "c2"]);
        roster.gone("c1", now);
        roster.gone("c1", now + LINGER / 2);
        roster.expire(now + LINGER);
        assert_eq!(names(&roster), ["c2"], "counted from the first word of it");
    }

    #[test]
    fn a_list_is_all_there_is() {
        let (mut roster, now) = (Roster::new(8), clock::now());
        let (a, b) = (value("10.0.0.1:1"), value("10.0.0.2:1"));
        roster.listed(&[("a", &a), ("b", &b)], now);
        roster.listed(&[("b", &a)], now);
        assert_eq!(names(&roster), ["a", "b"]);
        roster.expire(now + LINGER);
        assert_eq!(roster.list()[0].address.to_string(), "10.0.0.1:1");
        assert_eq!(names(&roster), ["b"]);
    }

    #[test]
    fn what_is_no_member_is_refused_in_words() {
        let (mut roster, now) = (Roster::new(2), clock::now());
        let mut refused = |name: &str, value: &[u8], word: &str| {
            let refused = roster.put(name, value, now).unwrap_or_else(|| panic!("{name} was taken"));
            assert!(refused.why.contains(word), "{refused:?}");
            assert!(refused.name.len() <= 256 && !refused.name.contains('\n'));
        };
        refused("a/b", &value("10.0.0.1:1"), "name");
        refused(&"x\n".repeat(300), &value("10.0.0.1:1"), "name");
        refused("a", b"\xff\xfe", "cannot be read");
        refused("a", &[b'{'; 5000], "5000 bytes");
        refused("a", br#"{"v":9}"#, "version 9");
        refused("a", &value("10.0.0.1"), "port is missing");
        refused("a", &value("0.0.0.0:8090"), "server.advertise");
        refused("a", &value("[::]:8090"), "server.advertise");
        refused("a", &value("http://10.0.0.1:80"), "URL");
        assert!(roster.put("a", &value("10.0.0.1:1"), now).is_none());
        assert!(roster.put("b", &value("10.0.0.2:1"), now).is_none());
        assert!(roster.put("c", &value("10.0.0.3:1"), now).unwrap().why.contains("discovery.most"));
        assert!(roster.put("b", &value("10.0.0.4:1"), now).is_none(), "a known one may move");
        // A good key that turns bad leaves like one that is gone.
        assert!(roster.put("b", b"junk", now).is_some());
        roster.expire(now + LINGER);
        assert_eq!(names(&roster), ["a"]);
    }
}
