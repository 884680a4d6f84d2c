//! On whose account a connection or a request goes. Pure.

use std::net::IpAddr;

use crate::{
    config::bounds::By,
    proxy::{
        h1::Fields,
        identify::{Client, Secured},
    },
    tls::Verify,
    wire::headers,
};

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account<'a> {
    /// A client's address, or the network of it that counts.
    Address(u128),
    /// What a client's certificate is.
    Certificate(&'a [u8]),
    /// What `Authorization` has.
    Key(&'a [u8]),
    /// All keys that one address comes with.
    KeysOf(u128),
}

/// What is known of who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its address, and whether a trusted proxy says so.
    pub client: Client,
    /// What its TLS says.
    pub secured: Option<&'a Secured>,
    /// What it says itself, and what a trusted proxy says.
    pub fields: Fields<'a>,
}

/// The client that an address is: it and all that share its first `prefix` bits, if it is of IPv6.
pub fn client(ip: IpAddr, prefix: u8) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0),
    }
}

/// The account that a request goes on; and one more, if whoever it is could have as many accounts as it likes.
pub fn accounts<'a>(caller: &Caller<'a>, by: By, prefix: u8) -> (Account<'a>, Option<Account<'a>>) {
    let address = client(caller.client.ip, prefix);
    let found = match by {
        By::Address => None,
        By::Certificate => certificate(caller).map(|of| (Account::Certificate(of), None)),
        // Nobody here knows whether it is a good one.
        By::Key => key(&caller.fields).map(|of| (Account::Key(of), Some(Account::KeysOf(address)))),
    };
    found.unwrap_or((Account::Address(address), None))
}

fn key<'a>(fields: &Fields<'a>) -> Option<&'a [u8]> {
    fields.all("authorization").next().filter(|value| !value.is_empty())
}

/// What was found good: here, or by a proxy that is trusted to say so.
fn certificate<'a>(caller: &Caller<'a>) -> Option<&'a [u8]> {
    let peer = caller.secured.and_then(|secured| secured.peer.as_ref());
    let own = peer.and_then(|peer| peer.escaped.as_deref()).map(str::as_bytes);
    let told = || {
        let good = caller.fields.text(headers::CLIENT_VERIFY) == Some(Verify::Success.value().as_str());
        caller.fields.all(headers::CLIENT_CERT).next().filter(|_| caller.client.trusted && good)
    };
    own.or_else(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_an_address_of_ipv4_is() {
        let same = |a: &str, b: &str, prefix| client(ip(a), prefix) == client(ip(b), prefix);
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", 64));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1", 64));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:3::1", 48));
        assert!(!same("2001:db8::1", "2001:db8::2", 128));
        assert!(!same("192.0.2.1", "192.0.2.2", 16));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1", 64));
    }

    #[test]
    fn who_shows_nothing_goes_on_the_account_of_its_address() {
        let line =
            |name: &'static str, value: &'static str| httparse::Header { name, value: value.as_bytes() };
        let shown = [
            line("Authorization", "Bearer a"),
            line("Ssl-Client-Verify", "SUCCESS"),
            line("Ssl-Client-Cert", "-----BEGIN"),
        ];
        let of = |fields: &'static [httparse::Header<'static>], trusted, by| {
            let client = Client { ip: ip("192.0.2.1"), trusted };
            accounts(&Caller { client, secured: None, fields: Fields::new(fields) }, by, 64)
        };
        let shown: &'static [_] = Box::leak(Box::new(shown));
        let address = client(ip("192.0.2.1"), 64);
        let plain = (Account::Address(address), None);
        for by in [By::Address, By::Certificate, By::Key] {
            assert_eq!(of(&[], true, by), plain);
        }
        assert_eq!(of(shown, true, By::Address), plain);
        assert_eq!(of(shown, false, By::Certificate), plain, "whoever says so itself is not believed");
        assert_eq!(of(shown, true, By::Certificate), (Account::Certificate(b"-----BEGIN"), None));
        assert_eq!(of(shown, false, By::Key), (Account::Key(b"Bearer a"), Some(Account::KeysOf(address))));
        assert_eq!(of(&shown[1..2], true, By::Certificate), plain);
    }
}
