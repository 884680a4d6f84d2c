//! etcd loses one of three: nothing visible. It loses two: reads go on and say that they are stale, writes are
//! refused in the client's own format, nobody is ejected, nothing is failed, and it recovers by itself.

use std::time::Duration;

use serde_json::json;
use switchyard::{clock, wire::headers};

use crate::{
    support::{
        api::Answer,
        cloud::{Cloud, Plan, SOON, ids},
        eventually::{eventually, never},
        image::Image,
        load::{Ask, Load, assert_none},
        vms::Vms,
    },
    turn,
};

/// The clients' patience (`reference/real-clients.md` §11, rule 8).
const READS: Duration = Duration::from_secs(5);
const WRITES: Duration = Duration::from_secs(10);

/// Members elect within two seconds, and a read waits for that long; only when votes are split it takes a second round.
const ELECTION: Duration = Duration::from_millis(2200);

/// Silence is punished soon here, so that an outage outlasts it.
const TIMEOUTS: &str = "[timeouts]\nnode_active = \"4s\"\ninstance_active = \"4s\"\npoll = \"2s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn etcd_loses_a_member_then_its_quorum_and_recovers() {
    let _turn = turn().await;
    let plan = Plan { etcd: 3, capacity: 40, controller: TIMEOUTS.into(), ..Plan::default() };
    let mut cloud = Cloud::start("quorum", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 3, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;
    let first = cloud.run(json!({ "vmid": template })).await.remove(0);
    cloud.reaches(&first, &["Started"], SOON).await;

    // One of three, and the one that hurts most.
    let leader = cloud.etcd.leader().await;
    let of = template.clone();
    let mut load = Load::start(&cloud.api, 400, 40, move |number, _| match number % 20 {
        0 => Ask::with(
            "start",
            "POST",
            "/api/v1/vm",
            json!({ "vmid": of, "external_id": format!("job/{number}") }),
        ),
        n if n % 2 == 0 => Ask::get("list", "/api/v1/vm"),
        _ => Ask::get("nodes", "/api/v1/node"),
    });
    load.sent(100).await;
    cloud.etcd.kill(leader);
    let calls = load.end().await;
    assert_none(&calls, "calls saw the loss of one member", |c| !c.is_ok());
    assert_none(
        &calls,
        "answers are called stale although the others had not had their time to elect",
        |c| {
            let stale = |answer: &Answer| answer.header(headers::STALE).is_some() && answer.took < ELECTION;
            c.outcome.as_ref().is_ok_and(stale)
        },
    );
    for call in calls.iter().filter(|c| c.ask.kind == "start") {
        let id = ids(call.outcome.as_ref().expect("checked above")).remove(0);
        cloud.reaches(&id, &["Started"], SOON).await;
    }
    cloud.etcd.restart(leader).await;

    // Two of three, for longer than silence is borne.
    let before = cloud.list().await;
    let gone = [leader, (leader + 1) % 3];
    for member in gone {
        cloud.etcd.kill(member);
    }
    reads_go_on_and_say_so(&cloud, before.len()).await;
    writes_are_refused_in_words(&cloud, &template).await;
    let since = clock::now();
    never(Duration::from_secs(8), "while etcd has no quorum", || async {
        let list = cloud.api.get("/api/v1/vm").await;
        if !list.is_ok() || list.took > READS || list.header(headers::STALE).is_none() {
            return Err(format!("a read after {:?}: {list}", clock::now() - since));
        }
        let ejected = cloud.ejected().await?;
        if !ejected.is_empty() {
            return Err(format!("ejected: {ejected:?}"));
        }
        match cloud.upstreams().await?.iter().find(|(_, health, _)| health != "up") {
            None => Ok(()),
            Some(upstream) => Err(format!("down: {upstream:?}")),
        }
    })
    .await;

    // And back, with nobody's help.
    for member in gone {
        cloud.etcd.spawn(member);
    }
    for member in gone {
        cloud.etcd.healthy_again(member).await;
    }
    let id = eventually(SOON, "a start after the recovery", || async {
        let answer = cloud.api.try_call("POST", "/api/v1/vm", Some(&json!({ "vmid": template }))).await?;
        if answer.is_ok() { Ok(ids(&answer).remove(0)) } else { Err(answer.to_string()) }
    })
    .await;
    cloud.reaches(&id, &["Started"], SOON).await;
    let list = cloud.api.get("/api/v1/vm").await;
    assert_eq!(list.header(headers::STALE), None, "fresh again: {list}");
    let counted = cloud.admin.get("/metrics").await.text;
    assert!(
        !counted.contains("switchyard_proxy_ejections_total{"),
        "nobody was ejected at any time: {counted}"
    );
    cloud.nodes_are("Active", 2).await;
    for vm in list.ok().as_array().expect("a list") {
        assert_eq!(vm["vm"]["instance_state"], "Started", "the outage failed nothing: {vm}");
    }
    assert_eq!(vms.ever(&first), 1);
    vms.assert_never_two();
}

async fn reads_go_on_and_say_so(cloud: &Cloud, count: usize) {
    // The first ones may still wait for the store; each is answered in time, and soon all say that they are stale.
    eventually(SOON, "reads to be marked stale", || async {
        let list = cloud.api.get("/api/v1/vm").await;
        assert!(list.is_ok() && list.took < READS, "{list}");
        assert_eq!(list.ok().as_array().map(Vec::len), Some(count), "all that was known is there");
        if list.header(headers::STALE).is_some() { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
    for path in ["/api/v1/node", "/api/v1/node?id=node-1", "/api/v1/status", "/api/v1/registry/vm"] {
        let answer = cloud.api.get(path).await;
        assert!(answer.is_ok() && answer.took < READS, "{path}: {answer}");
    }
    // And at each controller, not only at the one the proxy prefers.
    for controller in &cloud.controllers {
        let list = controller.api().get("/api/v1/vm").await;
        assert!(list.is_ok() && list.header(headers::STALE).is_some(), "{}: {list}", controller.address);
    }
}

async fn writes_are_refused_in_words(cloud: &Cloud, template: &str) {
    let writes = [
        ("POST", "/api/v1/vm", json!({ "vmid": template })),
        ("DELETE", "/api/v1/vm", json!({ "id": "5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12" })),
        ("POST", "/api/v1/node/config", json!({ "node_id": "node-1", "drain_mode": false })),
    ];
    // At once: each may take its whole time.
    let answers = writes.map(|(method, path, body)| async move {
        let answer = cloud.api.call(method, path, Some(&body)).await;
        assert!(answer.is_clean(503), "{method} {path}: {answer}");
        assert!(answer.header("retry-after").is_some(), "{method} {path}: {answer}");
        assert!(answer.took < WRITES, "{method} {path}: {answer}");
    });
    futures_util::future::join_all(answers).await;
}
