//! Whose an upload is: the client that began it, by its address.

use std::net::IpAddr;

use crate::config::proxy::Network;

/// The client's address: the peer's, or, where that is a proxy whose word is taken, the nearest one in
/// `X-Forwarded-For` that is none. What is further left there came from the client itself and may be anything.
pub(super) fn of<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_proxy = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
    let mut owner = peer.to_canonical();
    for hop in forwarded.rev().flat_map(|line| line.rsplit(',')) {
        if !is_proxy(owner) {
            break;
        }
        let Ok(before) = hop.trim().parse::<IpAddr>() else { break };
        owner = before.to_canonical();
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_believed_as_far_as_proxies_of_ours_wrote_it() {
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let net = |text: &str, bits| Network { address: text.parse().unwrap(), bits };
            let trusted = [net("10.0.0.0", 8), net("::1", 128)];
            let owner = of(peer.parse().unwrap(), lines.iter().copied(), &trusted);
            assert_eq!(owner, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        };
        check("192.0.2.7", &[], "192.0.2.7");
        check("192.0.2.7", &["198.51.100.1"], "192.0.2.7");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.1 , 10.0.0.2"], "198.51.100.1");
        check("::1", &["2001:db8::1, 10.0.0.2"], "2001:db8::1");
        // What nobody of ours could have written ends it.
        check("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1");
        check("10.0.0.1", &["203.0.113.9, ,10.0.0.2"], "10.0.0.2");
    }
}
