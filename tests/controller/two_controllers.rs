//! Two controllers over one store: what one acknowledged, the other shows at once, and a node may speak to both.

use serde_json::json;
use switchyard::wire::agent::VmPhase;

use crate::{
    cloud::{Cloud, Plan, until_state},
    node::{Node, granted},
};

async fn two() -> Cloud {
    Cloud::planned(Plan { controllers: 2, ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_controller_acknowledged_the_other_shows_at_once() {
    let cloud = two().await;
    let template = cloud.template("sonoma", "v1").await;
    for round in 0..40 {
        let (writer, reader) = (&cloud.apis[round % 2], &cloud.apis[(round + 1) % 2]);
        let id = writer.post("/api/v1/vm", &json!({ "vmid": template })).await.ok()[0]
            .as_str()
            .unwrap()
            .to_owned();
        let list = reader.get("/api/v1/vm").await.ok();
        let found = list.as_array().unwrap().iter().any(|vm| vm["instance_id"] == id.as_str());
        assert!(found, "round {round}: {id} is not in the other controller's list");
        reader.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
        let shown = writer.get(&format!("/api/v1/vm?id={id}")).await.ok();
        assert_eq!(shown["instance_state"], "Terminating", "round {round}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_idempotency_key_makes_one_start_whichever_controller_is_asked() {
    let cloud = two().await;
    let template = cloud.template("sonoma", "v1").await;
    let ask = json!({ "vmid": template, "count": 3 });
    let key = [("idempotency-key", "same")];
    let start = |at: usize| cloud.apis[at % 2].call_with("POST", "/api/v1/vm", Some(&ask), &key);
    let (a, b, c, d) = tokio::join!(start(0), start(1), start(2), start(3));
    let ids = a.unwrap().ok();
    for other in [b, c, d] {
        assert_eq!(other.unwrap().ok(), ids);
    }
    assert_eq!(cloud.api().get("/api/v1/vm").await.ok().as_array().unwrap().len(), 3);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_controllers_between_calls_loses_nothing() {
    let cloud = two().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let mut node = Node::joined(&cloud.apis[0], "n-1").await;
    let other = |node: &mut Node, at: usize| node.api = cloud.apis[at].clone();
    other(&mut node, 1);
    let task = node.offered().await;
    other(&mut node, 0);
    assert_eq!(node.claim(&task).await, granted());
    other(&mut node, 1);
    assert_eq!(node.claim(&task).await, granted());
    assert_eq!(node.starting(&task).await, granted());
    other(&mut node, 0);
    node.report(node.vm(&task, VmPhase::Running)).await;
    until_state(&cloud.apis[1], &id, "Started").await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_at_two_controllers_never_get_one_instance_twice() {
    let cloud = two().await;
    let template = cloud.template("sonoma", "v1").await;
    const COUNT: usize = 12;
    cloud.api().post("/api/v1/vm", &json!({ "vmid": template, "count": COUNT })).await.ok();
    let work = (0..6).map(|number| {
        let api = cloud.apis[number % 2].clone();
        async move {
            let node = Node::joined(&api, &format!("n-{number}")).await;
            let (mut ran, mut vms) = (Vec::new(), Vec::new());
            while vms.len() < 2 {
                let task = node.offered().await;
                if node.claim(&task).await.granted && node.starting(&task).await.granted {
                    let vm = node.vm(&task, VmPhase::Running);
                    node.report(vm.clone()).await;
                    ran.push(task.instance.to_string());
                    vms.push(vm);
                }
            }
            ran
        }
    });
    let mut ran = futures_util::future::join_all(work).await.concat();
    ran.sort();
    let before = ran.len();
    ran.dedup();
    assert_eq!((before, ran.len()), (COUNT, COUNT), "each ran once");
    for listed in cloud.apis[1].get("/api/v1/vm").await.ok().as_array().unwrap() {
        assert_eq!(listed["vm"]["instance_state"], "Started", "{listed}");
    }
    cloud.stop().await;
}
