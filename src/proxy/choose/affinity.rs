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
