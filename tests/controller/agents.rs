//! The agents' protocol by HTTP: offers, claims, give-backs, late messages, two agents with one id.

use std::time::Duration;

use serde_json::json;
use switchyard::{clock, config::controller::Timeouts, wire::agent::VmPhase};

use crate::{
    cloud::{Cloud, PATIENCE, Plan, until_state},
    node::{Node, granted, parked, seen, stop_of},
    support::eventually::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_parks_until_there_is_something_and_then_answers_at_once() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let since = clock::now();
    assert!(node.poll(2, 1).await.start.is_none());
    assert!(clock::now() - since >= Duration::from_millis(900), "it parked");
    let (task, started) = tokio::join!(node.poll(2, 10), async {
        tokio::task::yield_now().await;
        cloud.instance(&template).await;
        clock::now()
    });
    assert!(task.start.is_some());
    assert!(clock::now() - started < Duration::from_secs(5), "woken, not found at the end of the wait");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_one_nodes_until_its_claim_time_is_over() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let (a, b) = (Node::joined(cloud.api(), "a").await, Node::joined(cloud.api(), "b").await);
    cloud.instance(&template).await;
    let first = a.offered().await;
    assert!(!b.claim(&first).await.granted, "it was offered to another node");
    let second = b.offered().await;
    assert_eq!(second.instance, first.instance);
    assert!(second.attempt > first.attempt);
    let late = a.claim(&first).await;
    assert!(!late.granted && !late.why.is_empty(), "{late:?}");
    assert_eq!(b.claim(&second).await, granted());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_whose_client_went_away_takes_nothing_with_it() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let (gone, here) = (Node::joined(cloud.api(), "gone").await, Node::joined(cloud.api(), "here").await);
    // The client closes its connection while the poll is parked, and the controller sees it.
    let path = gone.tasks(2, 10);
    tokio::select! {
        answer = gone.api.get(&path) => panic!("it did not park: {answer:?}"),
        () = parked(&here.api, 1) => {}
    }
    parked(&here.api, 0).await;
    cloud.instance(&template).await;
    let since = clock::now();
    let task = here.offered().await;
    assert_eq!(task.attempt, 1, "nobody else was offered it");
    assert!(clock::now() - since < Duration::from_secs(3), "no claim time was waited for");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_start_that_is_given_back_goes_to_another_and_says_why_it_waits() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let a = Node::joined(cloud.api(), "a").await;
    let task = a.offered().await;
    assert_eq!(a.claim(&task).await, granted());
    assert_eq!(a.give_back(&task, "no room for 40 GB").await, granted());
    let shown = cloud.api().get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_eq!(shown["instance_state"], "Scheduling");
    assert!(shown["message"].as_str().unwrap().contains("no room for 40 GB"), "{shown}");
    let b = Node::joined(cloud.api(), "b").await;
    let next = b.offered().await;
    assert!(next.attempt > task.attempt);
    assert!(!a.starting(&task).await.granted);
    assert_eq!(b.claim(&next).await, granted());
    assert_eq!(b.starting(&next).await, granted());
    assert!(!b.give_back(&next, "too late").await.granted, "after starting there is no way back");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_wins_over_a_start_under_way() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    assert_eq!(node.claim(&task).await, granted());
    cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    assert!(!node.starting(&task).await.granted);
    let heard = node.report(node.vm(&task, VmPhase::Running)).await;
    assert_eq!(heard.stop, [stop_of(&task)]);
    assert_eq!(until_state(cloud.api(), &id, "Terminating").await["node_id"], "n-1");
    node.report(node.vm(&task, VmPhase::Gone)).await;
    until_state(cloud.api(), &id, "Terminated").await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_a_parked_poll_and_comes_until_it_is_heard() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    let vm = node.run(&task).await;
    until_state(cloud.api(), &id, "Started").await;
    let (polled, ()) = tokio::join!(node.poll(0, 10), async {
        cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    });
    assert_eq!(polled.stop, [stop_of(&task)]);
    for _ in 0..2 {
        assert_eq!(node.beat(vec![vm.clone()]).await.stop, [stop_of(&task)]);
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_an_older_attempt_is_to_be_stopped() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    cloud.instance(&template).await;
    let (a, b) = (Node::joined(cloud.api(), "a").await, Node::joined(cloud.api(), "b").await);
    let old = a.offered().await;
    assert_eq!(a.claim(&old).await, granted());
    assert_eq!(a.give_back(&old, "busy").await, granted());
    let new = b.offered().await;
    assert_eq!(b.claim(&new).await, granted());
    let heard = a.beat(vec![a.vm(&old, VmPhase::Running)]).await;
    assert_eq!(heard.stop, [stop_of(&old)]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_with_the_same_id_is_turned_away_once_it_is_known() {
    let cloud = Cloud::start().await;
    let first = Node::joined(cloud.api(), "n-1").await;
    let mut second = first.clone();
    second.session = "n-1-s2".into();
    assert!(second.beat(Vec::new()).await.known, "a restart has a new session and takes over");
    let refused = first.call("heartbeat", &first.heartbeat(Vec::new())).await;
    assert!(refused.is_clean(409), "the session that was replaced comes back: {refused:?}");
    let refused = first.api.get(&first.tasks(1, 1)).await;
    assert!(refused.is_clean(409), "{refused:?}");
    assert!(second.beat(Vec::new()).await.known);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_only_when_nothing_is_on_it() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    node.run(&task).await;
    let refused = node.leave().await;
    assert!(!refused.granted && !refused.why.is_empty(), "{refused:?}");
    cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    node.report(node.vm(&task, VmPhase::Gone)).await;
    until_state(cloud.api(), &id, "Terminated").await;
    assert_eq!(node.leave().await, granted());
    assert_eq!(cloud.api().get("/api/v1/node").await.ok(), json!([]));
    assert_eq!(node.leave().await, granted(), "repeating it is fine");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_heartbeats_no_longer_name_is_not_there() {
    let timeouts = Timeouts { instance_active: Duration::from_secs(4), ..Timeouts::default() };
    let cloud = Cloud::planned(Plan { timeouts, ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    node.run(&task).await;
    until_state(cloud.api(), &id, "Started").await;
    node.beat(Vec::new()).await;
    let shown = cloud.api().get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_eq!(
        shown["instance_state"], "Started",
        "one report alone may have been written before it was there"
    );
    let shown = eventually(PATIENCE, "the instance is taken to be gone", async || {
        node.beat(Vec::new()).await;
        let shown = cloud.api().get(&format!("/api/v1/vm?id={id}")).await.ok();
        if shown["instance_state"] == "Error" { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(!shown["message"].as_str().unwrap().is_empty(), "{shown}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_nobody_knows_is_stopped_in_the_end() {
    let cloud = Cloud::start().await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let unknown = seen(&"nobody".parse().unwrap(), 1, VmPhase::Running, None);
    eventually(PATIENCE, "the unknown VM is to be stopped", async || {
        let heard = node.beat(vec![unknown.clone()]).await;
        if heard.stop.is_empty() { Err(format!("{heard:?}")) } else { Ok(()) }
    })
    .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_controller_ends_parked_polls_with_an_answer() {
    let cloud = Cloud::start().await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let path = node.tasks(1, 10);
    let since = clock::now();
    let (answer, ()) = tokio::join!(node.api.get(&path), async {
        parked(&node.api, 1).await;
        cloud.stop().await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer, json!({ "stop": [] }));
    assert!(clock::now() - since < Duration::from_secs(5), "it did not wait to its end");
}
