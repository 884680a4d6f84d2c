//! What every storage must do, whatever goes wrong below it. Each operation is run once for each call that it makes, with
//! that call failing, failing although it was done, and being the last one of the process. Then what was acknowledged must be
//! there, everything that is visible whole, what is unfinished cleaned up by the next start, and the operation possible.

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, TryStreamExt};

use super::{
    CHUNK, Catalogue, ChunkList, Content, ContentError, FillError, Pulls, Shown,
    disk::{Disk, DiskSettings, OpenError},
    files::faulty::{ERRORS, Faults, Plan, World},
};
use crate::{
    model::{Algorithm, Digest, Position, RepositoryName, Tag},
    wire::replication::{BlobRef, Stored},
};

/// The kinds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Disk,
    Shared,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Disk, Self::Shared];

    /// Where a registry keeps what is its own.
    fn own(self, dir: &Path, kind: &str) -> PathBuf {
        match self {
            Self::Disk => dir.join(kind),
            Self::Shared => dir.join(kind).join("r1"),
        }
    }

    pub(super) async fn open(self, dir: &Path, faults: &Arc<Faults>) -> Result<Arc<dyn Content>, OpenError> {
        self.open_as("r1", dir, faults).await
    }

    pub(super) async fn open_as(
        self,
        name: &str,
        dir: &Path,
        faults: &Arc<Faults>,
    ) -> Result<Arc<dyn Content>, OpenError> {
        let shared = self == Self::Shared;
        let settings = DiskSettings { shared, name: name.into(), ..DiskSettings::at(dir) };
        Ok(Arc::new(Disk::open_faulty(settings, faults).await?))
    }
}

/// In memory where that is possible: thousands of syncs are not what is tested.
pub(super) fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn repository(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

/// Bytes of more than one chunk, and what names them.
struct Sample {
    bytes: Bytes,
    blob: BlobRef,
    list: ChunkList,
}

impl Sample {
    fn new(byte: u8) -> Self {
        let bytes = Bytes::from(vec![byte; CHUNK as usize + 5]);
        let list = ChunkList(bytes.chunks(CHUNK as usize).map(Digest::of).collect());
        let blob =
            BlobRef { digest: Digest::of(&bytes), size: bytes.len() as u64, chunks: Some(list.digest()) };
        Self { bytes, blob, list }
    }
}

/// What is there before each run.
struct Given {
    dir: tempfile::TempDir,
    /// Half of `pushed` is in it.
    session: String,
    pushed: Sample,
    /// The first chunk of it is here.
    filled: Sample,
}

const MANIFEST: &[u8] = b"a manifest";

fn small() -> Bytes {
    Bytes::from_static(b"a small blob")
}

/// A generation whose tags all point to the one manifest.
pub(super) fn catalogue(name: &RepositoryName, generation: u64, tags: &[&str]) -> Catalogue {
    let mut catalogue = Catalogue::new(name.clone());
    (catalogue.generation, catalogue.changed) = (generation, Position { epoch: 1, seq: generation });
    let stored = Stored {
        media_type: "x".into(),
        size: MANIFEST.len() as u64,
        subject: None,
        children: Vec::new(),
        pushed: 0,
    };
    catalogue.add(Digest::of(MANIFEST), stored);
    for tag in tags {
        catalogue.tag(Tag::parse(*tag).unwrap(), Digest::of(MANIFEST), 0);
    }
    catalogue
}

impl Given {
    async fn new(kind: Kind) -> Self {
        let dir = place();
        let faults = Arc::new(World::default()).client(1, false);
        let (pushed, filled) = (Sample::new(1), Sample::new(2));
        let content = kind.open(dir.path(), &faults).await.unwrap();
        let name = repository("a/b");
        let manifest = put(&*content, Bytes::from_static(MANIFEST)).await.unwrap();
        content.link(&name, &manifest).await.unwrap();
        content.publish(catalogue(&name, 1, &["one"])).await.unwrap();
        let session = {
            let mut upload = begin(&*content, &name).await.unwrap();
            upload.write(pushed.bytes.slice(..1000)).await.unwrap();
            upload.flush().await.unwrap();
            upload.id().to_owned()
        };
        let fill = content.fill(&filled.blob, Some(filled.list.clone())).await.unwrap();
        fill.write(0, filled.bytes.slice(..CHUNK as usize)).await.unwrap();
        fill.flush().await.unwrap();
        Self { dir, session, pushed, filled }
    }
}

// As the trait has them, in one place.

async fn put(content: &dyn Content, bytes: Bytes) -> Result<Digest, ContentError> {
    content.put(Algorithm::Sha256, bytes).await
}

async fn begin(content: &dyn Content, name: &RepositoryName) -> Result<Box<dyn super::Upload>, ContentError> {
    content.begin(name, "a", Algorithm::Sha256, 0).await
}

async fn resume(content: &dyn Content, id: &str) -> Result<Box<dyn super::Upload>, ContentError> {
    content.resume(&repository("a/b"), id, None, 0).await
}

/// After everything that this test does.
fn later() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 34)
}

