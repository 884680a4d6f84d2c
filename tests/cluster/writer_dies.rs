//! The writer is gone: reads go on and say what they are, pushes wait; and when it comes back with another history, or
//! another takes its place, nobody's data is lost with it.

use std::time::Duration;

use serde_json::Value;
use switchyard::{clock, model::Position, wire::replication::Aside};

use crate::{
    support::{
        api::{Answer, Api},
        artifact::{self, Artifact},
        cloud::SOON,
        eventually::{eventually, never},
        history,
        image::Image,
        outside,
        process::BINARY,
        registries::{Plan, Registries},
        relay::Wire,
    },
    turn,
};

/// Within this after its last renewal a lease is live for certain, polls on a loaded machine included.
const STILL_LEASED: Duration = Duration::from_secs(1);

/// How long a push is held, and a little.
const HELD: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn with_the_writer_stopped_reads_go_on_marked_and_pushes_wait() {
    let _turn = turn().await;
    let mut cloud = Registries::start("writerdies", Plan::default()).await;
    let old = Artifact::new("old", 6 << 20);
    old.push(&cloud.proxies[0].api, "mac/a", "v1").await;
    cloud.same_everywhere(SOON).await;
    cloud.leased(2).await;

    cloud.kill("r1");
    let killed = clock::now();
    for proxy in &cloud.proxies {
        let read = artifact::read(&proxy.api, "mac/a", "v1").await;
        assert_eq!(read.digest(), old.digest(), "{}", proxy.name);
        // A slow machine proves less, not something else.
        assert!(
            read.stale.is_none() || clock::now() - killed > STILL_LEASED,
            "{} has its lease: {read:?}",
            proxy.name
        );
    }
    marked(&cloud, &old).await;
    never(Duration::from_secs(2), "with the writer gone", || async {
        for proxy in &cloud.proxies {
            let read = artifact::read_all(&proxy.api, "mac/a", "v1").await;
            if read.answer != history::Answer::Found(old.digest()) || read.stale.is_none() {
                return Err(format!("{}: {read:?}", proxy.name));
            }
            let blob = artifact::read_blob(&proxy.api, "mac/a", &old.layer()).await;
            if blob != Ok(true) {
                return Err(format!("{}: blob {blob:?}", proxy.name));
            }
        }
        Ok(())
    })
    .await;
    for proxy in &cloud.proxies {
        // Perhaps it was pushed just before: only who is fresh may say no.
        let other = artifact::read(&proxy.api, "mac/a", "v2").await;
        assert_ne!(other.answer, history::Answer::Missing, "{}: {other:?}", proxy.name);
        let refused = push_is_refused(&proxy.api).await;
        assert!(refused.took > Duration::from_secs(2) && refused.took < HELD, "{refused}");
    }

    cloud.set_service("stale_reads = \"never\"\n");
    for proxy in &cloud.proxies {
        let refused = eventually(SOON, "tag reads to be refused", || async {
            let answer = proxy.api.try_call("GET", "/v2/mac/a/manifests/v1", None).await?;
            if answer.status == 503 { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await;
        assert!(refused.header("retry-after").is_some(), "{refused}");
        assert!(message(&refused).contains("mac/a"), "it names what is asked for: {refused}");
        assert_eq!(artifact::read_blob(&proxy.api, "mac/a", &old.layer()).await, Ok(true));
    }
    cloud.set_service("");
    marked(&cloud, &old).await;

    // Replicas and a proxy that start while the writer is away know less, and answer all the same.
    for name in ["r2", "r3"] {
        cloud.kill(name);
        cloud.restart(name).await;
    }
    cloud.proxies[0].server.process.kill();
    cloud.proxies[0].server.restart().await;
    marked(&cloud, &old).await;
    let urls = ["r1", "r2", "r3"].map(|name| format!("http://{}", cloud.registry(name).server.address));
    let said =
        outside::run(&cloud.place, BINARY, &["registry", "status", "--registry", &urls.join(",")]).await;
    assert!(!said.ok && said.err.contains(&urls[0]), "it names who does not answer: {said:?}");
    assert_eq!(said.out.matches("(unconfirmed)").count(), 2, "the others are shown: {said:?}");

    // A push that began while the writer was away is taken when it is back in time.
    let image = Image::write(&cloud.place.path("image"), 100, 1, 4);
    let to = format!("{}/mac/held:v1", cloud.proxies[0].front);
    let place = cloud.place.clone();
    let (said, ()) = tokio::join!(outside::push(&place, &image.layout, &to), async {
        eventually(SOON, "the push to be held", || async {
            let held = cloud.proxies[0].held().await?;
            if held > 0 { Ok(()) } else { Err("it is not".to_owned()) }
        })
        .await;
        cloud.restart("r1").await;
    });
    assert!(said.ok, "{}", said.err);

    // Everything is as before.
    cloud.ready().await;
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read(&proxy.api, "mac/held", "v1").await.fresh(), image.manifest);
        let next = Artifact::new(&proxy.name, 20_000);
        next.push(&proxy.api, "mac/a", "v1").await;
        for proxy in &cloud.proxies {
            assert_eq!(artifact::read_all(&proxy.api, "mac/a", "v1").await.fresh(), next.digest());
        }
    }
    cloud.same_everywhere(SOON).await;
}

/// Waits until every proxy marks its answers.
async fn marked(cloud: &Registries, old: &Artifact) {
    for proxy in &cloud.proxies {
        eventually(SOON, &format!("{} to mark its answers", proxy.name), || async {
            let read = artifact::read(&proxy.api, "mac/a", "v1").await;
            match (&read.answer, read.stale.as_deref()) {
                (history::Answer::Found(digest), Some("unknown")) if *digest == old.digest() => Ok(()),
                _ => Err(format!("{read:?}")),
            }
        })
        .await;
    }
}

/// The first call of a push.
async fn push_is_refused(api: &Api) -> Answer {
    let answer = api.call("POST", "/v2/mac/a/blobs/uploads/", None).await;
    assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer}");
    assert_ne!(message(&answer), "", "{answer}");
    answer
}

