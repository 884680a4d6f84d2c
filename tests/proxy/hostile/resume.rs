//! Downloads of blobs whose upstream dies in the middle go on from another one (design §4.5), or are cut; a client
//! never sees other bytes than the blob's, and never a clean end before the last.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front},
    raw::{Head, Wire},
    upstream::{Then, Upstream},
};

const SIZE: usize = 300_000;

/// Where the first upstream dies.
const DIES: usize = 123_456;

/// How an upstream answers for the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gives {
    /// What is asked for, ranges honoured.
    #[default]
    All,
    /// The same, but closes after so many bytes of it.
    Some(usize),
    /// The same, but resets.
    Resets(usize),
    /// The same, but then stands still.
    Stalls(usize),
    /// The whole blob, whatever range is asked for.
    Ignores,
    /// The whole blob, but only so much of it.
    IgnoresSome(usize),
    /// A range of a blob that is one byte longer.
    OtherTotal,
    /// A range without a total.
    NoTotal,
    /// A range that begins one byte later.
    OtherStart,
    /// A range that ends one byte earlier.
    OtherEnd,
    /// A 206 that does not say of what.
    NoContentRange,
    /// The range, coded.
    Coded,
    /// The same, and closes after so many bytes.
    CodedSome(usize),
    /// The range, of another digest.
    OtherDigest,
    /// The whole of another blob, which is shorter.
    IgnoresOther,
    /// Several ranges in one body.
    Multipart,
    /// The same, and closes after so many bytes.
    MultipartSome(usize),
    /// An error.
    Status(u16),
    /// In chunks, ranges honoured; closes after so many bytes.
    Chunks(usize),
    /// Closes at once.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    host: usize,
    range: Option<String>,
}

#[derive(Default)]
struct Stage {
    gives: Mutex<Vec<Gives>>,
    asked: Mutex<Vec<Asked>>,
}

fn blob() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn digest() -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(blob())))
}

/// First and last byte.
fn range_of(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some((SIZE - last.parse::<usize>().ok()?, SIZE - 1));
    }
    Some((first.parse().ok()?, last.parse().unwrap_or(SIZE - 1).min(SIZE - 1)))
}

impl Stage {
    fn serve(&self, host: usize, wire: &mut Wire, head: &Head) -> Then {
        let range = head.get("range").map(str::to_owned);
        let gives = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(Asked { host, range: range.clone() });
            self.gives.lock().unwrap().get(asked.len() - 1).copied().unwrap_or_default()
        };
        let blob = blob();
        let whole = matches!(gives, Gives::Ignores | Gives::IgnoresSome(_) | Gives::IgnoresOther);
        let asked = range.as_deref().and_then(range_of).filter(|_| !whole);
        let (first, last) = asked.unwrap_or((0, SIZE - 1));
        let (mut first, mut last, mut total, mut extra) = (first, last, SIZE.to_string(), String::new());
        match gives {
            Gives::Nothing => return Then::Close,
            Gives::Status(status) => {
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nnone");
                return if wire.send(answer).is_ok() { Then::KeepAlive } else { Then::Close };
            }
            Gives::OtherTotal => total = (SIZE + 1).to_string(),
            Gives::NoTotal => total = "*".into(),
            Gives::OtherStart => first += 1,
            Gives::OtherEnd => last -= 1,
            Gives::Coded | Gives::CodedSome(_) => extra = "Content-Encoding: gzip\r\n".into(),
            Gives::IgnoresOther => last -= 1000,
            _ => {}
        }
        let bytes = &blob[first..=last];
        let digest =
            if gives == Gives::OtherDigest { format!("sha256:{}", "0".repeat(64)) } else { digest() };
        let ranged = match (asked, gives) {
            (None, _) | (_, Gives::NoContentRange) => String::new(),
            (_, Gives::Multipart | Gives::MultipartSome(_)) => {
                "Content-Type: multipart/byteranges; boundary=x\r\n".into()
            }
            _ => format!("Content-Range: bytes {first}-{last}/{total}\r\n"),
        };
        let status = if asked.is_some() { "206 Partial Content" } else { "200 OK" };
        let framing = match gives {
            Gives::Chunks(_) => "Transfer-Encoding: chunked".into(),
            _ => format!("Content-Length: {}", bytes.len()),
        };
        let fields =
            format!("Docker-Content-Digest: {digest}\r\nETag: \"{digest}\"\r\n{ranged}{extra}{framing}");
        if wire.send(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n")).is_err() {
            return Then::Close;
        }
        let most = match gives {
            Gives::Some(most)
            | Gives::Resets(most)
            | Gives::Stalls(most)
            | Gives::IgnoresSome(most)
            | Gives::CodedSome(most)
            | Gives::MultipartSome(most) => most,
            Gives::Chunks(most) => {
                wire.send(format!("{:x}\r\n", bytes.len())).ok();
                most
            }
            _ => bytes.len(),
        };
        wire.send(&bytes[..most.min(bytes.len())]).ok();
        match gives {
            Gives::Stalls(_) => {
                thread::sleep(Duration::from_secs(3));
                Then::Close
            }
            Gives::Resets(_) => {
                // So that what was sent has arrived.
                thread::sleep(Duration::from_millis(100));
                rustix::net::connect_unspec(&wire.tcp).ok();
                Then::Close
            }
            _ if most < bytes.len() => Then::Close,
            Gives::Chunks(_) => Then::Close,
            _ => Then::KeepAlive,
        }
    }
}