async fn in_trash(content: &dyn Content, bytes: &[u8]) -> bool {
    content.discarded().await.unwrap().iter().any(|blob| blob.digest == Digest::of(bytes))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Put,
    Upload,
    Commit,
    Cancel,
    Fill,
    Link,
    Unlink,
    Publish,
    Together,
    Restore,
    Remove,
    Expire,
    SavePulls,
    PutAside,
    Discard,
    TakeOut,
    Purge,
    TakeAway,
}

impl Op {
    const ALL: [Self; 18] = [
        Self::Put,
        Self::Upload,
        Self::Commit,
        Self::Cancel,
        Self::Fill,
        Self::Link,
        Self::Unlink,
        Self::Publish,
        Self::Together,
        Self::Restore,
        Self::Remove,
        Self::Expire,
        Self::SavePulls,
        Self::PutAside,
        Self::Discard,
        Self::TakeOut,
        Self::Purge,
        Self::TakeAway,
    ];

    async fn run(self, content: &dyn Content, given: &Given) -> Result<(), ContentError> {
        let name = repository("a/b");
        match self {
            Self::Put => put(content, small()).await.map(drop),
            Self::Upload => {
                let mut upload = begin(content, &repository("new")).await?;
                upload.write(small()).await?;
                upload.commit(&Digest::of(&small())).await.map(drop)
            }
            Self::Commit => {
                // A client whose session is gone begins anew, as it would.
                let mut upload = match resume(content, &given.session).await {
                    Err(ContentError::UnknownUpload) => begin(content, &name).await?,
                    resumed => resumed?,
                };
                let from = usize::try_from(upload.received()).unwrap();
                upload.write(given.pushed.bytes.slice(from..)).await?;
                upload.commit(&given.pushed.blob.digest).await.map(drop)
            }
            Self::Cancel => content.cancel(&name, &given.session).await,
            Self::Fill => {
                let Sample { bytes, blob, list } = &given.filled;
                let filled = async {
                    let fill = content.fill(blob, Some(list.clone())).await?;
                    for chunk in fill.missing() {
                        let from = chunk as usize * CHUNK as usize;
                        let end = bytes.len().min(from + CHUNK as usize);
                        fill.write(chunk, bytes.slice(from..end)).await?;
                    }
                    fill.commit().await
                };
                filled.await.map_err(|error| match error {
                    FillError::Content(error) => error,
                    other => panic!("{other}"),
                })
            }
            Self::Link => content.link(&repository("new"), &Digest::of(MANIFEST)).await,
            Self::Unlink => content.unlink(&name, &Digest::of(MANIFEST)).await,
            Self::Publish => content.publish(catalogue(&name, 2, &["two"])).await.map(drop),
            Self::Together => together(content).await,
            Self::Restore => content.restore(catalogue(&name, 7, &["two"])).await.map(drop),
            Self::Remove => content.remove(&name).await,
            Self::Expire => content.expire_uploads().await.map(drop),
            Self::SavePulls => content.save_pulls(&name, Pulls::from([("one".into(), 5)])).await,
            Self::PutAside => content.put_aside("1.2-x", "file", small()).await.map(drop),
            Self::Discard => content.discard(&Digest::of(MANIFEST), later()).await.map(drop),
            Self::TakeOut => {
                content.discard(&Digest::of(MANIFEST), later()).await?;
                content.keep(&Digest::of(MANIFEST)).await.map(drop)
            }
            Self::Purge => {
                let blob = put(content, small()).await?;
                content.discard(&blob, later()).await?;
                content.purge(&blob, later()).await.map(drop)
            }
            // Where others push, the first time it goes to the trash.
            Self::TakeAway => {
                for _ in 0..2 {
                    content.take_away(&name, &Digest::of(MANIFEST), later()).await?;
                }
                Ok(())
            }
        }
    }

