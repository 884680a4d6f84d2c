//! MAC addresses: as the vendor's clients write them, and ranges of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The bit of the first byte that means a group of machines.
const MULTICAST: u64 = 1 << 40;

/// The largest.
const LAST: u64 = (1 << 48) - 1;

/// A MAC address of one machine. Printed in capitals, with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(u64);

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs.
    #[error("it must be six pairs of hexadecimal digits with colons, like `02:00:5E:10:00:01`")]
    Form,
    /// Of a group of machines.
    #[error("its first byte is odd: that is an address of many machines, not of one")]
    Multicast,
    /// A range that is none.
    #[error("it must be `FROM-TO`, with FROM not behind TO, like `02:00:5E:10:00:00-02:00:5E:10:FF:FF`")]
    Range,
    /// Longer than the longest range.
    #[error("it has more than {} addresses", MacRange::MOST)]
    Large,
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut value = 0;
        let mut pairs = 0;
        for pair in text.split(':') {
            if pair.len() != 2 || pairs == 6 || !pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacError::Form);
            }
            value = value << 8 | u64::from_str_radix(pair, 16).map_err(|_| MacError::Form)?;
            pairs += 1;
        }
        match (pairs, value & MULTICAST) {
            (6, 0) => Ok(Self(value)),
            (6, _) => Err(MacError::Multicast),
            _ => Err(MacError::Form),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, _, a, b, c, d, e, g] = self.0.to_be_bytes();
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// From one address to another, both included; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacRange {
    from: u64,
    to: u64,
}

impl MacRange {
    /// Most addresses of one: all of a vendor's prefix.
    pub const MOST: u64 = 1 << 24;

    /// The 65,536 addresses that belong to a cluster of this name if nobody says which: administered locally, and other
    /// ones for most other names.
    pub fn of_cluster(name: &str) -> Self {
        let hash = super::Digest::of(name.as_bytes()).hex();
        let middle = u64::from_str_radix(hash.get(..6).unwrap_or_default(), 16).unwrap_or(0);
        let from = 0x02 << 40 | middle << 16;
        Self { from, to: from | 0xFFFF }
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        self.to - self.from + 1
    }

    /// Whether this one is among them.
    pub fn contains(self, mac: MacAddress) -> bool {
        (self.from..=self.to).contains(&mac.0)
    }

    /// All of them, beginning anywhere: `start` is taken as a number of them, and after the last comes the first.
    pub fn starting_at(self, start: u64) -> impl Iterator<Item = MacAddress> {
        let count = self.count();
        (0..count).map(move |n| MacAddress(self.from + (start % count + n) % count))
    }

    /// Those behind `last`, in order.
    pub fn after(self, last: Option<MacAddress>) -> impl Iterator<Item = MacAddress> {
        let first = last.map_or(self.from, |last| self.from.max((last.0 + 1).min(LAST)));
        (first..=self.to).map(MacAddress)
    }
}

impl FromStr for MacRange {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let (from, to) = text.split_once('-').ok_or(MacError::Range)?;
        let (from, to): (MacAddress, MacAddress) = (from.trim().parse()?, to.trim().parse()?);
        let range = Self { from: from.0, to: to.0 };
        match () {
            () if from > to => Err(MacError::Range),
            () if range.count() > Self::MOST => Err(MacError::Large),
            () => Ok(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(text: &str) -> MacAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_six_pairs_and_of_one_machine() {
        assert_eq!(mac("02:00:5e:10:00:0a").to_string(), "02:00:5E:10:00:0A");
        for (text, error) in [
            ("", MacError::Form),
            ("02:00:5e:10:00", MacError::Form),
            ("02:00:5e:10:00:01:02", MacError::Form),
            ("02-00-5e-10-00-01", MacError::Form),
            ("02:00:5e:10:00:1", MacError::Form),
            ("02:00:5e:10:00:+1", MacError::Form),
            ("02:00:5e:10:00:é1", MacError::Form),
            ("01:00:5e:10:00:01", MacError::Multicast),
            ("ff:ff:ff:ff:ff:ff", MacError::Multicast),
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_range_gives_each_of_its_addresses_once() {
        let range: MacRange = "02:00:00:00:00:FE-02:00:00:00:01:01".parse().unwrap();
        assert_eq!(range.count(), 4);
        let all: Vec<String> = range.after(None).map(|mac| mac.to_string()).collect();
        assert_eq!(all, ["02:00:00:00:00:FE", "02:00:00:00:00:FF", "02:00:00:00:01:00", "02:00:00:00:01:01"]);
        let rest: Vec<String> =
            range.after(Some(mac("02:00:00:00:00:ff"))).map(|mac| mac.to_string()).collect();
        assert_eq!(rest, all[2..]);
        assert_eq!(range.after(Some(mac("02:00:00:00:01:01"))).count(), 0);
        let turned: Vec<String> = range.starting_at(u64::MAX).map(|mac| mac.to_string()).collect();
        assert_eq!(turned, [&all[3..], &all[..3]].concat());
        assert!(range.contains(mac("02:00:00:00:01:00")) && !range.contains(mac("02:00:00:00:01:02")));
        for (text, error) in [
            ("02:00:00:00:00:01", MacError::Range),
            ("02:00:00:00:00:02-02:00:00:00:00:01", MacError::Range),
            ("x-y", MacError::Form),
            ("02:00:00:00:00:00-02:00:02:00:00:00", MacError::Large),
        ] {
            assert_eq!(text.parse::<MacRange>(), Err(error), "{text}");
        }
    }

    #[test]
    fn clusters_have_ranges_of_their_own() {
        let (main, other) = (MacRange::of_cluster("main"), MacRange::of_cluster("other"));
        assert_eq!(main.count(), 65536);
        assert!(main != other && main == MacRange::of_cluster("main"));
        assert!(main.after(None).next().unwrap().to_string().starts_with("02:"));
    }
}
