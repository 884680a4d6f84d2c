//! One registry: what lasts on its disk, what a run of it holds, and how it opens. As `registry/journal/turn.rs`
//! (`open`, `make_good`, `apply`, `restore`, `rebase`, `disown`, `advance`), `registry/journal/mod.rs` and
//! `registry/service.rs` do it, step by step: after each one it may die.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use switchyard::{
    model::{Digest, Mark, Position, RepositoryName},
    registry::{
        content::Catalogue,
        journal::{At, Claim, LEASED, ROLE},
        log::{Log, Read, history::History},
        writer::leases::{self, Leases},
    },
    wire::replication::{Change, Entry, Epoch, Patch},
};

use super::{
    engine::{Machine, Pid, Signal},
    link::Node,
    replica,
    world::World,
};

const DIVERGED: &str = "diverged";

/// What a registry is configured as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one writer. `alone`: an operator has said so, and its reign begins anew.
    Writer {
        alone: bool,
    },
    Replica {
        writer: usize,
    },
}

/// What survives a crash.
pub(super) struct Disk {
    pub(super) log: Rc<Log>,
    pub(super) catalogues: BTreeMap<RepositoryName, Rc<Catalogue>>,
    pub(super) blobs: BTreeSet<Digest>,
    /// What was set aside: positions of own entries, and repositories.
    pub(super) aside: Vec<(Position, Position, BTreeSet<RepositoryName>)>,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            log: Rc::new(Log::in_memory().unwrap()),
            catalogues: BTreeMap::new(),
            blobs: BTreeSet::new(),
            aside: Vec::new(),
        }
    }
}

/// One registry's place.
pub(super) struct Site {
    pub(super) name: String,
    pub(super) machine: Machine,
    pub(super) disk: RefCell<Disk>,
    pub(super) role: Cell<Role>,
    /// Running, or being opened.
    pub(super) pid: Cell<Option<Pid>>,
    /// It answers.
    pub(super) server: RefCell<Option<Rc<Server>>>,
    /// It dies at this step from now.
    pub(super) fuse: Cell<Option<u32>>,
}

/// One run of a registry.
pub(super) struct Server {
    pub(super) world: Rc<World>,
    pub(super) place: usize,
    pub(super) pid: Pid,
    pub(super) role: Role,
    at: RefCell<At>,
    /// `at` has changed.
    pub(super) follow: Signal,
    pub(super) leases: RefCell<Leases>,
    /// Somebody confirmed, or gave up.
    pub(super) moved: Signal,
    turn: Cell<bool>,
    turned: Signal,
    pub(super) replicas: RefCell<BTreeMap<usize, Position>>,
    pub(super) fetching: RefCell<BTreeSet<Digest>>,
    pub(super) arrived: Signal,
}

/// A page of work for the log and the catalogues.
pub(super) type Entries = Vec<(Entry, Bytes)>;

/// Held by the one change that is being made.
pub(super) struct MyTurn<'a>(&'a Server);

impl Drop for MyTurn<'_> {
    fn drop(&mut self) {
        self.0.turn.set(false);
        self.0.turned.tell();
    }
}

impl World {
    /// Starts the registry of this place.
    pub(super) fn boot(self: &Rc<Self>, place: usize) {
        let site = &self.sites[place];
        if site.pid.get().is_some() {
            return;
        }
        let pid = self.engine.process();
        site.pid.set(Some(pid));
        self.trace(|| format!("{} starts as {:?}", site.name, site.role.get()));
        let world = self.clone();
        self.engine.spawn(pid, async move { world.open(place, pid).await });
    }

    /// Kills it: what it had in hand is gone.
    pub(super) fn kill(&self, place: usize) {
        let site = &self.sites[place];
        site.fuse.set(None);
        let gone = site.server.take();
        if let Some(pid) = site.pid.take() {
            self.trace(|| format!("{} dies", site.name));
            self.engine.kill(pid);
        }
        drop(gone);
    }

