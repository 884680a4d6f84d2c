//! RFC 9113 rule by rule: what breaks one ends its stream or its connection, as that page says, and reaches nobody.

use super::{
    controllers,
    hpack::{self, Fields},
    peer::{
        ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, FLOW_CONTROL_ERROR,
        FRAME_SIZE_ERROR, GOAWAY, Got, HEADERS, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, Peer,
        RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, frame, request, request_with, setting,
    },
};
use crate::{front::Front, strict::origin::Origin};

/// What a proxy has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Answers with this status; the connection goes on.
    Status(u16),
    /// Resets the stream with this code; the connection goes on.
    Reset(u32),
    /// Ends the connection with this code.
    GoAway(u32),
    /// Nothing: it was to be ignored.
    Ignored,
}

use Outcome::{GoAway, Ignored, Reset, Status};

/// Where cases are tried.
struct Bench {
    origin: Origin,
    front: Front,
}

impl Bench {
    fn new() -> Self {
        let origin = Origin::start();
        let front = controllers(&[origin.address]);
        Self { origin, front }
    }

    /// Sends bytes behind a preface and settings; then a good request on stream 99, if there is still a connection.
    fn check(&self, what: &str, bytes: &[u8], wanted: Outcome) {
        let before = self.origin.count();
        let mut peer = Peer::connect(self.front.address);
        peer.send(bytes);
        let good =
            frame(HEADERS, END_HEADERS | END_STREAM, 99, &hpack::block(&request("GET", "/api/v1/good")));
        if !matches!(wanted, GoAway(_)) {
            peer.send(&good);
            peer.skip_to(101);
        }
        let over = |peer: &Peer| peer.closed || (peer.is_over(1) && peer.is_over(99));
        match wanted {
            GoAway(code) => {
                assert_eq!(peer.close(), Some(code), "{what}: {:?}", peer.streams);
                assert_eq!(self.origin.count(), before, "{what}: it reached the upstream");
                return;
            }
            Ignored => peer.until("an answer", |peer| peer.closed || peer.is_over(99)),
            Status(_) | Reset(_) => peer.until("both answers", over),
        }
        assert!(!peer.closed, "{what}: the connection was ended: {:?}", peer.goaways);
        assert_eq!(peer.streams[&99].status(), 200, "{what}: {:?}", peer.streams);
        let got = peer.streams.get(&1).cloned().unwrap_or_default();
        match wanted {
            Status(status) => {
                assert_eq!((got.status(), got.ended), (status, Ended::Whole), "{what}: {got:?}")
            }
            Reset(code) => assert_eq!((got.ended, &got.head), (Ended::Reset(code), &None), "{what}: {got:?}"),
            _ => {}
        }
        let reached = self.origin.count() - before;
        let passes = wanted == Status(200);
        // One that was cut off had begun.
        let begun = wanted == Reset(FLOW_CONTROL_ERROR);
        assert!(
            reached == 1 + usize::from(passes) || begun,
            "{what}: {reached} requests have reached the upstream"
        );
    }

    /// The same with one block of fields, on a stream that it ends.
    fn fields(&self, fields: &Fields, wanted: Outcome) {
        self.check(&format!("{fields:?}"), &head(fields, END_STREAM), wanted);
    }
}

fn head(fields: &Fields, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &hpack::block(fields))
}

fn good() -> Fields {
    request("GET", "/api/v1/vm")
}

/// The fields with one more.
fn with(name: &str, value: &str) -> Fields {
    request_with("GET", "/api/v1/vm", &[(name, value)])
}

/// The fields with another value of this one.
fn but(name: &str, value: &str) -> Fields {
    let other = |(n, v): (String, String)| if n == name { (n, value.to_owned()) } else { (n, v) };
    good().into_iter().map(other).collect()
}

