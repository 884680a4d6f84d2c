//! The event log, and a receiver that fails, hangs, comes back and refuses.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use switchyard::{
    config::events::Events,
    http,
    supervise::{Stage, Tree},
    wire::agent::VmPhase,
};

use crate::{
    cloud::{Cloud, PATIENCE, Plan},
    node::Node,
    support::eventually::eventually,
};

/// How the receiver takes events.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Takes,
    Fails,
    Hangs,
    /// What has this in its free text, for good.
    Refuses,
}

#[derive(Clone)]
struct Receiver {
    manner: Arc<Mutex<Manner>>,
    taken: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<usize>>,
}

async fn take(State(receiver): State<Receiver>, body: Bytes) -> StatusCode {
    *receiver.asked.lock().unwrap() += 1;
    let manner = *receiver.manner.lock().unwrap();
    let event: Value = serde_json::from_slice(&body).unwrap();
    match manner {
        Manner::Fails => return StatusCode::SERVICE_UNAVAILABLE,
        Manner::Hangs => std::future::pending().await,
        Manner::Refuses if event["external_id"] == "bad" => return StatusCode::BAD_REQUEST,
        Manner::Refuses | Manner::Takes => {}
    }
    receiver.taken.lock().unwrap().push(event);
    StatusCode::NO_CONTENT
}