    async fn open(self: &Rc<Self>, place: usize, pid: Pid) {
        let site = &self.sites[place];
        let log = self.log(place);
        let role = site.role.get();
        let was_replica = log.note(ROLE).unwrap().as_deref() == Some(b"replica");
        let new = log.history().head == Position::ZERO;
        if matches!(role, Role::Writer { .. }) && (was_replica || new) {
            log.put_note(LEASED, Some(b"1")).unwrap();
        }
        let leased = log.note(LEASED).unwrap().is_some();
        let mute = if leased { site.machine.boot() + leases::AT_WRITER } else { Duration::ZERO };
        let nothing =
            At { position: Position::ZERO, mark: Mark::ZERO, shown: Position::ZERO, claim: Claim::New };
        let server = Rc::new(Server {
            world: self.clone(),
            place,
            pid,
            role,
            at: RefCell::new(nothing),
            follow: Signal::default(),
            leases: RefCell::new(Leases::new(mute)),
            moved: Signal::default(),
            turn: Cell::default(),
            turned: Signal::default(),
            replicas: RefCell::default(),
            fetching: RefCell::default(),
            arrived: Signal::default(),
        });
        let above = match role {
            Role::Writer { alone: true } => Some(self.newest_epoch(place).await),
            _ => None,
        };
        server.open(above).await;
        if role == (Role::Writer { alone: true }) {
            // The operator says it once.
            site.role.set(Role::Writer { alone: false });
        }
        site.server.replace(Some(server.clone()));
        self.trace(|| format!("{} serves at {:?}", site.name, server.at()));
        self.engine.spawn(pid, super::feed::compact(server.clone()));
        if let Role::Replica { writer } = role {
            replica::start(server, writer);
        }
    }

    async fn newest_epoch(self: &Rc<Self>, place: usize) -> u64 {
        let mut newest = 0;
        let others =
            (0..self.sites.len()).filter(|peer| *peer != place && !self.retired.borrow().contains(peer));
        for peer in others.collect::<Vec<_>>() {
            let ask = |server: Rc<Server>| async move { server.log().history().epoch() };
            match self.call(Node::Registry(place), peer, Duration::from_secs(3), ask).await {
                Ok(epoch) => newest = newest.max(epoch),
                Err(_) => {
                    // Which reign was the newest is not known for sure: the operator starts it once more.
                    self.kill(place);
                    pending::<()>().await;
                }
            }
        }
        newest
    }

    pub(super) fn log(&self, place: usize) -> Rc<Log> {
        self.sites[place].disk.borrow().log.clone()
    }

    pub(super) fn catalogue(&self, place: usize, of: &RepositoryName) -> Option<Rc<Catalogue>> {
        self.sites[place].disk.borrow().catalogues.get(of).cloned()
    }
}

impl Server {
    pub(super) fn at(&self) -> At {
        self.at.borrow().clone()
    }

    pub(super) fn log(&self) -> Rc<Log> {
        self.world.log(self.place)
    }

    pub(super) fn boot(&self) -> Duration {
        self.world.sites[self.place].machine.boot()
    }

    pub(super) async fn sleep(&self, time: Duration) {
        self.world.sites[self.place].machine.sleep(time).await;
    }

    pub(super) fn name(&self) -> &str {
        &self.world.sites[self.place].name
    }

    pub(super) fn is_writer(&self) -> bool {
        matches!(self.role, Role::Writer { .. })
    }

    /// Between two steps time passes, and here it may die.
    pub(super) async fn step(&self) {
        let site = &self.world.sites[self.place];
        match site.fuse.get() {
            Some(0) => {
                self.world.kill(self.place);
                pending::<()>().await;
            }
            Some(left) => site.fuse.set(Some(left - 1)),
            None => {}
        }
        let time = self.world.storage();
        self.world.engine.sleep(time).await;
    }

