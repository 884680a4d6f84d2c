//! What nobody should send: each gets a clear answer in the API's own format, and nothing happens.

use serde_json::{Value, json};

use crate::{
    cloud::{Cloud, raw},
    node::Node,
};

/// Method, path, body, status, and words of the answer.
type Case = (&'static str, &'static str, String, u16, &'static str);

fn case(
    method: &'static str,
    path: &'static str,
    body: impl ToString,
    status: u16,
    words: &'static str,
) -> Case {
    (method, path, body.to_string(), status, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_says_what_is_wrong_and_changes_nothing() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    Node::joined(cloud.api(), "n-1").await;
    let start = |key: &str, value: Value| {
        let mut ask = json!({ "vmid": template });
        ask[key] = value;
        ask.to_string()
    };
    let vm = "/api/v1/vm";
    let config = "/api/v1/node/config";
    let cases = vec![
        // No JSON, or not an object.
        case("POST", vm, "{", 400, "line 1 column 1"),
        case("POST", vm, "{\n  \"vmid\": nope\n}", 400, "line 2 column 12"),
        case("POST", vm, "vmid=x&count=1", 400, "not valid JSON"),
        case("POST", vm, "[]", 400, "not a JSON object"),
        case("POST", vm, "null", 400, "not a JSON object"),
        case("POST", vm, "\"x\"", 400, "not a JSON object"),
        case("POST", vm, "{\"vmid\":\"x\"}{}", 400, "not valid JSON"),
        case("POST", vm, "[".repeat(200_000), 400, "recursion"),
        case(
            "POST",
            vm,
            format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(500), "}".repeat(500)),
            400,
            "recursion",
        ),
        // Missing.
        case("POST", vm, "", 400, "vmid"),
        case("POST", vm, "{}", 400, "vmid"),
        case("POST", vm, r#"{"vmid":""}"#, 400, "vmid"),
        case("PUT", vm, "{}", 400, "`id`"),
        case("DELETE", vm, "", 400, "`id`"),
        case("DELETE", "/api/v1/node", "{}", 400, "`node_id`"),
        case("POST", config, "{}", 400, "`node_id`"),
        // Wrong types.
        case("POST", vm, start("count", json!("many")), 400, "`count`"),
        case("POST", vm, start("count", json!(1.5)), 400, "`count`"),
        case("POST", vm, start("tag", json!([1])), 400, "`tag`"),
        case("POST", vm, start("metadata", json!("x")), 400, "`metadata`"),
        case("POST", vm, start("name_template", json!("a\u{0}b")), 400, "name_template: it has a control"),
        case("POST", vm, start("usb_device", json!("a\nb")), 400, "usb_device: it has a control"),
        case("POST", vm, start("script_monitoring", json!(2)), 400, "`script_monitoring`"),
        case("POST", vm, start("port_forwarding_override", json!("x")), 400, "`port_forwarding_override`"),
        case(
            "POST",
            vm,
            start("metadata", json!({ "x": null, "y": [{}] })),
            400,
            "`metadata`: `y` is a list",
        ),
        case("PUT", "/api/v1/vm?id=x", r#"{"name":[7]}"#, 400, "`name`"),
        case("PUT", "/api/v1/vm?id=x", r#"{"metadata":{"a":1.5}}"#, 400, "`metadata`: `a` is a fraction"),
        case(
            "PUT",
            "/api/v1/vm?id=x",
            r#"{"metadata":{"a":99999999999999999999999}}"#,
            400,
            "more than 64 bits",
        ),
        case("POST", config, r#"{"node_id":"n-1","capacity_mode":"both"}"#, 400, "`capacity_mode`"),
        case("POST", config, r#"{"node_id":"n-1","drain_mode":"maybe"}"#, 400, "`drain_mode`"),
        // Out of range.
        case("POST", vm, start("count", json!(0)), 400, "count"),
        case("POST", vm, start("count", json!(-1)), 400, "count"),
        case("POST", vm, start("count", json!(1_000_000)), 400, "count"),
        case("POST", vm, start("count", json!(u64::MAX)), 400, "count"),
        case("POST", vm, start("vcpu", json!(-4)), 400, "vcpu"),
        case("POST", vm, start("vram", json!(-1)), 400, "vram"),
        case("POST", vm, start("script_timeout", json!(4_000_000_000_u32)), 400, "from 1 to 604800 seconds"),
        case(
            "POST",
            vm,
            start("script_timeout", json!("-1")),
            400,
            "script_timeout is -1; it must be from 1",
        ),
        case("POST", config, r#"{"node_id":"n-1","max_vm_count":-2}"#, 400, "max_vm_count"),
        // Ids that cannot be ids.
        case("GET", "/api/v1/vm?id=a%2Fb", "", 400, "instance id"),
        case("GET", "/api/v1/vm?id=..", "", 400, "instance id"),
        case("GET", "/api/v1/vm?id=%00", "", 400, "instance id"),
        case("DELETE", vm, json!({ "id": "x".repeat(10_000) }), 400, "instance id"),
        case("DELETE", vm, r#"{"id":"../../etc/passwd"}"#, 400, "instance id"),
        case("GET", "/api/v1/node?id=a%20b", "", 400, "node id"),
        case("GET", "/api/v1/registry/vm?id=a%2Fb", "", 400, "template id"),
        case("POST", vm, r#"{"vmid":"a/b"}"#, 400, "VM not in the registry"),
        // What is not there or not on.
        case("POST", vm, r#"{"vmid":"nobody"}"#, 400, "VM not in the registry"),
        case("POST", vm, start("startup_script", json!("not base64!")), 400, "startup_script"),
        case("POST", vm, start("group", json!("admins")), 400, "group"),
        case("POST", vm, start("group_id", json!("g-1")), 400, "group_id"),
    ];
    for (method, path, body, status, words) in cases {
        let answer = raw(cloud.api(), method, path, &body, &[]).await;
        let what = format!("{method} {path} {:.80}: {answer:?}", body);
        assert!(answer.is_clean(status), "{what}");
        assert!(answer.failure().unwrap().contains(words), "{words} in {what}");
        assert!(answer.text.len() < 2000, "an answer does not repeat what was sent: {what}");
    }
    assert_eq!(cloud.api().get(vm).await.ok(), json!([]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_idempotency_key_is_refused() {
    let cloud = Cloud::start().await;
    for key in ["a b", "ä", &"k".repeat(256)] {
        let answer = raw(cloud.api(), "POST", "/api/v1/vm", "{}", &[("idempotency-key", key)]).await;
        assert!(answer.is_clean(400) && answer.failure().unwrap().contains("idempotency-key"), "{answer:?}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_text_in_one_start_is_refused_whole() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let ask = json!({ "vmid": template, "metadata": { "x": "y".repeat(300 * 1024) } });
    let answer = cloud.api().post("/api/v1/vm", &ask).await;
    assert!(answer.is_clean(400), "{answer:?}");
    assert_eq!(cloud.api().get("/api/v1/vm").await.ok(), json!([]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_speak_nonsense_get_400_and_never_a_failure_with_200() {
    let cloud = Cloud::start().await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let post = async |path: &str, body: &str| {
        raw(cloud.api(), "POST", &format!("/switchyard/v1/{path}"), body, &[]).await
    };
    for path in ["join", "heartbeat", "claim", "starting", "report", "giveback", "leave"] {
        for body in ["", "{", "[]", "{}", r#"{"node_id":"a/b"}"#, r#"{"node_id":7}"#] {
            let answer = post(path, body).await;
            assert!(answer.is_clean(400), "{path} {body}: {answer:?}");
        }
    }
    for query in ["", "?node=n-1", "?session=s", "?node=a%2Fb&session=s", "?node=n-1&session=s&free=-1"] {
        let answer = cloud.api().get(&format!("/switchyard/v1/tasks{query}")).await;
        assert!(answer.is_clean(400), "{query}: {answer:?}");
    }
    let mut wrong = serde_json::to_value(node.heartbeat(Vec::new())).unwrap();
    wrong["facts"]["cpu_count"] = json!(-1);
    let answer = node.call("heartbeat", &wrong).await;
    assert!(answer.is_clean(400) && answer.failure().unwrap().contains("`facts`"), "{answer:?}");
    let stranger = Node::new(cloud.api(), "stranger");
    let answer = cloud.api().get(&stranger.tasks(1, 1)).await;
    assert!(answer.status >= 400 && answer.failure().is_some(), "{answer:?}");
    cloud.stop().await;
}
