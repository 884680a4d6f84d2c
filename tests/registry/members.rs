//! A registry makes itself known in etcd as long as it runs, and serves whether etcd does or not.

use std::{sync::Arc, time::Duration};

use switchyard::{
    config::{Etcd as EtcdConfig, registry::Members},
    store::{Consistency, Member, Store, etcd::EtcdStore, keys::Keys},
};

use crate::{
    rig::{Rig, config, limits},
    support::{etcd::Etcd, eventually::eventually},
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_a_member_while_it_runs_and_serves_while_etcd_is_away() {
    let mut etcd = Etcd::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), limits());
    config.server.zone = Some("rack-1".into());
    config.members = Some(Members { etcd: EtcdConfig::plain(etcd.urls()), cluster: "main".into() });
    let store: Arc<dyn Store> =
        Arc::new(EtcdStore::connect(&etcd.urls(), Duration::from_secs(3)).await.unwrap());
    let key = Keys::new("main").member("registry", "r1");
    let member = || async {
        let kv = store.get(&key, Consistency::Linearizable).await.map_err(|error| error.to_string())?.kv;
        Ok::<_, String>(kv.map(|kv| Member::decode(&kv.value).unwrap()))
    };

    // It starts while etcd is away, and takes pushes.
    etcd.kill(0);
    let rig = Rig::of(config, dir.path()).await;
    rig.image("a", "t", &[b"layer"]).await;
    etcd.spawn(0);
    eventually(SOON, "the registry to be a member", || async {
        let member = member().await?.ok_or("not yet")?;
        assert_eq!(member.address, rig.address.to_string());
        assert_eq!(member.zone.as_deref(), Some("rack-1"));
        Ok::<_, String>(())
    })
    .await;
    rig.stop().await;
    assert!(member().await.unwrap().is_none(), "its key goes with it");
}