    /// Whether it is to be seen.
    async fn done(self, content: &dyn Content, given: &Given) -> bool {
        let name = repository("a/b");
        let tags = || async {
            let catalogue = content.catalogue(&name).await.unwrap();
            catalogue.map(|found| found.tags.keys().map(ToString::to_string).collect::<Vec<_>>())
        };
        match self {
            Self::Put => content.find(&Digest::of(&small())).await.unwrap().is_some(),
            Self::Upload => {
                let blob = Digest::of(&small());
                let linked = content.linked(&repository("new"), &blob).await.unwrap();
                linked && content.find(&blob).await.unwrap().is_some()
            }
            Self::Commit => {
                let blob = given.pushed.blob.digest;
                let here = content.find(&blob).await.unwrap().is_some();
                here && content.linked(&name, &blob).await.unwrap()
            }
            Self::Cancel => {
                let there = content.received(&name, &given.session).await;
                matches!(there, Err(ContentError::UnknownUpload))
            }
            Self::Fill => content.find(&given.filled.blob.digest).await.unwrap().is_some(),
            Self::Link => content.linked(&repository("new"), &Digest::of(MANIFEST)).await.unwrap(),
            Self::Unlink => !content.linked(&name, &Digest::of(MANIFEST)).await.unwrap(),
            Self::Publish | Self::Restore => tags().await.is_some_and(|tags| tags == ["two"]),
            Self::Together => {
                let all = changed();
                let seen = futures_util::future::join_all(all.iter().map(|next| is_shown(content, next)));
                seen.await.into_iter().all(|seen| seen)
            }
            Self::Remove => tags().await.is_none_or(|tags| tags.is_empty()),
            // Nothing is old enough.
            Self::Expire => content.received(&name, &given.session).await.unwrap() == 1000,
            Self::SavePulls => content.pulls(&name).await.unwrap().get("one") == Some(&5),
            Self::PutAside => !content.asides("file").await.unwrap().is_empty(),
            Self::Discard => in_trash(content, MANIFEST).await,
            Self::TakeOut => !in_trash(content, MANIFEST).await,
            Self::Purge => content.find(&Digest::of(&small())).await.unwrap().is_none(),
            Self::TakeAway => !content.linked(&name, &Digest::of(MANIFEST)).await.unwrap(),
        }
    }
}

/// The next generations of three repositories, of which two are new.
fn changed() -> [Catalogue; 3] {
    [("a/b", 2), ("c", 1), ("new", 1)].map(|(name, number)| catalogue(&repository(name), number, &["two"]))
}

async fn is_shown(content: &dyn Content, next: &Catalogue) -> bool {
    let now = content.catalogue(&next.name).await;
    now.is_ok_and(|now| now.is_some_and(|now| now.generation == next.generation))
}

/// Those that are not shown yet.
async fn together(content: &dyn Content) -> Result<(), ContentError> {
    let mut next = Vec::new();
    for one in changed() {
        if !is_shown(content, &one).await {
            next.push(Arc::new(one));
        }
    }
    let staged = content.stage(next.clone()).await?;
    for one in next.iter().filter(|_| !content.is_shared()) {
        assert!(!is_shown(content, one).await, "`{}` is shown before it was asked for", one.name);
    }
    let Shown { count, error, unsure } = content.show(staged).await;
    assert_eq!(count == next.len(), error.is_none(), "{error:?}");
    for (at, one) in next.iter().enumerate().filter(|_| !content.is_shared()) {
        assert_eq!(is_shown(content, one).await, at < count, "`{}`, number {at} of {count}", one.name);
    }
    error.or(unsure).map_or(Ok(()), Err)
}

/// Everything that is visible is whole: each blob is what its name says and has its list, each tag has its manifest.
async fn check_whole(content: &dyn Content, dir: &Path, what: &str) {
    for path in files(&dir.join("blobs")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".chunks") {
            continue;
        }
        let blob = Digest::from_hex(name).unwrap();
        let body = content.read(&blob, None).await.unwrap().unwrap();
        let bytes: BytesMut = body.bytes().try_collect().await.unwrap();
        assert_eq!(Digest::of(&bytes), blob, "{what}");
        assert!(content.chunks(&blob).await.unwrap().is_some(), "{what}: {blob} has no chunk list");
    }
    for name in content.repositories().await.unwrap() {
        let catalogue = content.catalogue(&name).await.unwrap();
        for version in catalogue.iter().flat_map(|catalogue| catalogue.tags.values()) {
            assert!(content.find(&version.digest).await.unwrap().is_some(), "{what}: {name}");
        }
    }
}

