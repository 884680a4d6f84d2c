//! What the proxy itself answers.

use crate::{
    front::Front,
    upstream::{Upstream, ok},
};

#[test]
fn nothing_up_is_held_and_then_said_in_the_clients_own_format() {
    let gone = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let controllers = Front::controllers(&[gone]);
    let answer = controllers.get("/api/v1/vm");
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.json()["status"], "FAIL");
    assert!(
        answer.json()["message"].as_str().unwrap().contains("u0: down, cannot connect"),
        "{}",
        answer.text()
    );
    assert!(answer.head.get("retry-after").is_some());
    assert_eq!(answer.head.get("switchyard-answered-by"), Some("proxy"));
    let registries = Front::registries(&[gone]);
    let answer = registries.get("/v2/a/manifests/x");
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(registries.lines(1)[0]["held_ms"].as_u64().unwrap() > 1000);
}

#[test]
fn hidden_paths_are_not_there() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    for path in ["/metrics", "/%6detrics", "//metrics", "/replication/v1/log"] {
        assert_eq!(front.get(path).status(), 404, "{path}");
    }
    assert_eq!(a.count(), 0);
}
