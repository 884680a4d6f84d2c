//! A controller dies under load: nothing for repeatable calls and for starts; any other call a clean 502.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    alone,
    support::{
        cloud::{Cloud, Plan, SOON, ids},
        image::Image,
        load::{Ask, Call, Load, assert_none},
        scale::scaled,
        vms::Vms,
    },
};

/// Calls of one run; four times as many at full size.
fn total() -> usize {
    scaled(2400, 9600)
}

const PER_SECOND: u32 = 120;
/// Every so manieth call is a start, a change and an end.
const EVERY: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_dies_under_load_and_no_start_is_lost_or_doubled() {
    let _turn = alone().await;
    let plan = Plan {
        capacity: scaled(60, 240),
        // What has ended stays in the list to the end of the scenario, so that it can be counted.
        controller: "[timeouts]\ninstance_visible = \"10m\"\n".into(),
        ..Plan::default()
    };
    let mut cloud = Cloud::start("kill", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 2, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;

    let mut load =
        Load::start(&cloud.api, total(), PER_SECOND, move |number, before| mix(&template, number, before));
    for (at, victim) in [(total() / 6, 0), (total() * 3 / 6, 1)] {
        load.sent(at).await;
        cloud.controllers[victim].process.kill();
        load.sent(at + total() / 6).await;
        cloud.controllers[victim].restart().await;
    }
    let calls = load.end().await;

    assert_none(&calls, "calls had no HTTP answer", |c| c.outcome.is_err());
    assert_none(&calls, "repeatable calls failed", |c| {
        !["start", "change"].contains(&c.ask.kind) && !c.is_ok()
    });
    assert_none(&calls, "starts failed", |c| c.ask.kind == "start" && !c.is_ok());
    assert_none(&calls, "other failures are no clean 502", |c| {
        !c.is_ok() && !c.outcome.as_ref().is_ok_and(|answer| answer.is_clean(502))
    });
    every_start_is_there_once(&cloud, &calls, &vms).await;
}

/// Mostly reads, and a start, a change and an end in every two dozen.
fn mix(template: &str, number: usize, before: &[Call]) -> Ask {
    let started = |back: usize| {
        let starts: Vec<&Call> = before.iter().filter(|c| c.ask.kind == "start" && c.is_ok()).collect();
        let answer = starts.get(starts.len().checked_sub(back)?)?.outcome.as_ref().ok()?;
        ids(answer).into_iter().next()
    };
    match number % EVERY {
        0 => {
            let body = json!({ "vmid": template, "tag": "v1", "external_id": format!("job/{number}") });
            Ask::with("start", "POST", "/api/v1/vm", body)
        }
        6 if let Some(id) = started(1) => {
            let body = json!({ "metadata": { "seen": number } });
            Ask::with("change", "PUT", format!("/api/v1/vm?id={id}"), body)
        }
        // Every other instance is ended again, some time after its start.
        12 if number / EVERY % 2 == 1
            && let Some(id) = started(2) =>
        {
            Ask::with("end", "DELETE", "/api/v1/vm", json!({ "id": id }))
        }
        n if n % 6 == 1 => Ask::get("list", "/api/v1/vm"),
        n if n % 6 == 2 => Ask::get("nodes", "/api/v1/node"),
        n if n % 6 == 3 => Ask::get("templates", "/api/v1/registry/vm"),
        n if n % 6 == 4
            && let Some(id) = started(1) =>
        {
            Ask::get("show", format!("/api/v1/vm?id={id}"))
        }
        _ => Ask::get("status", "/api/v1/status"),
    }
}

async fn every_start_is_there_once(cloud: &Cloud, calls: &[Call], vms: &Vms) {
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for vm in cloud.list().await {
        let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        listed.entry(text("external_id")).or_default().push(text("instance_id"));
    }
    let mut starts = 0;
    for call in calls.iter().filter(|c| c.ask.kind == "start") {
        let job = call.ask.body.as_ref().and_then(|b| b["external_id"].as_str()).unwrap_or_default();
        let told = ids(call.outcome.as_ref().expect("checked before"));
        assert_eq!(listed.get(job), Some(&told), "{call:?}");
        starts += 1;
    }
    assert_eq!(listed.len(), starts, "nothing is there that nobody started: {listed:?}");
    assert!(starts >= total() / EVERY, "{starts} starts");

    let ended: BTreeSet<&str> = calls
        .iter()
        .filter(|c| c.ask.kind == "end")
        .filter_map(|c| c.ask.body.as_ref()?["id"].as_str())
        .collect();
    assert!(!ended.is_empty());
    for id in listed.values().flatten() {
        if ended.contains(id.as_str()) {
            cloud.reaches(id, &["Terminating", "Terminated"], SOON).await;
        } else {
            cloud.reaches(id, &["Started"], SOON).await;
            assert_eq!(vms.ever(id), 1, "{id} had one VM");
        }
    }
    vms.assert_never_two();
}
