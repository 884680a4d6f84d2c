//! What ties a request to one upstream before load and chance do. Two proxies come to the same answer, for they reckon with
//! nothing but the request and the names and weights of the upstreams.

/// What of the request it was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The client's address.
    Address,
    /// A header.
    Header,
    /// A cookie of ours.
    Cookie,
}

impl By {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "client address",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

/// What ties it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Nothing does.
    #[default]
    Free,
    /// A key, as long as its upstream is not overloaded.
    Key(u64),
    /// A key, whatever the load.
    Stick(By, u64),
    /// A cookie that has this tag of an upstream in it.
    Tagged(u64),
    /// Nothing yet: the client is given a cookie with its answer.
    Untagged,
}

/// The same, as a request carries it: without a gap, for thousands of them wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    kind: Kind,
    key: [u8; 8],
}

#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    Free,
    Key,
    Stick(By),
    Tagged,
    Untagged,
}

impl From<Affinity> for Carried {
    fn from(affinity: Affinity) -> Self {
        let (kind, key) = match affinity {
            Affinity::Free => (Kind::Free, 0),
            Affinity::Key(key) => (Kind::Key, key),
            Affinity::Stick(by, key) => (Kind::Stick(by), key),
            Affinity::Tagged(tag) => (Kind::Tagged, tag),
            Affinity::Untagged => (Kind::Untagged, 0),
        };
        Self { kind, key: key.to_ne_bytes() }
    }
}

impl From<Carried> for Affinity {
    fn from(Carried { kind, key }: Carried) -> Self {
        let key = u64::from_ne_bytes(key);
        match kind {
            Kind::Free => Self::Free,
            Kind::Key => Self::Key(key),
            Kind::Stick(by) => Self::Stick(by, key),
            Kind::Tagged => Self::Tagged(key),
            Kind::Untagged => Self::Untagged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_is_what_was_found() {
        let stick = Affinity::Stick(By::Header, u64::MAX - 1);
        for affinity in [Affinity::Free, Affinity::Key(7), stick, Affinity::Tagged(1), Affinity::Untagged] {
            assert_eq!(Affinity::from(Carried::from(affinity)), affinity);
        }
        assert!(size_of::<Carried>() < size_of::<Affinity>());
    }
}
