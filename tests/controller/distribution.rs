//! Templates that are distributed to nodes and removed from them: what the API promises, and what the node's side of
//! the protocol hears.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard::{
    clock,
    config::controller::Timeouts,
    model::CommandId,
    wire::command::{CommandState, Order},
};

use crate::{
    cloud::{Cloud, PATIENCE, Plan},
    node::Node,
    support::{api::Api, eventually::eventually},
};

const PATH: &str = "/api/v1/registry/vm/distribute";

async fn distribute(cloud: &Cloud, ask: Value) -> String {
    cloud.api().post(PATH, &ask).await.ok()["request_id"].as_str().unwrap().to_owned()
}

async fn status(api: &Api, id: &str) -> Value {
    api.get(&format!("{PATH}?id={id}")).await.ok()["distribute_status"].clone()
}

async fn until(api: &Api, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, what, async || {
        let status = status(api, id).await;
        if is(&status) { Ok(status) } else { Err(status) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_reaches_every_node_and_shows_how_far_each_is() {
    let cloud = Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    let (a, b) = (Node::joined(cloud.api(), "a").await, Node::joined(&cloud.apis[1], "b").await);
    let drained = json!({ "node_id": "b", "drain_mode": true });
    assert!(cloud.api().post("/api/v1/node/config", &drained).await.is_ok());

    // A parked poll is woken at once; one of a drained node as well.
    let since = clock::now();
    let (polled, id) =
        tokio::join!(b.poll(0, 10), distribute(&cloud, json!({ "template_id": template, "tag": "v1" })));
    assert!(since.elapsed() < Duration::from_secs(8), "woken");
    let command = polled.commands.into_iter().next().unwrap();
    let Order::Pull(pull) = &command.order else { panic!("{command:?}") };
    assert_eq!((pull.template.as_str(), pull.tag.as_str()), (template.as_str(), "v1"));
    assert_eq!(command.id.as_str(), id);
    assert!(b.poll(0, 1).await.commands.is_empty(), "not told again at once");
    assert_eq!(
        b.beat(Vec::new()).await.commands,
        std::slice::from_ref(&command),
        "but with each heartbeat that does not name it"
    );
    assert_eq!(a.beat(Vec::new()).await.commands, std::slice::from_ref(&command));
    assert_eq!(
        status(cloud.api(), &id).await,
        json!({ "a": { "status": false, "progress": 0 }, "b": { "status": false, "progress": 0 } })
    );

    let heard = a.command(&command.id, CommandState::Running, 0.5).await;
    assert!(heard.commands.is_empty() && heard.noted.is_empty());
    assert_eq!(status(&cloud.apis[1], &id).await["a"], json!({ "status": false, "progress": 0.5 }));
    // A node that pulls is offered no start.
    let start = cloud.instance(&template).await;
    assert!(a.poll(1, 1).await.start.is_none());
    let why = cloud.api().get(&format!("/api/v1/vm?id={start}")).await.ok()["message"].clone();
    assert!(why.as_str().unwrap().contains("pulling a template"), "{why}");
    a.command(&command.id, CommandState::Running, 1.0).await;
    assert_eq!(status(cloud.api(), &id).await["a"]["progress"], 0.99, "1 is told only of what is done");
    let heard = a.command(&command.id, CommandState::Done, 1.0).await;
    assert_eq!(heard.noted, std::slice::from_ref(&command.id));
    assert!(a.offered().await.instance.as_str() == start, "now it is");
    assert_eq!(status(cloud.api(), &id).await["a"], json!({ "status": true, "progress": 1 }));

    b.command(&command.id, CommandState::Running, 0.25).await;
    let heard = b.command(&command.id, CommandState::Failed, 0.25).await;
    assert_eq!(heard.noted, std::slice::from_ref(&command.id));
    assert_eq!(
        status(cloud.api(), &id).await["b"],
        json!({ "status": false, "progress": 0.25, "error": "the disk is full" })
    );
    // What is over does not change any more, whoever says what.
    b.command(&command.id, CommandState::Done, 1.0).await;
    assert_eq!(status(cloud.api(), &id).await["b"]["error"], "the disk is full");
    let list = cloud.api().get(PATH).await.ok();
    assert_eq!(
        (&list[0]["request"]["request_id"], &list[0]["request"]["template_id"]),
        (&json!(id), &json!(template))
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_distribution_is_given_up_by_nodes_that_are_not_done() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let (a, b) = (Node::joined(cloud.api(), "a").await, Node::joined(cloud.api(), "b").await);
    let id = distribute(&cloud, json!({ "template_id": template, "node_ids": ["b", "a", "a"] })).await;
    let command: CommandId = id.parse().unwrap();
    a.command(&command, CommandState::Done, 1.0).await;
    b.command(&command, CommandState::Running, 0.4).await;
    let path = format!("{PATH}?id={id}");
    for _ in 0..2 {
        assert!(cloud.api().delete(&path, &json!({})).await.is_ok());
    }
    let shown = status(cloud.api(), &id).await;
    assert_eq!(shown["a"], json!({ "status": true, "progress": 1 }), "what is there stays");
    assert_eq!(shown["b"], json!({ "status": false, "progress": 0.4, "error": "request canceled" }));
    eventually(PATIENCE, "the node is told to give it up", async || {
        let heard = b.command(&command, CommandState::Running, 0.5).await;
        if heard.noted == [command.clone()] { Ok(()) } else { Err(format!("{heard:?}")) }
    })
    .await;
    // One that comes late is not told of it, and one that nobody knows is to be forgotten.
    assert!(b.beat(Vec::new()).await.commands.is_empty());
    let unknown: CommandId = "never-given".parse().unwrap();
    assert_eq!(b.command(&unknown, CommandState::Running, 0.0).await.noted, [unknown]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_fails_where_nothing_comes_of_it() {
    let timeouts = Timeouts { command: Duration::from_secs(1), ..Timeouts::default() };
    let cloud = Cloud::planned(Plan { timeouts, ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    let (silent, gone) = (Node::joined(cloud.api(), "silent").await, Node::joined(cloud.api(), "gone").await);
    let id = distribute(&cloud, json!({ "template_id": template })).await;
    silent.command(&id.parse().unwrap(), CommandState::Running, 1.0).await;
    assert!(cloud.api().delete("/api/v1/node", &json!({ "node_id": "gone" })).await.is_ok());
    let shown = until(cloud.api(), &id, "both have failed", |status| {
        status["silent"]["error"].is_string() && status["gone"]["error"].is_string()
    })
    .await;
    assert_eq!((&shown["silent"]["status"], &shown["silent"]["progress"]), (&json!(false), &json!(0.99)));
    assert!(shown["silent"]["error"].as_str().unwrap().contains("no further for 1 s"), "{shown}");
    assert!(shown["gone"]["error"].as_str().unwrap().contains("has left"), "{shown}");
    drop(gone);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_distributed_is_refused_with_the_reason() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    let refused = api.post(PATH, &json!({ "template_id": template })).await;
    assert!(refused.is_clean(400) && refused.failure().unwrap().contains("no node"), "{refused:?}");
    Node::joined(api, "a").await;
    for (ask, status, word) in [
        (json!({}), 400, "template_id is required"),
        (json!({ "template_id": "a/b" }), 400, "template_id"),
        (json!({ "template_id": "nobody" }), 400, "VM not in the registry"),
        (json!({ "template_id": template, "tag": "v9" }), 200, "No such tag v9"),
        (json!({ "template_id": template, "version": 9 }), 400, "no version 9"),
        (json!({ "template_id": template, "node_ids": ["a", "z"] }), 400, "no node `z`"),
        (json!({ "template_id": template, "node_ids": [7] }), 400, "node_ids"),
        (json!({ "template_id": template, "node_ids": vec!["a"; 2000] }), 400, "the most is 1000"),
        (json!({ "template_id": template, "group_id": "lab" }), 400, "group `lab`"),
        (json!({ "template_id": template, "node_ids": ["a"], "group_id": "lab" }), 400, "not both"),
        (json!({ "template_id": template, "group": "team" }), 400, "resource management"),
    ] {
        let refused = api.post(PATH, &ask).await;
        assert!(refused.is_clean(status) && refused.failure().unwrap().contains(word), "{ask}: {refused:?}");
    }
    for (method, path) in [("GET", format!("{PATH}?id=nobody")), ("DELETE", format!("{PATH}?id=nobody"))] {
        let missing = api.call(method, &path, None).await;
        assert_eq!(missing.failure().as_deref(), Some("Not found"), "{missing:?}");
    }
    assert!(api.call("DELETE", PATH, None).await.is_clean(400), "which one?");
    assert_eq!(api.get(PATH).await.ok(), json!([]));
    // One node has no room for more than so many.
    let mut taken = 0;
    let full = loop {
        let answer = api.post(PATH, &json!({ "template_id": template })).await;
        if !answer.is_ok() {
            break answer;
        }
        taken += 1;
    };
    assert!(taken == 64 && full.failure().unwrap().contains("`a` has 64 commands"), "{taken}: {full:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_get_it_and_agents_that_do_not_know_how_are_named() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let lab = cloud.api().post("/api/v1/group", &json!({ "name": "lab" })).await.ok();
    let inside = Node { groups: vec!["lab".into()], ..Node::new(cloud.api(), "inside") };
    inside.join().await;
    Node::joined(cloud.api(), "outside").await;
    // An agent from before there were commands says nothing of them, and does not have to understand any.
    let old = Node { groups: vec!["lab".into()], commands: Vec::new(), ..Node::new(cloud.api(), "old") };
    old.join().await;
    old.beat(Vec::new()).await;
    let id = distribute(&cloud, json!({ "template_id": template, "group_id": lab["id"] })).await;
    let shown = status(cloud.api(), &id).await;
    assert_eq!(shown["inside"], json!({ "status": false, "progress": 0 }));
    let error = shown["old"]["error"].as_str().unwrap();
    assert!(error.contains("does not know the command `pull`") && error.contains("1.51.2"), "{shown}");
    assert_eq!(shown.as_object().unwrap().len(), 2, "{shown}");
    assert!(old.beat(Vec::new()).await.commands.is_empty(), "it is not asked");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_nodes_than_one_transaction_takes_get_it_too() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    for n in 0..120 {
        Node::new(cloud.api(), &format!("n{n:03}")).join().await;
    }
    let id = distribute(&cloud, json!({ "template_id": template })).await;
    assert_eq!(
        status(cloud.api(), &id).await.as_object().unwrap().len(),
        120,
        "all are shown from the start"
    );
    let last = Node::new(cloud.api(), "n119");
    eventually(PATIENCE, "the last node is told", async || {
        let heard = last.beat(Vec::new()).await;
        if heard.commands.len() == 1 { Ok(()) } else { Err(format!("{heard:?}")) }
    })
    .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_removed_from_the_nodes_that_are_named_or_from_all() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let (a, b) = (Node::joined(api, "a").await, Node::joined(api, "b").await);
    let path = "/api/v1/registry/vm/remove?id=c0ffee11";
    let all = api.delete(path, &json!({})).await.ok();
    assert_eq!(all, json!({ "requests_sent": 2, "node_ids": ["a", "b"] }));
    // Asked for once more it is the same one; of another template it is another.
    for path in [path, "/api/v1/registry/vm/remove?id=c0ffee12"] {
        let one = api.delete(path, &json!({ "node_ids": ["b"] })).await.ok();
        assert_eq!(one, json!({ "requests_sent": 1, "node_ids": ["b"] }));
    }
    let heard = a.beat(Vec::new()).await.commands;
    let Order::Remove(remove) = &heard[0].order else { panic!("{heard:?}") };
    assert_eq!(remove.template.as_str(), "c0ffee11");
    assert_eq!(b.poll(0, 1).await.commands.len(), 2);
    assert_eq!(a.command(&heard[0].id, CommandState::Done, 1.0).await.noted, [heard[0].id.clone()]);
    let why = async |id: &str| {
        let answer = api.get(&format!("/switchyard/v1/nodes/{id}/why")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let told = why("b").await;
    assert_eq!((&told["takes_starts"], &told["why"]), (&json!(true), &json!("it takes starts")), "{told}");
    let reasons = |told: &Value| {
        let all = told["commands"].as_array().unwrap().iter();
        all.map(|one| (one["what"].clone(), one["why"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    let of_b = reasons(&told);
    assert!(of_b.len() == 2 && of_b.iter().all(|(_, why)| why.contains("next poll or heartbeat")), "{told}");
    assert!(api.get("/switchyard/v1/nodes/z/why").await.is_clean(404));

    // Every node is asked to be updated, those once that have yet to do it; one that cannot says so.
    let old = Node { commands: vec!["pull".into()], ..Node::new(api, "old") };
    old.join().await;
    old.beat(Vec::new()).await;
    for _ in 0..2 {
        api.put("/v1/node/update", &json!({})).await.ok();
    }
    let update = b.poll(0, 1).await.commands.pop().unwrap();
    assert_eq!(update.order, Order::Update);
    b.command(&update.id, CommandState::Running, 0.0).await;
    let told = why("b").await;
    assert_eq!((&told["takes_starts"], &told["reason"]), (&json!(false), &json!("updating")), "{told}");
    assert_eq!(reasons(&told).len(), 3, "{told}");
    let shown = api.get("/switchyard/v1/nodes/commands?node=old").await.ok();
    assert!(shown[0]["message"].as_str().unwrap().contains("does not know the command `update`"), "{shown}");
    for (path, ask, word) in [
        ("/api/v1/registry/vm/remove", json!({}), "`id` is required"),
        // Not given is all nodes; what is given and names none is not.
        ("/api/v1/registry/vm/remove?id=c0ffee11", json!({ "node_ids": [] }), "node_ids is an empty list"),
        ("/api/v1/registry/vm/remove?id=c0ffee11", json!({ "node_ids": "" }), "node"),
        ("/api/v1/registry/vm/remove?id=c0ffee11", json!({ "node_ids": {} }), "a list of texts is wanted"),
        ("/api/v1/registry/vm/remove?id=a/b", json!({}), "`id`"),
        (path, json!({ "node_ids": ["z"] }), "no node `z`"),
    ] {
        let refused = api.delete(path, &ask).await;
        assert!(refused.is_clean(400) && refused.failure().unwrap().contains(word), "{ask}: {refused:?}");
    }
    cloud.stop().await;
}
