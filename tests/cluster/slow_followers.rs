//! A follower that stands still costs one push a moment, and no push after it.

use std::time::Duration;

use switchyard::clock;

use crate::{
    support::{
        api::Api,
        artifact::{self, Artifact},
        cloud::SOON,
        registries::{Plan, Registries},
    },
    turn,
};

/// The writer waits for a lease of 3 s to run out, and then answers.
const DELAYED: Duration = Duration::from_secs(5);

/// Shorter than any wait for a lease, longer than a push on a loaded machine.
const FAST: Duration = Duration::from_millis(1500);

/// Pushes after the first.
const NEXT: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_proxy_delays_one_push_and_not_every_push() {
    let _turn = turn().await;
    let cloud = Registries::start("frozenproxy", Plan::default()).await;
    let (well, frozen) = (&cloud.proxies[0], &cloud.proxies[1]);
    let warm = timed_push(&well.api, "warm").await;
    assert!(warm.1 < FAST, "a push without trouble took {:?}", warm.1);

    cloud.leased(2).await;
    frozen.server.process.freeze();
    let (_, first) = timed_push(&well.api, "first").await;
    assert!(first > Duration::from_secs(1), "nobody waited for the frozen one's lease: {first:?}");
    assert!(first < DELAYED, "{first:?}");
    let mut newest = String::new();
    for n in 0..NEXT {
        let (digest, took) = timed_push(&well.api, &format!("next {n}")).await;
        assert!(took < FAST, "push {n} took {took:?}");
        assert_eq!(artifact::read(&well.api, "mac/a", "v1").await.fresh(), digest);
        newest = digest;
    }
    // What it knew when it froze is long old: its lease has run out, though nobody told it.
    frozen.server.process.thaw();
    assert_eq!(artifact::read_all(&frozen.api, "mac/a", "v1").await.fresh(), newest);
    let since = clock::now();
    // Through the five seconds in which it must keep pace, and the lease after them.
    while clock::now() - since < Duration::from_secs(8) {
        let (digest, took) = timed_push(&well.api, &format!("thawed {:?}", clock::now() - since)).await;
        assert!(took < FAST, "{took:?} after the thaw");
        assert_eq!(artifact::read(&frozen.api, "mac/a", "v1").await.fresh(), digest);
    }
    cloud.leased(2).await;
    cloud.same_everywhere(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_delays_no_push() {
    let _turn = turn().await;
    let cloud = Registries::start("frozenreplica", Plan::spread()).await;
    timed_push(&cloud.proxies[0].api, "warm").await;
    cloud.registry("r2").server.process.freeze();
    for n in 0..NEXT {
        let (digest, took) = timed_push(&cloud.proxies[n % 2].api, &format!("frozen {n}")).await;
        assert!(took < FAST, "push {n} took {took:?}");
        for proxy in &cloud.proxies {
            let since = clock::now();
            assert_eq!(artifact::read(&proxy.api, "mac/a", "v1").await.fresh(), digest);
            assert!(clock::now() - since < DELAYED, "a read took {:?}", clock::now() - since);
        }
    }
    cloud.registry("r2").server.process.thaw();
    cloud.ready().await;
    cloud.same_everywhere(SOON).await;
}

/// Pushes a new artifact to one tag; its digest, and how long it took to make it visible.
async fn timed_push(to: &Api, label: &str) -> (String, Duration) {
    let artifact = Artifact::new(label, 20_000);
    let since = clock::now();
    artifact.push(to, "mac/a", "v1").await;
    (artifact.digest(), clock::now() - since)
}
