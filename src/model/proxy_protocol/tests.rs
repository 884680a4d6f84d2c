use proptest::prelude::*;

use super::*;

const QUIT: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const A: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [QUIT, &[command, family], &length, rest].concat()
}

/// A whole header with something behind it.
fn whole(header: impl AsRef<[u8]>, wanted: Option<Ends>) {
    let header = header.as_ref();
    let length = header.len();
    let shown = String::from_utf8_lossy(header).into_owned();
    for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n", header] {
        let bytes = [header, behind].concat();
        assert_eq!(read(&bytes), Ok(Some(Header { length, ends: wanted })), "{shown}");
    }
    for most in 0..length {
        assert_eq!(read(&header[..most]), Ok(None), "{shown} up to {most}");
    }
}

fn refused(bytes: impl AsRef<[u8]>) -> Malformed {
    let bytes = bytes.as_ref();
    match read(bytes) {
        Err(malformed) => malformed,
        Ok(read) => panic!("{}: {read:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn lines_of_version_1_are_read() {
    whole("PROXY TCP4 192.0.2.1 10.0.0.1 12345 443\r\n", ends("192.0.2.1:12345", "10.0.0.1:443"));
    whole("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", ends("[2001:db8::1]:0", "[::1]:65535"));
    whole("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ends("[::ffff:192.0.2.1]:1", "[::1]:2"));
    whole("PROXY UNKNOWN\r\n", None);
    whole("PROXY UNKNOWN anything \0 at all\r\n", None);
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {ip} {ip} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    whole(longest, None);
}

#[test]
fn what_is_no_line_of_version_1_is_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 \r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 ::1%lo ::1 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\r\r\n",
        "PROXY UNKNOWN a\rb\r\n",
        "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
    ] {
        assert!(matches!(refused(line), Malformed::Line(_)), "{line:?}");
    }
    assert_eq!(refused(format!("PROXY UNKNOWN {}", "x".repeat(93))), Malformed::TooLong(107));
    assert_eq!(refused(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92))), Malformed::TooLong(107));
    for other in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXY\t", "\r\n\r\n\0\r\nQUIT\r", "\n", "\x16\x03\x01"]
    {
        assert_eq!(refused(other), Malformed::Missing, "{other:?}");
    }
}

#[test]
fn headers_of_version_2_are_read() {
    let named = ends("192.0.2.1:12345", "10.0.0.1:443");
    whole(v2(0x21, 0x11, &A), named);
    let mut six = [0; 36];
    (six[0], six[15], six[31], six[33], six[35]) = (0x20, 1, 2, 3, 4);
    whole(v2(0x21, 0x21, &six), ends("[2000::1]:3", "[::2]:4"));
    // Extensions are passed over: a number of the sender's own, and an empty one.
    whole(v2(0x21, 0x11, &[&A[..], &[0xea, 0, 2, 7, 7], &[0x04, 0, 0]].concat()), named);
    // What has no address of a client: the sender's own, unspecified, a Unix socket, datagrams.
    whole(v2(0x20, 0x00, &[]), None);
    whole(v2(0x20, 0x11, &A), None);
    whole(v2(0x20, 0x11, &[]), None);
    whole(v2(0x20, 0xff, b"whatever"), None);
    whole(v2(0x21, 0x00, b"whatever"), None);
    whole(v2(0x21, 0x31, &[0; 216]), None);
    whole(v2(0x21, 0x12, &A), None);
    whole(v2(0x20, 0x00, &vec![0; LONGEST - 16]), None);
}