#[test]
fn a_block_of_fields_that_is_no_request_ends_its_stream() {
    let bench = Bench::new();
    bench.fields(&good(), Status(200));
    for method in ["GET", "PUT", "OPTIONS", "X-OWN"] {
        let good = request(method, "/api/v1/vm");
        bench.fields(&good, Status(200));
        for (at, (name, _)) in good.iter().enumerate() {
            let mut without = good.clone();
            without.remove(at);
            // A host may be missing, but then there is none.
            bench.fields(&without, if name == ":authority" { Status(400) } else { Reset(PROTOCOL_ERROR) });
            let mut twice = good.clone();
            twice.push(good[at].clone());
            bench.fields(&twice, Reset(PROTOCOL_ERROR));
            let mut behind = good.clone();
            let moved = behind.remove(at);
            behind.push(("x".into(), "y".into()));
            behind.push(moved);
            bench.fields(&behind, Reset(PROTOCOL_ERROR));
        }
    }
    for unknown in [":foo", ":", ":Path", ":status", ":protocol"] {
        let mut fields = good();
        fields.insert(0, (unknown.into(), "200".into()));
        bench.fields(&fields, Reset(PROTOCOL_ERROR));
    }
}

#[test]
fn a_field_that_has_no_place_in_http_2_ends_its_stream() {
    let bench = Bench::new();
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        for value in ["close", "chunked", "h2c", "x-a", ""] {
            bench.fields(&with(name, value), Reset(PROTOCOL_ERROR));
        }
    }
    for value in ["gzip", "trailers, deflate", "chunked", ""] {
        bench.fields(&with("te", value), Reset(PROTOCOL_ERROR));
    }
    bench.fields(&with("te", "trailers"), Status(200));
    for name in
        ["X-Upper", "x-uppeR", "a b", "a:b", "a\u{0}", "a\n", "a\r\nb", "(x)", "", "a\u{7f}", "\u{e9}"]
    {
        bench.fields(&with(name, "1"), Reset(PROTOCOL_ERROR));
    }
    for value in ["a\nb", "a\r", "\u{0}", "a\r\nb: c", "a\u{7f}", "\u{1}"] {
        bench.fields(&with("x-value", value), Reset(PROTOCOL_ERROR));
    }
    for value in [" a", "a ", "\ta", "a\t", " "] {
        bench.fields(&with("x-value", value), Status(400));
    }
    for value in ["", "a b", "a\tb", "\u{e9}", "~"] {
        bench.fields(&with("x-value", value), Status(200));
    }
}

#[test]
fn host_and_authority_are_one() {
    let bench = Bench::new();
    bench.fields(&with("host", "front"), Status(200));
    for other in ["other", "front:80", "FRONT", ""] {
        bench.fields(&with("host", other), Status(400));
    }
    let mut without = good();
    without.remove(2);
    without.push(("host".into(), "front".into()));
    bench.fields(&without, Status(200));
    without.push(("host".into(), "front".into()));
    bench.fields(&without, Status(400));
    for bad in ["u@front", "front:x", "front:99999", "[::1"] {
        let mut peer = Peer::connect(bench.front.address);
        let got = peer.ask(&but(":authority", bad));
        let refused = got.status() == 400 || got.ended == Ended::Reset(PROTOCOL_ERROR);
        assert!(refused && peer.is_alive(), "{bad}: {got:?}");
    }
}

#[test]
fn a_target_is_a_path() {
    let bench = Bench::new();
    for good in ["/", "/a?b", "/a?b?c", "/a%2Fx?".trim_end_matches("%2Fx?"), "//a"] {
        bench.fields(&but(":path", good), Status(200));
    }
    for bad in
        ["/a/../b", "/a%2fb", "/a%", "*", "/a\\b", "/a/%2e%2e/b", "/a#b", "/a?b#c", "/a HTTP/1.1", "/a b"]
    {
        bench.fields(&but(":path", bad), Status(400));
    }
    for bad in ["a", "http://front/", "http://other/x", "/a b", "/\u{1}", "", "front:80", "?x", "/a\u{0}"] {
        let before = bench.origin.count();
        let mut peer = Peer::connect(bench.front.address);
        let got = peer.ask(&but(":path", bad));
        let refused = got.status() == 400 || got.ended == Ended::Reset(PROTOCOL_ERROR);
        assert!(refused && peer.is_alive(), "{bad:?}: {got:?}");
        assert_eq!(bench.origin.count(), before, "{bad:?}");
    }
    bench.fields(&request("OPTIONS", "*"), Status(200));
    for scheme in ["ftp", "gopher", "", "1"] {
        bench.fields(&but(":scheme", scheme), Status(400));
    }
    bench.fields(&but(":scheme", "https"), Status(200));
    for scheme in ["ht tp", "h:"] {
        bench.fields(&but(":scheme", scheme), Reset(PROTOCOL_ERROR));
    }
    // Tunnels are refused, of both kinds.
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    bench.fields(&vec![field(":method", "CONNECT"), field(":authority", "front:80")], Status(405));
    bench.fields(&request("CONNECT", "/"), Reset(PROTOCOL_ERROR));
    let mut extended = request("CONNECT", "/");
    extended.insert(0, field(":protocol", "websocket"));
    bench.fields(&extended, Reset(PROTOCOL_ERROR));
}

