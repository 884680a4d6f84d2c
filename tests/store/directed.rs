//! What chance would seldom find, on both stores: limits, ends of leases, pages under writes, counting together.

use std::{sync::Arc, time::Duration};

use switchyard::{
    clock,
    store::{
        Consistency, Event, LeaseId, LeaseState, MAX_OPS, MAX_VALUE, Op, Range, Store, StoreError, Txn,
        WatchItem, page,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// All of them, below a root of their own each.
pub(crate) async fn all(store: Arc<dyn Store>) {
    limits_are_refused(&*store).await;
    one_gone_lease_spoils_a_whole_transaction(&*store).await;
    the_end_of_a_lease_is_one_revision(&*store).await;
    a_put_without_the_lease_saves_the_key(&*store).await;
    pages_are_of_one_revision(&*store).await;
    a_quiet_watch_gives_signs_of_life(&*store).await;
    an_empty_end_is_no_end(&*store).await;
    counting_together_loses_nothing(store).await;
}

fn refused<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Refused { .. })), "{answer:?}");
}

async fn limits_are_refused(store: &dyn Store) {
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.put(format!("/limits/{n}"), "1"));
    store.txn(many(MAX_OPS)).await.unwrap();
    refused(store.txn(many(MAX_OPS + 1)).await);
    store.txn(Txn::new().put("/limits/v", vec![1; MAX_VALUE])).await.unwrap();
    refused(store.txn(Txn::new().put("/limits/v", vec![1; MAX_VALUE + 1])).await);
    let large = |count: usize| {
        (0..count).fold(Txn::new(), |txn, n| txn.put(format!("/limits/{n}"), vec![0; MAX_VALUE]))
    };
    store.txn(large(5)).await.unwrap();
    refused(store.txn(large(6)).await);
    refused(store.txn(Txn::new().put("", "1")).await);
    refused(store.txn(Txn::new().put("/limits/a", "1").delete("/limits/a")).await);
    refused(store.get("", Consistency::Linearizable).await);
}

async fn one_gone_lease_spoils_a_whole_transaction(store: &dyn Store) {
    let lease = store.lease_grant(60).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    store.lease_revoke(lease).await.expect("ending it again succeeds");
    let txn = Txn::new().put("/spoilt/a", "1").put_leased("/spoilt/b", "1", lease);
    assert!(matches!(store.txn(txn).await, Err(StoreError::LeaseGone)));
    assert!(store.range(Range::prefix("/spoilt/")).await.unwrap().kvs.is_empty());
    // In the list that is not done it does no harm.
    let txn = Txn { otherwise: vec![put_under(lease)], ..Txn::new().put("/spoilt/c", "1") };
    assert!(store.txn(txn).await.unwrap().succeeded);
}

fn put_under(lease: LeaseId) -> Op {
    Op::Put { key: "/spoilt/d".to_owned(), value: "1".into(), lease: Some(lease) }
}

async fn the_end_of_a_lease_is_one_revision(store: &dyn Store) {
    let lease = store.lease_grant(2).await.unwrap();
    let txn = Txn::new().put_leased("/ends/b", "1", lease).put_leased("/ends/a", "1", lease);
    let revision = store.txn(txn).await.unwrap().revision;
    assert_eq!(store.lease_keep_alive(lease).await.unwrap(), LeaseState::Alive);
    let mut watch = store.watch("/ends/", revision + 1).await.unwrap();
    let events = loop {
        let item = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        match item.unwrap().unwrap() {
            WatchItem::Events { events, .. } => break events,
            WatchItem::Progress(_) => {}
            WatchItem::Compacted { .. } => panic!("nobody compacts"),
        }
    };
    let keys: Vec<_> = events.iter().map(Event::key).collect();
    assert_eq!(keys, ["/ends/a", "/ends/b"], "both in one item, in key order");
    assert_eq!(events[0].revision(), events[1].revision());
    assert!(events.iter().all(|event| matches!(event, Event::Deleted { .. })));
    assert_eq!(store.lease_keep_alive(lease).await.unwrap(), LeaseState::Gone);
}

async fn a_put_without_the_lease_saves_the_key(store: &dyn Store) {
    let lease = store.lease_grant(60).await.unwrap();
    store
        .txn(Txn::new().put_leased("/saved/a", "1", lease).put_leased("/saved/b", "1", lease))
        .await
        .unwrap();
    store.txn(Txn::new().put("/saved/a", "2")).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    let kvs = store.range(Range::prefix("/saved/")).await.unwrap().kvs;
    assert_eq!(kvs.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(), ["/saved/a"]);
    assert_eq!((kvs[0].version, kvs[0].lease), (2, None));
}

async fn pages_are_of_one_revision(store: &dyn Store) {
    for n in 0..10 {
        store.txn(Txn::new().put(format!("/pages/{n}"), "old")).await.unwrap();
    }
    let first = store.range(Range::prefix("/pages/").limit(4)).await.unwrap();
    assert!(first.more);
    store.txn(Txn::new().put("/pages/5", "new").delete("/pages/6").put("/pages/55", "new")).await.unwrap();
    let next = Range::prefix("/pages/").at(first.revision).after(&first.kvs[3].key);
    let rest = store.range(next).await.unwrap();
    assert_eq!(
        rest.kvs.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(),
        ["/pages/4", "/pages/5", "/pages/6", "/pages/7", "/pages/8", "/pages/9"]
    );
    assert!(rest.kvs.iter().all(|kv| kv.value == "old"));
    let whole = page::read_prefix(store, "/pages/", 3).await.unwrap();
    assert_eq!((whole.kvs.len(), whole.more), (10, false));
}

async fn a_quiet_watch_gives_signs_of_life(store: &dyn Store) {
    let revision = store.txn(Txn::new().put("/quiet/a", "1")).await.unwrap().revision;
    let mut watch = store.watch("/quiet/", revision + 1).await.unwrap();
    for _ in 0..2 {
        let item = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert_eq!(item.unwrap().unwrap(), WatchItem::Progress(revision));
    }
}

async fn an_empty_end_is_no_end(store: &dyn Store) {
    store.txn(Txn::new().put("~/first", "1").put("~~~", "1")).await.unwrap();
    let range = Range { start: "~".to_owned(), end: String::new(), ..Range::prefix("~") };
    assert_eq!(store.range(range).await.unwrap().kvs.len(), 2);
    let whole = store.range(Range::prefix("").limit(1)).await.unwrap();
    assert!(whole.more);
    let op = Op::DeleteRange { start: "~".to_owned(), end: String::new() };
    let deleted = store.txn(Txn { then: vec![op], ..Txn::new() }).await.unwrap();
    assert_eq!(deleted.answers, [switchyard::store::OpAnswer::Deleted(2)]);
}

/// Eight at a time read, add one and write back if nobody else did.
async fn counting_together_loses_nothing(store: Arc<dyn Store>) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..10 {
                loop {
                    let got = store.get("/count", Consistency::Linearizable).await.unwrap().kv;
                    let revision = got.as_ref().map_or(0, |kv| kv.mod_revision);
                    let count: u64 =
                        got.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
                    let txn =
                        Txn::new().at_revision("/count", revision).put("/count", (count + 1).to_string());
                    if store.txn(txn).await.unwrap().succeeded {
                        break;
                    }
                }
            }
        });
    }
    let began = clock::now();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert!(began.elapsed() < PATIENCE * 2);
    let got = store.get("/count", Consistency::Linearizable).await.unwrap().kv.unwrap();
    assert_eq!((&*got.value, got.version), (&b"80"[..], 80));
}
