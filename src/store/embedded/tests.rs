//! See also `conformance`, which holds this store against etcd, and `tests/store`, where it is killed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{Builder, StorageBackend, backends::InMemoryBackend};

use super::*;
use crate::supervise::Tree;

/// A disk in memory that outlives its database, counts syncs and fails when told to.
#[derive(Debug, Clone, Default)]
struct Disk {
    memory: Arc<InMemoryBackend>,
    syncs: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
    /// The next sync fails although its data has arrived.
    bad_sync: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> Result<(), std::io::Error> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.check()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        match self.bad_sync.swap(false, Ordering::SeqCst) {
            true => Err(std::io::Error::other("bad sync")),
            false => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.check()?;
        self.memory.write(offset, data)
    }
}

async fn store_on(disk: &Disk) -> (Tree, tempfile::TempDir, EmbeddedStore) {
    let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
    let lock = file::lock(dir.path()).unwrap();
    let disk = disk.clone();
    let opener: Opener = Box::new(move || Ok(Builder::new().create_with_backend(disk.clone())?));
    let (inner, _) = EmbeddedStore::prepare(Some(lock), dir.path(), opener).unwrap();
    let store = EmbeddedStore::start(inner, &tree.handle());
    (tree, dir, store)
}

async fn has(store: &EmbeddedStore, key: &str) -> bool {
    store.get(key, Consistency::Linearizable).await.unwrap().kv.is_some()
}

#[tokio::test]
async fn writers_at_the_same_time_share_a_sync() {
    let disk = Disk::default();
    let (_tree, _dir, store) = store_on(&disk).await;
    let before = disk.syncs.load(Ordering::SeqCst);
    let writes = (0..64).map(|n| store.txn(Txn::new().put(format!("/{n}"), "1")));
    for answer in futures_util::future::join_all(writes).await {
        answer.unwrap();
    }
    let shared = disk.syncs.load(Ordering::SeqCst) - before;
    assert!(shared <= 8, "64 writers took {shared} syncs");
    let before = disk.syncs.load(Ordering::SeqCst);
    store.txn(Txn::new().put("/alone", "1")).await.unwrap();
    assert!(disk.syncs.load(Ordering::SeqCst) > before, "and no answer without one");
}

#[tokio::test]
async fn a_full_disk_refuses_and_the_store_goes_on_when_there_is_room_again() {
    let disk = Disk::default();
    let (_tree, _dir, store) = store_on(&disk).await;
    store.txn(Txn::new().put("/a", "1")).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let error = store.txn(Txn::new().put("/b", vec![1; 200_000])).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. } | StoreError::Unknown { .. }), "{error}");
    disk.full.store(false, Ordering::SeqCst);
    // By itself: who reads from it and sees that it is closed writes nothing.
    let end = clock::now() + Duration::from_secs(20);
    while store.get("/a", Consistency::Linearizable).await.is_err() {
        assert!(clock::now() < end, "the file is never opened again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.txn(Txn::new().put("/d", "1")).await.unwrap();
    assert!(has(&store, "/a").await && has(&store, "/d").await);
    if error.certainly_not_done() {
        assert!(!has(&store, "/b").await);
    }
}

#[tokio::test]
async fn after_a_failed_commit_the_file_itself_says_whether_it_happened() {
    let disk = Disk::default();
    let (_tree, _dir, store) = store_on(&disk).await;
    store.txn(Txn::new().put("/a", "1")).await.unwrap();
    disk.bad_sync.store(true, Ordering::SeqCst);
    let answer = store.txn(Txn::new().put("/b", "1")).await;
    assert_eq!(has(&store, "/b").await, answer.is_ok(), "{answer:?}");
    assert!(!matches!(answer, Err(StoreError::Unknown { .. })), "{answer:?}");
    let next = store.txn(Txn::new().put("/c", "1")).await.unwrap();
    assert_eq!(next.revision, if answer.is_ok() { 4 } else { 3 });
}

#[tokio::test]
async fn after_a_restart_leases_and_history_are_there_and_the_directory_was_free() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::new();
    let store = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
    let error = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    let lease = store.lease_grant(60).await.unwrap();
    store.txn(Txn::new().put_leased("/a", "1", lease)).await.unwrap();
    store.txn(Txn::new().put("/b", "1")).await.unwrap();
    let mut watch = store.watch("/", 0).await.unwrap();
    tree.shut_down(Duration::from_secs(5)).await;
    assert!(watch.next().await.unwrap().is_err(), "a watch on a closed store ends");
    assert!(matches!(store.txn(Txn::new().put("/c", "1")).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(store.get("/a", Consistency::Linearizable).await, Err(StoreError::Unavailable { .. })));

    let tree = Tree::new();
    let again = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
    assert_eq!(again.lease_keep_alive(lease).await.unwrap(), LeaseState::Alive);
    let mut watch = again.watch("/", 2).await.unwrap();
    let Some(Ok(WatchItem::Events { events, revision })) = watch.next().await else { panic!("history") };
    assert_eq!((events.len(), revision), (2, 3));
    again.lease_revoke(lease).await.unwrap();
    assert!(!has(&again, "/a").await);
    tree.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn history_is_bounded_by_bytes_and_reads_of_what_was_cut_say_so() {
    let disk = Disk::default();
    let (_tree, _dir, store) = store_on(&disk).await;
    *store.inner.marks() = Marks::keeping(1, 1_000, 1 << 20);
    // Stretches of 64 changes.
    let value = vec![7_u8; 16 << 10];
    let mut newest = 0;
    for _ in 0..640 {
        newest = store.txn(Txn::new().put("/big", value.clone())).await.unwrap().revision;
    }
    let old = store.range(Range::prefix("/").at(2)).await.unwrap_err();
    let StoreError::Compacted { oldest } = old else { panic!("{old}") };
    assert!(
        oldest >= newest - 130 && oldest <= newest - 60,
        "one full stretch and a part: {oldest} of {newest}"
    );
    let kept = store.range(Range::prefix("/").at(oldest)).await.unwrap();
    assert_eq!(kept.kvs[0].mod_revision, oldest);
    // 10 MiB went through.
    let size = disk.memory.len().unwrap();
    assert!(size < 8 << 20, "{size}");
}
