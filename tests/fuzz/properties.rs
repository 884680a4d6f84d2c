//! What must hold for any bytes; shared by the fuzz targets and by the test that replays their corpus.

#![allow(dead_code, reason = "each target uses one of them")]

use std::net::{IpAddr, Ipv4Addr};

use switchyard::{
    model::RequestId,
    model::proxy_protocol::{self, Version},
    proxy::{
        forward::{self, About, Attempt},
        guard::{
            head::{self, HeadLimits, Scan},
            path::{self, Target},
        },
        h1::{
            Fields, Framing,
            chunked::{self, Decoder},
        },
        h2::{
            frame::{self, Frame},
            hpack::{Reader, Writer},
            request::Request,
        },
        identify::Client,
    },
};

const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 128 };

/// For what was forwarded: a few fields were added.
const LATER: HeadLimits = HeadLimits { bytes: 34 * 1024, fields: 136 };

/// A head that is let by is understood by the parser behind the guard; and what is made of it for an upstream is let by
/// as well, framed in the same way, and made into itself.
pub fn head(bytes: &[u8]) {
    let Ok(Scan::Complete(end)) = head::scan(bytes, 0, LIMITS) else { return };
    let whole = &bytes[..end];
    let Ok(framing) = head::check(whole, LIMITS) else { return };
    assert!(matches!(framing, Framing::None | Framing::Length(_) | Framing::Chunked));
    let Some(once) = forwarded(whole, framing) else { return };
    assert!(matches!(head::scan(&once, 0, LATER), Ok(Scan::Complete(end)) if end == once.len()), "one head");
    assert_eq!(head::check(&once, LATER), Ok(framing), "{}", String::from_utf8_lossy(&once));
    let twice = forwarded(&once, framing).expect("what was forwarded is parsed");
    // A request without a host is given one, and with that all that is made of hosts.
    let once =
        if once.windows(18).any(|line| line == b"\r\nhost: upstream\r\n") { twice.clone() } else { once };
    let twice = forwarded(&twice, framing).expect("what was forwarded is parsed");
    assert_eq!(String::from_utf8_lossy(&twice), String::from_utf8_lossy(&once));
}

/// The head as an upstream gets it; `None` when its path is refused, or the parser knows better.
fn forwarded(head: &[u8], framing: Framing) -> Option<Vec<u8>> {
    let mut room = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut room);
    let ended = parsed.parse(head).ok()?;
    assert_eq!(ended, httparse::Status::Complete(head.len()), "both see the same end");
    let fields = Fields::new(parsed.headers);
    let (raw, query) = path::split(parsed.path?);
    let path = path::normalise(raw).ok()?;
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request = RequestId::parse("r").expect("a valid id");
    let about = About {
        client: Client { ip: peer, trusted: false },
        secured: None,
        peer: "127.0.0.1",
        host: fields.text("host").unwrap_or_default(),
        request: &request,
        trace: None,
        upgrade: forward::is_upgrade(&fields),
        framing,
        old: parsed.version? == 0,
    };
    let mut out = Vec::new();
    forward::request(parsed.method?, &Target { path, query }, &fields, &about, &mut out);
    let host = about.host.is_empty().then_some("upstream");
    forward::attempt(&Attempt { host, left: None, key: None, sign: None }, &mut out);
    believable(&out);
    Some(out)
}

/// Who is calling is said by us alone: by where the connection comes from, and of certificates nothing, for none was asked
/// for.
fn believable(head: &[u8]) {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
        let name: Vec<u8> = line[..colon].iter().map(plain).collect();
        let value = line[colon + 1..].trim_ascii();
        let ours = match name.as_slice() {
            b"x-forwarded-for" => value == b"127.0.0.1",
            b"x-forwarded-proto" => value == b"http",
            // The host, which is anybody's to name.
            b"x-forwarded-host" => true,
            b"x-real-ip" | b"x-client-ip" | b"forwarded" => false,
            name => !["ssl-client-", "x-forwarded-", "switchyard-"]
                .iter()
                .any(|ours| name.starts_with(ours.as_bytes())),
        };
        assert!(ours, "{}", String::from_utf8_lossy(head));
    }
}

/// How a body arrives makes no difference; what was decoded and encoded again is decoded to the same.
pub fn chunked(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len());
    assert_eq!(decode(bytes, 1), whole);
    assert_eq!(decode(bytes, 7), whole);
    let Some((data, trailers, left)) = whole else { return };
    assert!(data.len() + left < bytes.len());
    let mut again = Vec::new();
    chunked::encode(&data, &mut again);
    chunked::encode_end(&trailers, &mut again);
    assert_eq!(decode(&again, again.len()), Some((data, trailers.clone(), 0)));
    assert!(forward::trailers(&trailers).len() <= trailers.len());
}

