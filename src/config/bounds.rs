//! What clients of a proxy may take, checked: who may come, how many connections, how many requests, how large bodies.

use std::{fmt, time::Duration};

use super::proxy::Network;
use crate::model::RouteClass;

/// Of one listener, or of all of them together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once of one client.
    pub per_client: Option<usize>,
    /// Requests of one caller.
    pub rate: Option<Rate>,
    /// Only these may come; everybody may, if it is empty.
    pub allow: Vec<Network>,
    /// These may not, whatever else lets them.
    pub deny: Vec<Network>,
}

impl Bounds {
    /// Whether an address may come.
    pub fn admits(&self, ip: std::net::IpAddr) -> bool {
        let has = |networks: &[Network]| networks.iter().any(|network| network.contains(ip));
        (self.allow.is_empty() || has(&self.allow)) && !has(&self.deny)
    }

    /// Whether it has nothing to say of a request.
    pub fn is_open(&self) -> bool {
        self.rate.is_none() && self.allow.is_empty() && self.deny.is_empty()
    }
}

/// How many requests, on the average and at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Whose requests are counted together.
    pub by: By,
    /// So many…
    pub requests: u32,
    /// …in so long.
    pub per: Duration,
    /// So many may come at once after a rest.
    pub burst: u32,
}

/// As it is written in a file: `100/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            3600.. => "h",
            60.. => "m",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Those of one client address.
    Address,
    /// Those of one client certificate; without a good one those of the address.
    Certificate,
    /// Those with one `Authorization`; without one those of the address.
    Key,
}

/// `limits.body`: how large a request's body may be, by its route class; `None`: as large as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyCaps([Option<u64>; RouteClass::ALL.len()]);

/// Sixteen times what our controllers take, so that it is they who say no to a start that is too large; startup scripts,
/// agents' reports and logs are far below.
const API_BODY: u64 = 64 * 1024 * 1024;

/// Polls, reads and handshakes have no body worth the name.
const SMALL_BODY: u64 = 1024 * 1024;

impl Default for BodyCaps {
    fn default() -> Self {
        let of = |class: RouteClass| match class {
            RouteClass::ControllerApi => Some(API_BODY),
            RouteClass::AgentPoll | RouteClass::RegistryRead | RouteClass::AuthHandshake => Some(SMALL_BODY),
            // A push of 60 GB must not fail here; and what no table knows of a registry is a write: a transfer of the
            // vendor's own, perhaps.
            RouteClass::RegistryWrite | RouteClass::RegistryUpload => None,
        };
        Self(RouteClass::ALL.map(of))
    }
}

impl BodyCaps {
    /// The most that a request of this class may bring.
    pub fn of(&self, class: RouteClass) -> Option<u64> {
        self.0.get(class as usize).copied().flatten()
    }

    /// The same with another bound for one class.
    pub fn with(mut self, class: RouteClass, most: Option<u64>) -> Self {
        if let Some(of) = self.0.get_mut(class as usize) {
            *of = most;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str, bits: u8) -> Network {
        Network { address: text.parse().unwrap(), bits }
    }

    #[test]
    fn who_is_denied_may_not_come_although_allowed() {
        let bounds = Bounds {
            allow: vec![network("10.0.0.0", 8)],
            deny: vec![network("10.9.0.0", 16)],
            ..Bounds::default()
        };
        for (ip, may) in
            [("10.1.2.3", true), ("10.9.1.1", false), ("192.0.2.1", false), ("::ffff:10.1.1.1", true)]
        {
            assert_eq!(bounds.admits(ip.parse().unwrap()), may, "{ip}");
        }
        let deny = Bounds { allow: Vec::new(), ..bounds };
        assert!(deny.admits("192.0.2.1".parse().unwrap()) && deny.admits("fd00::1".parse().unwrap()));
        assert!(Bounds::default().is_open() && !deny.is_open());
    }

    #[test]
    fn uploads_have_no_bound_and_everything_of_controllers_has() {
        let caps = BodyCaps::default();
        for class in RouteClass::ALL {
            let free = matches!(class, RouteClass::RegistryWrite | RouteClass::RegistryUpload);
            assert_eq!(caps.of(class).is_none(), free, "{}", class.as_str());
        }
        let changed = caps.with(RouteClass::RegistryUpload, Some(5)).with(RouteClass::ControllerApi, None);
        assert_eq!(
            (changed.of(RouteClass::RegistryUpload), changed.of(RouteClass::ControllerApi)),
            (Some(5), None)
        );
        assert_eq!(changed.of(RouteClass::AgentPoll), caps.of(RouteClass::AgentPoll));
    }
}
