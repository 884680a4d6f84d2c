//! How a replica copies: as `registry/replicate/{follow,apply,adopt}.rs` do it. What fetches blobs is reduced to one
//! task a blob that asks the writer and the peers in turn; `registry/replicate/plan` has a simulation of its own.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use switchyard::{
    model::{Digest, Mark, Position, RepositoryName},
    registry::{
        content::Catalogue,
        journal::{BATCH, Claim},
        log::{self, Read},
    },
    wire::replication::{BlobRef, Change, Epoch},
};

use super::{
    engine::{Reply, Signal, reply},
    feed::{self, Head, Poll, Polled, Poller},
    link::Node,
    registry::{Entries, Server},
};

const WAIT: Duration = Duration::from_secs(2);
const AHEAD: usize = 4;
const ROOM: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
const WRITER_EVERY: Duration = Duration::from_secs(5);
const STILL_EVERY: Duration = Duration::from_secs(30);
/// Nothing from another registry for so long, and it is given up.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Why {
    Compacted,
    Damaged,
    Diverged { common: Option<Position> },
}

enum Work {
    /// And whether they came from the writer itself.
    Entries(Entries, bool),
    Adopt(Why, Reply<()>),
}

/// What is read waits here to be worked off.
#[derive(Default)]
struct Queue {
    work: RefCell<VecDeque<Work>>,
    moved: Signal,
}

impl Queue {
    async fn room(&self) {
        while self.work.borrow().len() >= AHEAD {
            self.moved.past(self.moved.version()).await;
        }
    }

    async fn put(&self, work: Work) {
        self.room().await;
        self.work.borrow_mut().push_back(work);
        self.moved.tell();
    }

    async fn take(&self) -> Work {
        loop {
            let next = self.work.borrow_mut().pop_front();
            if let Some(next) = next {
                self.moved.tell();
                return next;
            }
            self.moved.past(self.moved.version()).await;
        }
    }
}

struct Replica {
    server: Rc<Server>,
    /// The writer first.
    sources: Vec<usize>,
    queue: Queue,
    /// What was read is of another history than the writer's: it is not worked off.
    abandoned: Cell<bool>,
    writer_tried: Cell<Duration>,
}

pub(super) fn start(server: Rc<Server>, writer: usize) {
    let peers = (0..server.world.sites.len()).filter(|place| *place != writer && *place != server.place);
    let sources = std::iter::once(writer).chain(peers).collect();
    let (engine, pid) = (server.world.engine.clone(), server.pid);
    let (queue, abandoned, writer_tried) = (Queue::default(), Cell::default(), Cell::default());
    let replica = Rc::new(Replica { server, sources, queue, abandoned, writer_tried });
    let (follows, applies) = (replica.clone(), replica);
    engine.spawn(pid, async move { follows.follow().await });
    engine.spawn(pid, async move { applies.apply().await });
}

enum Ended {
    Heard,
    Afresh,
    Failed,
}

type Cursor = (Position, Mark);

impl Replica {
    async fn follow(&self) {
        let server = &self.server;
        let (mut source, mut pause) = (0, FIRST);
        self.writer_tried.set(server.boot());
        let mut cursor = self.applied();
        loop {
            if source != 0 && server.boot().saturating_sub(self.writer_tried.get()) >= WRITER_EVERY {
                source = 0;
            }
            if source == 0 {
                self.writer_tried.set(server.boot());
            }
            match self.poll(source, &mut cursor).await {
                Ended::Heard => pause = FIRST,
                Ended::Afresh => cursor = self.applied(),
                Ended::Failed => {
                    source = (source + 1) % self.sources.len();
                    if source == 0 {
                        server.sleep(pause).await;
                        pause = (pause * 2).min(LONGEST);
                    }
                }
            }
        }
    }

    fn applied(&self) -> Cursor {
        let at = self.server.at();
        (at.position, at.mark)
    }

    async fn poll(&self, source: usize, cursor: &mut Cursor) -> Ended {
        let server = &self.server;
        let poll = Poll {
            by: Poller::Replica(server.place, server.at().position),
            after: Some(*cursor),
            wait: WAIT,
        };
        let (from, to) = (Node::Registry(server.place), self.sources[source]);
        let ask = move |there| feed::poll(there, poll.clone());
        match server.world.call(from, to, IDLE, ask).await {
            Err(_) | Ok(Polled::Changes(..) | Polled::NotNow) => Ended::Failed,
            Ok(Polled::Lines(head, lines)) => self.heard(source == 0, &head, lines, cursor).await,
            // Only the writer's word moves history: a peer may merely be behind.
            Ok(_) if source != 0 => Ended::Failed,
            Ok(Polled::Diverged { common, head }) => {
                if head.epoch < server.log().history().epoch() {
                    return Ended::Failed;
                }
                let common = self.verified(common).await;
                self.ask_to_adopt(Why::Diverged { common }).await
            }
            Ok(Polled::Compacted) => self.ask_to_adopt(Why::Compacted).await,
        }
    }