/// What is said of some bytes is said of them whatever follows; a header is bounded, and what it says can be said on.
pub fn proxy_header(bytes: &[u8]) {
    let whole = proxy_protocol::read(bytes);
    let first = (0..=bytes.len()).find(|most| proxy_protocol::read(&bytes[..*most]) != Ok(None));
    let Some(first) = first else {
        assert!(bytes.len() < proxy_protocol::LONGEST, "nothing is waited for without end");
        return;
    };
    for most in [first, (first + bytes.len()) / 2, bytes.len().saturating_sub(1).max(first)] {
        assert_eq!(proxy_protocol::read(&bytes[..most]), whole, "at {most}");
    }
    let Ok(Some(header)) = whole else { return };
    assert_eq!(header.length, first, "not a byte more is needed");
    for version in [Version::V1, Version::V2] {
        let written = proxy_protocol::write(version, header.ends);
        let again = proxy_protocol::read(&written).expect("what is written is read").expect("whole");
        assert_eq!(again.length, written.len());
        assert_eq!(proxy_protocol::write(version, again.ends), written);
    }
}

/// Frames one after the other, whose blocks of fields are those of one client: what is let by as a request is one head
/// for whoever reads it as one of HTTP/1.1, with the length that was told.
pub fn frames(bytes: &[u8]) {
    let (mut reader, mut request, mut rest) = (Reader::default(), Request::default(), bytes);
    while let Some(head) = frame::Head::read(rest) {
        let Some((whole, behind)) = rest.split_at_checked(frame::HEAD + head.length) else { return };
        rest = behind;
        let (block, ended) = match head.take(&whole[frame::HEAD..]) {
            Err(_) => continue,
            Ok(Frame::Headers(block, ended, _)) => (block, ended),
            Ok(Frame::Data(data, _)) => {
                assert!(data.len() <= head.length);
                continue;
            }
            Ok(Frame::Settings(settings)) => {
                assert!(frame::settings(settings).count() <= settings.len() / 6);
                continue;
            }
            Ok(_) => continue,
        };
        request.begin(LIMITS);
        if reader.read(block, |name, value, kind| request.field(name, value, kind)).is_err() {
            // Of no more use to its connection.
            return;
        }
        let Ok(begun) = request.end(ended) else { continue };
        let text = request.text();
        assert_eq!(head::scan(text, 0, LIMITS), Ok(Scan::Complete(text.len())), "one head");
        let framing = head::check(text, LIMITS);
        if let Ok(framing) = framing {
            forwarded(text, framing);
        }
        match framing {
            Ok(Framing::None) => assert_eq!(begun.length, None),
            Ok(Framing::Length(length)) => assert_eq!(begun.length, Some(length)),
            Ok(other) => panic!("{other:?} has no place in HTTP/2"),
            Err(_) => {}
        }
        assert_eq!(begun.bodiless, text.starts_with(b"HEAD "));
    }
}

/// Blocks of fields, each behind two bytes of length: what was read and is written again is read as the same.
pub fn fields(bytes: &[u8]) {
    let (mut reader, mut writer, mut again) = (Reader::default(), Writer::default(), Reader::default());
    let mut rest = bytes;
    while let Some(([high, low], behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(*high) << 8 | usize::from(*low);
        let (block, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        let (mut fields, mut written) = (Vec::new(), Vec::new());
        if reader.read(block, |name, value, _| fields.push((name.to_vec(), value.to_vec()))).is_err() {
            return;
        }
        // A client may change its mind at any time.
        writer.allow(length);
        writer.begin(&mut written);
        for (name, value) in &fields {
            writer.field(name, value, &mut written);
        }
        let mut read = Vec::new();
        again
            .read(&written, |name, value, _| read.push((name.to_vec(), value.to_vec())))
            .expect("what is written is read");
        assert_eq!(read, fields);
    }
}

type Decoded = (Vec<u8>, Vec<u8>, usize);

fn decode(bytes: &[u8], piece: usize) -> Option<Decoded> {
    let mut decoder = Decoder::default();
    let (mut data, mut used) = (Vec::new(), 0);
    for part in bytes.chunks(piece.max(1)) {
        let mut rest = part;
        while !rest.is_empty() && !decoder.is_over() {
            let step = decoder.next(rest).ok()?;
            assert!(step.used > 0 && step.used <= rest.len() && step.data.end <= step.used);
            data.extend_from_slice(&rest[step.data]);
            used += step.used;
            rest = &rest[step.used..];
        }
    }
    decoder.is_over().then(|| (data, decoder.trailers().to_vec(), bytes.len() - used))
}
