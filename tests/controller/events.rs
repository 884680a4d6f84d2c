//! The event log, and a receiver that fails, hangs, comes back and refuses.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use switchyard::{
    clock,
    config::events::Events,
    controller::records::{WriteId, encode},
    http,
    store::{Txn, keys::Keys},
    supervise::{Stage, Tree},
    telemetry::Metrics,
    tls::{ClientAuth, Pair, Server, Upstream, UpstreamSetting},
    wire::{
        agent::VmPhase,
        events::{Action, Event},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    certificates::{self, Authority},
    cloud::{Cloud, PATIENCE, Plan},
    node::Node,
    secured::Files,
    support::{api::Api, eventually::eventually},
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
        Self::start_with(tree, None).await
    }

    async fn start_with(tree: &Tree, tls: Option<Server>) -> (Self, String) {
        let listener = http::bind("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/events?token=s3cret", listener.local_addr().unwrap());
        let tls = tls.map(|tls| http::Secure::new(tls, &Metrics::new()).unwrap());
        let manner = Arc::new(Mutex::new(Manner::Takes));
        let receiver = Self { manner, taken: Arc::default(), asked: Arc::default() };
        let router = Router::new().route("/events", post(take)).with_state(receiver.clone());
        tree.handle().start_vital(Stage::Store, "receiver", move |stop| {
            http::serve(listener, tls.clone(), router, stop, Duration::ZERO)
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

/// A counter of a controller, or what it shows instead.
async fn counted(api: &Api, name: &str) -> Result<f64, String> {
    let text = api.get("/metrics").await.text;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.ok_or(text)
}

const LOST: &str = "switchyard_controller_events_total{outcome=\"lost\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_inside_tls_is_told_by_certificate_and_a_wrong_authority_costs_no_event() {
    let (outside, files) = (Tree::new(), Files::new());
    let tls = files.server(ClientAuth::Required(files.trust()));
    let (receiver, url) = Receiver::start_with(&outside, Some(tls)).await;
    let (cert, key) = files.ca.client("c1").write(files.folder.path(), "hooks");
    let ca = certificates::write(files.folder.path(), "hooks-ca.pem", &Authority::new("strange").cert());
    let identity = Some(Pair { cert, key });
    let setting = UpstreamSetting { ca: Some(ca), server_name: None, identity, verify: true };
    let tls = Upstream::load(setting).unwrap();
    let events = Events { url: Some(url.parse().unwrap()), tls: Some(tls.clone()), ..Events::default() };
    let cloud = Cloud::planned(Plan { events, ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    cloud.instance(&template).await;
    let failed = "switchyard_controller_events_total{outcome=\"failed\"}";
    eventually(PATIENCE, "it is not told to a stranger", async || {
        match counted(cloud.api(), failed).await? {
            0.0 => Err("nothing failed yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(*receiver.asked.lock().unwrap(), 0, "nothing was sent");
    certificates::write(files.folder.path(), "hooks-ca.pem", &files.ca.cert());
    assert_eq!(tls.refresh(), Ok(true));
    receiver.has(&["StartVM"]).await;
    let said = cloud.api().get("/metrics").await.text;
    assert!(said.contains("switchyard_tls_files_ok{of=\"events.tls\"} 1"), "{said}");
    assert!(said.contains("switchyard_tls_certificate_until_seconds{of=\"events.tls\"}"), "{said}");
    cloud.stop().await;
    outside.shut_down(Duration::from_secs(5)).await;
}

/// A watch of events whose client has read its first and then reads no more, over a socket that holds little.
async fn stalled(api: &Api) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = api.base().strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /switchyard/v1/watch?kinds=events HTTP/1.1\r\nHost: c\r\n\r\n").await.unwrap();
    let mut begun = Vec::new();
    while !String::from_utf8_lossy(&begun).contains("event: from") {
        assert!(stream.read_buf(&mut begun).await.unwrap() > 0, "{}", String::from_utf8_lossy(&begun));
    }
    stream
}

/// What the cloud keeps at most: events in its log, changes for watches (`docs/events.md`, `docs/instances.md`).
const LOG: usize = 10_000;
const CHANGES: usize = 16_384;

#[tokio::test(flavor = "multi_thread")]
async fn events_beyond_the_log_are_counted_as_lost_and_a_watch_that_is_behind_is_ended() {
    let outside = Tree::new();
    let (receiver, url) = Receiver::start(&outside).await;
    receiver.is(Manner::Fails);
    let events = Events { url: Some(url.parse().unwrap()), ..Events::default() };
    let cloud = Cloud::planned(Plan { events, registry: false, ..Plan::default() }).await;
    let mut slow = stalled(cloud.api()).await;

    // Larger ones first: more than sockets hold. Then as many as no watch is kept for.
    let (keys, mut written, mut bytes) = (Keys::new("main"), 0, 0);
    for (count, message) in [(1_000, "x".repeat(12 * 1024)), (CHANGES + 100, String::new())] {
        let mut left = count;
        while left > 0 {
            let mut txn = Txn::new();
            for _ in 0..left.min(100) {
                let event =
                    Event { message: message.clone(), ..Event::new(Action::VMStarted, clock::wall()) };
                let record = encode(&event, &WriteId::random()).unwrap();
                bytes += record.len();
                txn = txn.put(keys.event(&event.id), record);
            }
            left -= left.min(100);
            cloud.store.txn(txn).await.unwrap();
        }
        written += count;
    }

    // The oldest are forgotten, some at a time, and each of them is counted as lost.
    eventually(PATIENCE, "events are told as lost", async || {
        let lost = counted(cloud.api(), LOST).await?;
        if lost > 0.0 { Ok(()) } else { Err(format!("{lost}")) }
    })
    .await;
    let lost = counted(cloud.api(), LOST).await.unwrap();
    assert!(lost <= (written - LOG) as f64, "{lost} of {written}");
    assert!(receiver.taken.lock().unwrap().is_empty());

    // What was sent is what sockets hold, and then it is over.
    let (mut sent, mut last) = (0, Vec::new());
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = tokio::time::timeout(PATIENCE, slow.read(&mut piece)).await.expect("it goes on").unwrap();
        assert!(read > 0, "it broke off: {}", String::from_utf8_lossy(&last));
        sent += read;
        last.extend_from_slice(&piece[..read]);
        last.drain(..last.len().saturating_sub(4096));
        if String::from_utf8_lossy(&last).contains("event: end") {
            break;
        }
    }
    let last = String::from_utf8_lossy(&last).into_owned();
    assert!(last.contains("\"why\":\"behind\""), "{last}");
    assert!(sent < bytes * 3 / 4, "{sent} of {bytes} bytes were sent");
    let behind = "switchyard_controller_streams_ended_total{why=\"behind\"}";
    assert_eq!(counted(cloud.api(), behind).await.unwrap(), 1.0);
    cloud.stop().await;
    outside.shut_down(Duration::from_secs(5)).await;
}
