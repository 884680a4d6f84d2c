//! Reads: linearizable, or marked stale, or refused; never silently behind.

use super::*;
use crate::{http::Readiness, model::InstanceState};

#[tokio::test]
async fn with_the_store_out_of_reach_reads_are_marked_and_writes_refused_and_all_recovers() {
    let world = World::new(2).await;
    let ids = world.start(0, 2).await;
    until("the other cache has them", || async { world.ops(1).lists().peek(|c| c.instances().count()) == 2 })
        .await;
    world.faults[1].cut_off();
    let began = clock::now();
    let listed = world.ops(1).instances().await.unwrap();
    assert_eq!((listed.value.len(), listed.stale.as_deref()), (2, Some("store-unavailable")));
    let refused = world.ops(1).start_resolved(ask(1), &Caller::default(), resolved()).await.unwrap_err();
    assert!(matches!(refused, OpsError::Unavailable { .. }), "{refused:?}");
    assert!(matches!(world.ops(1).terminate(&ids[0]).await, Err(OpsError::Unavailable { .. })));
    // Not there as far as it knows; but it may not say so.
    let unknown = world.ops(1).instance(&InstanceId::random()).await;
    assert!(matches!(unknown, Err(OpsError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_millis(4500), "{:?}", began.elapsed());
    until("readyz says so", || async { world.cores[1].health.ready().write == Some(false) }).await;
    let ready = world.cores[1].health.ready();
    assert!(ready.ready && ready.read == Some(true) && ready.poll == Some(false), "{ready:?}");

    world.ops(0).terminate(&ids[0]).await.unwrap();
    world.faults[1].heal();
    until("it recovers by itself", || async { world.cores[1].health.ready().write == Some(true) }).await;
    let shown = world.ops(1).instance(&ids[0]).await;
    // Either shown as it is, or already gone.
    assert!(shown.is_err() || shown.is_ok_and(|seen| seen.value.state() == InstanceState::Terminating));
    world.start(1, 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_store_without_room_is_told_by_readyz_until_it_has_some_again() {
    use crate::store::faulty::{Fault, On};
    let world = World::new(1).await;
    world.start(0, 1).await;
    world.faults[0].always(On::Txn, Fault::Full);
    let refused = world.ops(0).start_resolved(ask(1), &Caller::default(), resolved()).await.unwrap_err();
    assert!(refused.to_string().contains("takes no writes: no room"), "{refused:?}");
    let ready = world.cores[0].health.ready();
    assert_eq!((ready.ready, ready.read, ready.write), (true, Some(true), Some(false)), "{ready:?}");
    assert!(ready.why[0].contains("make room"), "{ready:?}");
    let listed = world.ops(0).instances().await.unwrap();
    assert_eq!((listed.value.len(), listed.stale), (1, None), "reads are as good as ever");
    world.faults[0].heal();
    // By itself: nobody sends writes to a controller that takes none.
    until("it has room", || async { world.cores[0].health.ready().write == Some(true) }).await;
    world.end().await;
}

#[tokio::test]
async fn a_silent_watch_is_found_out_and_meanwhile_the_store_itself_is_read() {
    let world = World::new(2).await;
    world.faults[1].silence_watches(true);
    world.start(0, 3).await;
    let listed = world.ops(1).instances().await.unwrap();
    assert_eq!((listed.value.len(), listed.stale), (3, None), "read past the cache");
    world.faults[1].silence_watches(false);
    until("the cache is listed anew", || async { world.ops(1).lists().peek(|c| c.instances().count()) == 3 })
        .await;
    world.end().await;
}

#[tokio::test]
async fn a_place_that_one_controller_gave_is_good_at_another_that_was_told_of_less() {
    let world = World::new(2).await;
    world.start(0, 3).await;
    // What is not watched moves the revision of the store, which one of them learns when it lists.
    let mut moved = 0;
    while moved < world.ops(0).changes().await.unwrap().newest() + 20 {
        moved = world.store.txn(crate::store::Txn::new().put("/other", "x")).await.unwrap().revision;
    }
    world.faults[0].compact_watches();
    let applied = |n: usize| world.ops(n).lists().peek(|cache| cache.applied());
    until("one of them listed", || async { applied(0) >= moved && world.cores[0].health.cache_live() }).await;
    let place = applied(0);
    assert!(applied(1) < place, "nothing happened since that the other could have been told of");
    let behind = world.ops(1).watch_from(place).await.unwrap().unwrap();
    assert!(behind < place && world.ops(1).is_reached(place).await.unwrap());
    let ids = world.start(0, 1).await;
    let told = world.ops(1).changes().await.unwrap().after(behind, 1000).unwrap();
    let told = told.changes.iter().any(|change| {
        matches!(&change.what, crate::controller::lists::What::Instance(id, Some(_)) if *id == ids[0])
    });
    assert!(told, "nothing after the place is lost");
    // Of another store.
    assert!(world.ops(1).watch_from(place + 100_000).await.unwrap().is_err());
    assert!(!world.ops(1).is_reached(place + 100_000).await.unwrap());
    world.end().await;
}

#[tokio::test]
async fn many_that_read_past_the_cache_share_what_they_list() {
    let world = World::new(2).await;
    world.faults[1].silence_watches(true);
    world.start(0, 20).await;
    let before = world.faults[1].keys_read();
    // Long enough that all come while the first one is under way.
    let stall = crate::store::faulty::Fault::Stall(Duration::from_millis(200));
    world.faults[1].always(crate::store::faulty::On::Read, stall);
    let lists = (0..50).map(|_| world.ops(1).instances());
    for listed in futures_util::future::join_all(lists).await {
        let listed = listed.unwrap();
        assert_eq!((listed.value.len(), listed.stale), (20, None));
    }
    let keys = world.store.range(crate::store::Range::prefix("/switchyard/main/")).await.unwrap().kvs.len();
    let listings = (world.faults[1].keys_read() - before) / keys as u64;
    assert!(listings <= 10, "{listings} listings of {keys} keys for 50 readers");
    world.end().await;
}

#[tokio::test]
async fn a_watch_that_broke_goes_on_without_a_listing_and_misses_nothing() {
    let world = World::new(2).await;
    let ids = world.start(0, 10).await;
    until("the other cache has them", || async {
        world.ops(1).lists().peek(|c| c.instances().count()) == 10
    })
    .await;
    let (before, watched) = (world.faults[1].keys_read(), world.ops(1).changes().await.unwrap().subscribe());
    let from = *watched.borrow();
    world.faults[1].next(crate::store::faulty::On::Watch, crate::store::faulty::Fault::Refuse);
    world.faults[1].break_watches();
    world.ops(0).terminate(&ids[0]).await.unwrap();
    world.start(0, 5).await;
    until("the cache follows again", || async { world.cores[1].health.cache_live() }).await;
    let listed = world.ops(1).instances().await.unwrap();
    assert_eq!((listed.value.len(), listed.stale), (15, None));
    let state = listed.value.iter().find(|one| one.record.id == ids[0]).map(|one| one.record.state());
    assert_eq!(state, Some(InstanceState::Terminating));
    let read = world.faults[1].keys_read() - before;
    assert!(read <= 4, "{read} keys were read, and there are more than fifteen");
    // Whoever watches this controller was told all of it.
    let told = world.ops(1).changes().await.unwrap().after(from, 1000).unwrap();
    assert!(told.changes.len() >= 6, "{told:?}");
    world.end().await;
}

#[tokio::test]
async fn a_broken_and_a_compacted_watch_are_begun_anew() {
    let world = World::new(2).await;
    let mut all = 0;
    for n in 0..6 {
        if n % 2 == 0 {
            world.faults[1].break_watches()
        } else {
            world.faults[1].compact_watches()
        }
        world.start(0, 5).await;
        all += 5;
        let listed = world.ops(1).instances().await.unwrap();
        assert_eq!((listed.value.len(), listed.stale), (all, None));
    }
    until("the cache follows again", || async {
        world.ops(1).lists().peek(|c| c.instances().count()) == all && world.cores[1].health.cache_live()
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn many_lists_share_reads_of_head_and_none_misses_a_write() {
    let world = World::new(2).await;
    let mut started = 0;
    for _ in 0..20 {
        world.start(0, 1).await;
        started += 1;
        let lists = (0..50).map(|_| world.ops(1).instances());
        for listed in futures_util::future::join_all(lists).await {
            assert_eq!(listed.unwrap().value.len(), started);
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_record_of_a_later_version_is_shown_and_left_alone() {
    let world = World::new(1).await;
    let ids = world.start(0, 1).await;
    let key = world.ops(0).inner.keys.instance(&ids[0]);
    let got = world.store.get(&key, crate::store::Consistency::Linearizable).await.unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&got.kv.unwrap().value).unwrap();
    value["v"] = 7.into();
    value["later"] = "kept".into();
    let later = serde_json::to_vec(&value).unwrap();
    let txn = crate::store::Txn::new().put(&key, later.clone()).put(world.ops(0).inner.keys.head(), "{}");
    world.store.txn(txn).await.unwrap();
    let shown = world.show(0, &ids[0]).await;
    assert_eq!(shown.state(), InstanceState::Scheduling);
    assert!(matches!(world.ops(0).terminate(&ids[0]).await, Err(OpsError::Conflict(_))));
    let node = world.node("n1", 1).await;
    let none = world.ops(0).poll(Poll { wait: 1, ..node.poll(1) }, world.stop()).await.unwrap();
    assert!(none.start.is_none());
    let got = world.store.get(&key, crate::store::Consistency::Linearizable).await.unwrap();
    assert_eq!(got.kv.unwrap().value, later, "untouched");
    world.end().await;
}

#[tokio::test]
async fn an_update_shows_at_once_and_replaces_metadata_whole() {
    let world = World::new(2).await;
    let ids = world.start(0, 1).await;
    let metadata = serde_json::from_value(serde_json::json!({"a": 1})).unwrap();
    let first =
        crate::wire::vm::UpdateVm { metadata: Some(metadata), name: Some("x".into()), external_id: None };
    world.ops(1).update(&ids[0], first).await.unwrap();
    let metadata: serde_json::Map<_, _> = serde_json::from_value(serde_json::json!({"b": true})).unwrap();
    let second = crate::wire::vm::UpdateVm { metadata: Some(metadata.clone()), ..Default::default() };
    world.ops(0).update(&ids[0], second).await.unwrap();
    let shown = world.show(1, &ids[0]).await;
    assert_eq!((shown.name.as_deref(), shown.metadata), (Some("x"), metadata));
    let missing = world.ops(0).update(&InstanceId::random(), Default::default()).await;
    assert_eq!(missing, Err(OpsError::NotFound));
    world.end().await;
}
