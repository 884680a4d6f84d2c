//! A real etcd that fills up: how its member stands is told, an alarm is found, room is made.

use std::time::Duration;

use switchyard::store::{Alarm, Said, Store, StoreError, Txn, etcd::EtcdStore};

use crate::support::etcd::Etcd;

const MIB: u64 = 1 << 20;

async fn said(store: &EtcdStore) -> Said {
    store.standing().await.remove(0).said.unwrap()
}

#[tokio::test]
async fn a_member_that_the_config_does_not_name_is_told_to_be_missing_in_it() {
    let etcd = Etcd::start(3).await;
    let urls = etcd.urls();
    let connect = |count: usize| {
        let urls = urls[..count].to_vec();
        async move { EtcdStore::connect(&urls, Duration::from_secs(4)).await.unwrap() }
    };
    let all = connect(3).await.standing().await;
    assert!(all.len() == 3 && all.iter().all(|one| one.said.is_ok()), "{all:?}");
    let some = connect(2).await.standing().await;
    assert_eq!(some.len(), 3, "{some:?}");
    let unnamed = some.iter().find(|one| one.said.is_err()).expect("the third");
    assert_eq!(unnamed.member, urls[2].as_str(), "{some:?}");
    assert!(unnamed.said.as_ref().is_err_and(|why| why.contains("name all members")), "{unnamed:?}");
}

#[tokio::test]
async fn a_full_member_raises_its_alarm_and_history_and_a_new_file_make_room() {
    let mut etcd = Etcd::start_with(1, &["--quota-backend-bytes=16777216"]).await;
    let store = EtcdStore::connect(&etcd.urls(), Duration::from_secs(4)).await.unwrap();
    let fresh = said(&store).await;
    assert_eq!(fresh.leader, Some(fresh.id));
    assert!(!fresh.learner && fresh.version.starts_with("3.") && fresh.alarms.is_empty(), "{fresh:?}");
    assert!(fresh.size < 8 * MIB, "{fresh:?}");

    // One key over and over: it is history that fills the file.
    let value = vec![b'x'; 200 * 1024];
    let mut newest = 0;
    let refused = loop {
        match store.txn(Txn::new().put("/k", value.clone())).await {
            Ok(answer) => newest = answer.revision,
            Err(error) => break error,
        }
        assert!(newest < 1000, "a quota of 16 MiB never binds");
    };
    assert!(matches!(&refused, StoreError::Full { why } if why.contains("space exceeded")), "{refused}");
    let full = said(&store).await;
    assert_eq!(full.alarms, [(full.id, Alarm::NoSpace)]);
    assert!(full.size >= 15 * MIB, "{full:?}");
    store.txn(Txn::new().delete("/other")).await.expect("what makes room is not refused");

    store.compact(newest).await.unwrap();
    let member = store.standing().await.remove(0).member;
    store.defragment(&member).await.unwrap();
    let small = said(&store).await;
    assert!(small.size < full.size / 4, "{full:?} became {small:?}");
    assert!(matches!(store.defragment("http://10.0.0.1:1").await, Err(StoreError::Refused { .. })));
    let body = serde_json::json!({
        "action": "DEACTIVATE", "memberID": full.id.to_string(), "alarm": "NOSPACE",
    });
    etcd.call(0, "maintenance/alarm", body, None).await;
    store.txn(Txn::new().put("/k", "1")).await.unwrap();
    assert!(said(&store).await.alarms.is_empty());

    etcd.kill(0);
    let away = store.standing().await.remove(0);
    assert!(away.said.is_err_and(|why| !why.is_empty()), "it says why it has no answer");
}
