//! `standalone` is killed at any moment and comes back on the same data: no half-visible tag, no lost
//! acknowledged instance, no VM twice.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rand::Rng;
use serde_json::{Value, json};

use crate::{
    support::{
        api::Api,
        cloud::{SOON, ids, push, reaches, template_id},
        etcd::Etcd,
        eventually::eventually,
        image::Image,
        outside,
        place::Place,
        process::Process,
        scale::scaled,
        seed,
        vms::Vms,
    },
    turn,
};

/// Kills per scenario: each one costs a start of the whole process.
fn kills() -> u64 {
    scaled(4, 25)
}

struct Standalone {
    process: Process,
    address_file: PathBuf,
    registries: SocketAddr,
    api: Api,
    place: Place,
}

impl Standalone {
    async fn start(name: &str) -> Self {
        Self::start_with(name, &[]).await
    }

    async fn start_with(name: &str, more: &[&str]) -> Self {
        let place = Place::new(name);
        let (controllers, registries, admin) = (place.address(), place.address(), place.address());
        let (data, address_file) = (place.path("data"), place.path("addresses"));
        let arguments = [
            "standalone",
            "--data",
            &data.display().to_string(),
            "--address-file",
            &address_file.display().to_string(),
            "--controllers-addr",
            &controllers.to_string(),
            "--registries-addr",
            &registries.to_string(),
            "--admin-addr",
            &admin.to_string(),
        ];
        let arguments = [&arguments[..], more].concat();
        let process = Process::start(&place, "standalone", &arguments);
        let mut all = Self { process, address_file, registries, api: Api::new(controllers), place };
        all.up().await;
        all
    }

    async fn up(&mut self) {
        self.process.addresses(&self.address_file).await;
        eventually(SOON, "the node to be Active", || async {
            let nodes = self.api.try_call("GET", "/api/v1/node", None).await?;
            let active = nodes.is_ok() && nodes.ok()[0]["state"] == "Active";
            if active { Ok(()) } else { Err(nodes.to_string()) }
        })
        .await;
    }

