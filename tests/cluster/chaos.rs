//! Everything at once: any process dies or freezes at any moment while starts go on. Afterwards every
//! acknowledged start is there once, has come to an end, and never had a second VM; and a new one comes up.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    alone,
    support::{
        api::Api,
        cloud::{Cloud, Plan, ids},
        eventually::eventually,
        image::Image,
        scale::scaled,
        seed,
        vms::Vms,
    },
};

/// Things that go wrong, one after the other.
fn troubles() -> usize {
    scaled(14, 100)
}

/// Starts, each repeated under its key until it is answered, as a careful client does.
const STARTS: usize = 60;

/// Long enough for the longest silence to be punished and everything queued to find room.
const SETTLED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_no_start_is_lost_doubled_or_left_waiting() {
    let _turn = alone().await;
    let mut chance = seed::chance();
    let timeouts = "[timeouts]\nnode_active = \"3s\"\ninstance_active = \"3s\"\npoll = \"1s\"\nclaim = \"1s\"\n\
                    instance_visible = \"10m\"\n";
    let plan = Plan {
        etcd: 3,
        agents: 3,
        capacity: STARTS as u32,
        controller: timeouts.into(),
        agent: "[agent.process]\nstart_delay = \"200ms\"\npull_delay = \"200ms\"\n".into(),
        ..Plan::default()
    };
    let mut cloud = Cloud::start("chaos", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 11, 2, 1);
    let template = cloud.push(&image, "small", "v1").await;

    let mut clients = JoinSet::new();
    for n in 0..STARTS {
        let (api, template) = (cloud.api.clone(), template.clone());
        let begin = Duration::from_millis(chance.random_range(0..20_000));
        let end = (n % 3 == 0).then(|| Duration::from_millis(chance.random_range(0..4000)));
        clients.spawn(async move {
            tokio::time::sleep(begin).await;
            let (job, id) = start(&api, &template, n).await;
            if let Some(after) = end {
                tokio::time::sleep(after).await;
                terminate(&api, &id).await;
            }
            (job, id, end.is_some())
        });
    }
    for _ in 0..troubles() {
        trouble(&mut cloud, &mut chance).await;
    }
    let told: Vec<(String, String, bool)> = clients.join_all().await;
    cloud.upstreams_are("up").await;
    cloud.nodes_are("Active", 3).await;
    // The last troubles may have taken the VMs of all that went before; this one nothing disturbs.
    let (_, calm) = start(&cloud.api, &template, STARTS).await;
    eventually(SETTLED, "a start after it all to be up", || async {
        let shown = cloud.api.try_call("GET", &format!("/api/v1/vm?id={calm}"), None).await?;
        if shown.ok()["instance_state"] == "Started" { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;

    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for vm in cloud.list().await {
        let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        listed.entry(text("external_id")).or_default().push(text("instance_id"));
    }
    assert_eq!(listed.len(), STARTS + 1, "{listed:?}");
    for (job, id, ended) in &told {
        assert_eq!(listed.get(job), Some(&vec![id.clone()]), "{job}");
        let shown = comes_to_an_end(&cloud.api, &vms, id, *ended).await;
        // Another only after its agent went away before the first was up, and not for ever.
        assert!(vms.ever(id) <= 3, "{} VMs one after the other: {shown}", vms.ever(id));
    }
    for id in told.iter().map(|(_, id, _)| id).chain([&calm]) {
        terminate(&cloud.api, id).await;
    }
    eventually(SETTLED, "all VMs to be gone", || async {
        let running = vms.running();
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    vms.assert_never_two();
}

/// One thing goes wrong and is repaired some time later.
async fn trouble(cloud: &mut Cloud, chance: &mut StdRng) {
    let pause = Duration::from_millis(chance.random_range(100..800));
    let away = Duration::from_millis(chance.random_range(100..2500));
    let (kind, which) = (chance.random_range(0..7), chance.random_range(0..6));
    tokio::time::sleep(pause).await;
    match kind {
        0 | 1 => {
            let agent = which % cloud.agents.len();
            cloud.agents[agent].kill();
            tokio::time::sleep(away).await;
            cloud.agents[agent].spawn();
        }
        2 => {
            let agent = &cloud.agents[which % cloud.agents.len()];
            agent.freeze();
            // Longer than silence is borne.
            tokio::time::sleep(away * 2).await;
            agent.thaw();
        }
        3 => {
            let controller = which % cloud.controllers.len();
            cloud.controllers[controller].process.kill();
            tokio::time::sleep(away).await;
            cloud.controllers[controller].restart().await;
        }
        4 => {
            let controller = &cloud.controllers[which % cloud.controllers.len()].process;
            controller.freeze();
            tokio::time::sleep(away).await;
            controller.thaw();
        }
        5 => {
            cloud.proxy.process.kill();
            tokio::time::sleep(away).await;
            cloud.proxy.restart().await;
        }
        _ => {
            let member = which % cloud.etcd.len();
            cloud.etcd.kill(member);
            tokio::time::sleep(away).await;
            cloud.etcd.restart(member).await;
        }
    }
}

/// A start under a key of its own, repeated until it is answered with a success.
async fn start(api: &Api, template: &str, n: usize) -> (String, String) {
    let job = format!("job/{n}");
    let body = json!({ "vmid": template, "tag": "v1", "external_id": job });
    let key = format!("chaos-{n}");
    let id = eventually(SETTLED, &format!("{job} to be taken"), || async {
        let answer = api.call_with("POST", "/api/v1/vm", Some(&body), &[("idempotency-key", &key)]).await?;
        if answer.is_ok() { Ok(ids(&answer).remove(0)) } else { Err(answer.to_string()) }
    })
    .await;
    (job, id)
}

async fn terminate(api: &Api, id: &str) {
    eventually(SETTLED, &format!("the end of {id} to be taken"), || async {
        let answer = api.try_call("DELETE", "/api/v1/vm", Some(&json!({ "id": id }))).await?;
        if answer.is_ok() { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

/// What is shown comes to agree with what runs, and is no state to wait in.
async fn comes_to_an_end(api: &Api, vms: &Vms, id: &str, ended: bool) -> Value {
    eventually(SETTLED, &format!("{id} to come to an end"), || async {
        let shown = api.try_call("GET", &format!("/api/v1/vm?id={id}"), None).await?;
        if !shown.is_ok() {
            return Err(shown.to_string());
        }
        let shown = shown.ok();
        match (shown["instance_state"].as_str().unwrap_or_default(), vms.of(id).len()) {
            // A VM whose node was silent is kept for who wants to look into it, until it is terminated.
            ("Started", 1) | ("Error", 0 | 1) if !ended => Ok(shown),
            ("Terminating" | "Terminated", 0) if ended => Ok(shown),
            (_, running) => Err(format!("{running} VMs and {shown}")),
        }
    })
    .await
}