    /// A position counts as common only if both logs have the same mark there.
    async fn verified(&self, common: Option<Position>) -> Option<Position> {
        let (server, common) = (&self.server, common?);
        let Read::Lines { mark, .. } = server.log().read(common, None, common).unwrap() else { return None };
        let by = Poller::Replica(server.place, server.at().position);
        let poll = Poll { by, after: Some((common, mark)), wait: Duration::ZERO };
        let ask = move |there| feed::poll(there, poll.clone());
        let from = Node::Registry(server.place);
        let answer = server.world.call(from, self.sources[0], IDLE, ask).await;
        matches!(answer, Ok(Polled::Lines(..))).then_some(common)
    }

    async fn heard(
        &self,
        from_writer: bool,
        head: &Head,
        lines: Vec<bytes::Bytes>,
        cursor: &mut Cursor,
    ) -> Ended {
        let (mut position, mut mark) = *cursor;
        let mut entries = Vec::with_capacity(lines.len());
        for line in lines {
            let entry = log::entry(&line).unwrap();
            if entry.prev != position {
                return Ended::Failed;
            }
            (position, mark) = (entry.position, mark.then(&line));
            entries.push((entry, line));
        }
        if (position, mark) != (head.upto, head.mark) {
            return Ended::Failed;
        }
        if from_writer && !head.writes {
            return Ended::Failed;
        }
        if from_writer {
            if matches!(self.server.at().claim, Claim::Disowned(_)) {
                let alien = cursor.0 == Position::ZERO;
                let why = if alien { Why::Diverged { common: None } } else { Why::Damaged };
                return self.ask_to_adopt(why).await;
            }
            self.server.confirm();
        }
        if !entries.is_empty() {
            let room = self.server.world.sites[self.server.place].machine.real(ROOM);
            if self.server.world.engine.within(room, self.queue.room()).await.is_none() {
                return Ended::Heard;
            }
            self.queue.put(Work::Entries(entries, from_writer)).await;
        }
        *cursor = (position, mark);
        Ended::Heard
    }

    async fn ask_to_adopt(&self, why: Why) -> Ended {
        let (done, over) = reply();
        self.abandoned.set(true);
        self.server.arrived.tell();
        self.queue.put(Work::Adopt(why, done)).await;
        over.get().await;
        Ended::Afresh
    }

    async fn apply(&self) {
        loop {
            match self.queue.take().await {
                Work::Entries(entries, from_writer) => {
                    self.entries(entries).await;
                    if from_writer {
                        self.server.confirm();
                    }
                }
                Work::Adopt(why, done) => {
                    self.abandoned.set(false);
                    let mut pause = Duration::from_millis(250);
                    while self.adopt(why).await.is_none() {
                        self.server.sleep(pause).await;
                        pause = (pause * 2).min(LONGEST);
                    }
                    done.send(());
                }
            }
        }
    }

    async fn entries(&self, entries: Entries) {
        for (entry, _) in entries.iter().filter(|(entry, _)| entry.change == Change::Blob) {
            entry.blobs.iter().for_each(|blob| self.fetch(blob.digest));
        }
        let mut batch = Vec::new();
        for (entry, line) in entries {
            let waits = entry.change != Change::Blob && !self.here(&entry.blobs);
            if waits || batch.len() >= BATCH {
                self.flush(&mut batch).await;
            }
            if waits {
                self.need(&entry.blobs).await;
            }
            if self.abandoned.get() {
                return;
            }
            batch.push((entry, line));
        }
        self.flush(&mut batch).await;
    }

    async fn flush(&self, batch: &mut Entries) {
        if !batch.is_empty() {
            let entries = std::mem::take(batch);
            let upto = entries.last().map(|(entry, _)| entry.position);
            self.server.apply(entries).await;
            self.server.world.trace(|| format!("{} has applied {upto:?}", self.server.name()));
        }
    }

    fn here(&self, blobs: &[BlobRef]) -> bool {
        let disk = self.server.world.sites[self.server.place].disk.borrow();
        blobs.iter().all(|blob| disk.blobs.contains(&blob.digest))
    }

