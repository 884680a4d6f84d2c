//! A client of others, as people use it.

use serde_json::json;

use crate::{
    rig::Rig,
    support::{image::Image, outside, place::Place},
};

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_an_image_in_and_out_unchanged() {
    let place = Place::new("skopeo");
    let rig = Rig::new(&place.path("storage")).await;
    let image = Image::write(&place.path("in"), 11, 3, 6);
    let at = format!("{}/mac/sonoma:14.5", rig.address);
    let said = outside::push(&place, &image.layout, &at).await;
    assert!(said.ok, "{}", said.err);
    // Again, and to a second repository: every layer is there already.
    let again = outside::push(&place, &image.layout, &at).await;
    assert!(again.ok && again.err.is_empty(), "{}", again.err);
    let clone = outside::push(&place, &image.layout, &format!("{}/mac/clone:1", rig.address)).await;
    assert!(clone.ok, "{}", clone.err);

    rig.assert_complete("mac/sonoma", "14.5").await;
    let out = place.path("out");
    let said = outside::pull(&place, &at, &out).await;
    assert!(said.ok, "{}", said.err);
    for (digest, size) in &image.layers {
        let blob = out.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        assert_eq!(std::fs::metadata(blob).unwrap().len(), *size);
    }
    let manifest = image.manifest.trim_start_matches("sha256:");
    assert!(out.join("blobs/sha256").join(manifest).exists(), "the manifest is the same, to the byte");

    let tls = "--tls-verify=false";
    let listed =
        outside::run(&place, "skopeo", &["list-tags", tls, &format!("docker://{}/mac/sonoma", rig.address)])
            .await;
    let listed: serde_json::Value = serde_json::from_str(&listed.out).expect("a list");
    assert_eq!(listed["Tags"], json!(["14.5"]));
    let inspected = outside::run(&place, "skopeo", &["inspect", tls, &format!("docker://{at}")]).await;
    let inspected: serde_json::Value = serde_json::from_str(&inspected.out).expect("what it is");
    assert_eq!(inspected["Digest"], image.manifest);
    assert_eq!(inspected["RepoTags"], json!(["14.5"]));
    let layers: Vec<&str> = image.layers.iter().map(|(digest, _)| digest.as_str()).collect();
    assert_eq!(inspected["Layers"], json!(layers));
    let gone = outside::run(&place, "skopeo", &["delete", tls, &format!("docker://{at}")]).await;
    assert!(gone.ok, "{}", gone.err);
    assert_eq!(rig.get("/v2/mac/sonoma/manifests/14.5").await.status(), 404);
    rig.assert_complete("mac/clone", "1").await;
}
