//! A client of HTTP/2 that has something of everything under way on one connection, and keeps to the word of its other
//! side: after `GOAWAY` it begins nothing more there, and what it has begun must end well.

use std::{io, net::SocketAddr, thread, time::Duration};

use switchyard::clock;

use crate::{
    clients::Seen,
    h2::peer::{Ended, Got, NO_ERROR, Peer, request, request_with},
    rig::{BLOB, blob_byte},
    ways::Way,
};

/// Small requests under way at once.
const SMALL: usize = 3;

/// Pieces in which a body is sent, and how long the connection is looked after between two.
const PIECES: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// How many of those pauses lie between two pieces.
const EACH: usize = 10;

/// What is under way on a connection to the controllers, or to the registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Small,
    Poll,
    Download,
    /// So many bytes of it were sent.
    Upload(usize),
}

/// One connection from its first byte until it was told to go, or nobody wants any more. What it wants at once is decided
/// by whom it is connected to.
pub fn run(seen: &Seen, way: &Way, to: SocketAddr, registries: bool) -> io::Result<()> {
    let wanted: &[What] =
        if registries { &[What::Download, What::Upload(0)] } else { &[What::Poll, What::Small] };
    let mut peer = way.peer(to)?.hello(&[]);
    let body: Vec<u8> = (0..BLOB).map(blob_byte).collect();
    let mut under_way: Vec<(u32, What)> = Vec::new();
    let mut turn = 0usize;
    loop {
        if peer.closed && !under_way.is_empty() {
            return Err(io::Error::other(format!("closed with {under_way:?}, told {:?}", peer.goaways)));
        }
        let leaving = seen.is_over() || peer.closed || !peer.goaways.is_empty();
        if leaving && under_way.is_empty() {
            return match peer.goaways.last() {
                Some((_, code)) if *code != NO_ERROR => Err(io::Error::other(format!("sent away: {code}"))),
                // Closed without a word: a request could have been on its way.
                None if peer.closed => Err(io::Error::other("closed without GOAWAY")),
                _ => Ok(()),
            };
        }
        for what in wanted.iter().filter(|_| !leaving) {
            let most = if *what == What::Small { SMALL } else { 1 };
            let has = under_way.iter().filter(|(_, of)| kind(*of) == kind(*what)).count();
            for _ in has..most {
                under_way.push((begin(&mut peer, *what), *what));
            }
        }
        for (stream, what) in &mut under_way {
            if let What::Upload(sent) = what
                && turn.is_multiple_of(EACH)
                && *sent < BLOB
            {
                let piece = &body[*sent..BLOB.min(*sent + BLOB / PIECES)];
                *sent += send(&mut peer, *stream, piece, *sent + piece.len() == BLOB);
            }
        }
        turn += 1;
        peer.idle(PAUSE);
        let ended: Vec<(u32, What)> =
            under_way.iter().copied().filter(|(stream, _)| peer.is_over(*stream)).collect();
        under_way.retain(|(stream, _)| !peer.is_over(*stream));
        for (stream, what) in ended {
            let got = peer.streams.remove(&stream).unwrap_or_default();
            if let Err(why) = right(&got, what) {
                let at = clock::wall();
                return Err(io::Error::other(format!("{what:?} at {at}, told {:?}: {why}", peer.goaways)));
            }
            match what {
                What::Small => seen.small(),
                What::Poll => seen.poll(),
                What::Download | What::Upload(_) => seen.transfer(),
            }
        }
    }
}

/// One request on a connection of its own.
pub fn once(seen: &Seen, way: &Way, to: SocketAddr) -> io::Result<()> {
    let mut peer = way.peer(to)?.hello(&[]);
    if peer.closed && peer.goaways.is_empty() {
        return Err(io::Error::other("closed before the first request"));
    }
    // One that is sent away before it has said anything comes again.
    if peer.goaways.is_empty() {
        let got = peer.get("/api/v1/status");
        right(&got, What::Small)
            .map_err(|why| io::Error::other(format!("{why}, told {:?}", peer.goaways)))?;
        seen.small();
    }
    thread::sleep(PAUSE);
    Ok(())
}

fn kind(what: What) -> std::mem::Discriminant<What> {
    std::mem::discriminant(&what)
}

fn begin(peer: &mut Peer, what: What) -> u32 {
    match what {
        What::Small => peer.begin(&request("GET", "/api/v1/status"), true),
        What::Poll => peer.begin(&request("GET", "/switchyard/v1/tasks"), true),
        What::Download => peer.begin(&request("GET", "/v2/a/blobs/slow"), true),
        What::Upload(_) => {
            let length = BLOB.to_string();
            let fields = request_with("PUT", "/v2/a/blobs/uploads/x", &[("content-length", &length)]);
            peer.begin(&fields, false)
        }
    }
}

/// Sends as much of a piece of a body as the windows let through now; how many bytes. `last`: with the whole of it the
/// body ends.
fn send(peer: &mut Peer, stream: u32, piece: &[u8], last: bool) -> usize {
    let mut sent = 0;
    while sent < piece.len() {
        let room = peer.room[&0].min(peer.room[&stream]);
        let size = (piece.len() - sent).min(16_384).min(usize::try_from(room).unwrap_or(0));
        if size == 0 {
            break;
        }
        for of in [0, stream] {
            *peer.room.entry(of).or_default() -= size as i64;
        }
        peer.data(stream, &piece[sent..sent + size], last && sent + size == piece.len());
        sent += size;
    }
    sent
}

fn right(got: &Got, what: What) -> Result<(), String> {
    let whole = got.ended == Ended::Whole && matches!(got.status(), 200 | 201);
    let body = match what {
        What::Small => true,
        What::Poll => got.body == b"nothing yet",
        What::Download => {
            got.body.len() == BLOB && got.body.iter().enumerate().all(|(at, byte)| *byte == blob_byte(at))
        }
        What::Upload(_) => got.text() == BLOB.to_string(),
    };
    if whole && body {
        return Ok(());
    }
    let text: String = got.text().chars().take(200).collect();
    Err(format!("{:?} {} {} bytes {text:?}", got.ended, got.status(), got.body.len()))
}
