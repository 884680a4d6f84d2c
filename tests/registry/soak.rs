//! Pushes, pulls, deletes, reverts, collections of garbage with graces of milliseconds, kills and restarts, at once and in
//! random order: no acknowledged tag ever lacks a layer, no deleted one returns, and what is deleted frees its space.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use switchyard::{
    clock,
    config::registry::{Gc, Registry as Config, Storage},
    model::Digest,
    registry::Registry,
    supervise::{Stage, Tree},
};

use crate::{
    rig::{MANIFEST, Rig, config, files, header, image, limits, noise},
    support::{eventually::eventually, place::Place, process::Process, scale::scaled, seed::chance},
};

/// Directory of the registry that this binary becomes when it runs [`a_registry_that_collects`].
const DIRECTORY: &str = "SOAK_DIRECTORY";

/// Its name, if it shares the directory with others.
const SHARED_AS: &str = "SOAK_SHARED_AS";

/// So short that nearly every push has blobs in the trash before its manifest is there.
const GRACE: Duration = Duration::from_millis(5);
const TRASH: Duration = Duration::from_millis(700);

/// Each repository has one client; layers are everybody's.
const REPOSITORIES: [&str; 3] = ["one", "two", "thr/ee"];
const TAGS: usize = 4;
const LAYERS: u64 = 8;

/// A refused push is tried again so often: with these graces its layers may go while it is under way.
const TRIES: usize = 40;

fn rounds() -> usize {
    scaled(4, 60)
}

fn tiny(dir: &Path) -> Config {
    let mut config = config(dir, limits());
    config.upkeep.gc = Gc { enabled: false, grace: GRACE, trash: TRASH, ..Gc::default() };
    config
}

/// As [`tiny`], beside others. The second grace is as long as a lease needs on a busy machine.
fn sharing(name: &str, dir: &Path) -> Config {
    let mut config = tiny(dir);
    config.server.name = name.into();
    config.storage = Storage::Shared(dir.to_owned());
    config.upkeep.gc.trash = 2 * TRASH;
    config
}

/// Not a test of anything: the process that is killed. Without its directory it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_collects() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = Path::new(&dir);
    let storage = dir.join("storage");
    let (mut config, address) = match std::env::var(SHARED_AS) {
        Ok(name) => (sharing(&name, &storage), format!("{name}.address")),
        Err(_) => (tiny(&storage), "address".into()),
    };
    config.server.address_file = Some(dir.join(address));
    let tree = Tree::new();
    let role = Registry::open(config, tree.handle()).await.unwrap();
    tree.handle().start_vital(Stage::Edge, "registry", |stop| role.run(stop));
    let ended = tree.ended().await;
    panic!("{ended}");
}

/// What a tag may point to: one manifest, or nothing, or, when a kill took the answer, several of these.
type May = BTreeSet<Option<Digest>>;

/// One client of one repository.
struct Worker {
    name: &'static str,
    client: Client,
    chance: StdRng,
    tags: BTreeMap<String, May>,
    acknowledged: usize,
}

/// The registry was killed.
struct Gone;

impl From<reqwest::Error> for Gone {
    fn from(_: reqwest::Error) -> Self {
        Self
    }
}

fn layer(n: u64) -> Vec<u8> {
    // One has a chunk list.
    noise(100 + n, if n == 0 { 5_000_000 } else { 20_000 + 1000 * usize::try_from(n).unwrap() })
}

impl Worker {
    fn new(name: &'static str, client: Client, seed: u64) -> Self {
        let tags = (0..TAGS).map(|n| (format!("t{n}"), May::from([None]))).collect();
        Self { name, client, chance: StdRng::seed_from_u64(seed), tags, acknowledged: 0 }
    }

    /// Works until the registry is gone.
    async fn work(&mut self, address: SocketAddr) {
        while self.step(address).await.is_ok() {}
    }

    /// Works at any of them until it is over; one that is gone is not asked any more.
    async fn work_among(&mut self, addresses: &[SocketAddr], over: &AtomicBool) {
        let mut alive = addresses.to_vec();
        while !over.load(Ordering::Relaxed) {
            let at = self.chance.random_range(0..alive.len());
            if self.step(alive[at]).await.is_err() {
                alive.remove(at);
            }
        }
    }

    async fn step(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let tag = format!("t{}", self.chance.random_range(0..TAGS));
        match self.chance.random_range(0..10) {
            0..5 => self.push(address, &tag).await,
            5 | 6 => self.pull(address, &tag).await,
            7 => self.delete_tag(address, &tag).await,
            8 => self.delete_manifest(address, &tag).await,
            _ => self.revert(address).await,
        }
    }

