//! A replica is killed, another one joins, one has no room: no pull fails for it, and each one says how it stands.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use switchyard::clock;
use tokio::time::Instant;

use crate::{
    support::{
        artifact,
        cloud::{self, SOON},
        eventually::eventually,
        image::Image,
        namespaces, outside,
        place::Place,
        registries::{COPIED, Plan, Registries},
        scale::scaled,
    },
    turn,
};

/// Kills of one replica, each during pulls.
fn kills() -> usize {
    scaled(2, 20)
}

/// Pulls by the real client, one after the other through each front, until told to stop.
#[derive(Default)]
struct Pulls {
    done: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Pull {
    began: Instant,
    ended: Instant,
    /// What the client said if it failed.
    failed: Option<String>,
}

impl Pulls {
    async fn go_on(&self, place: &Place, front: SocketAddr, image: &Image, repository: &str) -> Vec<Pull> {
        let mut pulls = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let copy = place.path(&format!("pull-{}-{}", front.port(), pulls.len()));
            pulls.push(pull(place, &format!("{front}/{repository}"), &copy, &image.manifest).await);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        pulls
    }

    /// Waits for so many more to end.
    async fn more(&self, pulls: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually(COPIED, &format!("{pulls} more pulls"), || async {
            let now = self.done.load(Ordering::Relaxed);
            if now >= before + pulls { Ok(()) } else { Err(format!("{} more", now - before)) }
        })
        .await;
    }
}

async fn pull(place: &Place, from: &str, copy: &Path, manifest: &str) -> Pull {
    let began = clock::now();
    let said = outside::pull(place, from, copy).await;
    let index = std::fs::read_to_string(copy.join("index.json")).unwrap_or_default();
    let failed = match said.ok {
        true => (!index.contains(manifest)).then(|| format!("another image: {index}")),
        false => Some(said.err),
    };
    // A torn copy may not even have its directory.
    std::fs::remove_dir_all(copy).ok();
    Pull { began, ended: clock::now(), failed }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_and_a_new_one_added_fail_no_pull() {
    let _turn = turn().await;
    let mut cloud = Registries::start("replicadies", Plan::spread()).await;
    let image = Image::write(&cloud.place.path("image"), 90, 3, 16);
    cloud::push(&cloud.place, cloud.proxies[0].front, &image, "mac/a", "v1").await;
    cloud.caught_up(&cloud.replicas(), COPIED).await;

    let (place, pulls) = (cloud.place.clone(), Pulls::default());
    let [one, two] = [0, 1].map(|n| cloud.proxies[n].front);
    let (one, two, killed) = tokio::join!(
        pulls.go_on(&place, one, &image, "mac/a:v1"),
        pulls.go_on(&place, two, &image, "mac/a:v1"),
        async {
            pulls.more(2).await;
            let killed = kill_and_add(&mut cloud, &pulls).await;
            pulls.stopped.store(true, Ordering::Relaxed);
            killed
        }
    );

    // What is under way at the moment of a kill may be cut: going on with it elsewhere is another promise.
    let cut = |pull: &Pull| killed.iter().any(|kill| (pull.began..=pull.ended).contains(kill));
    let first = killed.iter().min().copied().expect("one was killed");
    let after: Vec<&Pull> = one.iter().chain(&two).filter(|pull| pull.began > first && !cut(pull)).collect();
    let failed: Vec<&&Pull> = after.iter().filter(|pull| pull.failed.is_some()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:#?}", failed.len(), after.len(), &failed[..1]);
    assert!(after.len() > 4 * kills(), "{} pulls prove little", after.len());
    cloud.same_everywhere(COPIED).await;
}

/// What goes wrong while pulls go on; gives the moments of the kills.
async fn kill_and_add(cloud: &mut Registries, pulls: &Pulls) -> Vec<Instant> {
    let mut killed = Vec::new();
    for round in 0..kills() {
        killed.push(clock::now());
        cloud.kill("r2");
        pulls.more(2).await;
        // It has something to catch up with.
        let missed = Image::write(&cloud.place.path(&format!("missed-{round}")), 91 + round as u64, 1, 8);
        cloud::push(&cloud.place, cloud.proxies[1].front, &missed, "mac/b", &format!("v{round}")).await;
        cloud.restart("r2").await;
        pulls.more(2).await;
        cloud.caught_up(&["r2".into()], COPIED).await;
    }
    let new = cloud.add_replica().await;
    cloud.upstreams_are_up().await;
    cloud.caught_up(std::slice::from_ref(&new), COPIED).await;
    for name in ["r2", &new] {
        let served =
            || -> usize { cloud.proxies.iter().map(|p| p.served_by(name, "/v2/mac/a/manifests/")).sum() };
        let before = served();
        eventually(COPIED, &format!("{name} to serve reads of the tag"), || async {
            if served() > before { Ok(()) } else { Err("not one") }
        })
        .await;
    }
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_fills_stays_readable_and_says_why() {
    let _turn = turn().await;
    if !namespaces::allowed("a_replica_whose_disk_fills_stays_readable_and_says_why") {
        return;
    }
    let small = Some(("r3", "96m", "[limits]\nreserve = \"8MiB\""));
    let cloud = Registries::start("replicafull", Plan { small, ..Plan::default() }).await;
    let front = cloud.proxies[0].front;
    let (kept, new) = (
        Image::write(&cloud.place.path("kept"), 95, 1, 16),
        Image::write(&cloud.place.path("new"), 96, 2, 16),
    );
    cloud::push(&cloud.place, front, &kept, "mac/kept", "v1").await;
    cloud.caught_up(&cloud.replicas(), COPIED).await;

    // Of 96 MiB 16 are taken, and now 64 more: what is left above the reserve holds half a layer.
    let filler = cloud.path("r3", "../filler");
    std::fs::write(&filler, vec![0; 64 << 20]).expect("room for a filler");
    cloud::push(&cloud.place, front, &new, "mac/new", "v1").await;
    cloud.caught_up(&["r2".into()], COPIED).await;
    let head = cloud.position("r1").await.expect("the writer's position");
    let full = eventually(SOON, "the full one to say why it is behind", || async {
        let state = cloud.state("r3").await?;
        let said = state.why.iter().any(|why| why.to_lowercase().contains("space"));
        if said && state.lag.entries > 0 { Ok(state) } else { Err(format!("{state:?}")) }
    })
    .await;
    assert!(full.read && full.position.is_some_and(|at| at < head), "{full:?}");

    // It serves what it has…
    let straight = cloud.straight("r3");
    assert_eq!(artifact::read_all(&straight, "mac/kept", "v1").await.fresh(), kept.manifest);
    // …and is not asked for what it has not.
    for n in 0..scaled(60, 600) {
        let proxy = &cloud.proxies[n % cloud.proxies.len()];
        assert_eq!(artifact::read(&proxy.api, "mac/new", "v1").await.fresh(), new.manifest, "read {n}");
        assert_eq!(artifact::read(&proxy.api, "mac/kept", "v1").await.fresh(), kept.manifest, "read {n}");
    }
    for proxy in &cloud.proxies {
        let copy = cloud.place.path(&format!("copy-{}", proxy.name));
        let said = outside::pull(&cloud.place, &format!("{}/mac/new:v1", proxy.front), &copy).await;
        assert!(said.ok, "{}", said.err);
        assert_eq!(proxy.served_by("r3", "/v2/mac/new/manifests/"), 0);
    }

    // It goes on by itself once there is room, however long it has paused.
    std::fs::remove_file(&filler).expect("the filler");
    cloud.caught_up(&["r3".into()], SOON + Duration::from_secs(60)).await;
    cloud.same_everywhere(SOON).await;
    let state = cloud.state("r3").await.expect("its state");
    assert_eq!(state.why, [""; 0], "nothing is wrong any more");
}
