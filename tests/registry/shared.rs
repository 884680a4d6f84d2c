//! Three registries as processes on one directory, and a proxy before them: whoever is asked, the answer is the newest, and a
//! process that is killed takes nothing with it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use switchyard::model::Digest;

use crate::{
    rig::{MANIFEST, header, image, noise, refusal},
    support::{eventually::eventually, place::Place, process::Process, seed::chance},
};

const SOON: Duration = Duration::from_secs(30);

/// What each of three clients does; they share the repositories and not the tags.
const ROUNDS: u64 = 12;

struct One {
    process: Process,
    address_file: PathBuf,
    address: SocketAddr,
}

impl One {
    async fn start(place: &Place, name: &str, kind: &str, storage: &Path) -> Self {
        let address_file = place.path(&format!("{name}.address"));
        let config = place.write(
            &format!("{name}.toml"),
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\nname = \"{name}\"\naddress_file = {address_file:?}\n[storage]\n\
                 {kind} = {storage:?}\n[limits]\nreserve = \"1MiB\"\n"
            ),
        );
        let mut process = Process::start(place, name, &["registry", "-c", config.to_str().unwrap()]);
        let address = process.addresses(&address_file).await[0];
        Self { process, address_file, address }
    }

    fn kill(&mut self) {
        self.process.kill();
        std::fs::remove_file(&self.address_file).unwrap();
    }

    async fn again(&mut self) {
        self.process.spawn();
        self.address = self.process.addresses(&self.address_file).await[0];
    }
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

async fn three(place: &Place) -> Vec<One> {
    let storage = place.path("storage");
    let mut all = Vec::new();
    for name in ["r1", "r2", "r3"] {
        all.push(One::start(place, name, "shared", &storage).await);
    }
    for one in &all {
        ready(one.address).await;
    }
    all
}

