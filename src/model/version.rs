//! Which version we are, and whose API we speak; and what other servers say they are.

use std::{cmp::Ordering, fmt, sync::Arc};

/// Our own version, from `Cargo.toml`.
pub const OURS: &str = env!("CARGO_PKG_VERSION");

/// The vendor's API level we are compatible with; clients compare the digits before the dash.
pub const COMPATIBILITY: &str = "1.51.2";

/// What status answers say: `1.51.2-switchyard.<ours>`.
pub fn full() -> String {
    format!("{COMPATIBILITY}-switchyard.{OURS}")
}

/// The version that a server says it is. Two servers are of one version when they say the same text.
///
/// Ordered as people read versions: numbers by value, everything else by its letters, `1.9` before `1.10`, and what
/// goes on behind where another ends is the higher one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerVersion(Arc<str>);

/// Longest version that is believed: it goes into logs, metrics and the store.
const LONGEST: usize = 64;

impl ServerVersion {
    /// Takes the text if it is one: 1 to 64 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
        (visible && (1..=LONGEST).contains(&text.len())).then(|| Self(text.into()))
    }

    /// As it was said.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Runs of digits and of everything else, one after the other.
fn runs(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let number = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != number).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        rest = behind;
        Some((number, run))
    })
}

impl Ord for ServerVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut ours, mut theirs) = (runs(&self.0), runs(&other.0));
        loop {
            let order = match (ours.next(), theirs.next()) {
                // The same by value may still be written differently, and then it is another version.
                (None, None) => return self.0.cmp(&other.0),
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some((true, a)), Some((true, b))) => {
                    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
                    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
                }
                (Some((number, a)), Some((other, b))) => number.cmp(&other).then_with(|| a.cmp(b)),
            };
            if order.is_ne() {
                return order;
            }
        }
    }
}

impl PartialOrd for ServerVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> ServerVersion {
        ServerVersion::parse(text).unwrap()
    }

    #[test]
    fn versions_are_ordered_as_people_read_them() {
        let rising = ["1.9", "1.10", "1.50.3", "1.51.2", "1.51.2-5e6f", "1.51.2-switchyard.0.1.0", "2"];
        for pair in rising.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert!(version("1.51.2-switchyard.0.9.0") < version("1.51.2-switchyard.0.10.0"));
    }

    #[test]
    fn what_could_break_a_log_line_is_no_version() {
        for bad in ["", "1 2", "1\n2", "1\"", "\u{e9}", &"1".repeat(65)] {
            assert_eq!(ServerVersion::parse(bad), None, "{bad:?}");
        }
        assert!(ServerVersion::parse(&"1".repeat(64)).is_some());
    }

    proptest! {
        #[test]
        fn the_order_is_one(a in "[0-9a.]{1,6}", b in "[0-9a.]{1,6}", c in "[0-9a.]{1,6}") {
            let (a, b, c) = (version(&a), version(&b), version(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }
    }
}
