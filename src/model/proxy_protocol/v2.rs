//! Version 2: binary, with extensions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ends, Header, LONGEST, Malformed};

pub(super) const START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The part that every header has.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The extension with a checksum of the whole header (CRC-32C), computed with zeros in its own place.
const CHECKSUM: u8 = 0x03;

/// `bytes` begins as far as it goes with [`START`].
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    if !matches!(command, LOCAL | PROXY) {
        return Err(Malformed::Command(command));
    }
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // Of the sender's own connection the family is to be ignored, and what it would mean.
    let addresses = match (command, family) {
        (LOCAL, _) => 0,
        (_, 0x00) => 0,
        (_, 0x11 | 0x12) => 12,
        (_, 0x21 | 0x22) => 36,
        (_, 0x31 | 0x32) => 216,
        _ => return Err(Malformed::Family(family)),
    };
    let Some(length) = bytes.get(14..FIXED) else { return Ok(None) };
    let length = FIXED + length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > LONGEST {
        return Err(Malformed::TooLong(LONGEST));
    }
    if length < FIXED + addresses {
        return Err(Malformed::Short);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let ends = match family {
        _ if addresses == 0 => None,
        TCP4 => ends::<4, Ipv4Addr>(header),
        TCP6 => ends::<16, Ipv6Addr>(header),
        // Datagrams and Unix sockets: their addresses say nothing of a client here.
        _ => None,
    };
    // Where the addresses end is known only if their family is.
    if addresses > 0 {
        check_extensions(header, FIXED + addresses)?;
    }
    Ok(Some(Header { length, ends }))
}

fn ends<const SIZE: usize, Ip: From<[u8; SIZE]> + Into<IpAddr>>(header: &[u8]) -> Option<Ends> {
    let (source, rest) = header.get(FIXED..)?.split_first_chunk::<SIZE>()?;
    let (destination, rest) = rest.split_first_chunk::<SIZE>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let destination_port = rest.first_chunk()?;
    let address =
        |ip: [u8; SIZE], port: [u8; 2]| SocketAddr::new(Ip::from(ip).into(), u16::from_be_bytes(port));
    Some(Ends {
        source: address(*source, *source_port),
        destination: address(*destination, *destination_port),
    })
}

/// They are passed over, but they must fill the header to its end; and the checksum must be right, if there is one.
fn check_extensions(header: &[u8], from: usize) -> Result<(), Malformed> {
    let mut at = from;
    let mut checksum = None;
    while at < header.len() {
        let (&kind, length) = header
            .get(at)
            .zip(header.get(at + 1..at + 3).and_then(<[u8]>::first_chunk::<2>))
            .ok_or(Malformed::Extensions)?;
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes(*length));
        let value = header.get(value..at).ok_or(Malformed::Extensions)?;
        if kind == CHECKSUM {
            let told = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Checksum)?;
            if checksum.replace((at - 4, told)).is_some() {
                return Err(Malformed::Checksum);
            }
        }
    }
    let Some((place, told)) = checksum else { return Ok(()) };
    let before = crc32c::crc32c(header.get(..place).unwrap_or_default());
    let blank = crc32c::crc32c_append(before, &[0; 4]);
    let whole = crc32c::crc32c_append(blank, header.get(place + 4..).unwrap_or_default());
    if whole == told { Ok(()) } else { Err(Malformed::Checksum) }
}

pub(super) fn write(ends: Option<Ends>) -> Vec<u8> {
    let mut out = START.to_vec();
    let Some(Ends { source, destination }) = ends else {
        out.extend([LOCAL, 0, 0, 0]);
        return out;
    };
    let family = if source.is_ipv4() { [TCP4, 0, 12] } else { [TCP6, 0, 36] };
    out.push(PROXY);
    out.extend(family);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    out
}
