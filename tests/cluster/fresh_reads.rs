//! A push that was acknowledged is seen by the next read through any proxy, while the replicas are still far behind.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use crate::{
    support::{
        api::Api,
        artifact::{self, Artifact, record_publish, record_read},
        cloud::{self, SOON},
        eventually::eventually,
        history::{Answer, History, Outcome},
        image::Image,
        outside,
        process::BINARY,
        registries::{COPIED, Plan, Registries},
        relay::Wire,
        scale::scaled,
    },
    turn,
};

/// Reads of the large tag, each with a look for every blob.
const READS: usize = 200;

/// Whole pulls of it.
const PULLS: usize = 5;

/// Small pushes, each followed by a read through each proxy.
const NEXT: usize = 10;

/// What the replicas get of the writer: about half a minute for the large image.
fn thin() -> Wire {
    Wire::Narrow(scaled(4, 20) << 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_seen_by_the_next_read_through_any_proxy() {
    let _turn = turn().await;
    let cloud = Registries::start("fresh", Plan::spread()).await;
    let front = cloud.proxies[0].front;
    push_and_read(&cloud, front).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_straight_to_the_writer_is_seen_by_the_next_read_through_any_proxy() {
    let _turn = turn().await;
    let cloud = Registries::start("straight", Plan::spread()).await;
    let writer = cloud.registry("r1").server.address;
    push_and_read(&cloud, writer).await;
}

async fn push_and_read(cloud: &Registries, to: SocketAddr) {
    let image = Image::write(&cloud.place.path("image"), 80, 5, scaled(40, 200));
    cloud.wires_are(thin());
    cloud::push(&cloud.place, to, &image, "mac/large", "v1").await;
    let head = cloud.position("r1").await.expect("the writer's position");
    for name in cloud.replicas() {
        let at = cloud.position(&name).await.expect("a replica's position");
        assert!(at < head, "{name} is not behind, so this would prove nothing: {at} of {head}");
    }

    for n in 0..READS {
        let proxy = &cloud.proxies[n % cloud.proxies.len()];
        let read = artifact::read(&proxy.api, "mac/large", "v1").await;
        assert_eq!(read.fresh(), image.manifest, "read {n} through {}", proxy.name);
        for blob in &read.blobs {
            let look = proxy.api.call("HEAD", &format!("/v2/mac/large/blobs/{blob}"), None).await;
            assert!(look.status == 200 && look.header("switchyard-stale").is_none(), "{blob}: {look}");
        }
        if n % 20 < cloud.proxies.len() {
            lists_show_it(&proxy.api).await;
        }
    }
    for n in 0..PULLS {
        let (proxy, copy) = (&cloud.proxies[n % cloud.proxies.len()], cloud.place.path(&format!("copy-{n}")));
        let said = outside::pull(&cloud.place, &format!("{}/mac/large:v1", proxy.front), &copy).await;
        assert!(said.ok, "pull {n} through {}: {}", proxy.name, said.err);
        let index = std::fs::read_to_string(copy.join("index.json")).expect("an index");
        assert!(index.contains(&image.manifest), "{index}");
        std::fs::remove_dir_all(copy).expect("a copy to remove");
    }
    let to = Api::new(to);
    for n in 0..NEXT {
        let next = Artifact::new(&format!("next {n}"), 40_000);
        next.push(&to, "mac/small", "latest").await;
        for proxy in &cloud.proxies {
            let read = artifact::read_all(&proxy.api, "mac/small", "latest").await;
            assert_eq!(read.fresh(), next.digest(), "push {n} through {}", proxy.name);
        }
    }

    cloud.wires_are(Wire::Whole);
    cloud.same_everywhere(COPIED).await;
    let writer = cloud.content("r1").hashed();
    for name in cloud.replicas() {
        assert!(cloud.content(&name).hashed() == writer, "{name} holds other files than the writer");
    }
    // And now they serve.
    for name in cloud.replicas() {
        eventually(SOON, &format!("{name} to serve reads of the tag"), || async {
            for proxy in &cloud.proxies {
                assert_eq!(
                    artifact::read(&proxy.api, "mac/large", "v1").await.fresh(),
                    image.manifest,
                    "{}",
                    proxy.name
                );
            }
            let served = cloud.proxies.iter().map(|p| p.served_by(&name, "/v2/mac/large/manifests/"));
            if served.sum::<usize>() > 0 { Ok(()) } else { Err("not one") }
        })
        .await;
    }
}

/// The lists of both APIs know the push as well.
async fn lists_show_it(api: &Api) {
    let tags = api.get("/v2/mac/large/tags/list").await;
    assert!(tags.status == 200 && tags.json()["tags"] == serde_json::json!(["v1"]), "{tags}");
    let repositories = api.get("/v2/_catalog").await;
    assert!(repositories.text.contains("\"mac/large\""), "{repositories}");
    let templates = api.get("/registry/v2/vm").await;
    assert!(templates.ok().to_string().contains("mac/large"), "{templates}");
    for answer in [tags, repositories, templates] {
        assert_eq!(answer.header("switchyard-stale"), None, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cut_off_from_the_writer_answers_nothing_old_as_new() {
    let _turn = turn().await;
    let cloud = Registries::start("cutoff", Plan { wired: true, ..Plan::default() }).await;
    let history = History::begin();
    let (near, far) = (&cloud.proxies[0], &cloud.proxies[1]);
    let push = async |label: &str| {
        let artifact = Artifact::new(label, 20_000);
        let blobs = artifact.push_blobs(&near.api, "mac/a").await;
        assert_eq!(blobs, Ok(()), "{label}");
        let began = history.now();
        let outcome = record_publish(&history, &artifact, &near.api, "mac/a", "v1").await;
        assert_eq!(outcome, Outcome::Acknowledged, "{label}");
        assert!(history.now() - began < Duration::from_secs(6), "{label}: longer than a lease is waited for");
        artifact.digest()
    };
    let first = push("first").await;
    assert_eq!(record_read(&history, "far", &far.api, "mac/a", "v1").await.fresh(), first);

    let mut marked = 0;
    for wire in [Wire::Slow(Duration::from_millis(300)), Wire::Dark, Wire::Cut] {
        cloud.wire(1).set(wire);
        for n in 0..3 {
            let newest = push(&format!("{wire:?} {n}")).await;
            // What comes is the newest, or is marked, or is no answer: the history is the judge.
            let read = record_read(&history, "far", &far.api, "mac/a", "v1").await;
            marked += usize::from(read.stale.is_some());
            let read = record_read(&history, "near", &near.api, "mac/a", "v1").await;
            assert_eq!(read.fresh(), newest, "{wire:?}: the other proxy is not troubled");
        }
        if wire == Wire::Cut {
            eventually(SOON, "a marked answer", || async {
                let read = record_read(&history, "far", &far.api, "mac/a", "v1").await;
                match (&read.answer, &read.stale) {
                    (Answer::Found(_), Some(_)) => Ok(()),
                    _ => Err(format!("{read:?}")),
                }
            })
            .await;
        }
        cloud.wire(1).set(Wire::Whole);
        let newest = push(&format!("after {wire:?}")).await;
        eventually(SOON, "an unmarked answer", || async {
            let read = record_read(&history, "far", &far.api, "mac/a", "v1").await;
            if read.stale.is_none() && read.answer == Answer::Found(newest.clone()) {
                Ok(())
            } else {
                Err(format!("{read:?}"))
            }
        })
        .await;
    }
    println!("{marked} marked, {:?}", history.tally());
    history.assert_holds();
    cloud.leased(2).await;
    cloud.same_everywhere(SOON).await;
}

/// A lease cannot be handed over. The writer is far away, so that a successor which served before it has its own would send
/// reads there for a while.
#[tokio::test(flavor = "multi_thread")]
async fn reads_stay_with_the_replicas_over_an_upgrade() {
    let _turn = turn().await;
    let plan = Plan { proxies: 1, wired: true, ..Plan::default() };
    let cloud = Registries::start("succession", plan).await;
    let proxy = &cloud.proxies[0];
    let artifact = Artifact::new("it", 20_000);
    artifact.push(&proxy.api, "mac/a", "v1").await;
    cloud.same_everywhere(SOON).await;
    cloud.wire(0).set(Wire::Slow(Duration::from_millis(100)));
    let (tag, far) = ("/v2/mac/a/manifests/v1", cloud.writer.clone());
    let by_writer = || proxy.served_by(&far, tag);
    let sent = Cell::new(0_usize);
    let read = async || {
        assert_eq!(artifact::read(&proxy.api, "mac/a", "v1").await.fresh(), artifact.digest());
        sent.set(sent.get() + 1);
    };
    let logged = async || {
        eventually(SOON, "the lines of all reads", || async {
            let lines: usize = cloud.names().iter().map(|name| proxy.served_by(name, tag)).sum();
            if lines >= sent.get() { Ok(()) } else { Err(format!("{lines} of {}", sent.get())) }
        })
        .await;
    };
    eventually(SOON, "a replica to serve", || async {
        let before = by_writer();
        read().await;
        logged().await;
        if by_writer() == before { Ok(()) } else { Err("the writer serves".to_owned()) }
    })
    .await;

    let config = cloud.place.path("p1.toml").display().to_string();
    let arguments = ["upgrade", "-c", &config];
    let mut upgrade = std::pin::pin!(outside::run(&cloud.place, BINARY, &arguments));
    let (before, mut done, mut after) = (by_writer(), false, 0);
    while after < 50 {
        tokio::select! {
            said = &mut upgrade, if !done => {
                assert!(said.ok, "{said:?}");
                done = true;
            }
            () = read() => after += usize::from(done),
        }
    }
    logged().await;
    assert_eq!(by_writer() - before, 0, "reads that went to the writer, of {}", sent.get());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_writer_takes_no_reads_what_no_replica_has_yet_is_refused_or_marked() {
    let _turn = turn().await;
    let mut cloud =
        Registries::start("writeonly", Plan { service: "write_only = true".into(), ..Plan::default() }).await;
    let (old, new) = (Artifact::new("old", 20_000), Artifact::new("new", 20_000));
    old.push(&cloud.proxies[0].api, "mac/a", "v1").await;
    cloud.same_everywhere(SOON).await;
    let available = cloud.position("r2").await.expect("a replica's position");
    for proxy in &cloud.proxies {
        assert_eq!(artifact::read_all(&proxy.api, "mac/a", "v1").await.fresh(), old.digest());
        assert_eq!(
            proxy.served_by("r1", "/v2/mac/a/manifests/v1"),
            0,
            "{} reads from the writer",
            proxy.name
        );
    }

    cloud.wires_are(Wire::Dark);
    new.push(&cloud.proxies[0].api, "mac/a", "v1").await;
    let needed = cloud.position("r1").await.expect("the writer's position");
    for proxy in &cloud.proxies {
        let refused = proxy.api.get("/v2/mac/a/manifests/v1").await;
        assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused}");
        for named in ["mac/a", &needed.to_string(), &available.to_string()] {
            assert!(refused.text.contains(named), "it names {named}: {refused}");
        }
        assert!(refused.took < Duration::from_secs(10), "{refused}");
        assert_eq!(artifact::read_blob(&proxy.api, "mac/a", &old.layer()).await, Ok(true));
        // It is there, at the writer: whatever is answered, it is not "not found".
        let blob = artifact::read_blob(&proxy.api, "mac/a", &new.layer()).await;
        assert!(blob.is_ok(), "{}: {blob:?}", proxy.name);
    }

    cloud.set_service("write_only = true\nstale_reads = \"allow\"");
    for proxy in &cloud.proxies {
        eventually(SOON, "an old answer with its mark", || async {
            let read = artifact::read_all(&proxy.api, "mac/a", "v1").await;
            let marked =
                read.stale.as_deref() == Some("behind") && read.answer == Answer::Found(old.digest());
            if marked { Ok(()) } else { Err(format!("{read:?}")) }
        })
        .await;
    }
    cloud.wires_are(Wire::Whole);
    cloud.caught_up(&cloud.replicas(), SOON).await;
    for proxy in &cloud.proxies {
        eventually(SOON, "the new answer", || async {
            let read = artifact::read_all(&proxy.api, "mac/a", "v1").await;
            let fresh = read.stale.is_none() && read.answer == Answer::Found(new.digest());
            if fresh { Ok(()) } else { Err(format!("{read:?}")) }
        })
        .await;
    }
    cloud.same_everywhere(SOON).await;
}