    /// One change after the other.
    pub(super) async fn turn(&self) -> MyTurn<'_> {
        while self.turn.get() {
            self.turned.past(self.turned.version()).await;
        }
        self.turn.set(true);
        MyTurn(self)
    }

    async fn open(&self, above: Option<u64>) {
        let log = self.log();
        let diverged = log.note(DIVERGED).unwrap().is_some();
        let new = log.history().head == Position::ZERO;
        let was_replica = log.note(ROLE).unwrap().as_deref() == Some(b"replica");
        self.make_good().await;
        let filled = !self.world.sites[self.place].disk.borrow().catalogues.is_empty();
        let claim = if self.is_writer() {
            let History { head, epochs, .. } = log.history();
            if (new && filled) || self.newest_shown() > head {
                self.step().await;
                let mark = Mark::ZERO.then(&self.world.engine.id().to_le_bytes());
                log.reset(head.max(Position { epoch: 0, seq: 1 }), mark, &epochs, DIVERGED).unwrap();
            }
            if diverged {
                self.step().await;
                let History { head, mark, epochs, .. } = log.history();
                let mark = mark.then(&self.world.engine.id().to_le_bytes());
                log.reset(head, mark, &epochs, DIVERGED).unwrap();
            }
            if new || was_replica || diverged || above.is_some() {
                self.step().await;
                self.begin_reign(above.unwrap_or(0));
            }
            Claim::Confirmed
        } else if diverged {
            Claim::Disowned("it was taking over its writer's catalogue".into())
        } else if new && filled {
            self.step().await;
            log.put_note(DIVERGED, Some(b"1")).unwrap();
            Claim::Disowned("it was filled before it was a replica".into())
        } else if new {
            Claim::New
        } else {
            Claim::Unconfirmed
        };
        self.step().await;
        let role: &[u8] = if self.is_writer() { b"writer" } else { b"replica" };
        log.put_note(ROLE, Some(role)).unwrap();
        let (position, mark) = log.head();
        self.at.replace(At { position, mark, shown: self.newest_shown(), claim });
        if self.is_writer() {
            self.world.reigns(self.place);
        }
    }

    fn begin_reign(&self, above: u64) {
        let history = self.log().history();
        let position = Position { epoch: history.epoch().max(above) + 1, seq: 1 };
        let id = self.world.engine.id().to_string();
        let epoch = Epoch { epoch: position.epoch, after: history.head, writer: self.name().into(), id };
        let entry = Entry { opened: Some(epoch), ..self.entry(history.head, position, Change::Opened) };
        self.append(vec![entry]);
    }

    pub(super) fn entry(&self, prev: Position, position: Position, change: Change) -> Entry {
        let time = i64::try_from(self.world.engine.now().as_secs()).unwrap();
        let (repository, opened, digest, patch) = (None, None, None, None);
        Entry { position, prev, time, change, repository, opened, digest, blobs: Vec::new(), patch }
    }

    pub(super) fn append(&self, entries: Vec<Entry>) {
        let with_line = |entry: Entry| {
            let line = Bytes::from(serde_json::to_vec(&entry).unwrap());
            (entry, line)
        };
        let entries: Entries = entries.into_iter().map(with_line).collect();
        self.log().append(&entries).unwrap();
    }

    /// The catalogue lasts, and everybody who asks here is shown it.
    pub(super) fn put(&self, next: Catalogue) {
        let next = Rc::new(next);
        if self.is_writer() {
            self.world.truth.borrow_mut().shows(&next);
        }
        self.world.sites[self.place].disk.borrow_mut().catalogues.insert(next.name.clone(), next);
    }

    /// Applies entries that follow on the own ones; every blob they need is here.
    pub(super) async fn apply(&self, entries: Entries) {
        let _turn = self.turn().await;
        let Some((last, _)) = entries.last() else { return };
        let (position, shows) = (last.position, entries.iter().any(|(entry, _)| entry.patch.is_some()));
        self.step().await;
        if self.log().head().0 < position {
            self.log().append(&entries).unwrap();
        }
        self.make_good().await;
        self.step().await;
        self.advance(position, shows);
    }

    async fn make_good(&self) {
        let mut next: BTreeMap<RepositoryName, Catalogue> = BTreeMap::new();
        for entry in self.log().unapplied().unwrap() {
            let (Some(repository), Some(patch)) = (entry.repository, entry.patch) else { continue };
            let now = next
                .remove(&repository)
                .or_else(|| self.world.catalogue(self.place, &repository).map(|now| (*now).clone()));
            match patched(&repository, now, &patch) {
                Ok(catalogue) => drop(next.insert(repository, catalogue)),
                // What is being taken back need not fit what is here of the snapshot.
                Err(_) if self.log().note(DIVERGED).unwrap().is_some() => {}
                Err(why) => self.world.breaks(format!("{}: {why}", self.name())),
            }
        }
        for (repository, catalogue) in next {
            let there = self.world.catalogue(self.place, &repository);
            if there.is_none_or(|there| there.generation < catalogue.generation) {
                self.showing(catalogue.changed);
                self.step().await;
                self.put(catalogue);
            }
        }
    }

    /// Takes over one repository of a snapshot.
    pub(super) async fn restore(&self, whole: Catalogue) {
        let _turn = self.turn().await;
        self.showing(whole.changed);
        self.step().await;
        self.put(whole);
    }

    pub(super) async fn forget(&self, repository: &RepositoryName) {
        let _turn = self.turn().await;
        self.step().await;
        self.world.sites[self.place].disk.borrow_mut().catalogues.remove(repository);
    }

    pub(super) async fn rebase(&self, position: Position, mark: Mark, epochs: &[Epoch]) {
        let _turn = self.turn().await;
        self.step().await;
        self.log().reset(position, mark, epochs, DIVERGED).unwrap();
        self.step().await;
        let shown = self.newest_shown();
        self.at.replace(At { position, mark, shown, claim: Claim::Confirmed });
        self.follow.tell();
    }

    pub(super) async fn begin_snapshot(&self) {
        self.step().await;
        self.log().put_note(DIVERGED, Some(b"1")).unwrap();
        self.step().await;
    }

    pub(super) async fn disown(&self, why: &str) {
        let _turn = self.turn().await;
        self.at.borrow_mut().claim = Claim::Disowned(why.into());
        self.follow.tell();
        self.step().await;
        self.log().put_note(DIVERGED, Some(b"1")).unwrap();
    }

    /// A change is about to be shown. Tells what was the newest one before.
    pub(super) fn showing(&self, position: Position) -> Position {
        let mut at = self.at.borrow_mut();
        let before = at.shown;
        at.shown = before.max(position);
        before
    }

    /// It will not be.
    pub(super) fn shows_no_more(&self, before: Position) {
        self.at.borrow_mut().shown = before;
    }

    pub(super) fn advance(&self, position: Position, shows: bool) {
        let (_, mark) = self.log().head();
        let mut at = self.at.borrow_mut();
        (at.position, at.mark) = (position, mark);
        if shows {
            at.shown = position;
        }
        drop(at);
        self.follow.tell();
    }

    /// The writer's history is this one's.
    pub(super) fn confirm(&self) {
        let mut at = self.at.borrow_mut();
        let some = at.claim == Claim::New && at.position > Position::ZERO;
        if some || at.claim == Claim::Unconfirmed {
            at.claim = Claim::Confirmed;
            drop(at);
            self.follow.tell();
        }
    }

    fn newest_shown(&self) -> Position {
        let disk = self.world.sites[self.place].disk.borrow();
        disk.catalogues.values().map(|catalogue| catalogue.changed).max().unwrap_or(Position::ZERO)
    }

    /// The log behind a position. Only what is applied.
    pub(super) fn read(&self, after: Position, mark: Option<Mark>) -> Read {
        self.log().read(after, mark, self.at().position).unwrap()
    }
}

fn patched(repository: &RepositoryName, now: Option<Catalogue>, patch: &Patch) -> Result<Catalogue, String> {
    let mut catalogue = now.unwrap_or_else(|| Catalogue::new(repository.clone()));
    if catalogue.generation >= patch.generation {
        return Ok(catalogue);
    }
    if catalogue.generation + 1 != patch.generation {
        return Err(format!(
            "{repository} is generation {}, and {} makes {}",
            catalogue.generation, patch.changed, patch.generation
        ));
    }
    catalogue.apply(patch)?;
    Ok(catalogue)
}
