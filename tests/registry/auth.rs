//! Who may come in at a registry, and what its own kind and clients of others do there.

use switchyard::config::auth::{Auth, RootToken};

use crate::{
    replication::{SOON, replica_config, url},
    rig::{Rig, config, limits},
    support::{eventually::eventually, image::Image, outside, place::Place},
};

pub(crate) const TOKEN: &str = "r00t-t%ken";

pub(crate) fn asked() -> Auth {
    Auth { enabled: true, root_token: RootToken::parse(TOKEN).ok(), api_keys: true, ..Auth::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_asks_for_a_credential_in_the_words_of_each_api() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::of(
        switchyard::config::registry::Registry { auth: asked(), ..config(dir.path(), limits()) },
        dir.path(),
    )
    .await;
    for open in ["/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(rig.get(open).await.status(), 200, "{open}");
    }
    for path in [
        "/",
        "/registry/status",
        "/registry/vm",
        "/registry/v2/vm",
        "/registry/disk",
        "/nothing",
        "/replication/v1/state",
        "/replication/v1/log",
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert!(!answer.headers().contains_key("www-authenticate"), "{path}");
        let text = answer.text().await.unwrap();
        assert_eq!(text, "{\"status\":\"FAIL\",\"message\":\"Authentication Required\"}\n", "{path}");
        let root = rig.ask("GET", path).basic_auth("", Some(TOKEN)).send().await.unwrap();
        assert_ne!(root.status(), 401, "{path}");
    }
    // Clients of OCI registries show nothing before they are asked, and look for the code.
    for (method, path) in [
        ("GET", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("HEAD", "/v2/a/blobs/sha256:x"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", "/v2/a/blobs/uploads/x"),
    ] {
        let answer = rig.ask(method, path).body("abc").send().await.unwrap();
        assert_eq!(answer.status(), 401, "{method} {path}");
        assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"switchyard\"", "{path}");
        let text = answer.text().await.unwrap();
        assert!(method == "HEAD" || text.contains("\"code\":\"UNAUTHORIZED\""), "{text}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_logs_in_by_name_and_password_and_replicas_by_the_root_token() {
    let place = Place::new("auth");
    let (one, two) = (place.path("one"), place.path("two"));
    let with = |config| switchyard::config::registry::Registry { auth: asked(), ..config };
    let writer = Rig::of(with(config(&one, limits())), &one).await;
    let copy = Rig::of(with(replica_config(&two, "r2", url(&writer), Vec::new())), &two).await;
    let image = Image::write(&place.path("in"), 11, 2, 2);
    let to = format!("docker://{}/mac/sonoma:14.5", writer.address);
    let from = format!("oci:{}", image.layout.display());
    let push = async |credential: &[&str]| {
        let begin = ["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"];
        outside::run(&place, "skopeo", &[&begin[..], credential, &[&from, &to]].concat()).await
    };
    let nobody = push(&["--dest-no-creds"]).await;
    assert!(!nobody.ok && nobody.err.contains("unauthorized"), "{}", nobody.err);
    assert!(!push(&["--dest-creds", "ci:wrong-token"]).await.ok);
    let known = push(&["--dest-creds", &format!("ci:{TOKEN}")]).await;
    assert!(known.ok, "{}", known.err);
    eventually(SOON, "the replica to have the tag", || async {
        let ask = copy.ask("HEAD", "/v2/mac/sonoma/manifests/14.5").basic_auth("ci", Some(TOKEN));
        let status = ask.send().await.unwrap().status();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let out = place.path("out");
    let read = [
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        "--src-creds",
        &format!("ci:{TOKEN}"),
        &format!("docker://{}/mac/sonoma:14.5", copy.address),
        &format!("oci:{}", out.display()),
    ];
    let pulled = outside::run(&place, "skopeo", &read).await;
    assert!(pulled.ok, "{}", pulled.err);
    copy.stop().await;
    writer.stop().await;
}