impl Receiver {
    async fn start(tree: &Tree) -> (Self, String) {
        let listener = http::bind("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let url = format!("http://{}/events?token=s3cret", listener.local_addr().unwrap());
        let manner = Arc::new(Mutex::new(Manner::Takes));
        let receiver = Self { manner, taken: Arc::default(), asked: Arc::default() };
        let router = Router::new().route("/events", post(take)).with_state(receiver.clone());
        tree.handle().start_vital(Stage::Store, "receiver", move |stop| {
            http::serve(listener, None, router, stop, Duration::ZERO)
        });
        (receiver, url)
    }

    fn is(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn actions(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let mut seen = Vec::new();
        // At least once: what came again is the same by its id.
        let new = taken.iter().filter(|event| {
            let new = !seen.contains(&event["id"]);
            seen.push(event["id"].clone());
            new
        });
        new.map(|event| event["action"].as_str().unwrap().to_owned()).collect()
    }

    async fn has(&self, wanted: &[&str]) {
        eventually(PATIENCE, &format!("it has {wanted:?}"), async || {
            let actions = self.actions();
            if actions == wanted { Ok(()) } else { Err(format!("{actions:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_written_down_and_read_in_pages() {
    let cloud = Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    let node = Node::joined(api, "n-1").await;
    api.post("/api/v1/node/config", &json!({ "node_id": "n-1", "max_vm_count": 3 })).await.ok();
    let ask = json!({ "vmid": template, "count": 2, "external_id": "job/7" });
    let ids = api.post("/api/v1/vm", &ask).await.ok();
    let task = node.offered().await;
    node.run(&task).await;
    api.delete("/api/v1/vm", &json!({ "id": task.instance })).await.ok();
    node.report(node.vm(&task, VmPhase::Gone)).await;
    let other = node.offered().await;
    node.claim(&other).await;
    node.report(switchyard::wire::agent::SeenVm {
        message: "no disk".into(),
        ..node.vm(&other, VmPhase::Failed)
    })
    .await;
    api.delete("/api/v1/node", &json!({ "node_id": "n-1" })).await.ok();
    api.delete(&format!("/api/v1/registry/vm?id={template}"), &json!({})).await.ok();

    let page = async |query: &str| {
        let answer = cloud.apis[1].get(&format!("/switchyard/v1/events{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let all = page("").await;
    let events = all["events"].as_array().unwrap();
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    let wanted = [
        "ConfigNode",
        "StartVM",
        "VMStarted",
        "TerminateVM",
        "VMTerminated",
        "VMFailedToStart",
        "DeleteNode",
        "DeleteRegistryVm",
    ];
    assert_eq!(actions, wanted);
    assert_eq!(
        (&events[1]["type"], &events[1]["instance_ids"], &events[1]["count"]),
        (&json!("apiAction"), &ids, &json!(2))
    );
    assert_eq!((&events[2]["type"], &events[2]["external_id"]), (&json!("systemAction"), &json!("job/7")));
    assert_eq!(
        (&events[2]["node_id"], &events[2]["instance_ids"][0]),
        (&json!("n-1"), &json!(task.instance))
    );
    assert!(events[5]["message"].as_str().unwrap().contains("no disk"), "{}", events[5]);
    assert_eq!(events[7]["template_id"], template);
    // Page by page it is the same, and by action it is those.
    let mut next = String::new();
    let mut paged = Vec::new();
    loop {
        let page = page(&format!("?limit=3&cursor={next}")).await;
        paged.extend(page["events"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(cursor) => next = cursor.to_owned(),
            None => break,
        }
    }
    assert_eq!(&paged, events);
    assert_eq!(page("?action=VMStarted").await["events"].as_array().unwrap().len(), 1);
    let refused = api.get("/switchyard/v1/events?action=x").await;
    assert!(refused.is_clean(400) && refused.failure().unwrap().contains("`action`"), "{refused:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_hangs_and_returns_misses_nothing() {
    let outside = Tree::new();
    let (receiver, url) = Receiver::start(&outside).await;
    let events = Events { url: Some(url.parse().unwrap()), ..Events::default() };
    let cloud = Cloud::planned(Plan { controllers: 2, events, ..Plan::default() }).await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    cloud.instance(&template).await;
    receiver.has(&["StartVM"]).await;

    let tried = async |more: usize| {
        let before = *receiver.asked.lock().unwrap();
        eventually(PATIENCE, "it is tried", async || {
            let asked = *receiver.asked.lock().unwrap();
            if asked >= before + more { Ok(()) } else { Err(asked) }
        })
        .await;
    };
    for manner in [Manner::Fails, Manner::Hangs] {
        receiver.is(manner);
        let id = cloud.instance(&template).await;
        api.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
        tried(1).await;
    }
    receiver.is(Manner::Takes);
    let all = ["StartVM", "StartVM", "TerminateVM", "StartVM", "TerminateVM"];
    receiver.has(&all).await;
    // Each with its id and its place, in order; one leader at a time tells it.
    let taken = receiver.taken.lock().unwrap().clone();
    assert!(
        taken.windows(2).all(|two| two[0]["revision"].as_i64() <= two[1]["revision"].as_i64()),
        "{taken:?}"
    );
    assert!(taken.iter().all(|event| event["id"].is_string() && event["time"].is_string()));

    // What it refuses for good does not hold up what comes after it.
    receiver.is(Manner::Refuses);
    let ids = api.post("/api/v1/vm", &json!({ "vmid": template, "external_id": "bad" })).await.ok();
    api.delete("/api/v1/vm", &json!({ "id": ids[0] })).await.ok();
    cloud.instance(&template).await;
    receiver.has(&[all.as_slice(), &["StartVM", "StartVM"]].concat()).await;
    let sum = |name: &str, texts: &[String]| -> f64 {
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with(name)).map(value).sum()
    };
    eventually(PATIENCE, "it is counted", async || {
        let mut texts = Vec::new();
        for api in &cloud.apis {
            texts.push(api.get("/metrics").await.text);
        }
        let count = |outcome: &str| {
            sum(&format!("switchyard_controller_events_total{{outcome=\"{outcome}\"}}"), &texts)
        };
        let (sent, failed, lost) = (count("sent"), count("failed"), count("lost"));
        let waiting = sum("switchyard_controller_events_waiting", &texts);
        if sent >= 7.0 && failed >= 2.0 && lost == 1.0 && waiting == 0.0 {
            Ok(())
        } else {
            Err(format!("{sent} {failed} {lost} {waiting}"))
        }
    })
    .await;
    cloud.stop().await;
    outside.shut_down(Duration::from_secs(5)).await;
}
