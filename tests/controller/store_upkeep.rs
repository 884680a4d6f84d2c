//! Controllers over a real etcd: its history is forgotten, its members make their files anew, and a quota is told of
//! before it binds.

use std::time::Duration;

use switchyard::{
    config::{
        Etcd as EtcdConfig, Log,
        controller::{Controller as Config, Limits, Store as StoreConfig, StoreKind, Timeouts, Upkeep},
    },
    controller::Controller,
    store::{Range, Store, StoreError, Txn, etcd::EtcdStore},
    supervise::{Stage, Tree},
};

use crate::{
    cloud::{PATIENCE, server},
    support::{api::Api, etcd::Etcd, eventually::eventually, scrape},
};

async fn start(etcd: &Etcd, name: &str, upkeep: Upkeep, tree: &Tree) -> Api {
    let config = Config {
        server: server(name),
        log: Log::default(),
        auth: Default::default(),
        store: StoreConfig {
            kind: StoreKind::Etcd(EtcdConfig::plain(etcd.urls())),
            cluster: "main".into(),
            upkeep,
        },
        registries: None,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        events: Default::default(),
        mac_pool: Default::default(),
        web: Default::default(),
    };
    let role = Controller::open(config, tree.handle()).await.unwrap();
    let api = Api::new(role.address());
    tree.handle().start_vital(Stage::Edge, format!("controller {name}"), |stop| role.run(stop));
    api
}

/// The sum of a metric's series at a controller.
async fn metric(api: &Api, name: &str) -> f64 {
    let families = scrape::read(&api.get("/metrics").await.text);
    families.get(name).map_or(0.0, |family| family.series.iter().map(|(_, _, value)| value).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_forgotten_files_are_made_anew_and_the_quota_is_told_of() {
    let etcd = Etcd::start_with(3, &["--quota-backend-bytes=33554432"]).await;
    let store = EtcdStore::connect(&etcd.urls(), Duration::from_secs(4)).await.unwrap();
    let tree = Tree::new();
    let upkeep = Upkeep {
        compact_every: Duration::from_secs(1),
        defragment_every: Duration::from_secs(2),
        quota: 32 << 20,
    };
    let (one, two) = (start(&etcd, "c1", upkeep, &tree).await, start(&etcd, "c2", upkeep, &tree).await);
    let old = store.txn(Txn::new().put("/switchyard/main/other", "1")).await.unwrap().revision;
    for n in 0..5 {
        store.txn(Txn::new().put("/switchyard/main/other", n.to_string())).await.unwrap();
    }
    eventually(PATIENCE, "history is forgotten", async || {
        match store.range(Range::prefix("/switchyard/main/other").at(old)).await {
            Err(StoreError::Compacted { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually(PATIENCE, "every member has had a turn, by one of the two", async || {
        let (mut done, mut leads) = (0.0, 0.0);
        for api in [&one, &two] {
            done += metric(api, "switchyard_controller_store_upkeep_total").await;
            leads += metric(api, "switchyard_controller_duty_leads").await;
        }
        let logs: usize = (0..3).filter(|n| etcd.log(*n).contains("finished defrag")).count();
        if done >= 4.0 && leads >= 4.0 && logs == 3 {
            Ok(())
        } else {
            Err(format!("{:?}", (done, leads, logs)))
        }
    })
    .await;
    for api in [&one, &two] {
        let ready = api.get("/readyz").await;
        assert_eq!((ready.status, &ready.json()["why"]), (200, &serde_json::json!([])), "{ready:?}");
        assert_eq!(metric(api, "switchyard_controller_store_member_up").await, 3.0);
    }

    // Nothing of ours, and larger than what an upkeep could free. In small pieces, until just so much is in use: how much
    // more a file takes while it grows is not always the same, and it must not reach the quota.
    let used = async || {
        let standing = store.standing().await;
        standing.into_iter().map(|one| one.said.unwrap().used).min().unwrap()
    };
    let mut n = 0;
    while used().await < upkeep.quota / 100 * 82 {
        let key = format!("/large/{n}");
        store.txn(Txn::new().put(key, vec![b'x'; 64 * 1024])).await.unwrap();
        n += 1;
    }
    eventually(PATIENCE, "the quota is told of before it binds", async || {
        let ready = one.get("/readyz").await;
        let why = ready.json()["why"].to_string();
        let writes = ready.json()["write"] == true;
        if why.contains("% of its quota of") && writes { Ok(()) } else { Err(ready) }
    })
    .await;
    while store.txn(Txn::new().put("/large/more", vec![b'x'; 200 * 1024])).await.is_ok() {}
    let ready = eventually(PATIENCE, "the alarm is told of, and writes are not taken", async || {
        let ready = two.get("/readyz").await;
        let why = ready.json()["why"].to_string();
        if why.contains("alarm NOSPACE of member http") { Ok(ready) } else { Err(ready) }
    })
    .await;
    assert_eq!(
        (ready.status, &ready.json()["read"], &ready.json()["write"]),
        (200, &true.into(), &false.into())
    );
    assert!(metric(&two, "switchyard_controller_store_alarm").await >= 1.0);
    tree.shut_down(Duration::from_secs(10)).await;
}
