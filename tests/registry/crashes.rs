//! `kill -9` at any moment: what was acknowledged is there, what is visible is complete.

use std::{net::SocketAddr, path::Path, time::Duration};

use rand::Rng;
use reqwest::Client;
use serde_json::Value;
use switchyard::{
    model::Digest,
    registry::Registry,
    supervise::{Stage, Tree},
};

use crate::{
    rig::{MANIFEST, Rig, config, header, image, limits, noise},
    support::{place::Place, process::Process, scale::scaled, seed::chance},
};

/// Directory of the registry that this binary becomes when it runs [`a_registry_of_its_own`].
const DIRECTORY: &str = "REGISTRY_DIRECTORY";

/// How often the registry is killed.
fn kills() -> usize {
    scaled(12, 100)
}

/// Not a test of anything: the process that is killed. Without its directory it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_its_own() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = Path::new(&dir);
    let mut config = config(&dir.join("storage"), limits());
    config.server.address_file = Some(dir.join("address"));
    let tree = Tree::new();
    let role = Registry::open(config, tree.handle()).await.unwrap();
    tree.handle().start_vital(Stage::Edge, "registry", |stop| role.run(stop));
    let ended = tree.ended().await;
    panic!("{ended}");
}

/// A registry that can be killed, and looked at from outside.
pub(crate) struct Victim {
    process: Process,
    place: Place,
}

impl Victim {
    pub(crate) fn start(place: Place) -> Self {
        let binary = std::env::current_exe().unwrap();
        let directory = format!("{DIRECTORY}={}", place.dir().display());
        let arguments = [
            &directory,
            binary.to_str().unwrap(),
            "--exact",
            "crashes::a_registry_of_its_own",
            "--nocapture",
        ];
        Self { process: Process::start_by(&place, "registry", "env", &arguments), place }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().expect("it runs")
    }

    pub(crate) async fn address(&mut self) -> SocketAddr {
        let file = self.place.path("address");
        self.process.addresses(&file).await[0]
    }

    fn kill(&mut self) {
        self.process.kill();
        std::fs::remove_file(self.place.path("address")).unwrap();
    }
}

/// Pushes an image until the registry dies; tells whether the manifest was acknowledged.
async fn push(
    client: &Client,
    address: SocketAddr,
    name: &str,
    tag: &str,
    layer: &[u8],
) -> reqwest::Result<bool> {
    let base = format!("http://{address}/v2/{name}");
    let config = format!(r#"{{"tag":"{tag}"}}"#);
    for blob in [config.as_bytes(), layer] {
        let began = client.post(format!("{base}/blobs/uploads/")).send().await?;
        let session = format!("http://{address}{}", header(&began, "location"));
        let (first, rest) = blob.split_at(blob.len() / 2);
        client.patch(&session).body(first.to_vec()).send().await?;
        client.put(format!("{session}?digest={}", Digest::of(blob))).body(rest.to_vec()).send().await?;
    }
    let manifest = image(config.as_bytes(), &[layer]).to_string();
    let put = client.put(format!("{base}/manifests/{tag}")).header("content-type", MANIFEST).body(manifest);
    Ok(put.send().await?.status() == 201)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_every_visible_tag_complete() {
    let mut chance = chance();
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let mut victim = Victim::start(Place::new("killed"));
    let mut acknowledged: Vec<(String, String)> = Vec::new();
    for round in 0..kills() {
        let address = victim.address().await;
        // Two pushers, one of them always to the same tag.
        let after = Duration::from_micros(chance.random_range(0..400_000));
        let pushes = |own: bool| {
            let client = client.clone();
            async move {
                let mut done = Vec::new();
                for n in 0.. {
                    let name = if own { "mine/own" } else { "shared" };
                    let tag = if own { "latest".to_owned() } else { format!("t{round}-{n}") };
                    let layer = noise(round as u64 * 1000 + n, 200_000);
                    match push(&client, address, name, &tag, &layer).await {
                        Ok(true) => done.push((name.to_owned(), tag)),
                        Ok(false) => panic!("a push to a running registry was refused"),
                        Err(_) => break,
                    }
                }
                done
            }
        };
        let killing = async {
            tokio::time::sleep(after).await;
            victim.kill();
        };
        let (own, shared, ()) = tokio::join!(pushes(true), pushes(false), killing);
        acknowledged.extend(own);
        acknowledged.extend(shared);

        let storage = victim.place.path("storage");
        let rig = Rig::new(&storage).await;
        let names = rig.json("/v2/_catalog").await;
        let mut visible = Vec::new();
        for name in names["repositories"].as_array().unwrap().iter().filter_map(Value::as_str) {
            let list = rig.json(&format!("/v2/{name}/tags/list")).await;
            for tag in list["tags"].as_array().unwrap().iter().filter_map(Value::as_str) {
                rig.assert_complete(name, tag).await;
                visible.push((name.to_owned(), tag.to_owned()));
            }
        }
        for pushed in &acknowledged {
            assert!(visible.contains(pushed), "{pushed:?} was acknowledged and is gone");
        }
        let templates = rig.json("/registry/v2/vm").await;
        assert_eq!(
            templates["body"].as_array().unwrap().len(),
            names["repositories"].as_array().unwrap().len()
        );
        rig.stop().await;
        assert!(crate::rig::files(&storage.join("tmp")).is_empty());
        victim.process.spawn();
    }
    assert!(!acknowledged.is_empty(), "some pushes ended before a kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_on_after_its_registry_was_killed() {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let mut victim = Victim::start(Place::new("resumed"));
    let address = victim.address().await;
    let data = noise(3, 6_000_000);
    let began = client.post(format!("http://{address}/v2/go/on/blobs/uploads/")).send().await.unwrap();
    let session = header(&began, "location");
    let half = client.patch(format!("http://{address}{session}")).body(data[..4_500_000].to_vec());
    assert_eq!(half.send().await.unwrap().status(), 202);
    victim.kill();
    victim.process.spawn();
    let address = victim.address().await;
    let status = client.get(format!("http://{address}{session}")).send().await.unwrap();
    assert_eq!(header(&status, "range"), "0-4499999");
    let digest = Digest::of(&data);
    let end =
        client.put(format!("http://{address}{session}?digest={digest}")).body(data[4_500_000..].to_vec());
    assert_eq!(end.send().await.unwrap().status(), 201);
    let blob = client.get(format!("http://{address}/v2/go/on/blobs/{digest}")).send().await.unwrap();
    assert_eq!(blob.bytes().await.unwrap(), data);
}