    async fn need(&self, blobs: &[BlobRef]) {
        while !self.here(blobs) && !self.abandoned.get() {
            let seen = self.server.arrived.version();
            blobs.iter().for_each(|blob| self.fetch(blob.digest));
            self.server.arrived.past(seen).await;
        }
    }

    /// Fetches a blob, from whoever has it.
    fn fetch(&self, digest: Digest) {
        let server = self.server.clone();
        let known = server.world.sites[server.place].disk.borrow().blobs.contains(&digest);
        if known || !server.fetching.borrow_mut().insert(digest) {
            return;
        }
        let sources = self.sources.clone();
        let engine = server.world.engine.clone();
        engine.spawn(server.pid, async move {
            let mut pause = FIRST;
            for source in sources.iter().cycle() {
                let world = &server.world;
                let ask = move |there| feed::blob(there, digest);
                let found = world.call(Node::Registry(server.place), *source, IDLE, ask).await;
                if found == Ok(true) {
                    // Its bytes come chunk by chunk; it is one when the last is verified and durable.
                    let takes = world.transfer();
                    world.engine.sleep(takes).await;
                    server.step().await;
                    world.sites[server.place].disk.borrow_mut().blobs.insert(digest);
                    server.fetching.borrow_mut().remove(&digest);
                    return server.arrived.tell();
                }
                server.sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        });
    }

    /// Takes a snapshot over; `None`: that failed, and is tried again.
    async fn adopt(&self, why: Why) -> Option<()> {
        let (server, world) = (&self.server, &self.server.world);
        world.trace(|| format!("{} takes a snapshot over: {why:?}", server.name()));
        let own = server.at();
        if let Why::Diverged { common: Some(common) } = why
            && own.position <= common
            && own.claimed().is_some()
        {
            return Some(());
        }
        let from = Node::Registry(server.place);
        let snapshot = world.call(from, self.sources[0], IDLE, feed::snapshot).await.ok()??;
        let theirs = |own: &Epoch| snapshot.epochs.iter().any(|epoch| epoch.id == own.id);
        let foreign = match why {
            Why::Diverged { common } => Some(common),
            _ => (!server.log().history().epochs.iter().all(theirs)).then_some(None),
        };
        let mut taken = match foreign {
            Some(common) => {
                server.disown("its own history is another than its writer's").await;
                Some((common, BTreeSet::new()))
            }
            None => {
                server.begin_snapshot().await;
                None
            }
        };
        let mut known = BTreeSet::new();
        for (name, patch, blobs) in snapshot.repositories {
            known.insert(name.clone());
            let mut whole = Catalogue::new(name.clone());
            whole.apply(&patch).unwrap();
            self.aside(&name, Some(&whole), &mut taken);
            while world.engine.within(STILL_EVERY, self.need(&blobs)).await.is_none() {
                let poll = Poll {
                    by: Poller::Replica(server.place, own.position),
                    after: Some((snapshot.position, snapshot.mark)),
                    wait: Duration::ZERO,
                };
                let ask = move |there| feed::poll(there, poll.clone());
                let still = world.call(from, self.sources[0], IDLE, ask).await;
                if matches!(still, Ok(Polled::Diverged { .. })) {
                    server.disown("its writer does not have that any more").await;
                    return Some(());
                }
            }
            let same = world.catalogue(server.place, &name).is_some_and(|now| *now == whole);
            if !same {
                server.restore(whole).await;
            }
        }
        let there: Vec<_> = world.sites[server.place].disk.borrow().catalogues.keys().cloned().collect();
        for name in there.into_iter().filter(|name| !known.contains(name)) {
            self.aside(&name, None, &mut taken);
            server.forget(&name).await;
        }
        if let Some((common, names)) = taken {
            let mut disk = world.sites[server.place].disk.borrow_mut();
            disk.aside.push((common.unwrap_or(Position::ZERO), own.position, names));
        }
        server.rebase(snapshot.position, snapshot.mark, &snapshot.epochs).await;
        world.trace(|| format!("{} has taken {} over", server.name(), snapshot.position));
        Some(())
    }

    fn aside(&self, name: &RepositoryName, next: Option<&Catalogue>, taken: &mut Taken) {
        let Some((common, names)) = taken else { return };
        let Some(own) = self.server.world.catalogue(self.server.place, name) else { return };
        let is_common = common.is_some_and(|common| own.changed <= common);
        if !is_common && next.is_none_or(|next| *next != *own) {
            names.insert(name.clone());
        }
    }
}

type Taken = Option<(Option<Position>, BTreeSet<RepositoryName>)>;