    async fn kill_and_restart(&mut self) {
        self.process.kill();
        drop(std::fs::remove_file(&self.address_file));
        self.process.spawn();
        self.up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_killed_during_a_push_shows_no_half_tag() {
    let _turn = turn().await;
    let mut chance = seed::chance();
    let mut all = Standalone::start("pushkill").await;
    let kept = Image::write(&all.place.path("kept"), 40, 2, 4);
    push(&all.place, all.registries, &kept, "kept", "v1").await;

    for round in 0..kills() {
        let image = Image::write(&all.place.path(&format!("image-{round}")), 50 + round, 3, 16);
        let (tag, to) = (format!("v{round}"), format!("{}/torn:v{round}", all.registries));
        let mut client = outside::start_push(&all.place, &image.layout, &to);
        // The moment is the input: anywhere in a push that takes about a second.
        tokio::time::sleep(Duration::from_millis(chance.random_range(50..1500))).await;
        all.process.kill();
        client.kill().await.expect("the client can be killed");
        all.kill_and_restart().await;

        let copy = all.place.path(&format!("copy-{round}"));
        let tags = Api::new(all.registries).get("/v2/torn/tags/list").await;
        let shown =
            tags.status == 200 && tags.json()["tags"].as_array().is_some_and(|t| t.contains(&json!(tag)));
        println!("round {round}: shown {shown}");
        if shown {
            let said = outside::pull(&all.place, &to, &copy).await;
            assert!(said.ok, "round {round}: a visible tag is whole: {}", said.err);
        } else {
            let manifest = Api::new(all.registries).get(&format!("/v2/torn/manifests/{tag}")).await;
            assert_eq!(manifest.status, 404, "round {round}: {manifest}");
            push(&all.place, all.registries, &image, "torn", &tag).await;
            let said = outside::pull(&all.place, &to, &copy).await;
            assert!(said.ok, "round {round}: pushed again it is there: {}", said.err);
        }
        let known = template_id(&all.api, "torn").await;
        let versions = all.api.get(&format!("/api/v1/registry/vm?id={known}")).await.ok()["versions"].clone();
        let tags: Vec<&Value> = versions.as_array().into_iter().flatten().map(|v| &v["tag"]).collect();
        assert!(tags.contains(&&json!(tag)), "round {round}: the other API shows it too: {tags:?}");
    }
    let said =
        outside::pull(&all.place, &format!("{}/kept:v1", all.registries), &all.place.path("kept-copy")).await;
    assert!(said.ok, "what was acknowledged long before is there: {}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_killed_during_starts_loses_none_and_doubles_none() {
    let _turn = turn().await;
    let mut chance = seed::chance();
    let mut all = Standalone::start("startkill").await;
    let vms = Vms::watch(&all.place);
    let image = Image::write(&all.place.path("image"), 4, 1, 1);
    push(&all.place, all.registries, &image, "small", "v1").await;
    let template = template_id(&all.api, "small").await;

    for round in 0..kills() {
        let wait = Duration::from_millis(chance.random_range(20..1200));
        let api = all.api.clone();
        let body = |n: usize| json!({ "vmid": template, "external_id": format!("job/{round}/{n}") });
        // One after the other until the process dies under them.
        let mut told: Vec<(String, Option<String>)> = Vec::new();
        let ask = async {
            for n in 0.. {
                let job = format!("job/{round}/{n}");
                let answer = api.try_call("POST", "/api/v1/vm", Some(&body(n))).await;
                let id = answer.as_ref().ok().filter(|a| a.is_ok()).map(|a| ids(a).remove(0));
                let dead = answer.is_err();
                told.push((job, id));
                if dead || told.len() >= 200 {
                    break;
                }
            }
        };
        let kill = async {
            tokio::time::sleep(wait).await;
            all.process.kill();
        };
        tokio::join!(ask, kill);
        all.kill_and_restart().await;

        let list = all.api.get("/api/v1/vm").await.ok();
        let of_job = |job: &str| -> Vec<&str> {
            let all = list.as_array().into_iter().flatten();
            all.filter(|vm| vm["external_id"] == *job).filter_map(|vm| vm["instance_id"].as_str()).collect()
        };
        println!(
            "round {round} {wait:?}: {} told, {} acknowledged",
            told.len(),
            told.iter().filter(|t| t.1.is_some()).count()
        );
        for (job, id) in &told {
            let found = of_job(job);
            match id {
                Some(id) => assert_eq!(found, [id.as_str()], "round {round} after {wait:?}: {job}: {list}"),
                None => assert!(found.len() <= 1, "round {round} after {wait:?}: {job} doubled: {found:?}"),
            }
        }
        // Each one comes to an end that a client understands; then there is room for the next round.
        for id in list.as_array().into_iter().flatten().filter_map(|vm| vm["instance_id"].as_str()) {
            let shown = all.api.get(&format!("/api/v1/vm?id={id}")).await;
            if !shown.is_ok() || shown.ok()["instance_state"] == "Terminated" {
                continue;
            }
            let answer = all.api.delete("/api/v1/vm", &json!({ "id": id })).await;
            assert!(answer.is_ok(), "{answer}");
        }
        eventually(SOON, "all VMs to be gone", || async {
            let running = vms.running();
            if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
        })
        .await;
        vms.assert_never_two();
    }

    // And one that runs is not started a second time by a restart.
    let id = ids(&all.api.post("/api/v1/vm", &json!({ "vmid": template })).await).remove(0);
    reaches(&all.api, &id, &["Started"], SOON).await;
    all.kill_and_restart().await;
    // It died with its agent, or lives: what is shown comes to agree with what is.
    let shown = eventually(SOON, "the instance to be as it is shown", || async {
        let shown = all.api.get(&format!("/api/v1/vm?id={id}")).await.ok();
        match (shown["instance_state"].as_str(), vms.of(&id).len()) {
            (Some("Started"), 1) | (Some("Error"), 0) => Ok(shown),
            (_, running) => Err(format!("{running} VMs and {shown}")),
        }
    })
    .await;
    assert_eq!(vms.ever(&id), 1, "{shown}");
    vms.assert_never_two();
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_over_an_etcd_keeps_its_state_there() {
    let _turn = turn().await;
    let etcd = Etcd::start(1).await;
    let all = Standalone::start_with("overetcd", &["--etcd", etcd.url(0).as_str()]).await;
    let image = Image::write(&all.place.path("image"), 5, 1, 1);
    push(&all.place, all.registries, &image, "small", "v1").await;
    let template = template_id(&all.api, "small").await;
    let id = ids(&all.api.post("/api/v1/vm", &json!({ "vmid": template })).await).remove(0);
    reaches(&all.api, &id, &["Started"], SOON).await;
    drop(all);

    // Another process with a directory of its own knows the instance: it is in etcd and nowhere else.
    let other = Standalone::start_with("overetcd2", &["--etcd", etcd.url(0).as_str()]).await;
    let shown = other.api.get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_eq!(shown["vmid"], json!(template), "{shown}");
}
