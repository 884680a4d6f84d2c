//! API keys and their handshake: `reference/authentication.md` §4 and `reference/controller-api.md` §9, as the public clients
//! go through it, at one controller and at another.

use std::time::Duration;

use serde_json::{Value, json};
use switchyard::config::auth::Auth;

use crate::{
    auth::{TOKEN, asked, basic, refused, with},
    cloud::{Cloud, PATIENCE, Plan, raw},
    support::{
        api::{Answer, Api},
        eventually::eventually,
        holder::{Holder, bearer},
    },
};

const KEYS: &str = "/api/v1/apikey";

async fn two() -> Cloud {
    Cloud::planned(Plan { auth: asked(), controllers: 2, ..Plan::default() }).await
}

pub(crate) async fn root(api: &Api, method: &str, path: &str, body: &Value) -> Answer {
    with(api, method, path, &body.to_string(), &basic("root", TOKEN)).await
}

/// Makes a key; its holder has what the server made.
pub(crate) async fn made(api: &Api, id: &str, ttl: u64, groups: &[&str]) -> Holder {
    let answer = root(api, "POST", KEYS, &json!({"id": id, "ttl": ttl, "groups": groups})).await;
    assert_eq!(answer.status, 200, "{answer}");
    Holder::given(&answer.ok())
}

async fn hand(api: &Api, id: &str) -> Answer {
    // As `curl -d` sends it.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    raw(api, "POST", "/tap/v1/hand", &json!({ "id": id }).to_string(), &form).await
}

async fn shake(api: &Api, id: &str, secret: &str) -> Answer {
    raw(api, "POST", "/tap/v1/shake", &format!("{{\"id\":\"{id}\",\"secret\":\"{secret}\"}}"), &[]).await
}

/// The first step at one controller, the second at another.
pub(crate) async fn session(hands: &Api, shakes: &Api, id: &str, holder: &Holder) -> String {
    let handed = hand(hands, id).await;
    assert_eq!(handed.status, 200, "{handed}");
    bearer(&shake(shakes, id, &holder.decrypt(&handed.text)).await.text)
}

