//! Version 1: one line of text.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Ends, Header, Malformed};

pub(super) const START: &[u8] = b"PROXY ";

/// The longest line, its end included.
const LONGEST: usize = 107;

/// `bytes` begins as far as it goes with [`START`].
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let most = bytes.get(..LONGEST).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', most) else {
        return if bytes.len() < LONGEST { Ok(None) } else { Err(Malformed::TooLong(LONGEST)) };
    };
    let line = most.get(START.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(Malformed::Line("it does not end in CR LF"))?;
    if line.contains(&b'\r') {
        return Err(Malformed::Line("it has a CR without LF"));
    }
    let ends = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        // Whatever else it has is to be ignored.
        None
    } else {
        let line = std::str::from_utf8(line).map_err(|_| Malformed::Line("it has odd bytes"))?;
        Some(match line.split_once(' ') {
            Some(("TCP4", rest)) => ends::<Ipv4Addr>(rest)?,
            Some(("TCP6", rest)) => ends::<Ipv6Addr>(rest)?,
            _ => return Err(Malformed::Line("its family is not TCP4, TCP6 or UNKNOWN")),
        })
    };
    Ok(Some(Header { length: end + 1, ends }))
}

/// `source destination source-port destination-port`, with one blank between two.
fn ends<Ip: FromStr + Into<IpAddr>>(rest: &str) -> Result<Ends, Malformed> {
    let mut words = rest.split(' ');
    let mut ip = || words.next().and_then(|word| word.parse::<Ip>().ok()).map(Into::into);
    let addresses = (ip(), ip());
    let (Some(source), Some(destination)) = addresses else {
        return Err(Malformed::Line("an address is not one of its family"));
    };
    let ports = (words.next().and_then(port), words.next().and_then(port));
    let (Some(source_port), Some(destination_port)) = ports else {
        return Err(Malformed::Line("a port is not a number from 0 to 65535"));
    };
    if words.next().is_some() {
        return Err(Malformed::Line("there is more than addresses and ports"));
    }
    Ok(Ends {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

pub(super) fn write(ends: Option<Ends>) -> Vec<u8> {
    let Some(Ends { source, destination }) = ends else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let ips = (source.ip(), destination.ip());
    format!("PROXY {family} {} {} {} {}\r\n", ips.0, ips.1, source.port(), destination.port()).into_bytes()
}
