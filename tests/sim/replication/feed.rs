//! What a registry answers to those who follow it: as `registry/feed/log.rs`, `registry/feed/snapshot.rs`,
//! `registry/feed/blobs.rs` and the compaction of `registry/upkeep.rs` do it.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use switchyard::{
    model::{Digest, Mark, Position, RepositoryName},
    registry::{
        content::Catalogue,
        journal::LEASED,
        log::{self, Read},
        writer::leases,
    },
    wire::replication::{BlobRef, Epoch, Patch},
};

use super::registry::Server;

/// A replica's poll is parked at most so long.
const PARKED: Duration = Duration::from_secs(30);

/// Who polls.
#[derive(Clone, Debug)]
pub(super) enum Poller {
    /// A proxy; without `after` it asks for the head alone.
    Proxy(String),
    /// A replica, and what it has applied.
    Replica(usize, Position),
}

#[derive(Clone, Debug)]
pub(super) struct Poll {
    pub(super) by: Poller,
    pub(super) after: Option<(Position, Mark)>,
    pub(super) wait: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) writes: bool,
    pub(super) head: Position,
    pub(super) upto: Position,
    pub(super) mark: Mark,
    pub(super) reigns: Vec<(u64, Position)>,
    pub(super) lease: Duration,
}

pub(super) enum Polled {
    /// To a replica.
    Lines(Head, Vec<Bytes>),
    /// To a proxy.
    Changes(Head, Vec<(Position, RepositoryName)>),
    Diverged {
        common: Option<Position>,
        head: Position,
    },
    Compacted,
    /// 503: only a writer moves anybody's history, and only what is known to be its writer's is handed on.
    NotNow,
}

/// `GET log`.
pub(super) async fn poll(server: Rc<Server>, poll: Poll) -> Polled {
    let began = server.at();
    if !server.is_writer() && began.claimed().is_none() {
        return Polled::NotNow;
    }
    let Some((after, mark)) = poll.after else {
        return lines(&server, &poll, began.position, began.mark, Vec::new(), false);
    };
    if let Poller::Replica(place, applied) = poll.by {
        server.replicas.borrow_mut().insert(place, applied);
    }
    server.step().await;
    // First whether the asker's history is this one; only then does its poll confirm anything.
    let mut read = server.read(after, Some(mark));
    let leased = match (&poll.by, &read) {
        (Poller::Proxy(proxy), Read::Lines { .. }) if server.is_writer() => {
            note_lease(&server).await;
            let now = server.boot();
            let granted = server.leases.borrow_mut().polled(proxy, after, now);
            server.moved.tell();
            let at = server.at().position;
            server.world.trace(|| {
                format!("{} at {at} hears {proxy} confirm {after}: lease {granted}", server.name())
            });
            granted
        }
        _ => false,
    };
    let is_proxy = matches!(poll.by, Poller::Proxy(_));
    let wait = poll.wait.min(if is_proxy { leases::PARKED } else { PARKED });
    let until = server.world.engine.now() + server.world.sites[server.place].machine.real(wait);
    let mut page = Vec::new();
    let (upto, mark) = loop {
        let (upto, mark) = match read {
            Read::Foreign { .. } | Read::Compacted { .. } if !server.is_writer() => {
                return Polled::NotNow;
            }
            Read::Foreign { common } => {
                return Polled::Diverged { common, head: server.at().position };
            }
            Read::Compacted { .. } => return Polled::Compacted,
            Read::Lines { lines, upto, mark } => {
                page.extend(lines.into_iter().filter(|line| !is_proxy || alters(line)));
                (upto, mark)
            }
        };
        if !page.is_empty() {
            break (upto, mark);
        }
        let seen = server.follow.version();
        if upto < server.at().position {
            // A page of what a proxy need not know.
            read = server.read(upto, Some(mark));
            continue;
        }
        let left = until.saturating_sub(server.world.engine.now());
        if server.world.engine.within(left, server.follow.past(seen)).await.is_none() {
            break (upto, mark);
        }
        read = server.read(upto, Some(mark));
    };
    // The lease is good only with all that was acknowledged before it was given.
    let leased = leased && upto >= began.position;
    lines(&server, &poll, upto, mark, page, leased)
}

/// Noted, durably and before it is given, that leases may outlive this run.
async fn note_lease(server: &Server) {
    server.step().await;
    if server.log().note(LEASED).unwrap().is_none() {
        server.log().put_note(LEASED, Some(b"1")).unwrap();
    }
}

fn alters(line: &Bytes) -> bool {
    log::entry(line).unwrap().patch.is_some()
}

fn lines(server: &Server, poll: &Poll, upto: Position, mark: Mark, page: Vec<Bytes>, leased: bool) -> Polled {
    let head = Head {
        writes: server.is_writer(),
        head: server.at().position,
        upto,
        mark,
        reigns: server.log().history().epochs.iter().map(|reign| (reign.epoch, reign.after)).collect(),
        lease: if leased { leases::AT_PROXY } else { Duration::ZERO },
    };
    match poll.by {
        Poller::Replica(..) => Polled::Lines(head, page),
        Poller::Proxy(_) => {
            let change = |line: &Bytes| {
                let entry = log::entry(line).unwrap();
                (entry.position, entry.repository.unwrap())
            };
            Polled::Changes(head, page.iter().map(change).collect())
        }
    }
}

/// `GET state`: the claimed position, once it is another than `after` or the wait is over.
pub(super) async fn state(server: Rc<Server>, after: Option<Position>, wait: Duration) -> Option<Position> {
    let until = server.world.engine.now() + server.world.sites[server.place].machine.real(wait);
    while after.is_some() && server.at().claimed() == after {
        let seen = server.follow.version();
        let left = until.saturating_sub(server.world.engine.now());
        if server.world.engine.within(left, server.follow.past(seen)).await.is_none() {
            break;
        }
    }
    server.at().claimed()
}

/// The catalogue at a position.
pub(super) struct Snapshot {
    pub(super) position: Position,
    pub(super) mark: Mark,
    pub(super) epochs: Vec<Epoch>,
    pub(super) repositories: Vec<(RepositoryName, Patch, Vec<BlobRef>)>,
}

/// `GET snapshot`. Catalogues that change while they are collected are newer than the position.
pub(super) async fn snapshot(server: Rc<Server>) -> Option<Snapshot> {
    let at = server.at();
    if !server.is_writer() || at.claimed().is_none() {
        return None;
    }
    let names: Vec<RepositoryName> =
        server.world.sites[server.place].disk.borrow().catalogues.keys().cloned().collect();
    let mut repositories = Vec::new();
    for name in names {
        server.step().await;
        let Some(catalogue) = server.world.catalogue(server.place, &name) else { continue };
        let patch = catalogue.since(&Catalogue::new(name.clone()));
        repositories.push((name, patch, server.world.blobs(&catalogue)));
    }
    let epochs = server.log().history().epochs;
    Some(Snapshot { position: at.position, mark: at.mark, epochs, repositories })
}

/// `GET blobs/DIGEST`: whether it is here, whole.
pub(super) async fn blob(server: Rc<Server>, digest: Digest) -> bool {
    server.step().await;
    server.world.sites[server.place].disk.borrow().blobs.contains(&digest)
}

/// Forgets the oldest entries now and then.
pub(super) async fn compact(server: Rc<Server>) {
    loop {
        server.sleep(Duration::from_secs(2)).await;
        let needed = server.replicas.borrow().values().min().copied();
        let needed = needed.unwrap_or(server.at().position);
        server.log().compact(server.world.keep, needed).unwrap();
    }
}
