//! Our own views: pages with cursors and filters, why something waits, and changes as they happen.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard::{
    model::{Digest, LayerId},
    wire::agent::VmPhase,
};

use crate::{
    cloud::{Cloud, PATIENCE, Plan},
    node::{Node, parked},
    support::{
        api::Api,
        cloud::{Front, Plan as ProxyPlan, proxy},
        place::Place,
    },
};

/// A watch, read event by event.
struct Watch {
    answer: reqwest::Response,
    kept: String,
}

#[derive(Debug)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Watch {
    async fn open(api: &Api, query: &str) -> Self {
        let answer = api.http().get(format!("{}/switchyard/v1/watch{query}", api.base()));
        let answer = answer.timeout(Duration::from_secs(120)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, kept: String::new() }
    }

    /// The next event; nothing at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.kept.split_once("\n\n") {
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
                };
                let event = field("event").map(|name| Event {
                    id: field("id"),
                    name,
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                });
                self.kept = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let piece = tokio::time::timeout(PATIENCE, self.answer.chunk()).await.expect("something comes");
            self.kept.push_str(std::str::from_utf8(&piece.unwrap()?).unwrap());
        }
    }

    /// The next event that is like this.
    async fn until(&mut self, what: &str, like: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("it ended before {what}"));
            if like(&event) {
                return event;
            }
        }
    }
}

fn is_in(state: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.data["instance"]["instance_state"] == state
}