/// Registries that hold the blob, and two fronts before them: one that copies nothing it need not, one that copies all.
struct Blobs {
    front: Front,
    copying: Front,
    stage: Arc<Stage>,
    _upstreams: Vec<Upstream>,
}

impl Blobs {
    fn new(count: usize) -> Self {
        let stage = Arc::<Stage>::default();
        let upstreams: Vec<_> = (0..count)
            .map(|host| {
                let stage = stage.clone();
                Upstream::raw(move |wire, head| stage.serve(host, wire, &head))
            })
            .collect();
        let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        let mut config = front::config(Kind::Registry, &addresses);
        config.services[0].timeouts.idle = Duration::from_millis(600);
        let copying = Front::start(switchyard::config::proxy::Proxy { zero_copy: false, ..config.clone() });
        Self { front: Front::start(config), copying, stage, _upstreams: upstreams }
    }

    /// Asks for the blob while the upstreams answer so, in the order in which they are asked; the head, and what came
    /// of the body.
    fn get(&self, gives: &[Gives], path: &str, fields: &str) -> (Head, Result<Vec<u8>, Vec<u8>>) {
        self.get_from(&self.front, gives, path, fields)
    }

    fn get_from(
        &self,
        front: &Front,
        gives: &[Gives],
        path: &str,
        fields: &str,
    ) -> (Head, Result<Vec<u8>, Vec<u8>>) {
        *self.stage.gives.lock().unwrap() = gives.to_vec();
        self.stage.asked.lock().unwrap().clear();
        let mut wire = Wire::connect(front.address);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: front\r\n{fields}\r\n")).unwrap();
        let head = wire.head().unwrap().unwrap_or_else(|| panic!("{gives:?}: no head"));
        let mut got = Vec::new();
        let begun = clock::now();
        let whole = wire.body(&head, true, |piece| got.extend_from_slice(piece));
        assert!(begun.elapsed() < Duration::from_secs(5), "{gives:?}: took {:?}", begun.elapsed());
        (head, if whole.is_ok() { Ok(got) } else { Err(got) })
    }

    fn asked(&self) -> Vec<Asked> {
        self.stage.asked.lock().unwrap().clone()
    }

    /// The client gets the whole blob; each upstream was asked for what was missing then.
    fn goes_on(&self, gives: &[Gives], starts: &[usize]) {
        for front in [&self.front, &self.copying] {
            self.goes_on_at(front, gives, starts);
        }
    }

    fn goes_on_at(&self, front: &Front, gives: &[Gives], starts: &[usize]) {
        let (head, got) = self.get_from(front, gives, &path(), "");
        let got = got.unwrap_or_else(|got| {
            panic!("{gives:?}: cut after {} bytes, asked {:?}", got.len(), self.asked())
        });
        assert_eq!(head.get("content-length"), Some(SIZE.to_string().as_str()), "{gives:?}");
        assert!(got == blob(), "{gives:?}: other bytes");
        let asked = self.asked();
        let ranges: Vec<_> =
            asked[1..].iter().map(|asked| asked.range.as_deref().and_then(range_of)).collect();
        let wanted: Vec<_> = starts.iter().map(|start| Some((*start, SIZE - 1))).collect();
        assert_eq!(ranges, wanted, "{gives:?}: {asked:?}");
        assert_eq!(asked[0].range, None, "{gives:?}");
        assert!(
            asked.windows(2).all(|pair| pair[0].host != pair[1].host),
            "{gives:?}: the same again, {asked:?}"
        );
    }

    /// The client's connection is cut, after bytes of the blob alone.
    fn is_cut(&self, gives: &[Gives], path: &str, fields: &str) -> Vec<Asked> {
        self.is_cut_at(&self.copying, gives, path, fields);
        self.is_cut_at(&self.front, gives, path, fields)
    }

