//! Step 3: who is calling. The peer's address, or what a trusted proxy in front of us says it is.

use std::net::{IpAddr, SocketAddr};

use super::h1::{Fields, fields::text};
use crate::{config::proxy::Network, tls::Peer};

/// The caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// The connection comes from a proxy that is believed: its identity headers stay.
    pub trusted: bool,
}

/// What the TLS of a connection says of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// The version that is spoken.
    pub version: &'static str,
    /// The client goes on with an earlier session.
    pub resumed: bool,
    /// Who it is by its certificate, if it is asked for one.
    pub peer: Option<Peer>,
}

/// Finds the caller behind a connection from `peer`.
///
/// From a trusted peer it is the last address of `X-Forwarded-For` that is not itself a trusted one: what
/// stands before it was written by somebody nobody vouches for.
pub fn client(peer: SocketAddr, fields: Fields<'_>, trusted: &[Network]) -> Client {
    let peer = peer.ip().to_canonical();
    let believed = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
    if !believed(peer) {
        return Client { ip: peer, trusted: false };
    }
    let mut ip = peer;
    let lines: Vec<&str> = fields.all("x-forwarded-for").filter_map(text).collect();
    for text in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(next) = text.trim().parse::<IpAddr>() else { break };
        ip = next.to_canonical();
        if !believed(ip) {
            break;
        }
    }
    Client { ip, trusted: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, forwarded: &[&'static str]) -> (String, bool) {
        let trusted = [Network { address: "10.0.0.0".parse().unwrap(), bits: 8 }];
        let field =
            |line: &&'static str| httparse::Header { name: "X-Forwarded-For", value: line.as_bytes() };
        let parsed: Vec<_> = forwarded.iter().map(field).collect();
        let client = client(peer.parse().unwrap(), Fields::new(&parsed), &trusted);
        (client.ip.to_string(), client.trusted)
    }

    #[test]
    fn an_outsider_is_its_own_address_whatever_it_claims() {
        assert_eq!(check("192.0.2.1:5", &["10.0.0.9"]), ("192.0.2.1".into(), false));
    }

    #[test]
    fn behind_trusted_proxies_it_is_the_last_address_nobody_vouches_for() {
        assert_eq!(check("10.0.0.1:5", &[]), ("10.0.0.1".into(), true));
        assert_eq!(check("10.0.0.1:5", &["198.51.100.7, 192.0.2.1, 10.0.0.2"]), ("192.0.2.1".into(), true));
        assert_eq!(check("10.0.0.1:5", &["192.0.2.1", "10.0.0.2"]), ("192.0.2.1".into(), true));
        assert_eq!(check("[::ffff:10.0.0.1]:5", &["junk, 192.0.2.9"]), ("192.0.2.9".into(), true));
        assert_eq!(check("10.0.0.1:5", &["192.0.2.9, junk"]), ("10.0.0.1".into(), true));
    }
}
