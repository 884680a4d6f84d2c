//! What every request passes: ids, limits, deadlines, unknown routes, metrics.

use std::time::Duration;

use serde_json::json;
use switchyard::config::controller::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cloud::{Cloud, Plan, raw},
    node::{Node, parked},
    support::api::Api,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_route_is_the_vendors_text_and_a_wrong_method_an_envelope() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    for path in ["/nothing", "/api/v1/vm/", "/api/v1/vm/x", "/api/v2/vm", "/API/V1/VM", "//api/v1/vm"] {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.text.trim()), (404, "404 page not found"), "{path}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    }
    for (method, path) in [
        ("PATCH", "/api/v1/vm"),
        ("POST", "/api/v1/status"),
        ("PUT", "/api/v1/node"),
        ("GET", "/api/v1/node/config"),
        ("POST", "/switchyard/v1/tasks"),
        ("GET", "/switchyard/v1/claim"),
    ] {
        let answer = api.call(method, path, None).await;
        assert!(answer.is_clean(405) && answer.header("allow").is_some(), "{method} {path}: {answer:?}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_its_id_and_gets_one_if_it_has_none() {
    let cloud = Cloud::start().await;
    let with = |id: &'static str| [("x-request-id", id)];
    let kept = raw(cloud.api(), "GET", "/api/v1/status", "", &with("r-77")).await;
    assert_eq!(kept.header("x-request-id"), Some("r-77"));
    let bad = raw(cloud.api(), "GET", "/api/v1/vm?id=nobody", "", &with("a b/c")).await;
    assert!(bad.header("x-request-id").is_some_and(|id| id != "a b/c" && !id.is_empty()));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_in_time_is_refused_before_it_has_any_effect() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let api = cloud.api();
    let body = json!({ "vmid": template }).to_string();
    let left = |ms: &'static str| [("switchyard-deadline", ms)];
    let refused = raw(api, "POST", "/api/v1/vm", &body, &left("50")).await;
    assert!(refused.is_clean(503) && refused.header("retry-after").is_some(), "{refused:?}");
    let refused = raw(api, "GET", "/api/v1/vm", "", &left("0")).await;
    assert!(refused.is_clean(503), "{refused:?}");
    assert_eq!(api.get("/api/v1/vm").await.ok(), json!([]));
    raw(api, "POST", "/api/v1/vm", &body, &left("8000")).await.ok();
    raw(api, "POST", "/api/v1/vm", &body, &left("nonsense")).await.ok();
    assert_eq!(api.get("/api/v1/vm").await.ok().as_array().unwrap().len(), 2);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_at_once_than_allowed_are_told_to_come_back() {
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let cloud = Cloud::planned(Plan { limits, ..Plan::default() }).await;
    let api = cloud.api();
    let node = Node::joined(api, "n-1").await;
    let path = node.tasks(0, 2);
    let (first, second, refused) = tokio::join!(api.get(&path), api.get(&path), async {
        parked(api, 2).await;
        api.get("/api/v1/vm").await
    });
    assert!(refused.is_clean(503) && refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!((first.status, second.status), (200, 200));
    for always in ["/livez", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(api.get(always).await.status, 200, "{always}");
    }
    api.get("/api/v1/vm").await.ok();
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("switchyard_controller_refused_total{reason=\"busy\"}"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_answers_by_class_and_name_the_build() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    api.get("/api/v1/vm").await.ok();
    raw(api, "POST", "/api/v1/vm", "{", &[]).await;
    let answer = api.get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    for line in [
        "switchyard_http_requests_total{role=\"controller\",status=\"2xx\"}",
        "switchyard_http_requests_total{role=\"controller\",status=\"4xx\"} 1",
        "switchyard_http_request_seconds_count{role=\"controller\"}",
        "switchyard_build_info{role=\"controller\",version=\"1.51.2-switchyard.",
    ] {
        assert!(answer.text.contains(line), "{line} in {}", answer.text);
    }
    cloud.stop().await;
}

/// Sends these bytes on a connection of its own and gives what came back until it was closed or fell silent.
async fn bytes(api: &Api, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(api.base().trim_start_matches("http://")).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_answered_and_not_cut_off() {
    let limits = Limits { body: 64 * 1024, ..Limits::default() };
    let cloud = Cloud::planned(Plan { limits, ..Plan::default() }).await;
    let api = cloud.api();
    // The client sends all of it before it reads: a dropped connection would make it repeat the start.
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    for _ in 0..5 {
        let answer = raw(api, "POST", "/api/v1/vm", &long, &[]).await;
        assert!(answer.is_clean(413), "{answer:?}");
    }
    // One that waits for `100 Continue` sends nothing of it.
    let waits =
        b"POST /api/v1/vm HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\
                  connection: close\r\n\r\n";
    let answer = bytes(api, waits).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Chunked, without a length to look at.
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "y".repeat(1 << 16));
    let head =
        "POST /api/v1/vm HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let answer = bytes(api, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"FAIL\""), "{answer}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_keeps_its_body_and_takes_its_id_from_the_query_as_well() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let api = cloud.api();
    let (one, two) = (cloud.instance(&template).await, cloud.instance(&template).await);
    api.delete("/api/v1/vm", &json!({ "id": one })).await.ok();
    api.call("DELETE", &format!("/api/v1/vm?id={two}"), None).await.ok();
    for listed in api.get("/api/v1/vm").await.ok().as_array().unwrap() {
        assert_eq!(listed["vm"]["instance_state"], "Terminating");
    }
    cloud.stop().await;
}