async fn ready(address: SocketAddr) {
    let client = client();
    eventually(SOON, "a registry that has seen what the others write", || async {
        let answer = client.get(format!("http://{address}/readyz")).send().await;
        let body: Value = answer.map_err(|e| e.to_string())?.json().await.map_err(|e| e.to_string())?;
        if body["read"] == true && body["write"] == true { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

/// Pushes an image in chunks; an error where the registry went away.
async fn push(
    client: &Client,
    at: SocketAddr,
    name: &str,
    tag: &str,
    layer: &[u8],
) -> reqwest::Result<StatusCode> {
    let base = format!("http://{at}/v2/{name}");
    let config = format!(r#"{{"tag":"{tag}"}}"#);
    for blob in [config.as_bytes(), layer] {
        let began = client.post(format!("{base}/blobs/uploads/")).send().await?;
        assert_eq!(began.status(), 202, "{}", began.text().await?);
        let session = format!("http://{at}{}", header(&began, "location"));
        let (first, rest) = blob.split_at(blob.len() / 2);
        let patched = client.patch(&session).body(first.to_vec()).send().await?;
        assert_eq!(patched.status(), 202, "{}", patched.text().await?);
        let put =
            client.put(format!("{session}?digest={}", Digest::of(blob))).body(rest.to_vec()).send().await?;
        assert_eq!(put.status(), 201, "{}", put.text().await?);
    }
    let manifest = image(config.as_bytes(), &[layer]).to_string();
    let put = client.put(format!("{base}/manifests/{tag}")).header("content-type", MANIFEST).body(manifest);
    Ok(put.send().await?.status())
}

/// Whether a registry shows a tag; all that it needs must be there.
async fn shows(client: &Client, at: SocketAddr, name: &str, tag: &str) -> bool {
    let answer = client.get(format!("http://{at}/v2/{name}/manifests/{tag}")).send().await.unwrap();
    if answer.status() == StatusCode::NOT_FOUND {
        return false;
    }
    assert_eq!(answer.status(), StatusCode::OK);
    let digest = header(&answer, "docker-content-digest");
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(Digest::of(&bytes).to_string(), digest);
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    for part in manifest["layers"].as_array().unwrap() {
        let digest = part["digest"].as_str().unwrap();
        let blob = client.get(format!("http://{at}/v2/{name}/blobs/{digest}")).send().await.unwrap();
        assert_eq!(blob.status(), StatusCode::OK, "{name}:{tag} needs {digest}");
        assert_eq!(Digest::of(&blob.bytes().await.unwrap()).to_string(), digest);
    }
    true
}

/// What one client knows for certain of its own tags: there, or not.
type Certain = BTreeMap<(String, String), bool>;

async fn works(own: u64, addresses: Arc<Vec<SocketAddr>>, seed: u64) -> Certain {
    let client = client();
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(own));
    let mut certain = Certain::new();
    for round in 0..ROUNDS {
        let at = addresses[random.random_range(0..addresses.len())];
        let name = format!("team/t{}", random.random_range(0..2));
        let known: Vec<(String, String)> =
            certain.iter().filter(|(_, there)| **there).map(|(key, _)| key.clone()).collect();
        let (key, there, done) = if random.random_bool(0.25) && !known.is_empty() {
            let (name, tag) = known[random.random_range(0..known.len())].clone();
            let gone = client.delete(format!("http://{at}/v2/{name}/manifests/{tag}")).send().await;
            ((name, tag), false, gone.map(|answer| answer.status()))
        } else {
            let tag = format!("c{own}-{round}");
            let layer = noise(own * 1000 + round, 30_000);
            let pushed = push(&client, at, &name, &tag, &layer).await;
            ((name, tag), true, pushed)
        };
        match done {
            Ok(status) if status.is_success() => {
                certain.insert(key.clone(), there);
                // Whoever is asked next has it, at once.
                for other in addresses.iter() {
                    let asked = client.get(format!("http://{other}/v2/{}/manifests/{}", key.0, key.1)).send();
                    let Ok(answer) = asked.await else { continue };
                    let expected = if there { 200 } else { 404 };
                    assert_eq!(answer.status(), expected, "{key:?} at {other}, after {at} acknowledged it");
                }
            }
            // It was killed; what it had begun may have come true or not.
            Err(_) => drop(certain.remove(&key)),
            Ok(status) => panic!("{key:?} at {at}: {status}"),
        }
    }
    certain
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_on_one_directory_agree_on_every_tag_also_when_one_is_killed() {
    let place = Place::new("shared-agree");
    let mut all = three(&place).await;
    let addresses = Arc::new(all.iter().map(|one| one.address).collect::<Vec<_>>());
    let seed = chance().random();
    let workers = join_all((0..3).map(|own| works(own, addresses.clone(), seed)));
    let (done, ()) = tokio::join!(workers, async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        all[1].kill();
    });
    let certain: Certain = done.into_iter().flatten().collect();
    assert!(certain.values().any(|there| *there));
    all[1].again().await;
    ready(all[1].address).await;
    let client = client();
    let mut lists = Vec::new();
    for one in &all {
        for ((name, tag), there) in &certain {
            assert_eq!(shows(&client, one.address, name, tag).await, *there, "{name}:{tag}, seed {seed}");
        }
        let list: Value = client
            .get(format!("http://{}/registry/v2/vm", one.address))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let of = |template: &Value| ["id", "name", "size"].map(|key| template[key].clone());
        lists.push(list["body"].as_array().unwrap().iter().map(of).collect::<Vec<_>>());
    }
    assert!(lists.iter().all(|list| list == &lists[0]), "{lists:?}");

    // Numbers were given once each.
    for [id, ..] in &lists[0] {
        let id = id.as_str().unwrap();
        let one: Value = client
            .get(format!("http://{}/registry/vm?id={id}", all[0].address))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let mut numbers: Vec<i64> = one["body"]["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["number"].as_i64().unwrap())
            .collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{one}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_began_and_is_refused_elsewhere_in_words() {
    let place = Place::new("shared-uploads");
    let all = three(&place).await;
    let client = client();
    let began = client.post(format!("http://{}/v2/a/blobs/uploads/", all[0].address)).send().await.unwrap();
    let session = header(&began, "location");
    assert!(session.contains("/r1."), "{session}");
    let elsewhere =
        client.patch(format!("http://{}{session}", all[1].address)).body("x").send().await.unwrap();
    let text = elsewhere.text().await.unwrap();
    assert!(text.contains("BLOB_UPLOAD_UNKNOWN") && text.contains("registry `r1`"), "{text}");
    let status = client.get(format!("http://{}{session}", all[2].address)).send().await.unwrap();
    assert_eq!(refusal(status).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let digest = Digest::of(b"x");
    let end = client.put(format!("http://{}{session}?digest={digest}", all[0].address)).body("x");
    assert_eq!(end.send().await.unwrap().status(), 201);
    let there = client.head(format!("http://{}/v2/a/blobs/{digest}", all[2].address)).send().await.unwrap();
    assert_eq!(there.status(), 200);
    // There are no positions to go by.
    let positions = there.headers().keys().filter(|name| name.as_str().starts_with("switchyard-position"));
    assert_eq!(positions.count(), 0);

    // One that has this directory alone, or the same name, does not start.
    let storage = place.path("storage");
    for (name, kind, says) in
        [("r9", "disk", "`shared = …`"), ("r2", "shared", "another registry named `r2`")]
    {
        let config = place.write(
            "refused.toml",
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\nname = \"{name}\"\n[storage]\n{kind} = {storage:?}\n"
            ),
        );
        let mut refused = Process::start(&place, "refused", &["registry", "-c", config.to_str().unwrap()]);
        assert_eq!(refused.ended(SOON).await.code(), Some(1));
        assert!(refused.log().contains(says), "{}", refused.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_at_once_through_a_proxy_find_their_sessions_again() {
    let place = Place::new("shared-proxy");
    let all = three(&place).await;
    let (address_file, run_dir) = (place.path("proxy.address"), place.path("run"));
    let (front, admin) = (place.address(), place.address());
    let upstreams: String = (1..)
        .zip(&all)
        .map(|(n, one)| format!("{{ name = \"r{n}\", address = \"{}\" }}, ", one.address))
        .collect();
    let config = place.write(
        "proxy.toml",
        &format!(
            "[proxy]\nthreads = 1\nrun_dir = {run_dir:?}\naddress_file = {address_file:?}\n[admin]\nlisten = \"{admin}\"\n\
             [[listener]]\nname = \"front\"\nbind = [\"{front}\"]\nservice = \"registries\"\n\
             [service.registries]\nkind = \"registry\"\nstorage = \"shared\"\nupstreams = [{upstreams}]\n"
        ),
    );
    let mut proxy = Process::start(&place, "proxy", &["proxy", "-c", config.to_str().unwrap()]);
    proxy.addresses(&address_file).await;
    ready(front).await;
    let client = client();
    let pushes = (0..25u64).map(|n| {
        let client = client.clone();
        async move {
            let layer = noise(n, 100_000);
            push(&client, front, &format!("parallel/p{}", n % 5), &format!("t{n}"), &layer).await.unwrap()
        }
    });
    for status in join_all(pushes).await {
        assert_eq!(status, StatusCode::CREATED);
    }
    for n in 0..25 {
        for one in &all {
            assert!(
                shows(&client, one.address, &format!("parallel/p{}", n % 5), &format!("t{n}")).await,
                "t{n}"
            );
        }
    }
}
