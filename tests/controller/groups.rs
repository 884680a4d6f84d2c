//! Groups of nodes: made, changed and deleted by operators, and what a group that is full falls back on.

use serde_json::{Value, json};

use crate::{
    cloud::{Cloud, Plan},
    node::Node,
};

async fn made(cloud: &Cloud, ask: Value) -> Value {
    cloud.api().post("/api/v1/group", &ask).await.ok()
}

fn id(group: &Value) -> &str {
    group["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_made_listed_changed_and_deleted() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    assert_eq!(api.get("/api/v1/group").await.ok(), json!([]));
    let spare = made(&cloud, json!({ "name": "spare" })).await;
    assert_eq!((&spare["description"], &spare["fallback_group_id"]), (&json!(""), &Value::Null));
    // A fallback by its name is taken as well.
    let lab =
        made(&cloud, json!({ "name": "lab", "description": "by the window", "fallback_group_id": "spare" }))
            .await;
    assert_eq!(lab["fallback_group_id"], spare["id"]);
    assert_eq!(api.get("/api/v1/group").await.ok(), json!([lab, spare]), "in order of name");

    for (ask, status, word) in [
        (json!({}), 400, "name is required"),
        (json!({ "name": " " }), 400, "name is empty"),
        (json!({ "name": "a\nb" }), 400, "control characters"),
        (json!({ "name": "x".repeat(2000) }), 400, "1024"),
        (json!({ "name": "lab" }), 409, "`lab` already"),
        (json!({ "name": "x", "fallback_group_id": "nobody" }), 400, "no group `nobody`"),
    ] {
        let refused = api.post("/api/v1/group", &ask).await;
        assert!(refused.is_clean(status) && refused.failure().unwrap().contains(word), "{ask}: {refused:?}");
    }

    let of = |group: &Value| format!("/api/v1/group?id={}", id(group));
    let round = api.put(&of(&spare), &json!({ "fallback_group_id": id(&lab) })).await;
    assert!(round.is_clean(400) && round.failure().unwrap().contains("go round"), "{round:?}");
    let itself = api.put(&of(&lab), &json!({ "fallback_group_id": id(&lab) })).await;
    assert!(itself.is_clean(400), "{itself:?}");
    assert!(api.put(&of(&lab), &json!({ "name": "spare" })).await.is_clean(409));
    assert!(api.put(&of(&lab), &json!({ "name": "lab 2", "description": "" })).await.is_ok());
    // The old name is free again, the new one is not.
    assert!(api.post("/api/v1/group", &json!({ "name": "lab 2" })).await.is_clean(409));
    let again = made(&cloud, json!({ "name": "lab" })).await;
    assert_ne!(id(&again), id(&lab));

    let used = api.delete(&of(&spare), &json!({})).await;
    assert!(used.is_clean(409) && used.failure().unwrap().contains("fallback of group `lab 2`"), "{used:?}");
    assert!(api.put(&of(&lab), &json!({ "fallback_group_id": null })).await.is_ok());
    for group in [&spare, &lab, &again] {
        assert!(api.delete(&of(group), &json!({})).await.is_ok());
        assert_eq!(api.delete(&of(group), &json!({})).await.failure().as_deref(), Some("Not found"));
    }
    assert_eq!(api.get("/api/v1/group").await.ok(), json!([]));
    made(&cloud, json!({ "name": "lab" })).await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_groups_with_one_name_at_two_controllers_one_is_made() {
    let cloud = Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await;
    for round in 0..10 {
        let ask = json!({ "name": format!("g{round}") });
        let (one, other) = tokio::join!(
            cloud.apis[0].post("/api/v1/group", &ask),
            cloud.apis[1].post("/api/v1/group", &ask),
        );
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{one:?} {other:?}");
    }
    assert_eq!(cloud.apis[1].get("/api/v1/group").await.ok().as_array().unwrap().len(), 10);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_group_falls_back_and_only_then() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    let far = made(&cloud, json!({ "name": "far" })).await;
    let near = made(&cloud, json!({ "name": "near", "fallback_group_id": id(&far) })).await;
    let lab = made(&cloud, json!({ "name": "lab", "fallback_group_id": id(&near) })).await;
    let node = async |name: &str, groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let node = Node { capacity: 1, groups, ..Node::new(api, name) };
        node.join().await;
        node.beat(Vec::new()).await;
        node
    };
    let (inside, fallback) = (node("inside", &["lab"]).await, node("fallback", &["far"]).await);
    let outside = node("outside", &["other"]).await;
    let start = json!({ "vmid": template, "group_id": id(&lab) });

    // It has room: only its own node gets the start.
    api.post("/api/v1/vm", &start).await.ok();
    assert!(fallback.poll(1, 1).await.start.is_none() && outside.poll(1, 1).await.start.is_none());
    // The next one waits; a poll of the fallback's is parked already when the group fills up.
    api.post("/api/v1/vm", &start).await.ok();
    let parked = async { fallback.poll(1, 10).await.start.expect("the fallback gets it") };
    let filling = async {
        assert!(outside.poll(1, 1).await.start.is_none());
        let task = inside.offered().await;
        inside.run(&task).await;
    };
    let began = switchyard::clock::now();
    let (second, ()) = tokio::join!(parked, filling);
    assert!(began.elapsed().as_secs() < 8, "it is woken, and does not wait for its next poll");
    fallback.run(&second).await;
    // Everybody is full: it waits and says why.
    let third = api.post("/api/v1/vm", &start).await.ok()[0].as_str().unwrap().to_owned();
    let why = api.get(&format!("/api/v1/vm?id={third}")).await.ok()["message"].as_str().unwrap().to_owned();
    assert!(why.contains("no node that could run it has room"), "{why}");
    let waits = api.delete(&format!("/api/v1/group?id={}", id(&lab)), &json!({})).await;
    assert!(waits.is_clean(409) && waits.failure().unwrap().contains("1 starts wait"), "{waits:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_put_into_groups_and_taken_out_for_good() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let lab = made(&cloud, json!({ "name": "lab" })).await;
    let node = Node { groups: vec!["old".into(), "bare".into()], ..Node::new(api, "n-1") };
    node.join().await;
    made(&cloud, json!({ "name": "old" })).await;
    let names = async || -> Vec<String> {
        let shown = api.get("/api/v1/node?id=n-1").await.ok();
        let names =
            shown[0]["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!(names().await, ["bare", "old"]);
    let listed = api.get("/api/v1/group").await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 3, "the one that is only a name as well: {listed}");
    let ask = |groups: Value| json!({ "group_ids": groups, "node_ids": ["n-1"] });
    assert!(api.post("/api/v1/node/group", &ask(json!([id(&lab)]))).await.is_ok());
    assert!(
        api.post("/api/v1/node/group", &ask(json!("lab"))).await.is_ok(),
        "once more, by name, as one text"
    );
    assert_eq!(names().await, ["bare", "lab", "old"]);
    assert!(api.delete("/api/v1/node/group", &ask(json!(["old", "bare"]))).await.is_ok());
    assert_eq!(names().await, ["lab"]);
    node.join().await;
    assert_eq!(names().await, ["lab"], "what an operator has said outlasts the agent's next join");
    for (ask, word) in [
        (json!({ "group_ids": ["lab"] }), "node_ids"),
        (json!({ "group_ids": [], "node_ids": ["n-1"] }), "group_ids"),
        (ask(json!(["nobody"])), "no group `nobody`"),
        (ask(json!([7])), "group_ids"),
    ] {
        let refused = api.post("/api/v1/node/group", &ask).await;
        assert!(refused.is_clean(400) && refused.failure().unwrap().contains(word), "{ask}: {refused:?}");
    }
    let unknown = api.delete("/api/v1/node/group", &ask(json!(["nobody"]))).await;
    assert!(unknown.is_clean(400) && unknown.text.contains("no group `nobody`"), "{unknown:?}");
    let nobody = api.post("/api/v1/node/group", &json!({ "group_ids": ["lab"], "node_ids": ["n-9"] })).await;
    assert_eq!(nobody.failure().as_deref(), Some("Not found"), "{nobody:?}");
    assert!(api.delete(&format!("/api/v1/group?id={}", id(&lab)), &json!({})).await.is_ok());
    assert_eq!(names().await, Vec::<String>::new());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_tell_what_waits_and_how_quickly_it_goes() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let stats = async || api.get("/api/v1/stats").await.ok();
    assert_eq!(stats().await, json!({ "tasks_per_second": 0.0, "average_queue_time": 0.0, "queued": 0 }));
    let template = cloud.template("sonoma", "v1").await;
    api.post("/api/v1/vm", &json!({ "vmid": template, "count": 3 })).await.ok();
    let waiting = stats().await;
    assert_eq!(waiting["queued"], 3);
    assert!(waiting["average_queue_time"].as_f64().unwrap() < 30.0, "{waiting}");
    let node = Node::joined(api, "n-1").await;
    node.run(&node.offered().await).await;
    let one = stats().await;
    assert_eq!(one["queued"], 2);
    assert!((one["tasks_per_second"].as_f64().unwrap() - 1.0 / 60.0).abs() < 1e-9, "{one}");
    cloud.stop().await;
}
