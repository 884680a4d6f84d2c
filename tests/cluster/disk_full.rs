//! A registry's disk fills: pushes are refused in words, what is there stays readable, and nothing half is left.

use crate::{
    support::{
        api::Api,
        cloud::{self, SOON},
        eventually::eventually,
        image::Image,
        namespaces, outside,
        place::Place,
    },
    turn,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_pushes_and_serves_reads() {
    let _turn = turn().await;
    if !namespaces::allowed("a_full_disk_refuses_pushes_and_serves_reads") {
        return;
    }
    let place = Place::new("full");
    let mut registry = cloud::registry_on_small_disk(
        &place,
        "r1",
        "64m",
        "[limits]\nreserve = \"8MiB\"\nupload_idle = \"1s\"\n",
    );
    registry.up().await;
    let (api, at) = (Api::new(registry.address), registry.address);

    let small = Image::write(&place.path("small"), 70, 2, 8);
    let large = Image::write(&place.path("large"), 71, 6, 16);
    cloud::push(&place, at, &small, "kept", "v1").await;

    let said = outside::push(&place, &large.layout, &format!("{at}/large:v1")).await;
    assert!(!said.ok, "96 MiB do not go onto 64");
    assert!(said.err.to_lowercase().contains("insufficient storage"), "the client is told why: {}", said.err);
    let session = api.post("/v2/large/blobs/uploads/", &serde_json::json!({})).await;
    assert_eq!(session.status, 202, "{session}");
    let to = session.header("location").expect("an upload goes on somewhere");
    let url = if to.starts_with('/') { format!("http://{at}{to}") } else { to.to_owned() };
    // Below the 16 MiB that a refusal reads on for: behind them the connection is cut, the answer with it or not.
    let refused = api.http().patch(url).body(vec![7; 12 << 20]).send().await.expect("an answer, not a reset");
    assert_eq!(refused.status().as_u16(), 507);
    let body: serde_json::Value = refused.json().await.expect("the error body of the OCI specification");
    let message = body["errors"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("space") && message.contains("MiB"), "{body}");

    // Still readable, in full, and nothing of the other is visible.
    let copy = outside::pull(&place, &format!("{at}/kept:v1"), &place.path("copy")).await;
    assert!(copy.ok, "{}", copy.err);
    let tags = api.get("/v2/large/tags/list").await;
    assert!(tags.status == 404 || tags.json()["tags"].as_array().is_some_and(Vec::is_empty), "{tags}");
    assert_eq!(api.get("/registry/v2/vm").await.ok().as_array().map(Vec::len), Some(1));
    assert_eq!(api.get("/livez").await.status, 200);

    // What the torn push left does not hold the disk for ever: what fits is taken again.
    let next = Image::write(&place.path("next"), 72, 1, 4);
    eventually(SOON, "a push that fits", || async {
        let said = outside::push(&place, &next.layout, &format!("{at}/next:v1")).await;
        if said.ok { Ok(()) } else { Err(said.err) }
    })
    .await;
    let copy = outside::pull(&place, &format!("{at}/next:v1"), &place.path("next-copy")).await;
    assert!(copy.ok, "{}", copy.err);
}
