//! The embedded store, killed with `kill -9` while it writes: whatever was acknowledged is there afterwards.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::support::scale::scaled;
use switchyard::{
    store::{
        Consistency, Event, Range, Store, Txn, WatchItem,
        embedded::{EmbeddedStore, OpenError},
        page,
    },
    supervise::Tree,
};

/// Where the child is to write: set only for the process that the test starts from itself.
const CHILD: &str = "SWITCHYARD_TEST_STORE_CHILD";
const WRITERS: usize = 8;
/// How often the store is killed and opened again.
fn rounds() -> usize {
    scaled(3, 30)
}
/// Acknowledgements before the kill.
const ACKNOWLEDGED: usize = 400;

/// Not a test by itself: writes until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let tree = Tree::new();
    let store = Arc::new(EmbeddedStore::open(&dir, tree.handle()).await.unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let got = store.get(&format!("/a/{writer}"), Consistency::Linearizable).await.unwrap();
            let mut count: u64 =
                got.kv.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
            loop {
                count += 1;
                let value = count.to_string();
                // Two keys at once: both or none. And something to clean up after.
                let txn = Txn::new()
                    .put(format!("/a/{writer}"), value.clone())
                    .put(format!("/b/{writer}"), value)
                    .put(format!("/c/{writer}/{count}"), vec![b'x'; 2000])
                    .delete(format!("/c/{writer}/{}", count - 1));
                store.txn(txn).await.unwrap();
                println!("acknowledged {writer} {count}");
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    for round in 0..rounds() {
        let mut child = start_child(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        while count < ACKNOWLEDGED {
            count += usize::from(note(&mut acknowledged, &lines.next().expect("the child writes").unwrap()));
        }
        let locked = EmbeddedStore::open(dir.path(), Tree::new().handle()).await.unwrap_err();
        assert!(matches!(locked, OpenError::Locked { .. }));
        assert!(locked.to_string().contains(&format!("process {}", child.id())), "{locked}");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it could still say before its end was acknowledged, too; the last line may be cut.
        for line in lines.map_while(Result::ok) {
            note(&mut acknowledged, &line);
        }
        check(dir.path(), &acknowledged, round).await;
    }
}

fn note(acknowledged: &mut HashMap<String, u64>, line: &str) -> bool {
    let Some((writer, count)) = line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' '))
    else {
        return false;
    };
    let Ok(count) = count.parse::<u64>() else { return false };
    let most = acknowledged.entry(writer.to_owned()).or_default();
    *most = count.max(*most);
    true
}

async fn check(dir: &Path, acknowledged: &HashMap<String, u64>, round: usize) {
    let tree = Tree::new();
    let store = EmbeddedStore::open(dir, tree.handle()).await.unwrap();
    let firsts = store.range(Range::prefix("/a/")).await.unwrap();
    let seconds = store.range(Range::prefix("/b/")).await.unwrap();
    assert_eq!(firsts.kvs.len(), WRITERS);
    for (first, second) in firsts.kvs.iter().zip(&seconds.kvs) {
        assert_eq!(first.value, second.value, "both or none");
        assert_eq!(first.mod_revision, second.mod_revision);
        let writer = first.key.strip_prefix("/a/").unwrap();
        let count: u64 = std::str::from_utf8(&first.value).unwrap().parse().unwrap();
        assert!(count >= acknowledged[writer], "round {round}, writer {writer}: lost an acknowledged write");
        assert_eq!(i64::try_from(count).unwrap(), first.version, "each write once");
    }
    assert_eq!(page::read_prefix(&store, "/c/", 3).await.unwrap().kvs.len(), WRITERS, "the last of each");
    // The whole history is there as well, without a gap.
    let mut watch = store.watch("/a/", 1).await.unwrap();
    let mut next = 2;
    while next <= firsts.revision {
        let item = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
        let Some(Ok(WatchItem::Events { events, .. })) = item else { panic!("{item:?}") };
        for event in events {
            assert!(matches!(event, Event::Put(_)));
            assert_eq!(event.revision(), next);
            next += 1;
        }
    }
    tree.shut_down(Duration::from_secs(5)).await;
}
