//! The pool of MAC addresses, over two controllers of one store: no two instances share one, and none is lost.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchyard::config::controller::{MacPool, Timeouts};

use crate::{
    cloud::{Cloud, PATIENCE, Plan},
    node::Node,
    support::{api::Api, eventually::eventually},
};

const RANGE: &str = "02:00:00:00:00:00-02:00:00:00:00:07";

async fn cloud(manage: bool) -> Cloud {
    let mac_pool = MacPool { manage, range: manage.then(|| RANGE.parse().unwrap()) };
    let timeouts =
        Timeouts { instance_visible: std::time::Duration::from_millis(100), ..Timeouts::default() };
    Cloud::planned(Plan { controllers: 2, mac_pool, timeouts, ..Plan::default() }).await
}

/// The address of each instance that has one.
async fn addresses(api: &Api) -> Vec<String> {
    let all = api.get("/api/v1/vm").await.ok();
    let of = |listed: &Value| listed["vm"]["mac_address"].as_str().map(str::to_owned);
    all.as_array().unwrap().iter().filter_map(of).collect()
}

async fn count(api: &Api, query: &str) -> Value {
    api.get(&format!("/api/v1/macaddr?{query}")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_instances_share_an_address_and_each_goes_back_when_its_instance_is_gone() {
    let cloud = cloud(true).await;
    let template = cloud.template("sonoma", "v1").await;
    let [one, two] = &cloud.apis[..] else { panic!("two controllers") };
    let start = |api: &Api, more: Value| {
        let mut body = json!({ "vmid": template });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let api = api.clone();
        async move { api.post("/api/v1/vm", &body).await }
    };
    // At the same time, at both, out of eight addresses.
    let (a, b, c) = tokio::join!(
        start(one, json!({ "count": 3 })),
        start(two, json!({ "count": 3 })),
        start(one, json!({}))
    );
    let mut ids: Vec<Value> =
        [a, b, c].into_iter().flat_map(|answer| answer.ok().as_array().unwrap().clone()).collect();
    let taken = eventually(PATIENCE, "seven instances have seven addresses", async || {
        let all = addresses(two).await;
        if all.len() == 7 { Ok(all) } else { Err(format!("{all:?}")) }
    })
    .await;
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 7, "{taken:?}");
    assert_eq!((count(one, "count=true").await, count(two, "in_use=true").await), (json!(8), json!(7)));
    assert_eq!(count(two, "count=true&in_use=false").await, json!(1));
    let metrics = two.get("/metrics").await.text;
    for (part, count) in [("free", 1), ("taken", 7), ("held", 0)] {
        let line = format!("switchyard_controller_mac_addresses{{part=\"{part}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }

    // What was asked for by name, and by whom else it may not be.
    let free = (0..8).map(|n| format!("02:00:00:00:00:{n:02X}")).find(|mac| !taken.contains(mac)).unwrap();
    let asked = start(two, json!({ "mac_address": free.to_lowercase() })).await;
    ids.extend(asked.ok().as_array().unwrap().clone());
    for (api, more) in [(one, json!({ "mac_address": free })), (one, json!({})), (two, json!({ "count": 2 }))]
    {
        let refused = start(api, more.clone()).await;
        assert_eq!(refused.status, 409, "{more}: {refused:?}");
    }
    let refused = start(one, json!({ "mac_address": free })).await;
    assert!(refused.text.contains(&free) && refused.text.contains("is that of instance"), "{refused:?}");
    let outside = start(one, json!({ "mac_address": "02:00:00:00:01:00" })).await;
    ids.extend(outside.ok().as_array().unwrap().clone());

    // A node is told the address that the API shows.
    let node = Node::joined(one, "n-1").await;
    let task = node.offered().await;
    let shown = one.get(&format!("/api/v1/vm?id={}", task.instance)).await.ok();
    assert_eq!(json!(task.hardware.mac_address), shown["mac_address"]);

    for id in &ids {
        one.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    }
    // The one that the node has been offered goes when its offer is over: no node has it then.
    eventually(PATIENCE, "all addresses are free again", async || {
        let in_use = count(two, "in_use=true").await;
        if in_use.as_u64().is_some_and(|n| n <= 1) { Ok(()) } else { Err(in_use) }
    })
    .await;
    start(two, json!({ "count": 7 })).await.ok();
    two.put("/api/v1/macaddr", &json!({})).await.ok();
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_read_by_count_or_by_page_and_vlans_are_listed() {
    let managed = cloud(true).await;
    let api = managed.api();
    let page = count(api, "limit=3&last=02:00:00:00:00:01").await;
    assert_eq!(page, json!(["02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"]));
    assert_eq!(count(api, "last=02:00:00:00:00:06").await, json!(["02:00:00:00:00:07"]));
    assert_eq!(count(api, "limit=1000000").await.as_array().unwrap().len(), 8);
    for (query, says) in [
        ("", "give `count` or `in_use`"),
        ("?count=false", "give `count` or `in_use`"),
        ("?count=true&limit=1", "not both"),
        ("?count=maybe", "count is `maybe`"),
        ("?limit=-1", "limit is `-1`"),
        ("?last=x", "last: it must be six pairs"),
    ] {
        let answer = api.get(&format!("/api/v1/macaddr{query}")).await;
        assert!(answer.is_clean(400) && answer.text.contains(says), "{query}: {answer:?}");
    }
    let template = managed.template("sonoma", "v1").await;
    assert_eq!(api.get("/api/v1/vlan").await.ok(), json!([]));
    for vlan in ["20", "7", "7"] {
        let body = json!({ "vmid": template, "vlan_tag": vlan, "network_mode": "bridge" });
        api.post("/api/v1/vm", &body).await.ok();
    }
    assert_eq!(api.get("/api/v1/vlan").await.ok(), json!([]), "no node has them yet");
    for n in ["n-1", "n-2", "n-3"] {
        Node::joined(api, n).await.offered().await;
    }
    assert_eq!(api.get("/api/v1/vlan").await.ok(), json!(["7", "20"]));
    managed.stop().await;

    let unmanaged = cloud(false).await;
    let answer = unmanaged.api().get("/api/v1/macaddr?count=true").await;
    assert!(answer.is_clean(409) && answer.text.contains("`[mac_pool]`"), "{answer:?}");
    let template = unmanaged.template("sonoma", "v1").await;
    for _ in 0..2 {
        let body = json!({ "vmid": template, "mac_address": "02:00:00:00:00:01" });
        unmanaged.api().post("/api/v1/vm", &body).await.ok();
    }
    unmanaged.stop().await;
}
