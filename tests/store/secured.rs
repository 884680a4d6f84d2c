//! An etcd inside TLS that wants certificates and names: who comes in, who does not and is told why, what is renewed.

use std::{path::Path, time::Duration};

use switchyard::{
    config::{BaseUrl, Etcd as Config, Login, proxy::Secret},
    store::{Consistency, Store, StoreError, Txn, WatchItem, etcd::EtcdStore},
    tls::{Pair, Upstream, UpstreamSetting},
};

use crate::{
    certificates::{Authority, write},
    support::etcd::Etcd,
};

/// The store's bound on each request here.
const TIMEOUT: Duration = Duration::from_secs(4);
const PASSWORD: &str = "verySecret10";

fn login(user: &str, password: &str) -> Option<Login> {
    Some(Login { user: user.into(), password: Secret::new(password) })
}

/// Trusts `ca.pem` of the folder and shows what is there under this name.
fn inside(folder: &Path, shown: Option<&str>) -> Upstream {
    let pair = |name: &str| Pair {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    let setting = UpstreamSetting {
        ca: Some(folder.join("ca.pem")),
        identity: shown.map(pair),
        ..UpstreamSetting::default()
    };
    Upstream::load(setting).unwrap()
}

async fn store(urls: Vec<BaseUrl>, tls: Option<Upstream>, login: Option<Login>) -> EtcdStore {
    EtcdStore::open(&Config { urls, tls, login }, TIMEOUT).await.unwrap()
}

async fn put(store: &EtcdStore, key: &str) -> Result<i64, StoreError> {
    store.txn(Txn::new().put(key, "1")).await.map(|answer| answer.revision)
}

#[tokio::test]
async fn who_shows_a_good_certificate_and_trusts_the_right_authority_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let authority = Authority::new("etcd");
    write(folder, "ca.pem", &authority.cert());
    authority.leaf(&["127.0.0.1"]).write(folder, "etcd");
    authority.client("c1").write(folder, "c1");
    let stranger = Authority::new("other");
    stranger.client("c1").write(folder, "stranger");
    write(folder, "other.pem", &stranger.cert());
    let etcd = Etcd::start_secured(1, folder, &[]).await;
    let urls = etcd.secure_urls();

    let good = store(urls.clone(), Some(inside(folder, Some("c1"))), None).await;
    let revision = put(&good, "/k/a").await.unwrap();
    let mut watch = good.watch("/k/", revision).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events { .. }))));
    let lease = good.lease_grant(60).await.unwrap();
    good.lease_keep_alive(lease).await.unwrap();

    // Nothing was done, and it is said why.
    let setting = UpstreamSetting { ca: Some(folder.join("other.pem")), ..UpstreamSetting::default() };
    let distrusts = store(urls.clone(), Some(Upstream::load(setting).unwrap()), None).await;
    let error = put(&distrusts, "/k/b").await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("certificate"), "{error}");
    for shown in [None, Some("stranger")] {
        let refused = store(urls.clone(), Some(inside(folder, shown)), None).await;
        let error = put(&refused, "/k/b").await.unwrap_err();
        assert!(error.may_pass(), "{error}");
    }
    let there = good.get("/k/b", Consistency::Linearizable).await.unwrap().kv;
    assert!(there.is_none(), "nobody else has written");

    // A certificate that was renewed is shown by the next connection.
    let renewed = store(urls.clone(), Some(inside(folder, Some("stranger"))), None).await;
    assert!(put(&renewed, "/k/c").await.is_err());
    authority.client("c1").write(folder, "stranger");
    put(&renewed, "/k/c").await.unwrap();
}

#[tokio::test]
async fn who_gives_the_right_password_comes_in_and_stays_when_the_member_forgets() {
    let mut etcd = Etcd::start(1).await;
    let urls = etcd.urls();
    let user = store(urls.clone(), None, login("switchyard", PASSWORD)).await;
    let revision = put(&user, "/switchyard/a").await.expect("a name is no harm while nobody asks for it");
    let nobody = store(urls.clone(), None, None).await;
    put(&nobody, "/switchyard/b").await.unwrap();

    etcd.ask_who("switchyard", PASSWORD, "/switchyard/").await;
    put(&user, "/switchyard/a").await.expect("it signs in once it is asked");
    let mut watch = user.watch("/switchyard/", revision).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events { .. }))));
    let lease = user.lease_grant(60).await.unwrap();
    user.lease_keep_alive(lease).await.unwrap();
    user.lease_revoke(lease).await.unwrap();

    let refused = |answer: Result<i64, StoreError>, text: &str| match answer {
        Err(StoreError::Refused { why }) => assert!(why.contains(text), "{why}"),
        other => panic!("{other:?} instead of a refusal with {text:?}"),
    };
    refused(put(&user, "/other/a").await, "permission denied");
    refused(put(&nobody, "/switchyard/a").await, "user name is empty");
    let wrong = store(urls.clone(), None, login("switchyard", "wrong")).await;
    refused(put(&wrong, "/switchyard/a").await, "authentication failed");
    assert!(wrong.watch("/switchyard/", 0).await.is_err());

    // Tokens are in the member's memory, and end with it and with each change of users.
    etcd.kill(0);
    etcd.spawn(0);
    etcd.healthy_again(0).await;
    put(&user, "/switchyard/c").await.expect("it signs in anew");
    let root = etcd.root(PASSWORD).await;
    let add = serde_json::json!({ "name": "another", "password": PASSWORD });
    etcd.call(0, "auth/user/add", add, Some(&root)).await;
    put(&user, "/switchyard/d").await.expect("it signs in anew");
}

#[tokio::test]
async fn a_revision_that_one_member_lacks_is_asked_of_the_next() {
    let mut etcd = Etcd::start(3).await;
    let follower = etcd.follower().await;
    // What is written must not be asked of the one that says nothing: whether it was done would not be known.
    let mut others = etcd.urls();
    others.remove(follower);
    let writer = store(others, None, None).await;
    let store = store(etcd.urls(), None, None).await;
    let revision = put(&store, "/k/a").await.unwrap();
    // It knows no newer revision than this, and says so as soon as it goes on.
    etcd.freeze(follower);
    let mut newest = revision;
    for n in 0..20 {
        newest = put(&writer, &format!("/k/{n}")).await.unwrap();
    }
    etcd.thaw(follower);
    for _ in 0..20 {
        let range = switchyard::store::Range::prefix("/k/").at(newest);
        let stale = switchyard::store::Range { consistency: Consistency::Serializable, ..range };
        assert_eq!(store.range(stale).await.unwrap().kvs.len(), 21);
    }
    let future = switchyard::store::Range::prefix("/k/").at(newest + 1000);
    let error = store.range(future).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "one that nobody has is refused: {error}");
}
