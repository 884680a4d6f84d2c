//! The header of the PROXY protocol, versions 1 and 2: who is at the other end of a connection that somebody passes on.
//!
//! After haproxy's `doc/proxy-protocol.txt`. It stands once, before the first byte of whatever the connection carries, TLS
//! included. Reading is strict: what is not exactly a header is an error, and a byte more never changes what was said of
//! those before it.
//!
//! Our own, because of the libraries for it the one that is kept best (`ppp`) refuses a `LOCAL` header whose addresses are
//! not there, which the protocol says are to be skipped, checks neither checksum nor extensions, has no bound below
//! 64 KiB, and panicked on four bytes until its latest release.

mod v1;
mod v2;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

/// The longest header that is taken, in bytes. Version 2 allows 64 KiB; what is sent is below 300 bytes, or a few times that
/// with a client's certificate. A longer one is refused before it is read.
pub const LONGEST: usize = 4096;

/// Which form is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Both ends of a connection, as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its length; what comes behind it belongs to the connection.
    pub length: usize,
    /// None: the sender speaks for itself (`LOCAL`), or has no addresses that mean anything here (`UNKNOWN`, Unix sockets).
    pub ends: Option<Ends>,
}

/// What is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither version begins like this.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Past [`LONGEST`], or past the 107 bytes of version 1.
    #[error("the PROXY header is longer than {0} bytes")]
    TooLong(usize),
    /// Version 1.
    #[error("the PROXY line is not one of version 1: {0}")]
    Line(&'static str),
    /// Version 2, by its 13th byte.
    #[error("the PROXY header has version and command {0:#04x}, not 0x20 or 0x21")]
    Command(u8),
    /// Version 2, by its 14th byte.
    #[error("the PROXY header has family and protocol {0:#04x}, which is none")]
    Family(u8),
    /// Version 2: its length leaves no room for the addresses of its family.
    #[error("the PROXY header is too short for its addresses")]
    Short,
    /// Version 2: what follows the addresses.
    #[error("the extensions of the PROXY header do not end where it does")]
    Extensions,
    /// Version 2: a header with a checksum, and another one.
    #[error("the PROXY header does not have its checksum")]
    Checksum,
}

/// Reads a header from the beginning of a connection. Nothing: it goes on behind `bytes`.
///
/// `bytes` beyond the header are not looked at. Without an end after [`LONGEST`] bytes there is an error.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if begins(v1::START) {
        v1::read(bytes)
    } else if begins(v2::START) {
        v2::read(bytes)
    } else {
        Err(Malformed::Missing)
    }
}

/// The header for a connection with these ends; without ends, for one that is the sender's own.
pub fn write(version: Version, ends: Option<Ends>) -> Vec<u8> {
    let ends = ends.map(Ends::of_one_family);
    match version {
        Version::V1 => v1::write(ends),
        Version::V2 => v2::write(ends),
    }
}

impl Ends {
    /// IPv4 in IPv6 as IPv4; and if only one of the two is IPv4, both as IPv6.
    fn of_one_family(self) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (plain(self.source), plain(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self { source, destination };
        }
        let wide = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        Self { source: wide(source), destination: wide(destination) }
    }
}
