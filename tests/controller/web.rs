//! What browsers and installers get of a controller beside the API: packages, CORS, a page, and words for the vendor's
//! calls that it has no answer to.

use std::fs;

use switchyard::config::{
    auth::{Auth, RootToken},
    controller::Web,
};
use tempfile::TempDir;

use crate::{
    cloud::{Cloud, Plan, raw},
    support::api::Answer,
};

const PACKAGE: &str = "AnkaAgentArm.pkg";

fn packages() -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(dir.path().join(PACKAGE), &bytes).unwrap();
    fs::write(dir.path().join(".hidden"), "x").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/inner"), "x").unwrap();
    (dir, bytes)
}

/// A cloud that asks for credentials, as a host that installs its agent has none.
async fn closed(web: Web) -> Cloud {
    let auth = Auth { enabled: true, root_token: RootToken::parse("the-root-token").ok(), ..Auth::default() };
    Cloud::planned(Plan { auth, web, registry: false, ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_credential_gets_the_package_whole_or_in_parts() {
    let (dir, bytes) = packages();
    let cloud = closed(Web { packages: Some(dir.path().into()), ..Web::default() }).await;
    let http = cloud.api().http();
    let url = format!("{}/pkg/{PACKAGE}", cloud.api().base());
    let answer = http.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let changed = answer.headers()["last-modified"].clone();
    assert!(answer.bytes().await.unwrap() == bytes[..]);
    let part = http.get(&url).header("range", "bytes=999990-").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert!(part.bytes().await.unwrap() == bytes[999_990..]);
    assert_eq!(http.get(&url).header("range", "bytes=2000000-").send().await.unwrap().status(), 416);
    assert_eq!(http.get(&url).header("if-modified-since", changed).send().await.unwrap().status(), 304);
    let head = http.head(&url).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"1000000".parse().unwrap())
    );
    for other in
        ["missing.pkg", ".hidden", "sub", "sub%2Finner", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "%00"]
    {
        let answer = raw(cloud.api(), "GET", &format!("/pkg/{other}"), "", &[]).await;
        assert!(answer.status >= 400 && answer.status < 500, "{other}: {answer:?}");
        assert!(!answer.text.contains("root:"), "{other}: {answer:?}");
    }
    // No failure of the server, for which a proxy would eject it.
    let long = raw(cloud.api(), "GET", &format!("/pkg/{}", "n".repeat(3000)), "", &[]).await;
    assert!(long.is_clean(404), "{long:?}");
    let missing = raw(cloud.api(), "GET", "/pkg/missing.pkg", "", &[]).await;
    assert!(
        missing.is_clean(404) && missing.text.contains("no file `missing.pkg` in `packages`"),
        "{missing:?}"
    );
    assert!(raw(cloud.api(), "DELETE", &format!("/pkg/{PACKAGE}"), "", &[]).await.is_clean(405));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_takes_are_bounded_and_leave_the_api_alone() {
    let dir = tempfile::tempdir().unwrap();
    // More than the buffers of a connection hold.
    fs::File::create(dir.path().join(PACKAGE)).unwrap().set_len(64 << 20).unwrap();
    let cloud = closed(Web { packages: Some(dir.path().into()), ..Web::default() }).await;
    let url = format!("{}/pkg/{PACKAGE}", cloud.api().base());
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let answer = cloud.api().http().get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        stalled.push(answer);
    }
    let refused = raw(cloud.api(), "GET", &format!("/pkg/{PACKAGE}"), "", &[]).await;
    assert!(refused.is_clean(503) && refused.headers.contains_key("retry-after"), "{refused:?}");
    assert!(raw(cloud.api(), "GET", "/api/v1/vm", "", &[]).await.is_clean(401));
    drop(stalled);
    crate::support::eventually::eventually(crate::cloud::PATIENCE, "a place is free again", async || {
        let again = cloud.api().http().get(&url).send().await.unwrap();
        if again.status() == 200 { Ok(()) } else { Err(again.status()) }
    })
    .await;
    cloud.stop().await;
}

/// What a browser goes by.
fn allowed(answer: &Answer) -> Option<&str> {
    answer.headers.get("access-control-allow-origin").and_then(|value| value.to_str().ok())
}

const PAGE: (&str, &str) = ("origin", "https://ci.example");

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_call_the_api_where_it_is_allowed() {
    let cloud = closed(Web { allow_cors: true, packages: None }).await;
    let asks = [
        PAGE,
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let preflight = raw(cloud.api(), "OPTIONS", "/api/v1/vm", "", &asks).await;
    assert_eq!((preflight.status, allowed(&preflight)), (200, Some("*")), "{preflight:?}");
    assert_eq!(preflight.headers["access-control-allow-methods"], "*");
    // By name: `*` would leave out the one that matters.
    assert_eq!(preflight.headers["access-control-allow-headers"], "authorization,content-type");
    for (path, status) in [
        ("/api/v1/status", 401),
        ("/no/such/route", 401),
        ("/pkg/x", 404),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/openapi.json", 200),
    ] {
        let answer = raw(cloud.api(), "GET", path, "", &[PAGE]).await;
        assert_eq!((answer.status, allowed(&answer)), (status, Some("*")), "{path}: {answer:?}");
    }
    cloud.stop().await;

    let cloud = closed(Web::default()).await;
    let preflight = raw(cloud.api(), "OPTIONS", "/api/v1/vm", "", &asks).await;
    assert!(preflight.status >= 400 && allowed(&preflight).is_none(), "{preflight:?}");
    let answer = raw(cloud.api(), "GET", "/readyz", "", &[PAGE]).await;
    assert!(answer.status == 200 && allowed(&answer).is_none(), "{answer:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_with_a_call_that_is_not_here_is_told_what_to_do() {
    let cloud = Cloud::planned(Plan { registry: false, ..Plan::default() }).await;
    for (method, path, words) in [
        ("GET", "/pkg/AnkaAgent.pkg", "name their directory as `packages` in `[web]`"),
        ("GET", "/queue/v1/cmd/task", "`switchyard agent join URL`"),
        ("POST", "/queue/v1/controller/task", "`switchyard agent join URL`"),
        ("GET", "/admin/v1/api/permission/resources/permissions", "`resource_management` in `[auth]`"),
        ("POST", "/admin/api/v1/permission/group/g/resources", "`resource_management` in `[auth]`"),
        ("GET", "/oidc/v1/callback?code=x&state=y", "no identity provider"),
    ] {
        let answer = raw(cloud.api(), method, path, "[]", &[]).await;
        assert!(answer.is_clean(404) && answer.text.contains(words), "{path}: {answer:?}");
    }
    let page = raw(cloud.api(), "GET", "/", "", &[]).await;
    assert!(page.status == 200 && page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let links = page.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut followed = 0;
    for link in links {
        assert_eq!(raw(cloud.api(), "GET", link, "", &[]).await.status, 200, "{link}");
        followed += 1;
    }
    assert!(followed >= 5, "{}", page.text);
    cloud.stop().await;
}