#[test]
fn a_length_is_that_of_the_data() {
    let bench = Bench::new();
    let put = |length: &str| head(&request_with("PUT", "/api/v1/vm", &[("content-length", length)]), 0);
    let cases: [(&str, &[&[u8]], Outcome); 9] = [
        ("3", &[b"abc"], Status(200)),
        ("3", &[b"ab", b"", b"c"], Status(200)),
        ("0", &[b""], Status(200)),
        ("3", &[b"ab"], Reset(PROTOCOL_ERROR)),
        ("3", &[b"ab", b"cd"], Reset(PROTOCOL_ERROR)),
        ("3", &[b"abcd"], Reset(PROTOCOL_ERROR)),
        ("3", &[b""], Reset(PROTOCOL_ERROR)),
        ("0", &[b"a"], Reset(PROTOCOL_ERROR)),
        ("x", &[b"abc"], Reset(PROTOCOL_ERROR)),
    ];
    for (length, pieces, wanted) in cases {
        let mut bytes = put(length);
        for (at, piece) in pieces.iter().enumerate() {
            let end = u8::from(at + 1 == pieces.len());
            bytes.extend_from_slice(&frame(DATA, end, 1, piece));
        }
        // What has reached the upstream of a request that turns out to be none was cut off, and is no request.
        let mut peer = Peer::connect(bench.front.address);
        peer.send(&bytes);
        peer.skip_to(3);
        let got = peer.finish(1);
        let fits = match wanted {
            Status(status) => (got.status(), got.ended) == (status, Ended::Whole),
            _ => got.ended == Ended::Reset(PROTOCOL_ERROR),
        };
        assert!(fits, "{length} {pieces:?}: {got:?}");
        assert_eq!(peer.get("/api/v1/good").status(), 200, "{length} {pieces:?}");
    }
    for (length, wanted) in [("0", Status(200)), ("5", Reset(PROTOCOL_ERROR)), ("+0", Reset(PROTOCOL_ERROR))]
    {
        bench.fields(&with("content-length", length), wanted);
    }
    let twice = |one: &str, other: &str| {
        request_with("PUT", "/api/v1/vm", &[("content-length", one), ("content-length", other)])
    };
    bench.fields(&twice("0", "0"), Status(400));
    bench.fields(&twice("0", "1"), Reset(PROTOCOL_ERROR));
}

#[test]
fn a_head_has_its_limits() {
    let bench = Bench::new();
    let many = |count: usize| -> Fields {
        let more = (0..count).map(|at| (format!("x-{at}"), "y".to_owned()));
        good().into_iter().chain(more).collect()
    };
    // One more is the host.
    bench.fields(&many(127), Status(200));
    bench.fields(&many(128), Status(431));
    let long = |length: usize| -> Vec<u8> {
        let mut block = hpack::block(&good());
        hpack::literal(b"x-long", &vec![b'y'; length], &mut block);
        let mut out = Vec::new();
        let pieces: Vec<&[u8]> = block.chunks(16_384).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let (first, last) = (at == 0, at + 1 == pieces.len());
            let flags = if last { END_HEADERS } else { 0 } | if first { END_STREAM } else { 0 };
            out.extend_from_slice(&frame(if first { HEADERS } else { CONTINUATION }, flags, 1, piece));
        }
        out
    };
    bench.check("a long head", &long(30_000), Status(200));
    bench.check("too long a head", &long(32_769), Status(431));
    bench.check("far too long a head", &long(60_000), Status(431));
    let mut peer = Peer::connect(bench.front.address);
    peer.send(&long(40_000));
    peer.skip_to(3);
    assert!(peer.finish(1).text().contains("longer than this server allows"));
    let counted = r#"refused_total{listener="front",reason="head-too-long"} 3"#;
    assert!(bench.front.metrics().contains(counted), "{}", bench.front.metrics());
}

