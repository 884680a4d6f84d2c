//! The writer, replicas and proxies are killed at random moments while tags are pushed and read; afterwards the whole
//! history is judged.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinSet;

use crate::{
    alone,
    support::{
        api::Api,
        artifact::{Artifact, read_all, record_publish, record_read},
        cloud::SOON,
        eventually::eventually,
        history::{Answer, History, Outcome},
        registries::{COPIED, Plan, Registries},
        scale::scaled,
        seed,
    },
};

/// Kills, one or two at once.
fn rounds() -> usize {
    scaled(30, 500)
}

/// Each with tags of its own.
const PUSHERS: usize = 3;

/// Per proxy.
const READERS: usize = 2;

/// Pushes to one tag at most; each new tag is one more that begins with "not there".
const PUSHES: usize = 6;

/// Readers look at the newest tags most of the time: there the history is made.
const NEWEST: usize = 4;

/// What clients rest between two calls: load is not what this is about.
const REST: Duration = Duration::from_millis(15);

/// What pushers and readers have in common.
#[derive(Clone)]
struct Shared {
    history: History,
    /// Repository and tag, in the order in which they were begun.
    tags: Arc<Mutex<Vec<(String, String)>>>,
    stopped: Arc<AtomicBool>,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    fn tags(&self) -> Vec<(String, String)> {
        self.tags.lock().expect("no holder panics").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_during_pushes_history_holds() {
    let _turn = alone().await;
    let mut chance = seed::chance();
    let mut cloud = Registries::start("kills", Plan::spread()).await;
    let shared = Shared { history: History::begin(), tags: Arc::default(), stopped: Arc::default() };
    let mut clients = JoinSet::new();
    for n in 0..PUSHERS {
        let mut to: Vec<Api> = cloud.proxies.iter().map(|proxy| proxy.api.clone()).collect();
        to.push(cloud.straight("r1"));
        clients.spawn(push_on(shared.clone(), n, to, StdRng::from_rng(&mut chance)));
    }
    for proxy in &cloud.proxies {
        for n in 0..READERS {
            let name = format!("{}-{n}", proxy.name);
            clients.spawn(read_on(shared.clone(), name, proxy.api.clone(), StdRng::from_rng(&mut chance)));
        }
    }

    for round in 1..=rounds() {
        kill_some(&mut cloud, &shared, &mut chance).await;
        if round % 10 == 0 {
            println!("round {round}: {:?}", shared.history.tally());
            shared.history.assert_holds();
        }
    }
    // Everybody is back: pushes are taken again.
    acknowledged(&shared, PUSHERS).await;
    shared.stopped.store(true, Ordering::Relaxed);
    clients.join_all().await;
    cloud.ready().await;

    for (repository, tag) in shared.tags() {
        for proxy in &cloud.proxies {
            record_read(&shared.history, &format!("{}-end", proxy.name), &proxy.api, &repository, &tag).await;
        }
    }
    shared.history.assert_holds();
    cloud.same_everywhere(COPIED).await;
    every_tag_is_the_same_everywhere(&cloud, &shared).await;
    let tally = shared.history.tally();
    println!("{tally:?}, {} tags", shared.tags().len());
    assert!(tally.acknowledged > rounds() && tally.fresh > 10 * rounds(), "this proves little: {tally:?}");
}

/// Kills one process or two, and starts them again some time later.
async fn kill_some(cloud: &mut Registries, shared: &Shared, chance: &mut StdRng) {
    let pause = Duration::from_millis(chance.random_range(50..500));
    let away = Duration::from_millis(chance.random_range(0..700));
    let (several, settle) = (chance.random_bool(0.2), chance.random_bool(0.7));
    let victims: BTreeSet<&str> = (0..if several { 2 } else { 1 })
        .filter_map(|_| ["r1", "r1", "r2", "r2", "r3", "r3", "p1", "p1", "p2", "p2"].choose(chance).copied())
        .collect();
    tokio::time::sleep(pause).await;
    for name in &victims {
        match proxy(name) {
            Some(n) => cloud.proxies[n].server.process.kill(),
            None => cloud.kill(name),
        }
    }
    tokio::time::sleep(away).await;
    for name in &victims {
        match proxy(name) {
            Some(n) => cloud.proxies[n].server.restart().await,
            None => cloud.restart(name).await,
        }
    }
    // A writer that was started says nothing for three seconds: sometimes it dies again before that.
    if victims.contains("r1") && settle {
        acknowledged(shared, 1).await;
    }
}

fn proxy(name: &str) -> Option<usize> {
    ["p1", "p2"].iter().position(|proxy| *proxy == name)
}

/// Waits until so many more pushes are acknowledged.
async fn acknowledged(shared: &Shared, pushes: usize) {
    let before = shared.history.tally().acknowledged;
    eventually(SOON, &format!("{pushes} pushes to be taken"), || async {
        let now = shared.history.tally();
        if now.acknowledged >= before + pushes { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// Pushes to one tag after the other. One whose last push ended without a clear answer is left to the readers.
async fn push_on(shared: Shared, n: usize, to: Vec<Api>, mut chance: StdRng) {
    let repository = format!("mac/p{n}");
    let (mut tag, mut pushes) = (0, 0);
    for number in 0.. {
        if !shared.goes_on() {
            return;
        }
        tokio::time::sleep(REST).await;
        // Some blobs are of more than one chunk.
        let layer = if chance.random_bool(0.03) { 5 << 20 } else { chance.random_range(100..40_000) };
        let artifact = Artifact::new(&format!("{repository} {number}"), layer);
        let to = to.choose(&mut chance).expect("at least one");
        if artifact.push_blobs(to, &repository).await.is_err() {
            continue;
        }
        let name = format!("t{tag}");
        if pushes == 0 {
            shared.tags.lock().expect("no holder panics").push((repository.clone(), name.clone()));
        }
        pushes += 1;
        let outcome = record_publish(&shared.history, &artifact, to, &repository, &name).await;
        if let Outcome::Refused(why) = &outcome {
            assert!(!why.contains("BLOB_UNKNOWN"), "an acknowledged blob is lost: {why}");
        }
        if pushes == PUSHES || matches!(outcome, Outcome::Unknown(_)) {
            (tag, pushes) = (tag + 1, 0);
        }
    }
}

/// Reads through one proxy, one read after the other.
async fn read_on(shared: Shared, client: String, from: Api, mut chance: StdRng) {
    while shared.goes_on() {
        tokio::time::sleep(REST).await;
        let tags = shared.tags();
        let newest = &tags[tags.len().saturating_sub(NEWEST)..];
        let among = if chance.random_bool(0.8) { newest } else { &tags };
        if let Some((repository, tag)) = among.choose(&mut chance) {
            record_read(&shared.history, &client, &from, repository, tag).await;
        }
    }
}

/// No acknowledged tag is lost, none is half, and all registries hold the same, each asked by itself.
async fn every_tag_is_the_same_everywhere(cloud: &Registries, shared: &Shared) {
    let last = shared.history.last();
    for (repository, tag) in shared.tags() {
        let may = &last[&format!("{repository}:{tag}")];
        let mut answers = BTreeSet::new();
        for name in cloud.names() {
            let read = read_all(&cloud.straight(&name), &repository, &tag).await;
            match &read.answer {
                Answer::Found(digest) if may.contains(digest) => answers.insert(Some(digest.clone())),
                Answer::Missing => answers.insert(None),
                other => panic!("{name} has {other:?} for {repository}:{tag}, not one of {may:?}"),
            };
        }
        assert_eq!(answers.len(), 1, "{repository}:{tag}: {answers:?}");
    }
}
