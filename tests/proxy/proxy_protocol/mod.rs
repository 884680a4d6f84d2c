//! Connections that begin with a PROXY header, from balancers and to upstreams. The bytes are written and looked at by
//! hand here: the code under test does not judge itself.

mod inbound;
mod outbound;
mod peers;

use std::net::{IpAddr, SocketAddr};

use switchyard::config::proxy::{Kind, Network, Proxy};

use crate::front;

const QUIT: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A front whose clients on this machine are balancers.
fn behind_balancers(upstreams: &[SocketAddr]) -> Proxy {
    let mut config = front::config(Kind::Controller, upstreams);
    config.listeners[0].proxy_protocol = vec![network("127.0.0.1", 32)];
    config
}

fn network(address: &str, bits: u8) -> Network {
    Network { address: address.parse().unwrap(), bits }
}

/// A header of version 2 with these bytes behind its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [QUIT, &[command, family], &length, rest].concat()
}

/// A header of version 2 for a connection between these.
fn v2_of(source: &str, destination: &str) -> Vec<u8> {
    let ends: [SocketAddr; 2] = [source, destination].map(|end| end.parse().unwrap());
    let mut rest = Vec::new();
    for end in ends {
        match end.ip() {
            IpAddr::V4(ip) => rest.extend(ip.octets()),
            IpAddr::V6(ip) => rest.extend(ip.octets()),
        }
    }
    for end in ends {
        rest.extend(end.port().to_be_bytes());
    }
    v2(0x21, if ends[0].is_ipv4() { 0x11 } else { 0x21 }, &rest)
}

/// A request that says where it goes.
fn get(path: &str, extra: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: front\r\n{extra}\r\n")
}