#[test]
fn a_frame_that_breaks_a_rule_ends_what_it_breaks() {
    let bench = Bench::new();
    let block = hpack::block(&good());
    let whole = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    let open = frame(HEADERS, END_HEADERS, 1, &hpack::block(&request("PUT", "/api/v1/vm")));
    let word = |word: u32| word.to_be_bytes().to_vec();
    let then = |parts: &[&[u8]]| parts.concat();
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("data on no stream", frame(DATA, 0, 0, b"x"), GoAway(PROTOCOL_ERROR)),
        ("data on an idle stream", frame(DATA, 0, 1, b"x"), GoAway(PROTOCOL_ERROR)),
        ("a head on no stream", frame(HEADERS, 5, 0, &block), GoAway(PROTOCOL_ERROR)),
        ("a head on a stream of ours", frame(HEADERS, 5, 2, &block), GoAway(PROTOCOL_ERROR)),
        ("a frame that is too long", frame(DATA, 0, 1, &[0; 16_385]), GoAway(FRAME_SIZE_ERROR)),
        ("a head that is too long", frame(HEADERS, 5, 1, &[0; 16_385]), GoAway(FRAME_SIZE_ERROR)),
        ("padding beyond the frame", frame(DATA, 8, 1, &[9, 0, 0]), GoAway(PROTOCOL_ERROR)),
        ("padding beyond the head", frame(HEADERS, 0xd, 1, &[200, 0, 0]), GoAway(PROTOCOL_ERROR)),
        ("a reset on no stream", frame(RST_STREAM, 0, 0, &word(8)), GoAway(PROTOCOL_ERROR)),
        ("a reset on an idle stream", frame(RST_STREAM, 0, 1, &word(8)), GoAway(PROTOCOL_ERROR)),
        (
            "a reset of three bytes",
            then(&[&open, &frame(RST_STREAM, 0, 1, &[0; 3])]),
            GoAway(FRAME_SIZE_ERROR),
        ),
        ("settings on a stream", frame(SETTINGS, 0, 1, b""), GoAway(PROTOCOL_ERROR)),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), GoAway(FRAME_SIZE_ERROR)),
        ("an echo of settings with some", frame(SETTINGS, ACK, 0, &[0; 6]), GoAway(FRAME_SIZE_ERROR)),
        ("push neither on nor off", frame(SETTINGS, 0, 0, &setting(2, 2)), GoAway(PROTOCOL_ERROR)),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), GoAway(FLOW_CONTROL_ERROR)),
        (
            "a first window that makes another one too large",
            then(&[
                &open,
                &frame(WINDOW_UPDATE, 0, 1, &word((1 << 31) - 70_000)),
                &frame(SETTINGS, 0, 0, &setting(4, 1 << 30)),
            ]),
            GoAway(FLOW_CONTROL_ERROR),
        ),
        ("frames of a byte", frame(SETTINGS, 0, 0, &setting(5, 1)), GoAway(PROTOCOL_ERROR)),
        ("frames of 2^24", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), GoAway(PROTOCOL_ERROR)),
        ("a push", frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), GoAway(PROTOCOL_ERROR)),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), GoAway(FRAME_SIZE_ERROR)),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8]), GoAway(PROTOCOL_ERROR)),
        ("a good-bye on a stream", frame(GOAWAY, 0, 1, &[0; 8]), GoAway(PROTOCOL_ERROR)),
        ("a window of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), GoAway(FRAME_SIZE_ERROR)),
        ("a window that does not grow", frame(WINDOW_UPDATE, 0, 0, &word(0)), GoAway(PROTOCOL_ERROR)),
        (
            "a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &word((1 << 31) - 1)),
            GoAway(FLOW_CONTROL_ERROR),
        ),
        ("a window on an idle stream", frame(WINDOW_UPDATE, 0, 1, &word(1)), GoAway(PROTOCOL_ERROR)),
        (
            "a stream's window beyond 2^31",
            then(&[&open, &frame(WINDOW_UPDATE, 0, 1, &word((1 << 31) - 1))]),
            Reset(FLOW_CONTROL_ERROR),
        ),
        ("a block that goes on without one", frame(CONTINUATION, 4, 1, b""), GoAway(PROTOCOL_ERROR)),
        (
            "a block that is interrupted",
            then(&[&frame(HEADERS, 1, 1, &block), &frame(PING, 0, 0, &[0; 8])]),
            GoAway(PROTOCOL_ERROR),
        ),
        (
            "a block that goes on elsewhere",
            then(&[&frame(HEADERS, 1, 1, &block), &frame(CONTINUATION, 4, 3, b"")]),
            GoAway(PROTOCOL_ERROR),
        ),
        (
            "a block that is interrupted by an unknown frame",
            then(&[&frame(HEADERS, 1, 1, &block), &frame(0x77, 0, 1, b"")]),
            GoAway(PROTOCOL_ERROR),
        ),
        ("a field that is not in the table", frame(HEADERS, 5, 1, &[0xfe]), GoAway(COMPRESSION_ERROR)),
        ("field 0", frame(HEADERS, 5, 1, &[0x80]), GoAway(COMPRESSION_ERROR)),
        (
            "a table that was not agreed on",
            frame(HEADERS, 5, 1, &[0x3f, 0xff, 0x7f]),
            GoAway(COMPRESSION_ERROR),
        ),
        ("a string that is cut short", frame(HEADERS, 5, 1, &[0, 9, b'x']), GoAway(COMPRESSION_ERROR)),
        ("a number without end", frame(HEADERS, 5, 1, &[0xff; 20]), GoAway(COMPRESSION_ERROR)),
        (
            "an end within a packed string",
            frame(HEADERS, 5, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
            GoAway(COMPRESSION_ERROR),
        ),
        ("a stream below the last one", then(&[&whole(3), &whole(1)]), GoAway(PROTOCOL_ERROR)),
        ("data behind the end", then(&[&whole(1), &frame(DATA, 0, 1, b"x")]), Reset(STREAM_CLOSED)),
        ("an unknown frame", frame(0x77, 0xff, 0, b"whatever"), Ignored),
        ("an unknown setting", frame(SETTINGS, 0, 0, &setting(0x7777, 7)), Ignored),
        ("an unknown frame on an idle stream", frame(0x77, 0, 5, b""), Ignored),
        ("an echo of a ping", frame(PING, ACK, 0, &[0; 8]), Ignored),
        ("a priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), Ignored),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, wanted) in cases {
        // One that was answered before its end is another matter: it may be whole.
        if wanted == Reset(STREAM_CLOSED) || what == "a stream below the last one" {
            let mut peer = Peer::connect(bench.front.address);
            peer.skip_to(101);
            peer.send(&bytes);
            peer.until("an end", |peer| {
                peer.closed || peer.streams.values().any(|got| got.ended != Ended::Not)
            });
            continue;
        }
        if let Err(panic) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.check(what, &bytes, wanted)))
        {
            wrong.push((what, panic.downcast_ref::<String>().cloned()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_first_frame_says_the_settings() {
    let bench = Bench::new();
    let settings = frame(SETTINGS, 0, 0, b"");
    for (what, bytes) in [
        ("another method", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("a head first", [PREFACE, &head(&good(), END_STREAM)].concat()),
        ("a ping first", [PREFACE, &frame(PING, 0, 0, &[0; 8]), &settings].concat()),
        ("an echo first", [PREFACE, &frame(SETTINGS, ACK, 0, b"")].concat()),
    ] {
        let before = bench.origin.count();
        let mut peer = Peer::bare(bench.front.address);
        peer.lenient = true;
        peer.send(&bytes);
        peer.close();
        assert!(peer.closed && bench.origin.count() == before, "{what}");
    }
    // However it is cut.
    let whole = [PREFACE, &settings, &head(&good(), END_STREAM)].concat();
    for cut in [1, 3, 17, 18, 23, 24, 25, 33, 34, 40] {
        let mut peer = Peer::bare(bench.front.address);
        peer.skip_to(3);
        peer.send(&whole[..cut]);
        std::thread::sleep(std::time::Duration::from_millis(5));
        peer.send(&whole[cut..]);
        let got: Got = peer.finish(1);
        assert_eq!(got.status(), 200, "cut at {cut}: {got:?}");
    }
}