/// One operation, with one call going wrong.
async fn one(kind: Kind, op: Op, given: &Given, plan: Plan) {
    let what = format!("{kind:?} {op:?} {plan:?}");
    let dir = place();
    copy(given.dir.path(), dir.path());
    let world = Arc::new(World::default());
    let faults = world.client(1, false);
    let mut acknowledged = false;
    {
        let content = kind.open(dir.path(), &faults).await.unwrap();
        faults.plan(plan);
        acknowledged |= op.run(&*content, given).await.is_ok();
        if !matches!(plan, Plan::Stop { .. }) {
            faults.plan(Plan::Sound);
            check_whole(&*content, dir.path(), &what).await;
            assert!(!acknowledged || op.done(&*content, given).await, "{what}: acknowledged and not there");
            // The storage is well again: so is this registry, without a restart.
            let again = op.run(&*content, given).await;
            assert!(again.is_ok() || op.done(&*content, given).await, "{what}: {again:?}");
            acknowledged |= again.is_ok();
        }
    }
    let content = kind.open(dir.path(), &world.client(2, false)).await.unwrap();
    assert!(files(&kind.own(dir.path(), "tmp")).is_empty(), "{what}: left in tmp");
    for upload in fs::read_dir(kind.own(dir.path(), "uploads")).unwrap() {
        assert!(op == Op::Commit || upload.unwrap().path().join("session.json").exists(), "{what}");
    }
    check_whole(&*content, dir.path(), &what).await;
    assert!(!acknowledged || op.done(&*content, given).await, "{what}: acknowledged and lost");
    let again = op.run(&*content, given).await;
    assert!(again.is_ok() || op.done(&*content, given).await, "{what}: after a restart {again:?}");
    assert!(op.done(&*content, given).await, "{what}: not there in the end");
}

/// How many calls an operation makes when all goes well.
async fn calls(kind: Kind, op: Op, given: &Given) -> u64 {
    let dir = place();
    copy(given.dir.path(), dir.path());
    let faults = Arc::new(World::default()).client(1, false);
    let content = kind.open(dir.path(), &faults).await.unwrap();
    faults.plan(Plan::Sound);
    op.run(&*content, given).await.unwrap();
    let calls = faults.calls();
    assert!(op.done(&*content, given).await, "{kind:?} {op:?}");
    calls
}

fn every_call(kind: Kind, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let given = Given::new(kind).await;
        let mut failed = 0;
        for op in ops {
            let calls = calls(kind, *op, &given).await;
            for at in 0..calls {
                let error = ERRORS[at as usize % ERRORS.len()];
                let lie = Plan::Fail { at, error: ERRORS[1], done: true };
                for plan in [Plan::Fail { at, error, done: false }, lie, Plan::Stop { at }] {
                    // All of them are told of, not the first alone.
                    failed += usize::from(
                        AssertUnwindSafe(one(kind, *op, &given, plan)).catch_unwind().await.is_err(),
                    );
                }
            }
        }
        assert_eq!(failed, 0, "runs of {kind:?} failed");
    });
}

#[test]
fn whatever_call_goes_wrong_tags_are_whole_or_absent_and_nothing_acknowledged_is_lost() {
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            let (some, others) = Op::ALL.split_at(Op::ALL.len() / 2);
            scope.spawn(move || every_call(kind, some));
            scope.spawn(move || every_call(kind, others));
        }
    });
}

#[tokio::test]
async fn a_start_that_is_cut_off_or_fails_leaves_everything_for_the_next_one() {
    for kind in Kind::ALL {
        let given = Given::new(kind).await;
        for file in files(given.dir.path()).into_iter().filter(|file| file.ends_with("session.json")) {
            let beside = file.parent().unwrap().with_file_name(uuid::Uuid::new_v4().to_string());
            fs::create_dir(&beside).unwrap();
            fs::write(beside.join("data"), "of a session that nobody was told of").unwrap();
        }
        for at in 0.. {
            let faults = Arc::new(World::default()).client(1, false);
            let dir = place();
            copy(given.dir.path(), dir.path());
            faults.plan(Plan::Stop { at });
            let opened = kind.open(dir.path(), &faults).await;
            let all = opened.is_ok() && faults.calls() <= at;
            drop(opened);
            let again = Arc::new(World::default()).client(1, false);
            let content = kind.open(dir.path(), &again).await.unwrap();
            let received = content.received(&repository("a/b"), &given.session).await.unwrap();
            assert_eq!(received, 1000, "{kind:?} {at}");
            check_whole(&*content, dir.path(), &format!("{kind:?} start {at}")).await;
            assert!(Op::Expire.done(&*content, &given).await && !Op::Remove.done(&*content, &given).await);
            if all {
                break;
            }
        }
    }
}

/// Files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