async fn page(api: &Api, query: &str) -> Value {
    let answer = api.get(&format!("/switchyard/v1/{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn ids(page: &Value) -> Vec<String> {
    let all = page["instances"].as_array().unwrap().iter();
    all.map(|one| one["instance_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_everything_once_whatever_changes_meanwhile() {
    let cloud = Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await;
    let (one, other) = (&cloud.apis[0], &cloud.apis[1]);
    let template = cloud.template("sonoma", "v1").await;
    let mut made = Vec::new();
    for count in [3, 4] {
        let ask = json!({ "vmid": template, "count": count, "external_id": format!("job/{count}") });
        made.extend(one.post("/api/v1/vm", &ask).await.ok().as_array().unwrap().clone());
    }
    let made: Vec<String> = made.iter().map(|id| id.as_str().unwrap().to_owned()).collect();

    let first = page(other, "instances?limit=3").await;
    assert_eq!(first["instances"].as_array().unwrap().len(), 3);
    assert_eq!(first["instances"][0]["template_name"], "sonoma");
    assert_eq!(first["instances"][0]["priority"], 1000);
    assert!(first["instances"][0]["message"].as_str().unwrap().contains("no node has joined"));
    // One that was shown changes, and another one comes: what is left is what is left.
    one.delete("/api/v1/vm", &json!({ "id": ids(&first)[0] })).await.ok();
    let late = cloud.instance(&template).await;
    let mut all = ids(&first);
    let mut next = first["next"].as_str().map(str::to_owned);
    while let Some(cursor) = next {
        let page = page(one, &format!("instances?limit=3&cursor={cursor}")).await;
        assert_eq!(page["revision"], first["revision"], "that of the first page: from there one watches");
        all.extend(ids(&page));
        next = page["next"].as_str().map(str::to_owned);
    }
    let mut unique = all.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), 8, "{all:?}");
    assert!(made.iter().all(|id| all.contains(id)) && all.last() == Some(&late));

    for (query, count) in [
        ("state=terminating", 1),
        ("state=Scheduling,Terminating", 8),
        ("state=Started", 0),
        ("external_id=job/4", 4),
        ("template=sonoma", 8),
        ("template=other", 0),
        ("node=n-1", 0),
        ("group=lab", 0),
        ("name=x", 0),
    ] {
        assert_eq!(ids(&page(one, &format!("instances?{query}")).await).len(), count, "{query}");
    }
    for (query, word) in [
        ("instances?limit=0", "`limit`"),
        ("instances?limit=1001", "`limit`"),
        ("instances?state=gone", "`Terminated`"),
        ("instances?cursor=abc", "`cursor`"),
        ("nodes?state=Started", "`Active`"),
        ("nodes?cursor=abc", "`cursor`"),
        ("watch?kinds=vms", "`instances`"),
        ("watch?from=x", "`from`"),
        ("watch?from=-1", "`from`"),
    ] {
        let refused = one.get(&format!("/switchyard/v1/{query}")).await;
        assert!(refused.is_clean(400) && refused.failure().unwrap().contains(word), "{query}: {refused:?}");
    }

    let later = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, "999999999/n-1");
    let later = one.get(&format!("/switchyard/v1/nodes?cursor={later}")).await;
    assert!(later.is_clean(410) && later.failure().unwrap().contains("restored"), "{later:?}");

    for name in ["n-1", "n-2", "n-3"] {
        Node::joined(one, name).await;
    }
    let names = |page: &Value| {
        page["nodes"].as_array().unwrap().iter().map(|n| n["node_id"].clone()).collect::<Vec<_>>()
    };
    let two = page(other, "nodes?limit=2").await;
    assert_eq!(names(&two), ["n-1", "n-2"]);
    let rest = page(other, &format!("nodes?limit=2&cursor={}", two["next"].as_str().unwrap())).await;
    assert_eq!((names(&rest), rest.get("next")), (vec![json!("n-3")], None));
    assert_eq!(names(&page(one, "nodes?state=drain%20mode").await).len(), 0);
    assert_eq!(names(&page(one, "nodes?template=old&name=n-2-name").await), ["n-2"]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_which_node_refuses_it_and_who_comes_first() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    let full = Node { capacity: 1, ..Node::new(api, "n-full") };
    full.join().await;
    full.beat(Vec::new()).await;
    let running = cloud.instance(&template).await;
    full.run(&full.offered().await).await;
    let drained = Node::joined(api, "n-drained").await;
    api.post("/api/v1/node/config", &json!({ "node_id": "n-drained", "drain_mode": true })).await.ok();
    drained.beat(Vec::new()).await;

    let first = cloud.instance(&template).await;
    let ask = json!({ "vmid": template, "priority": 1, "node_id": "n-full" });
    let sooner = api.post("/api/v1/vm", &ask).await.ok()[0].as_str().unwrap().to_owned();
    let why = async |id: &str| page(api, &format!("instances/{id}/why")).await;
    let told = why(&first).await;
    assert_eq!(
        (&told["state"], &told["nodes_total"], &told["attempt"]),
        (&json!("Scheduling"), &json!(2), &json!(0))
    );
    assert!(told["why"].as_str().unwrap().contains("no node that could run it has room"), "{told}");
    assert_eq!((&told["queue"]["ahead"], &told["queue"]["waiting"]), (&json!(1), &json!(2)), "{told}");
    assert_eq!(told["queue"]["ahead_of_its_kind"], 0, "the other one asks for something else");
    assert!(told["queue"]["aged_priority"].as_f64().unwrap() <= 1000.0);
    let nodes: Vec<_> =
        told["nodes"].as_array().unwrap().iter().map(|n| (&n["node_id"], &n["reason"])).collect();
    assert_eq!(
        nodes,
        [(&json!("n-full"), &json!("full")), (&json!("n-drained"), &json!("drained"))],
        "nearest first"
    );
    assert!(told["nodes"][0]["why"].as_str().unwrap().contains("1 of 1 places are taken"));
    let other = why(&sooner).await;
    assert_eq!((&other["queue"]["ahead"], &other["nodes"][1]["reason"]), (&json!(0), &json!("other-node")));

    let runs = why(&running).await;
    assert_eq!((&runs["why"], runs.get("queue")), (&json!("it runs on node `n-full`"), None), "{runs}");
    assert_eq!(runs["node_id"], "n-full");
    assert!(api.get("/switchyard/v1/instances/i-9/why").await.is_clean(404));
    assert!(api.get("/switchyard/v1/instances/%20/why").await.is_clean(404));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_to_the_node_that_has_most_of_its_layers_and_why_says_so() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let (sonoma, ventura) = (cloud.template("sonoma", "v1").await, cloud.template("ventura", "v1").await);
    let layers = [(LayerId::of(&Digest::of(b"sonoma v1")), 10 << 30)].into();
    let has = Node { layers, ..Node::new(api, "n-has") };
    let roomy = Node { capacity: 10, ..Node::new(api, "n-roomy") };
    for node in [&has, &roomy] {
        node.join().await;
        node.beat(Vec::new()).await;
    }
    let started = async {
        parked(api, 2).await;
        cloud.instance(&sonoma).await
    };
    let (here, there, first) = tokio::join!(has.poll(1, 5), roomy.poll(1, 1), started);
    let task = here.start.unwrap_or_else(|| panic!("it went to {there:?}"));
    assert_eq!((task.instance.as_str(), there.start), (first.as_str(), None));
    has.run(&task).await;

    // What comes a moment later goes before, where its layers are.
    let other = cloud.instance(&ventura).await;
    let second = cloud.instance(&sonoma).await;
    let why = page(api, &format!("instances/{second}/why")).await;
    let told = |id: &str| {
        let all = why["nodes"].as_array().unwrap();
        all.iter().find(|node| node["node_id"] == id).unwrap_or_else(|| panic!("{why}"))["layers_there"]
            .clone()
    };
    assert_eq!((told("n-has"), told("n-roomy")), (json!(10_u64 << 30), Value::Null), "{why}");
    assert_eq!(has.offered().await.instance.as_str(), second);
    assert_eq!(roomy.offered().await.instance.as_str(), other);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_happen_and_from_where_one_was() {
    let cloud = Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await;
    let (one, other) = (&cloud.apis[0], &cloud.apis[1]);
    let template = cloud.template("sonoma", "v1").await;
    let begin = page(one, "instances").await["revision"].as_i64().unwrap();
    let mut watch = Watch::open(one, &format!("?from={begin}")).await;
    let from = watch.next().await.unwrap();
    assert_eq!((from.name.as_str(), from.data["revision"].as_i64()), ("from", Some(begin)));

    // What is done at the other controller is told at this one.
    let node = Node::joined(other, "n-1").await;
    watch.until("the node", |event| event.name == "node" && event.data["node"]["state"] == "Active").await;
    let id =
        other.post("/api/v1/vm", &json!({ "vmid": template })).await.ok()[0].as_str().unwrap().to_owned();
    let waits = watch.until("it waits", is_in("Scheduling")).await;
    assert_eq!((&waits.data["id"], &waits.data["instance"]["instance_id"]), (&json!(id), &json!(id)));
    let task = node.offered().await;
    node.run(&task).await;
    let runs = watch.until("it runs", is_in("Started")).await;
    let place = runs.data["revision"].as_i64().unwrap();
    one.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    watch.until("it ends", is_in("Terminating")).await;
    node.report(node.vm(&task, VmPhase::Gone)).await;
    watch.until("it is gone", is_in("Terminated")).await;

    // From there on, at the other controller, with nothing lost and nothing again; instances alone.
    let mut resumed = Watch::open(other, &format!("?from={place}&kinds=instances")).await;
    assert_eq!(resumed.next().await.unwrap().name, "from");
    let next = resumed.next().await.unwrap();
    assert!(is_in("Terminating")(&next) && next.data["revision"].as_i64() > Some(place), "{next:?}");
    assert!(is_in("Terminated")(&resumed.next().await.unwrap()));
    // As a browser does it that was cut off.
    let again = other.http().get(format!("{}/switchyard/v1/watch?from=1", other.base()));
    let again = again.header("last-event-id", next.id.unwrap()).send().await.unwrap();
    assert_eq!(again.status(), 200);
    let mut again = Watch { answer: again, kept: String::new() };
    assert_eq!(again.next().await.unwrap().data["revision"], next.data["revision"]);
    assert!(is_in("Terminated")(&again.until("an instance", |event| event.name == "instance").await));

    // What is not kept is told, with where to begin.
    let gone = one.get("/switchyard/v1/watch?from=0").await;
    assert!(gone.is_clean(410) && gone.failure().unwrap().contains("list anew"), "{gone:?}");
    let now = gone.json()["body"]["revision"].as_i64().unwrap();
    assert!(now >= place && gone.json()["body"]["oldest"].as_i64().unwrap() > 0);
    assert!(one.get("/switchyard/v1/watch?from=999999999").await.is_clean(410), "of another store");
    let metrics = one.get("/metrics").await.text;
    assert!(metrics.contains("switchyard_controller_streams 1\n"), "{metrics}");
    // How many there are of what, in each state.
    for line in [
        "switchyard_controller_instances{state=\"Terminated\"} 1",
        "switchyard_controller_instances{state=\"Error\"} 0",
        "switchyard_controller_nodes{state=\"Active\"} 1",
        "switchyard_controller_nodes{state=\"Offline\"} 0",
        "switchyard_controller_nodes_held 0",
        "switchyard_controller_unreadable_records 0",
        "switchyard_controller_ready{class=\"write\"} 1",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line}\n{metrics}");
    }

    // A controller that stops says where to go on.
    let stopping = async { cloud.stop().await };
    let ended = async { watch.until("its end", |event| event.name == "end").await };
    let ((), end) = tokio::join!(stopping, ended);
    assert_eq!(end.data["why"], "stopping");
    assert!(end.data["revision"].as_i64().unwrap() >= now && watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_comes_through_a_proxy_event_by_event() {
    let cloud = Cloud::start().await;
    let place = Place::new("watch-proxy");
    let bind = place.address();
    let upstreams =
        vec![("c1".to_owned(), cloud.api().base().strip_prefix("http://").unwrap().parse().unwrap())];
    let fronts = [Front { service: "controllers", kind: "controller", bind, upstreams }];
    let mut server = proxy(&place, "p1", &fronts, &ProxyPlan::default());
    server.up().await;
    let front = Api::new(bind);
    let mut watch = Watch::open(&front, "?kinds=nodes").await;
    assert_eq!(watch.next().await.unwrap().name, "from");
    for name in ["n-1", "n-2"] {
        Node::joined(&front, name).await;
        watch.until(name, |event| event.data["id"] == name).await;
    }
    drop(watch);
    crate::support::eventually::eventually(PATIENCE, "the watch is closed at the controller", async || {
        let metrics = cloud.api().get("/metrics").await.text;
        if metrics.contains("switchyard_controller_streams 0\n") { Ok(()) } else { Err(metrics) }
    })
    .await;
    cloud.stop().await;
}
