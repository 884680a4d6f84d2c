//! A push over a quota is refused before its bytes are taken, and told before that.

use std::path::Path;

use switchyard::config::registry::{Gc, Quota};

use crate::rig::{Rig, config, image, limits, noise, refusal};

const MB: u64 = 1_000_000;

async fn rig(dir: &Path, total: Option<u64>, template: Option<u64>) -> Rig {
    let mut config = config(dir, limits());
    config.upkeep.quota = Quota { total, template, warn: 50 };
    config.upkeep.gc = Gc { enabled: false, ..Gc::default() };
    Rig::of(config, dir).await
}

async fn push(rig: &Rig, name: &str, bytes: &[u8]) -> reqwest::Response {
    let digest = switchyard::model::Digest::of(bytes);
    let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
    rig.ask("POST", &path).body(bytes.to_vec()).send().await.unwrap()
}

/// A manifest of layers that are there already.
async fn name(rig: &Rig, name: &str, tag: &str, layers: &[&[u8]]) -> reqwest::Response {
    rig.blob(name, b"{}").await;
    rig.put_manifest(name, tag, &image(b"{}", layers)).await
}

#[tokio::test]
async fn a_registry_that_is_full_by_its_quota_refuses_what_is_declared_and_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), Some(4 * MB), None).await;
    let half = noise(1, 2_500_000);
    rig.image("a", "t", &[&half]).await;
    let ready = rig.get("/readyz").await.text().await.unwrap();
    assert!(ready.contains("this registry has") && ready.contains("of its quota of"), "{ready}");
    let refused = push(&rig, "b", &noise(2, 2_500_000)).await;
    let text = refused.headers().clone();
    assert_eq!(refusal(refused).await, (403, "DENIED".into()), "{text:?}");
    // Of unknown length: as much as there is room for.
    let session = rig.session("b").await;
    let pieces = (0..30).map(|n| Ok::<_, std::io::Error>(noise(n, 100_000)));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let streamed = rig.ask("PATCH", &session).body(body).send().await.unwrap();
    assert_eq!(refusal(streamed).await, (403, "DENIED".into()));
    // What is here already takes nothing, and what fits is taken.
    let mount = switchyard::model::Digest::of(&half);
    let mounted =
        rig.ask("POST", &format!("/v2/b/blobs/uploads/?mount={mount}&from=a")).send().await.unwrap();
    assert_eq!(mounted.status(), 201);
    let more = noise(3, 500_000);
    rig.blob("b", &more).await;
    assert_eq!(name(&rig, "b", "t", &[&half, &more]).await.status(), 201);
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_quota_used_ratio 0.7"), "{metrics}");
}

#[tokio::test]
async fn a_template_counts_every_layer_once_and_is_refused_at_its_manifest_at_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), None, Some(3 * MB)).await;
    let (base, top) = (noise(1, 2_000_000), noise(2, 500_000));
    rig.image("a", "one", &[&base]).await;
    rig.blob("a", &top).await;
    assert_eq!(name(&rig, "a", "two", &[&base, &top]).await.status(), 201);
    let ready = rig.get("/readyz").await.text().await.unwrap();
    assert!(ready.contains("`a` has 2.4 MiB of its quota of 2.9 MiB"), "{ready}");
    assert_eq!(refusal(push(&rig, "a", &noise(3, 1_000_000)).await).await, (403, "DENIED".into()));
    // Another template has a part of its own; layers that it mounts count for it, too.
    let other = noise(4, 1_500_000);
    rig.image("b", "t", &[&other]).await;
    let mount = switchyard::model::Digest::of(&base);
    let mounted =
        rig.ask("POST", &format!("/v2/b/blobs/uploads/?mount={mount}&from=a")).send().await.unwrap();
    assert_eq!(mounted.status(), 201);
    let refused = name(&rig, "b", "u", &[&other, &base]).await;
    assert_eq!(refusal(refused).await, (403, "DENIED".into()));
    // Deleting makes room at once.
    assert_eq!(rig.ask("DELETE", "/v2/b/manifests/t").send().await.unwrap().status(), 202);
    let list = rig.json("/registry/v2/vm").await;
    let of = list["body"].as_array().unwrap().iter().find(|template| template["name"] == "a").unwrap();
    let path = format!("/registry/vm?id={}", of["id"].as_str().unwrap());
    assert_eq!(rig.ask("DELETE", &path).send().await.unwrap().status(), 200);
    rig.image("a", "new", &[&other]).await;
}