    fn is_cut_at(&self, front: &Front, gives: &[Gives], path: &str, fields: &str) -> Vec<Asked> {
        let (head, got) = self.get_from(front, gives, path, fields);
        let got = got.err().unwrap_or_else(|| panic!("{gives:?}: ended cleanly, {:?}", self.asked()));
        if head.get("content-encoding").is_none() && !fields.contains("Range") {
            assert!(blob().starts_with(&got), "{gives:?}: other bytes");
        }
        self.asked()
    }
}

fn path() -> String {
    format!("/v2/team/app/blobs/{}", digest())
}

#[test]
fn a_download_goes_on_from_another_registry_where_the_first_one_died() {
    let blobs = Blobs::new(2);
    for dies in [Gives::Some(DIES), Gives::Resets(DIES), Gives::Stalls(DIES)] {
        blobs.goes_on(&[dies], &[DIES]);
    }
    for at in [1, 4096, 65_536, SIZE - 1] {
        blobs.goes_on(&[Gives::Some(at)], &[at]);
    }
    let lines = blobs.front.lines(7);
    for line in &lines {
        assert_eq!((&line["status"], &line["end"]), (&200.into(), &"done".into()), "{line}");
        assert_eq!(line["attempts"].as_array().unwrap().len(), 2, "{line}");
        assert_eq!(line["bytes_sent"], SIZE, "{line}");
    }
}

#[test]
fn a_download_that_dies_before_its_first_byte_begins_or_goes_on_elsewhere() {
    let blobs = Blobs::new(2);
    let (_, got) = blobs.get(&[Gives::Some(0)], &path(), "");
    assert!(got.as_ref().is_ok_and(|got| *got == blob()), "{:?}", got.map_err(|got| got.len()));
    let (_, got) = blobs.get(&[Gives::Nothing], &path(), "");
    assert!(got.is_ok_and(|got| got == blob()));
}

#[test]
fn a_download_may_die_more_than_once() {
    let blobs = Blobs::new(3);
    blobs.goes_on(&[Gives::Some(DIES), Gives::Some(50_000)], &[DIES, DIES + 50_000]);
    blobs.goes_on(&[Gives::Some(10), Gives::Resets(10)], &[10, 20]);
}

#[test]
fn a_registry_that_gives_something_else_is_passed_over() {
    let blobs = Blobs::new(3);
    for other in [
        Gives::OtherTotal,
        Gives::NoTotal,
        Gives::OtherStart,
        Gives::NoContentRange,
        Gives::Coded,
        Gives::OtherDigest,
        Gives::Multipart,
        Gives::IgnoresOther,
        Gives::Status(404),
        Gives::Status(416),
        Gives::Status(500),
        Gives::Status(503),
        Gives::Nothing,
    ] {
        blobs.goes_on(&[Gives::Some(DIES), other], &[DIES, DIES]);
    }
}

#[test]
fn a_download_that_dies_over_and_over_goes_on_or_is_cut_and_has_no_other_bytes() {
    let blobs = Blobs::new(2);
    // While each gives a piece, going on is worth it; how long is the proxy's to say.
    for piece in [1000, 20_000, 100_000] {
        let (_, got) = blobs.get(&[Gives::Some(piece); 8], &path(), "");
        match got {
            Ok(got) => assert!(got == blob(), "{piece}: other bytes"),
            Err(got) => assert!(blob().starts_with(&got), "{piece}: other bytes"),
        }
    }
}

#[test]
fn a_range_that_is_shorter_than_asked_for_is_no_end() {
    let blobs = Blobs::new(3);
    let (_, got) = blobs.get(&[Gives::Some(DIES), Gives::OtherEnd], &path(), "");
    // Passed over, or taken and gone on behind; in any case not taken for the rest.
    match got {
        Ok(got) => assert!(got == blob(), "{} bytes", got.len()),
        Err(got) => assert!(blob().starts_with(&got)),
    }
}

#[test]
fn a_registry_that_knows_no_ranges_is_read_from_the_start_and_skipped_up_to_the_offset() {
    let blobs = Blobs::new(2);
    blobs.goes_on(&[Gives::Some(DIES), Gives::Ignores], &[DIES]);
}

#[test]
fn a_registry_that_dies_while_it_is_skipped_spoils_nothing_for_the_next() {
    let blobs = Blobs::new(3);
    // Before the offset, at it, and behind it.
    blobs.goes_on(&[Gives::Some(DIES), Gives::IgnoresSome(1000)], &[DIES, DIES]);
    blobs.goes_on(&[Gives::Some(DIES), Gives::IgnoresSome(1000), Gives::Ignores], &[DIES, DIES]);
    blobs.goes_on(&[Gives::Some(DIES), Gives::IgnoresSome(DIES)], &[DIES, DIES]);
    blobs.goes_on(&[Gives::Some(DIES), Gives::IgnoresSome(DIES + 1000)], &[DIES, DIES + 1000]);
}

