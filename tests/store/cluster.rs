//! Three members, of which some are killed or frozen: what the store answers, and that it recovers by itself.

use std::time::Duration;

use switchyard::{
    clock,
    store::{Consistency, Range, Revision, Store, StoreError, Txn, Watch, WatchItem, etcd::EtcdStore},
};

use crate::support::etcd::Etcd;

/// The store's bound on each request here.
const TIMEOUT: Duration = Duration::from_secs(4);
/// What a request may take beyond that bound on a busy machine.
const SLACK: Duration = Duration::from_secs(2);
/// How long recovery may take.
const PATIENCE: Duration = Duration::from_secs(40);

async fn put(store: &EtcdStore, key: &str) -> Result<Revision, StoreError> {
    let began = clock::now();
    let answer = store.txn(Txn::new().put(key, "1")).await;
    assert!(began.elapsed() < TIMEOUT + SLACK, "bounded: {:?}", began.elapsed());
    answer.map(|answer| answer.revision)
}

/// Puts until it works. Whatever goes wrong before must be something that may pass.
async fn put_at_last(store: &EtcdStore, key: &str) -> Revision {
    let deadline = clock::now() + PATIENCE;
    loop {
        match put(store, key).await {
            Ok(revision) => return revision,
            Err(error) => assert!(error.may_pass(), "{error}"),
        }
        assert!(clock::now() < deadline, "the store did not recover");
        // Refusals may be immediate; the cluster needs the time more than we do.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read(store: &EtcdStore, consistency: Consistency) -> Result<usize, StoreError> {
    let began = clock::now();
    let answer = store.range(Range { consistency, ..Range::prefix("/k/") }).await;
    assert!(began.elapsed() < TIMEOUT + SLACK, "bounded: {:?}", began.elapsed());
    answer.map(|answer| answer.kvs.len())
}

/// The next change of a watch; `Err` when it has broken.
async fn next_change(watch: &mut Watch) -> Result<Revision, StoreError> {
    let waiting = async {
        loop {
            match watch.next().await {
                Some(Ok(WatchItem::Events { revision, .. })) => return Ok(revision),
                Some(Ok(WatchItem::Progress(_))) => {}
                Some(Ok(WatchItem::Compacted { .. })) => panic!("nobody compacts"),
                Some(Err(error)) => return Err(error),
                None => panic!("a watch does not end without a word"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("a watch is never silent")
}

#[tokio::test]
async fn nothing_is_needed_to_connect_and_it_works_once_the_store_is_there() {
    let mut etcd = Etcd::start(1).await;
    etcd.kill(0);
    let began = clock::now();
    let store = EtcdStore::connect(&etcd.urls(), TIMEOUT).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let error = put(&store, "/k/a").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "nothing was sent: {error}");
    let began = clock::now();
    let error = read(&store, Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(1), "an outage that lasts is told at once");
    etcd.spawn(0);
    put_at_last(&store, "/k/a").await;
    assert_eq!(read(&store, Consistency::Linearizable).await.unwrap(), 1);
}

#[tokio::test]
async fn one_killed_member_of_three_costs_no_read_and_no_recovery_by_hand() {
    let mut etcd = Etcd::start(3).await;
    let leader = etcd.leader().await;
    let store = EtcdStore::connect(&etcd.urls(), TIMEOUT).await.unwrap();
    put_at_last(&store, "/k/0").await;
    let mut watch = store.watch("/k/", 1).await.unwrap();
    let mut seen = next_change(&mut watch).await.unwrap();

    etcd.kill(leader);
    let mut last = 0;
    for n in 1..=10 {
        last = put_at_last(&store, &format!("/k/{n}")).await;
        assert_eq!(read(&store, Consistency::Linearizable).await.unwrap(), n + 1, "reads just go on");
    }
    while seen < last {
        match next_change(&mut watch).await {
            Ok(revision) => seen = revision,
            Err(error) => {
                assert!(error.may_pass(), "{error}");
                watch = store.watch("/k/", seen + 1).await.unwrap();
            }
        }
    }
    etcd.restart(leader).await;
    put_at_last(&store, "/k/0").await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_acknowledged_and_everything_returns() {
    let mut etcd = Etcd::start(3).await;
    let store = EtcdStore::connect(&etcd.urls(), TIMEOUT).await.unwrap();
    put_at_last(&store, "/k/a").await;
    let lease = store.lease_grant(60).await.unwrap();
    let mut watch = store.watch("/k/", 0).await.unwrap();
    etcd.kill(0);
    etcd.kill(1);

    let error = put(&store, "/k/b").await.unwrap_err();
    assert!(error.may_pass(), "unavailable or unknown, but no refusal: {error}");
    let error = read(&store, Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(store.lease_keep_alive(lease).await.unwrap_err().may_pass());
    assert!(next_change(&mut watch).await.is_err(), "a watch without a leader breaks");
    assert_eq!(read(&store, Consistency::Serializable).await.unwrap(), 1, "the last member has its own copy");
    // By now the outage is known, and the remaining member says at once that it knows no leader.
    let deadline = clock::now() + PATIENCE;
    loop {
        let began = clock::now();
        let error = put(&store, "/k/b").await.unwrap_err();
        if matches!(error, StoreError::Unavailable { .. }) && began.elapsed() < Duration::from_secs(1) {
            break;
        }
        assert!(clock::now() < deadline, "last: {error} after {:?}", began.elapsed());
    }

    etcd.spawn(0);
    etcd.spawn(1);
    put_at_last(&store, "/k/c").await;
    assert!(read(&store, Consistency::Linearizable).await.unwrap() >= 2);
    store.lease_keep_alive(lease).await.unwrap();
}

#[tokio::test]
async fn a_frozen_leader_is_left_alone_and_a_watch_on_it_breaks() {
    let mut etcd = Etcd::start(3).await;
    let leader = etcd.leader().await;
    let mut urls = etcd.urls();
    urls.swap(0, leader);
    let only = EtcdStore::connect(&urls[..1], TIMEOUT).await.unwrap();
    let store = EtcdStore::connect(&urls, TIMEOUT).await.unwrap();
    put_at_last(&store, "/k/a").await;
    let mut watch = only.watch("/k/", 1).await.unwrap();
    next_change(&mut watch).await.unwrap();

    etcd.freeze(leader);
    let error = put(&only, "/k/b").await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "it was sent: {error}");
    assert!(next_change(&mut watch).await.is_err(), "a silent watch is broken");
    put_at_last(&store, "/k/c").await;
    let began = clock::now();
    for _ in 0..20 {
        read(&store, Consistency::Linearizable).await.unwrap();
    }
    assert!(began.elapsed() < TIMEOUT, "the frozen member is not asked first again and again");
    let mut watch = store.watch("/k/", 1).await.unwrap();
    next_change(&mut watch).await.unwrap();

    etcd.thaw(leader);
    put_at_last(&only, "/k/d").await;
    let seen = put_at_last(&store, "/k/e").await;
    while next_change(&mut watch).await.unwrap() < seen {}
}