async fn status(api: &Api, authorization: &str) -> Answer {
    with(api, "GET", "/api/v1/status", "", authorization).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_began_at_two_controllers_is_good_at_both_and_ends_with_its_key() {
    let cloud = two().await;
    let [one, other] = [&cloud.apis[0], &cloud.apis[1]];
    let holder = made(one, "ci-bot", 3600, &["node", "team-a"]).await;
    // Made at one, known at the other at once.
    let handed = hand(other, "ci-bot").await;
    assert_eq!((handed.status, handed.text.len()), (200, 344), "bare base64 of 256 bytes: {handed}");
    let secret = holder.decrypt(&handed.text);
    assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')), "{secret}");
    let shaken = shake(one, "ci-bot", &secret).await;
    assert_eq!(shaken.status, 200, "{shaken}");
    let body = shaken.json();
    assert_eq!((&body["id"], &body["data"]["userName"]), (&json!("ci-bot"), &json!("ci-bot")));
    assert!(
        ["token", "sessionId"]
            .iter()
            .all(|key| body["data"][key].as_str().is_some_and(|text| text.len() > 20))
    );
    let bearer = bearer(&shaken.text);
    for api in [one, other] {
        assert_eq!(status(api, &bearer).await.status, 200);
    }
    refused(&shake(one, "ci-bot", &secret).await);
    // What a key may do here, and what only the root token may.
    let listed = with(other, "GET", KEYS, "", &bearer).await.ok();
    assert_eq!(listed[0]["groups"], json!(["node", "team-a"]));
    for method in ["POST", "PUT", "DELETE"] {
        let denied = with(other, method, KEYS, r#"{"id":"more","ttl":5,"groups":[]}"#, &bearer).await;
        assert_eq!(denied.status, 403, "{method}: {denied}");
    }
    // A watch that goes on by it ends with it, at whichever controller.
    let watch = one.http().get(format!("{}/switchyard/v1/watch?kinds=nodes", one.base()));
    let watch = watch.header("authorization", &bearer).send().await.unwrap();
    assert_eq!(watch.status(), 200);
    let gone = root(other, "DELETE", KEYS, &json!({"id": "ci-bot"})).await;
    assert_eq!(gone.text, "{\"status\":\"OK\",\"message\":\"\"}\n", "{gone}");
    let told = tokio::time::timeout(PATIENCE, watch.text()).await.expect("the watch ends").unwrap();
    assert!(told.contains("event: end\n") && told.contains("\"why\":\"unauthorized\""), "{told}");
    for api in [one, other] {
        eventually(PATIENCE, "the session to end with its key", async || {
            let answer = status(api, &bearer).await;
            if answer.status == 401 { Ok(()) } else { Err(answer) }
        })
        .await;
        refused(&status(api, &bearer).await);
        refused(&hand(api, "ci-bot").await);
    }
    made(one, "ci-bot", 3600, &[]).await;
    refused(&status(other, &bearer).await);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_bring_a_key_of_its_own_and_one_that_expires_is_refused_at_once() {
    let cloud = two().await;
    let [one, other] = [&cloud.apis[0], &cloud.apis[1]];
    let (holder, public) = Holder::own(4096);
    let ask = json!({"id": "own", "ttl": 3, "groups": [], "publicKey": public});
    let answer = root(one, "POST", KEYS, &ask).await;
    assert_eq!((answer.status, answer.json()["body"].clone()), (200, Value::Null), "{answer}");
    let bearer = session(one, other, "own", &holder).await;
    assert_eq!(status(one, &bearer).await.status, 200);
    eventually(PATIENCE, "the key to expire", async || {
        let answer = status(other, &bearer).await;
        if answer.status == 401 { Ok(()) } else { Err(answer) }
    })
    .await;
    refused(&hand(one, "own").await);
    // It is listed until it is deleted, and may be prolonged: its sessions live again.
    let shown = root(one, "GET", &format!("{KEYS}?id=own"), &Value::Null).await.ok();
    assert_eq!(shown["id"], "own");
    assert_eq!(root(other, "PUT", KEYS, &json!({"id": "own", "groups": "x,y", "ttl": 60})).await.status, 200);
    assert_eq!(
        root(one, "GET", &format!("{KEYS}?id=own"), &Value::Null).await.ok()["groups"],
        json!(["x", "y"])
    );
    assert_eq!(status(one, &session(other, one, "own", &holder).await).await.status, 200);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_shown_changed_and_deleted_by_query_or_body() {
    let cloud = two().await;
    let [one, other] = [&cloud.apis[0], &cloud.apis[1]];
    let query = root(one, "POST", &format!("{KEYS}?id=b&ttl=60&groups=x,y"), &Value::Null).await;
    Holder::given(&query.ok());
    made(other, "a", 60, &["x"]).await;
    let all = root(one, "GET", KEYS, &Value::Null).await.ok();
    let ids: Vec<&str> = all.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b"]);
    for key in all.as_array().unwrap() {
        let keys: Vec<&String> = key.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["created", "expiration", "groups", "id"], "no key material");
        let times = ["created", "expiration"].map(|at| key[at].as_str().unwrap().to_owned());
        assert!(
            times.iter().all(|time| time.len() >= 20 && time.contains('T')) && times[0] < times[1],
            "{key}"
        );
    }
    for (method, path, body, code, words) in [
        ("POST", KEYS, json!({"id": "a", "ttl": 5, "groups": []}), 409, "there is an API key `a` already"),
        ("POST", KEYS, json!({"ttl": 5, "groups": []}), 400, "`id` is required"),
        ("POST", KEYS, json!({"id": "c", "groups": []}), 400, "`ttl` is required"),
        ("POST", KEYS, json!({"id": "c", "ttl": 5}), 400, "`groups` is required"),
        ("POST", KEYS, json!({"id": "c", "ttl": -5, "groups": []}), 400, "`ttl` is -5"),
        ("POST", KEYS, json!({"id": "c d", "ttl": 5, "groups": []}), 400, "`id`: "),
        (
            "POST",
            KEYS,
            json!({"id": "c", "ttl": 5, "groups": [], "publicKey": "AAAA"}),
            400,
            "`publicKey` is no RSA",
        ),
        ("POST", KEYS, json!({"id": "c", "ttl": 5, "groups": 7}), 400, "the body cannot be read"),
        ("POST", KEYS, json!([1]), 400, "not a JSON object"),
        ("PUT", KEYS, json!({"id": "none", "groups": []}), 200, "Not found"),
        ("PUT", KEYS, json!({"id": "a"}), 400, "`groups` is required"),
        ("PUT", "/api/v1/apikey?id=a&groups=x&ttl=soon", json!({}), 400, "`ttl`: expected a whole number"),
        ("DELETE", KEYS, json!({"id": "none"}), 200, "Not found"),
        ("DELETE", KEYS, json!({}), 400, "`id` is required"),
        ("GET", "/api/v1/apikey?id=none", json!({}), 200, "Not found"),
        ("GET", "/api/v1/apikey?id=a%2Fb", json!({}), 200, "Not found"),
    ] {
        let answer = root(one, method, path, &body).await;
        assert_eq!(answer.status, code, "{method} {path} {body}: {answer}");
        assert!(
            answer.text.contains("\"status\":\"FAIL\"") && answer.text.contains(words),
            "{method} {body}: {answer}"
        );
    }
    assert_eq!(root(one, "DELETE", &format!("{KEYS}?id=b"), &Value::Null).await.status, 200);
    assert_eq!(root(other, "GET", KEYS, &Value::Null).await.ok().as_array().unwrap().len(), 1);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_should_send_to_a_handshake_is_refused_in_words() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let api = cloud.api();
    made(api, "a", 60, &[]).await;
    for (path, body, code) in [
        ("/tap/v1/hand", "", 400),
        ("/tap/v1/hand", "{}", 400),
        ("/tap/v1/hand", "[]", 400),
        ("/tap/v1/hand", "id=a", 400),
        ("/tap/v1/hand", r#"{"id":["a"]}"#, 400),
        ("/tap/v1/hand", r#"{"id":"nobody"}"#, 401),
        ("/tap/v1/hand", r#"{"id":"../a"}"#, 401),
        ("/tap/v1/shake", r#"{"id":"a"}"#, 400),
        ("/tap/v1/shake", r#"{"secret":"a"}"#, 400),
        ("/tap/v1/shake", r#"{"id":"a","secret":"uP3"}"#, 401),
        ("/tap/v1/shake", r#"{"id":"nobody","secret":"uP3"}"#, 401),
        ("/tap/v1/shake", r#"{"id":"a","secret":"\u0000"}"#, 401),
    ] {
        let answer = raw(api, "POST", path, body, &[]).await;
        assert_eq!(answer.status, code, "{path} {body}: {answer}");
        assert!(answer.text.contains("\"status\":\"FAIL\""), "{path} {body}: {answer}");
    }
    let long = format!("{{\"id\":\"{}\"}}", "a".repeat(100_000));
    assert_eq!(raw(api, "POST", "/tap/v1/hand", &long, &[]).await.status, 413);
    let counted = api.get("/metrics").await.text;
    assert!(counted.contains("switchyard_auth_handshakes_total{end=\"gone\"} 3"), "{counted}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_switch_there_are_no_keys_and_sessions_end_in_their_time() {
    let short = Auth { session_ttl: Duration::from_secs(1), ..asked() };
    let cloud = Cloud::planned(Plan { auth: short, ..Plan::default() }).await;
    let holder = made(cloud.api(), "a", 60, &[]).await;
    let bearer = session(cloud.api(), cloud.api(), "a", &holder).await;
    eventually(PATIENCE, "the session to end", async || {
        let answer = status(cloud.api(), &bearer).await;
        if answer.status == 401 { Ok(()) } else { Err(answer) }
    })
    .await;
    cloud.stop().await;
    for off in [Auth { api_keys: false, ..asked() }, Auth { enabled: false, ..asked() }] {
        let cloud = Cloud::planned(Plan { auth: off, ..Plan::default() }).await;
        for (method, path) in
            [("POST", "/tap/v1/hand"), ("POST", "/tap/v1/shake"), ("GET", KEYS), ("POST", KEYS)]
        {
            let answer = root(cloud.api(), method, path, &json!({"id": "a"})).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer}");
            assert!(answer.text.contains("`api_keys` in `[auth]`"), "{answer}");
        }
        cloud.stop().await;
    }
}