#[test]
fn a_download_that_nobody_can_continue_is_cut() {
    let blobs = Blobs::new(2);
    for other in [
        Gives::OtherTotal,
        Gives::OtherStart,
        Gives::Coded,
        Gives::OtherDigest,
        Gives::IgnoresOther,
        Gives::Status(404),
        Gives::Nothing,
    ] {
        // The second one, and the first one again if the proxy asks it.
        let asked = blobs.is_cut(&[Gives::Some(DIES), other, other, other, other], &path(), "");
        assert!((2..=3).contains(&asked.len()), "{other:?}: {asked:?}");
    }
    // Nor is it asked for over and over where nobody gives a byte of it.
    for none in [Gives::Some(0), Gives::IgnoresSome(1000), Gives::Stalls(0)] {
        let asked = blobs.is_cut(&[[Gives::Some(DIES)].as_slice(), &[none; 20]].concat(), &path(), "");
        assert!(asked.len() <= 4, "{none:?}: {asked:?}");
    }
    let lines = blobs.front.lines(10);
    assert!(lines.iter().all(|line| line["end"] == "aborted"), "{lines:?}");
    let alone = Blobs::new(1);
    alone.is_cut(&[Gives::Some(DIES), Gives::Nothing, Gives::Nothing], &path(), "");
}

#[test]
fn a_range_that_was_asked_for_goes_on_within_its_bounds() {
    let blobs = Blobs::new(2);
    for (asked, first, last) in [
        ("bytes=1000-199999", 1000, 199_999),
        ("bytes=1000-", 1000, SIZE - 1),
        ("bytes=-150000", SIZE - 150_000, SIZE - 1),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=0-99999999", 0, SIZE - 1),
    ] {
        for other in [Gives::All, Gives::Ignores] {
            let (head, got) =
                blobs.get(&[Gives::Some(50_000), other], &path(), &format!("Range: {asked}\r\n"));
            let got = got
                .unwrap_or_else(|got| panic!("{asked}: cut after {} bytes, {:?}", got.len(), blobs.asked()));
            assert_eq!(head.status(), 206, "{asked}");
            let said = format!("bytes {first}-{last}/{SIZE}");
            assert_eq!(head.get("content-range"), Some(said.as_str()), "{asked}");
            assert!(got == blob()[first..=last], "{asked}: other bytes, {} of them", got.len());
            let ranges: Vec<_> =
                blobs.asked().iter().map(|a| a.range.as_deref().and_then(range_of)).collect();
            assert_eq!(ranges[1], Some((first + 50_000, last)), "{asked}");
        }
    }
}

#[test]
fn what_is_no_single_range_of_known_length_is_not_continued() {
    let blobs = Blobs::new(2);
    for first in [Gives::Chunks(DIES), Gives::CodedSome(DIES)] {
        let asked = blobs.is_cut(&[first], &path(), "");
        assert_eq!(asked.len(), 1, "{first:?}: {asked:?}");
    }
    let several = "Range: bytes=0-99999,200000-299999\r\n";
    let asked = blobs.is_cut(&[Gives::MultipartSome(DIES)], &path(), several);
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn only_what_a_digest_names_is_continued() {
    let blobs = Blobs::new(2);
    for path in [
        "/registry/download/layer",
        "/registry/vm/layer?id=1",
        "/v2/team/app/manifests/latest",
        "/v2/team/app/blobs/uploads/1",
        "/v2/team/app/blobs/latest",
        "/v2/team/app/blobs/sha256:short",
        "/packages/agent.pkg",
    ] {
        let asked = blobs.is_cut(&[Gives::Some(DIES)], path, "");
        assert_eq!(asked.len(), 1, "{path}: {asked:?}");
    }
    assert!(blobs.front.lines(7).iter().all(|line| line["end"] == "aborted"));
}

#[test]
fn many_downloads_at_once_survive_the_death_of_their_registries() {
    let blobs = Blobs::new(3);
    // Every fourth answer breaks off somewhere.
    let gives: Vec<_> =
        (0..400).map(|n| if n % 4 == 0 { Gives::Some(n * 700 % SIZE + 1) } else { Gives::All }).collect();
    *blobs.stage.gives.lock().unwrap() = gives;
    let (address, path, whole) = (blobs.front.address, path(), blob());
    let got: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (path, whole) = (&path, &whole);
                scope.spawn(move || {
                    let mut good = 0;
                    for _ in 0..10 {
                        let answer = Wire::connect(address)
                            .ask(&format!("GET {path} HTTP/1.1\r\nHost: front\r\n\r\n"));
                        if let Ok(answer) = answer {
                            assert!(answer.body == *whole, "other bytes");
                            good += 1;
                        }
                    }
                    good
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    // Bad luck may strike one of them three times in a row.
    assert!(got >= 50, "{got} of 60");
}