/// What an OCI error says.
fn message(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    body["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_lost_its_history_does_not_take_its_replicas_along() {
    let _turn = turn().await;
    let mut cloud = Registries::start("wiped", Plan::default()).await;
    let old = Artifact::new("old", 6 << 20);
    old.push(&cloud.proxies[0].api, "mac/old", "v1").await;
    for n in 0..3 {
        Artifact::new(&format!("old {n}"), 20_000).push(&cloud.proxies[1].api, "mac/old", "next").await;
    }
    cloud.same_everywhere(SOON).await;
    let upto = cloud.position("r1").await.expect("the writer's position");
    let had = cloud.content("r2").blobs;

    cloud.kill("r1");
    cloud.wipe("r1");
    cloud.restart("r1").await;
    for name in cloud.replicas() {
        let aside = aside(&cloud, &name).await;
        assert_eq!(aside.upto, upto, "{name}: {aside:?}");
        assert!(aside.repositories.iter().any(|r| r.to_string() == "mac/old"), "{name}: {aside:?}");
        assert!(
            holds(&cloud, &name, &aside, &old.digest()),
            "{name} has set aside what it showed: {aside:?}"
        );
        let now = cloud.content(&name).blobs;
        let lost: Vec<&String> = had.keys().filter(|blob| !now.contains_key(*blob)).collect();
        assert!(lost.is_empty(), "{name} has thrown away {lost:?}");
    }

    // The new history goes on, and nobody answers with the old one.
    let new = Artifact::new("new", 20_000);
    push_is_taken(&cloud.proxies[0].api, &new, "mac/new").await;
    cloud.ready().await;
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read_all(&proxy.api, "mac/new", "v1").await.fresh(), new.digest());
        let gone = artifact::read(&proxy.api, "mac/old", "v1").await;
        assert_eq!((gone.answer, gone.stale), (history::Answer::Missing, None), "{}", proxy.name);
    }
    cloud.same_everywhere(SOON).await;
    // What is back at the writer is back everywhere.
    old.push(&cloud.proxies[1].api, "mac/old", "v1").await;
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read_all(&proxy.api, "mac/old", "v1").await.fresh(), old.digest());
    }
    cloud.same_everywhere(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_writer_that_returns_as_a_replica_sets_its_own_tail_aside() {
    let _turn = turn().await;
    let mut cloud = Registries::start("appointed", Plan::default()).await;
    let (first, tail) = (Artifact::new("first", 6 << 20), Artifact::new("tail", 20_000));
    first.push(&cloud.proxies[0].api, "mac/a", "v1").await;
    cloud.same_everywhere(SOON).await;
    let common = cloud.position("r1").await.expect("the writer's position");
    let epoch = cloud.state("r1").await.expect("the writer's state").epoch;

    // Acknowledged by the writer, and nobody has a copy when it dies.
    cloud.wires_are(Wire::Dark);
    tail.push(&cloud.proxies[0].api, "mac/a", "v2").await;
    let upto = cloud.position("r1").await.expect("the writer's position");
    for name in ["r1", "r2", "r3"] {
        cloud.kill(name);
    }
    cloud.wires_are(Wire::Whole);
    cloud.appoint("r2");
    cloud.restart("r2").await;
    cloud.restart("r3").await;
    let next = Artifact::new("next", 20_000);
    push_is_taken(&cloud.proxies[1].api, &next, "mac/b").await;
    cloud.restart("r1").await;

    let aside = aside(&cloud, "r1").await;
    assert_eq!((aside.common, aside.upto), (Some(common), upto), "{aside:?}");
    assert!(aside.repositories.iter().any(|r| r.to_string() == "mac/a"), "{aside:?}");
    assert!(holds(&cloud, "r1", &aside, &tail.digest()), "the tail can be found: {aside:?}");
    cloud.ready().await;
    let reigns = cloud.state("r2").await.expect("the new writer's state");
    assert!(reigns.write && reigns.epoch > epoch, "{reigns:?}");
    let follows = cloud.state("r1").await.expect("the old writer's state");
    assert!(!follows.write && follows.position.is_some_and(|at| at > upto), "{follows:?}");
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read_all(&proxy.api, "mac/a", "v1").await.fresh(), first.digest());
        assert_eq!(artifact::read_all(&proxy.api, "mac/b", "v1").await.fresh(), next.digest());
        let lost = artifact::read(&proxy.api, "mac/a", "v2").await;
        assert_eq!((lost.answer, lost.stale), (history::Answer::Missing, None), "{}", proxy.name);
    }
    cloud.same_everywhere(SOON).await;
    assert_eq!(cloud.state("r3").await.expect("its state").aside, [], "it had nothing of its own");
    // The tail's bytes are still there, and pushed again they are shown again.
    tail.push(&cloud.proxies[0].api, "mac/a", "v2").await;
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read_all(&proxy.api, "mac/a", "v2").await.fresh(), tail.digest());
    }
    cloud.same_everywhere(SOON).await;
    let before = Position { epoch, seq: u64::MAX };
    assert!(cloud.position("r3").await.is_ok_and(|at| at > before), "positions of two reigns never mix");
}

/// Waits until a registry reports what it has set aside.
async fn aside(cloud: &Registries, name: &str) -> Aside {
    eventually(SOON, &format!("{name} to set its history aside"), || async {
        let state = cloud.state(name).await?;
        state.aside.last().cloned().ok_or_else(|| format!("{state:?}"))
    })
    .await
}

/// Whether this digest is named somewhere in what was set aside.
fn holds(cloud: &Registries, name: &str, aside: &Aside, digest: &str) -> bool {
    // Named by its whole path, or below the storage.
    let mut dirs = vec![cloud.path(name, &aside.path)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else if std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(digest)) {
                return true;
            }
        }
    }
    false
}

/// Pushes until it is taken: proxies and replicas may still be coming to terms with a new history.
async fn push_is_taken(to: &Api, artifact: &Artifact, repository: &str) {
    eventually(SOON, &format!("a push to {repository}"), || async {
        artifact.push_blobs(to, repository).await?;
        match artifact.publish(to, repository, "v1").await.0 {
            history::Outcome::Acknowledged => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