    async fn push(&mut self, address: SocketAddr, tag: &str) -> Result<(), Gone> {
        let base = format!("http://{address}/v2/{}", self.name);
        let count = self.chance.random_range(1..4);
        let layers: BTreeSet<u64> = (0..count).map(|_| self.chance.random_range(0..LAYERS)).collect();
        let layers: Vec<Vec<u8>> = layers.into_iter().map(layer).collect();
        let config = format!(r#"{{"n":{}}}"#, self.chance.random_range(0..5));
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        let manifest = image(config.as_bytes(), &layers).to_string();
        let digest = Digest::of(manifest.as_bytes());
        for _ in 0..TRIES {
            for blob in layers.iter().copied().chain([config.as_bytes()]) {
                let wanted = Digest::of(blob);
                let there = self.client.head(format!("{base}/blobs/{wanted}")).send().await?;
                if there.status() == StatusCode::NOT_FOUND {
                    let sent = self.client.post(format!("{base}/blobs/uploads/?digest={wanted}"));
                    let sent = sent.body(blob.to_vec()).send().await?;
                    let status = sent.status();
                    assert_eq!(status, StatusCode::CREATED, "{}", sent.text().await?);
                }
            }
            // Unless it is answered, it may have happened.
            let before = self.tags[tag].clone();
            self.tags.get_mut(tag).unwrap().insert(Some(digest));
            let put = self.client.put(format!("{base}/manifests/{tag}")).header("content-type", MANIFEST);
            let put = put.body(manifest.clone()).send().await?;
            match put.status() {
                StatusCode::CREATED => {
                    self.tags.insert(tag.to_owned(), May::from([Some(digest)]));
                    self.acknowledged += 1;
                    return Ok(());
                }
                StatusCode::BAD_REQUEST => {
                    let text = put.text().await?;
                    assert!(text.contains("MANIFEST_BLOB_UNKNOWN"), "{text}");
                    self.tags.insert(tag.to_owned(), before);
                }
                other => panic!("push: {other}: {}", put.text().await?),
            }
        }
        Ok(())
    }

    async fn pull(&mut self, address: SocketAddr, tag: &str) -> Result<(), Gone> {
        let got = pulled(&self.client, address, self.name, tag).await?;
        let may = self.tags.get_mut(tag).unwrap();
        assert!(may.contains(&got), "{}:{tag} is {got:?} and may be {may:?}", self.name);
        *may = May::from([got]);
        Ok(())
    }

    async fn delete_tag(&mut self, address: SocketAddr, tag: &str) -> Result<(), Gone> {
        self.tags.get_mut(tag).unwrap().insert(None);
        let url = format!("http://{address}/v2/{}/manifests/{tag}", self.name);
        let deleted = self.client.delete(url).send().await?.status();
        assert!([202, 404].contains(&deleted.as_u16()), "{deleted}");
        self.tags.insert(tag.to_owned(), May::from([None]));
        Ok(())
    }

    async fn delete_manifest(&mut self, address: SocketAddr, tag: &str) -> Result<(), Gone> {
        let Some(digest) = self.tags[tag].iter().flatten().next().copied() else { return Ok(()) };
        let here = |may: &May| may.contains(&Some(digest));
        for may in self.tags.values_mut().filter(|may| here(may)) {
            may.insert(None);
        }
        let url = format!("http://{address}/v2/{}/manifests/{digest}", self.name);
        let deleted = self.client.delete(url).send().await?.status();
        assert!([202, 404].contains(&deleted.as_u16()), "{deleted}");
        for may in self.tags.values_mut() {
            may.remove(&Some(digest));
        }
        Ok(())
    }

    /// A version and all later ones.
    async fn revert(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let get = |path: String| self.client.get(format!("http://{address}{path}")).send();
        let list: Value = get("/registry/v2/vm".into()).await?.json().await?;
        let of = list["body"].as_array().unwrap().iter().find(|template| template["name"] == self.name);
        let Some(id) = of.and_then(|of| of["id"].as_str()) else { return Ok(()) };
        let shown: Value = get(format!("/registry/vm?id={id}")).await?.json().await?;
        let Some(versions) = shown["body"]["versions"].as_array().cloned() else { return Ok(()) };
        if versions.is_empty() {
            return Ok(());
        }
        let number = |version: &Value| version["number"].as_i64().unwrap();
        let from = number(&versions[self.chance.random_range(0..versions.len())]);
        let gone = versions.iter().filter(|version| number(version) >= from);
        let gone: Vec<String> = gone.map(|version| version["tag"].as_str().unwrap().to_owned()).collect();
        for tag in &gone {
            self.tags.get_mut(tag).unwrap().insert(None);
        }
        let url = format!("http://{address}/registry/revert?id={id}&version={from}");
        let reverted = self.client.delete(url).send().await?;
        let status = reverted.status();
        assert_eq!(status, 200, "{}", reverted.text().await?);
        for tag in gone {
            self.tags.insert(tag, May::from([None]));
        }
        Ok(())
    }
}

/// What a tag points to, with all that it needs checked by digest.
async fn pulled(client: &Client, address: SocketAddr, name: &str, tag: &str) -> Result<Option<Digest>, Gone> {
    let base = format!("http://{address}/v2/{name}");
    let manifest = client.get(format!("{base}/manifests/{tag}")).send().await?;
    if manifest.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    assert_eq!(manifest.status(), StatusCode::OK);
    let said = header(&manifest, "docker-content-digest");
    let bytes = manifest.bytes().await?;
    let digest = Digest::of(&bytes);
    assert_eq!(digest.to_string(), said);
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let wanted = part["digest"].as_str().unwrap();
        let blob = client.get(format!("{base}/blobs/{wanted}")).send().await?;
        assert_eq!(blob.status(), StatusCode::OK, "{name}:{tag} lacks {wanted}");
        assert_eq!(Digest::of(&blob.bytes().await?).to_string(), wanted);
    }
    Ok(Some(digest))
}

