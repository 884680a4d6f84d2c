//! Pushes by hand, as an OCI client does: blobs in one piece, then the manifest under a tag.

use serde_json::{Value, json};
use switchyard::model::Digest;

/// Pushes an image of these layers; answers its manifest's digest.
pub(crate) async fn image(registry: &str, repository: &str, tag: &str, layers: &[&[u8]]) -> String {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let config =
        json!({ "architecture": "arm64", "os": "darwin", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = blob(&http, registry, repository, config.to_string().as_bytes()).await;
    let mut pushed = Vec::new();
    for layer in layers {
        let mut layer = blob(&http, registry, repository, layer).await;
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        pushed.push(layer);
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": pushed,
    })
    .to_string();
    let digest = Digest::of(manifest.as_bytes()).to_string();
    let answer = http
        .put(format!("{registry}/v2/{repository}/manifests/{}", tag.replace('+', "%2B")))
        .header("content-type", "application/vnd.oci.image.manifest.v1+json")
        .body(manifest)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    digest
}

/// Pushes one blob; answers its descriptor.
async fn blob(http: &reqwest::Client, registry: &str, repository: &str, content: &[u8]) -> Value {
    let digest = Digest::of(content);
    let session = http.post(format!("{registry}/v2/{repository}/blobs/uploads/")).send().await.unwrap();
    assert_eq!(session.status(), 202, "{:?}", session.headers());
    let location = session.headers()["location"].to_str().unwrap().to_owned();
    let location = if location.starts_with('/') { format!("{registry}{location}") } else { location };
    let glue = if location.contains('?') { '&' } else { '?' };
    let put =
        http.put(format!("{location}{glue}digest={digest}")).body(content.to_vec()).send().await.unwrap();
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": content.len() })
}