#[test]
fn what_is_no_header_of_version_2_is_refused() {
    for command in [0x11, 0x22, 0x01, 0x00, 0x31, 0xff] {
        assert_eq!(refused([QUIT, &[command]].concat()), Malformed::Command(command));
    }
    for family in [0x01, 0x10, 0x13, 0x20, 0x41, 0xff] {
        assert_eq!(refused([QUIT, &[0x21, family]].concat()), Malformed::Family(family));
    }
    assert_eq!(refused(v2(0x21, 0x11, &A[..11])), Malformed::Short);
    assert_eq!(refused(v2(0x21, 0x21, &[0; 35])), Malformed::Short);
    assert_eq!(refused(v2(0x21, 0x31, &[0; 215])), Malformed::Short);
    assert_eq!(refused([QUIT, &[0x20, 0, 0x0f, 0xf1]].concat()), Malformed::TooLong(LONGEST));
    for extensions in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 4], &[4, 0xff, 0xff, 0]] {
        assert_eq!(refused(v2(0x21, 0x11, &[&A, extensions].concat())), Malformed::Extensions);
    }
}

#[test]
fn a_checksum_is_checked() {
    let mut header = v2(0x21, 0x11, &[&A[..], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 9]].concat());
    assert_eq!(refused(&header), Malformed::Checksum);
    let sum = crc32c::crc32c(&header);
    header[31..35].copy_from_slice(&sum.to_be_bytes());
    whole(&header, ends("192.0.2.1:12345", "10.0.0.1:443"));
    for at in 16..header.len() {
        let mut other = header.clone();
        other[at] ^= 1;
        assert!(read(&other).is_err() || at == 28, "byte {at}");
    }
    assert_eq!(refused(v2(0x21, 0x11, &[&A[..], &[3, 0, 3, 0, 0, 0]].concat())), Malformed::Checksum);
    // Once, and once more.
    let twice = [&A[..], &[3, 0, 4, 0, 0, 0, 0], &[3, 0, 4, 0, 0, 0, 0]].concat();
    assert_eq!(refused(v2(0x21, 0x11, &twice)), Malformed::Checksum);
}

#[test]
fn ends_of_two_families_are_written_as_one() {
    let mixed = ends("192.0.2.1:1", "[::1]:2");
    assert_eq!(write(Version::V1, mixed), b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
    let mapped = ends("[::ffff:192.0.2.1]:1", "10.0.0.1:2");
    assert_eq!(write(Version::V1, mapped), b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n");
    assert_eq!(write(Version::V1, None), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(Version::V2, None), [QUIT, &[0x20, 0, 0, 0]].concat());
}

fn address(four: bool) -> impl Strategy<Value = SocketAddr> {
    let ip = move |bits: u128| match four {
        true => IpAddr::from(u32::try_from(bits >> 96).unwrap_or_default().to_be_bytes()),
        false => IpAddr::from((bits | 1 << 127).to_be_bytes()),
    };
    (any::<u128>(), any::<u16>()).prop_map(move |(bits, port)| SocketAddr::new(ip(bits), port))
}

fn any_ends() -> impl Strategy<Value = Option<Ends>> {
    let of =
        |four| (address(four), address(four)).prop_map(|(source, destination)| Ends { source, destination });
    prop::option::of(any::<bool>().prop_flat_map(of))
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

/// What is said of some bytes is said of them whatever follows.
fn steady(bytes: &[u8]) {
    let mut said = None;
    for most in 0..=bytes.len() {
        let now = read(&bytes[..most]);
        if let Ok(Some(header)) = now {
            assert!(header.length <= most && header.length <= LONGEST);
        }
        match &said {
            None if now == Ok(None) => {}
            None => said = Some(now),
            Some(before) => assert_eq!(*before, now, "at {most}"),
        }
    }
    assert!(said.is_some() || bytes.len() < LONGEST);
}

proptest! {
    #[test]
    fn what_is_written_is_read(version in version(), ends in any_ends(), behind in prop::collection::vec(any::<u8>(), 0..40)) {
        let header = write(version, ends);
        whole(&header, ends);
        steady(&[header, behind].concat());
    }

    #[test]
    fn changed_headers_are_read_or_refused_and_nothing_else(
        version in version(),
        ends in any_ends(),
        behind in prop::collection::vec(any::<u8>(), 0..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = [write(version, ends), behind].concat();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        steady(&bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3usize) {
        let start = [&b""[..], b"PROXY ", QUIT][kind];
        steady(&[start, &bytes].concat());
    }
}