async fn collect(client: &Client, address: SocketAddr) -> Result<Value, Gone> {
    let collected = client.post(format!("http://{address}/replication/v1/gc")).send().await?;
    let status = collected.status();
    assert_eq!(status, 200, "{}", collected.text().await?);
    Ok(collected.json().await?)
}

/// Collects at one of several; tells whether it did, and not another one.
async fn collect_among(client: &Client, address: SocketAddr) -> Result<bool, Gone> {
    let collected = client.post(format!("http://{address}/replication/v1/gc")).send().await?;
    let status = collected.status();
    // The start looks first whether it sees what others write.
    assert!([200, 409, 503].contains(&status.as_u16()), "{status}: {}", collected.text().await?);
    Ok(status == 200)
}

/// What is left when everything is deleted: nothing.
async fn assert_no_leak(storage: &Path, kind: impl Fn() -> Config) {
    let rig = Rig::of(kind(), storage).await;
    for name in REPOSITORIES {
        let list = rig.json(&format!("/v2/{name}/tags/list")).await;
        for tag in list["tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let manifest = rig.get(&format!("/v2/{name}/manifests/{tag}")).await;
            let digest = header(&manifest, "docker-content-digest");
            // It may have gone with another tag.
            rig.ask("DELETE", &format!("/v2/{name}/manifests/{digest}")).send().await.unwrap();
        }
    }
    // Manifests without a tag are nobody's any more, and the template's.
    rig.stop().await;
    let mut config = kind();
    let trash = config.upkeep.gc.trash;
    config.upkeep.gc.untagged = Some(Duration::from_secs(1));
    let rig = Rig::of(config, storage).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let client = Client::builder().no_proxy().build().unwrap();
    eventually(Duration::from_secs(20), "a registry that collects", || async {
        let collected = collect_among(&client, rig.address).await;
        if let Ok(true) = collected { Ok(()) } else { Err("not yet") }
    })
    .await;
    for _ in 0..3 {
        tokio::time::sleep(trash + GRACE).await;
        collect(&client, rig.address).await.unwrap_or_else(|Gone| panic!("it stopped"));
    }
    let left: Vec<_> = ["blobs", "trash"].iter().flat_map(|dir| files(&storage.join(dir))).collect();
    assert!(left.is_empty(), "left although nothing needs it: {left:?}");
    let links = files(&storage.join("repositories"));
    let is_link =
        |file: &&PathBuf| ["_links", "_taken"].iter().any(|dir| file.to_string_lossy().contains(dir));
    assert_eq!(links.iter().find(is_link), None);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soak_loses_nothing_and_leaks_nothing() {
    let mut chance = chance();
    let place = Place::new("soak");
    let directory = format!("{DIRECTORY}={}", place.dir().display());
    let binary = std::env::current_exe().unwrap();
    let arguments =
        [&directory, binary.to_str().unwrap(), "--exact", "soak::a_registry_that_collects", "--nocapture"];
    let mut process = Process::start_by(&place, "registry", "env", &arguments);
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let mut workers: Vec<Worker> =
        REPOSITORIES.into_iter().map(|name| Worker::new(name, client.clone(), chance.random())).collect();
    let mut collections = 0;
    for round in 0..rounds() {
        let address = process.addresses(&place.path("address")).await[0];
        for worker in &mut workers {
            for tag in worker.tags.keys().cloned().collect::<Vec<_>>() {
                let looked = worker.pull(address, &tag).await;
                assert!(looked.is_ok(), "round {round}: it does not answer");
            }
        }
        let after = Duration::from_millis(chance.random_range(300..1500));
        let collecting = async {
            while collect(&client, address).await.is_ok() {
                collections += 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        let killing = async {
            tokio::time::sleep(after).await;
            process.kill();
            std::fs::remove_file(place.path("address")).unwrap();
        };
        let working = futures_util::future::join_all(workers.iter_mut().map(|worker| worker.work(address)));
        tokio::join!(working, collecting, killing);
        process.spawn();
    }
    let address = process.addresses(&place.path("address")).await[0];
    for worker in &mut workers {
        for tag in worker.tags.keys().cloned().collect::<Vec<_>>() {
            assert!(worker.pull(address, &tag).await.is_ok());
        }
    }
    process.kill();
    let acknowledged: usize = workers.iter().map(|worker| worker.acknowledged).sum();
    println!("{acknowledged} pushes acknowledged, {collections} collections");
    assert!(acknowledged > rounds() && collections > rounds(), "{acknowledged}, {collections}");
    let storage = place.path("storage");
    assert_no_leak(&storage, || tiny(&storage)).await;
}

/// As long as all of them run, and then without the one that was killed.
fn half() -> Duration {
    Duration::from_millis(scaled(2500, 60_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soak_of_registries_on_one_directory_loses_nothing_and_leaks_nothing() {
    let mut chance = chance();
    let place = Place::new("soak-shared");
    let directory = format!("{DIRECTORY}={}", place.dir().display());
    let binary = std::env::current_exe().unwrap();
    let names = ["r1", "r2", "r3"];
    let mut processes: Vec<Process> = names
        .iter()
        .map(|name| {
            let shared = format!("{SHARED_AS}={name}");
            let test = "soak::a_registry_that_collects";
            let arguments = [&directory, &shared, binary.to_str().unwrap(), "--exact", test, "--nocapture"];
            Process::start_by(&place, name, "env", &arguments)
        })
        .collect();
    let mut addresses = Vec::new();
    for (name, process) in names.iter().zip(&mut processes) {
        addresses.push(process.addresses(&place.path(&format!("{name}.address"))).await[0]);
    }
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let mut workers: Vec<Worker> =
        REPOSITORIES.into_iter().map(|name| Worker::new(name, client.clone(), chance.random())).collect();
    let until = clock::now() + 2 * half();
    // A busy machine collects less in that time.
    let latest = until + Duration::from_secs(60);
    let over = AtomicBool::new(false);
    let mut collections = [0; 3];
    let victim = chance.random_range(0..names.len());
    let collecting = async {
        // All of them, at once and in turns: one at a time does.
        let enough = |collections: &[usize]| collections.iter().sum::<usize>() > 10;
        while clock::now() < until || (!enough(&collections) && clock::now() < latest) {
            for (at, count) in addresses.iter().zip(&mut collections) {
                *count += usize::from(collect_among(&client, *at).await.unwrap_or(false));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let killing = async {
        tokio::time::sleep(half()).await;
        processes[victim].kill();
    };
    let working =
        futures_util::future::join_all(workers.iter_mut().map(|worker| worker.work_among(&addresses, &over)));
    tokio::join!(working, collecting, killing);
    let left: Vec<SocketAddr> =
        addresses.iter().enumerate().filter(|(n, _)| *n != victim).map(|(_, at)| *at).collect();
    for worker in &mut workers {
        for tag in worker.tags.keys().cloned().collect::<Vec<_>>() {
            for at in &left {
                assert!(worker.pull(*at, &tag).await.is_ok());
            }
        }
    }
    for process in &mut processes {
        process.kill();
    }
    let acknowledged: usize = workers.iter().map(|worker| worker.acknowledged).sum();
    println!("{acknowledged} pushes acknowledged, {collections:?} collections");
    assert!(acknowledged > 10 && collections.iter().sum::<usize>() > 10, "{acknowledged}, {collections:?}");
    let storage = place.path("storage");
    // Of another name: it need not wait to know whether a second one of its own is alive.
    assert_no_leak(&storage, || sharing("r4", &storage)).await;
}
