//! Who may come in: `reference/authentication.md` §1 and §2, row by row, over real sockets.

use serde_json::json;
use switchyard::config::auth::{Auth, RootToken};

use crate::{
    cloud::{Cloud, Plan, raw},
    support::api::{Answer, Api},
};

/// With what makes trouble elsewhere: a colon, a percent, a quote.
pub(crate) const TOKEN: &str = "r00t:t%k\"en";

pub(crate) const REQUIRED: &str = "{\"status\":\"FAIL\",\"message\":\"Authentication Required\"}\n";

pub(crate) fn asked() -> Auth {
    Auth { enabled: true, root_token: RootToken::parse(TOKEN).ok(), api_keys: true, ..Auth::default() }
}

/// `Authorization: Basic` with this user and password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) async fn with(api: &Api, method: &str, path: &str, body: &str, authorization: &str) -> Answer {
    raw(api, method, path, body, &[("authorization", authorization)]).await
}

#[track_caller]
pub(crate) fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.text.as_str()), (401, REQUIRED), "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_credential_is_everything_but_a_few_paths() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let api = cloud.api();
    for open in ["/livez", "/healthz", "/readyz", "/metrics", "/config/v1/auth", "/", "/openapi"] {
        assert_eq!(api.get(open).await.status, 200, "{open}");
    }
    assert_eq!(api.get("/config/v1/auth").await.text, "{\"status\":\"OK\",\"message\":\"\",\"body\":{}}\n");
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/stats"),
        ("GET", "/api/v1/vm"),
        ("POST", "/api/v1/vm"),
        ("PUT", "/api/v1/vm?id=x"),
        ("DELETE", "/api/v1/vm"),
        ("GET", "/api/v1/node"),
        ("POST", "/api/v1/node/config"),
        ("GET", "/api/v1/group"),
        ("GET", "/api/v1/registry/vm"),
        ("GET", "/api/v1/registry/disk"),
        ("POST", "/switchyard/v1/join"),
        ("GET", "/switchyard/v1/tasks?node=n&session=s"),
        ("POST", "/switchyard/v1/heartbeat"),
        ("GET", "/nothing"),
        ("GET", "/livez/"),
        ("PATCH", "/api/v1/vm"),
    ] {
        refused(&api.call(method, path, Some(&json!({"vmid": "x"}))).await);
        let let_in = with(api, method, path, "{}", &basic("root", TOKEN)).await;
        assert!(![401, 403].contains(&let_in.status), "{method} {path}: {let_in}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_token_is_the_password_of_any_user_and_a_bad_header_never_counts_as_none() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let api = cloud.api();
    let status = async |authorization: &str| with(api, "GET", "/api/v1/status", "", authorization).await;
    for user in ["root", "", "somebody"] {
        let answer = status(&basic(user, TOKEN)).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{user}");
    }
    assert_eq!(status(&basic("root", TOKEN).replace("Basic", "basic")).await.status, 200);
    let long = format!("Basic {}", "A".repeat(30_000));
    for bad in [
        &*basic("root", ""),
        &basic("root", &TOKEN[1..]),
        &basic("root", &format!("{TOKEN}x")),
        &basic(TOKEN, ""),
        "Basic",
        "Basic !!!",
        "Bearer",
        "Bearer e30=",
        "Bearer a.b.c",
        &format!("Bearer {TOKEN}"),
        "",
        &long,
    ] {
        refused(&status(bad).await);
    }
    let twice = basic("root", TOKEN);
    let both = [("authorization", &*twice), ("authorization", &*twice)];
    refused(&raw(api, "GET", "/api/v1/status", "", &both).await);
    // A body is taken out of the way, so that its sender sees the answer.
    refused(&with(api, "POST", "/api/v1/vm", &"x".repeat(3_000_000), "Basic x").await);
    let counted = api.get("/metrics").await.text;
    assert!(counted.contains("switchyard_auth_refused_total{why=\"wrong\"}"), "{counted}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_shows_the_root_token_to_registries_that_ask_for_it() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    refused(&Api::new(&cloud.registry).get("/registry/v2/vm").await);
    let root = basic("", TOKEN);
    let list = with(cloud.api(), "GET", "/api/v1/registry/vm", "", &root).await;
    assert!(list.text.contains("\"status\":\"OK\""), "{list}");
    let status = with(cloud.api(), "GET", "/api/v1/status", "", &root).await;
    assert!(status.text.contains("\"registry_status\":\"Running\""), "{status}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_authentication_off_whatever_is_shown_is_ignored() {
    let off = Auth { enabled: false, ..asked() };
    let cloud = Cloud::planned(Plan { auth: off, ..Plan::default() }).await;
    for any in ["", "Basic", &basic("root", ""), &basic("root", "wrong-token"), "Bearer x", "Digest x"] {
        let answer = with(cloud.api(), "GET", "/api/v1/status", "", any).await;
        assert_eq!(answer.status, 200, "{any}");
    }
    cloud.stop().await;
}
