//! A client library of others, as programs use it.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use oci_client::{
    Client, Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol, Config, ImageLayer},
    errors::OciDistributionError,
    manifest::{IMAGE_LAYER_MEDIA_TYPE, OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use switchyard::{config::registry::Storage, model::Digest};

use crate::{
    rig::{Rig, config, limits, noise},
    support::place::Place,
};

const SIGNATURE: &str = "application/vnd.example.signature.v1";

fn client(monolithic: bool) -> Client {
    Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        use_monolithic_push: monolithic,
        // The one of the environment is not asked.
        http_proxy: Some("http://127.0.0.1:1".into()),
        no_proxy: Some("127.0.0.1".into()),
        ..ClientConfig::default()
    })
}

fn layer(bytes: &[u8]) -> ImageLayer {
    ImageLayer::oci_v1(bytes.to_vec(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_pushes_pulls_lists_mounts_and_follows_referrers() {
    let place = Place::new("library");
    join_all(["disk", "shared"].map(async |kind| {
        let dir = place.path(kind);
        let mut config = config(&dir, limits());
        if kind == "shared" {
            config.storage = Storage::Shared(dir.clone());
        }
        let rig = Rig::of(config, &dir).await;
        // In their chunks, of which one layer has more than one, and in one request.
        drive(&rig, &client(false), "mac/chunks", (4 << 20) + 1).await;
        drive(&rig, &client(true), "mac/whole", 100_000).await;
        rig.stop().await;
    }))
    .await;
}

async fn drive(rig: &Rig, client: &Client, repository: &str, largest: usize) {
    let at =
        |reference: &str| format!("{}/{repository}{reference}", rig.address).parse::<Reference>().unwrap();
    let anonymous = RegistryAuth::Anonymous;
    client.store_auth_if_needed(&rig.address.to_string(), &anonymous).await;
    let contents = [noise(3, largest), noise(4, 70_000), vec![7]];
    let layers: Vec<ImageLayer> = contents.iter().map(|bytes| layer(bytes)).collect();
    let image = || Config::oci_v1(br#"{"architecture":"arm64","os":"darwin"}"#.to_vec(), None);

    // What is not there is told in a way that it understands.
    match client.pull(&at(":1"), &anonymous, vec![IMAGE_LAYER_MEDIA_TYPE]).await {
        Err(OciDistributionError::RegistryError { envelope, .. }) => assert_eq!(envelope.errors.len(), 1),
        Err(OciDistributionError::ImageManifestNotFoundError(_)) => {}
        other => panic!("nothing was pushed, and a pull says {:?}", other.map(|image| image.digest)),
    }
    for tag in [":1", ":2"] {
        client.push(&at(tag), &layers, image(), &anonymous, None).await.unwrap();
    }
    rig.assert_complete(repository, "1").await;

    let pulled = client.pull(&at(":1"), &anonymous, vec![IMAGE_LAYER_MEDIA_TYPE]).await.unwrap();
    let mut got: Vec<&[u8]> = pulled.layers.iter().map(|layer| layer.data.as_ref()).collect();
    got.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    assert!(got == contents.iter().map(Vec::as_slice).collect::<Vec<_>>(), "layers came back changed");
    assert_eq!(pulled.config.data, image().data);
    let digest = client.fetch_manifest_digest(&at(":2"), &anonymous).await.unwrap();
    assert_eq!(pulled.digest.as_deref(), Some(digest.as_str()), "the same image is the same manifest");
    let tags = client.list_tags(&at(""), &anonymous, None, None).await.unwrap();
    assert_eq!((tags.name.as_str(), tags.tags), (repository, vec!["1".to_owned(), "2".to_owned()]));
    let rest = client.list_tags(&at(""), &anonymous, Some(1), Some("1")).await.unwrap();
    assert_eq!(rest.tags, ["2"]);
    let all = client.catalog(&at(""), &anonymous, None, None).await.unwrap();
    assert!(all.repositories.iter().any(|name| name == repository));

    // A stream whose digest nobody knows before its end, and a stretch of what came of it.
    let pieces: Vec<Bytes> = noise(9, 300_000).chunks(7_000).map(Bytes::copy_from_slice).collect();
    let sent = stream::iter(pieces.into_iter().map(Ok));
    let pushed = client.push_blob_stream_chunked(&at(":1"), sent).await.unwrap();
    assert_eq!(pushed.blob_digest, Digest::of(&noise(9, 300_000)).to_string());
    let part = OciDescriptor { digest: pushed.blob_digest.clone(), ..OciDescriptor::default() };
    let BlobResponse::Partial(mut part) =
        client.pull_blob_stream_partial(&at(":1"), &part, 100_000, Some(1_000)).await.unwrap()
    else {
        panic!("a range is answered with all of it")
    };
    let mut stretch = Vec::new();
    while let Some(piece) = part.stream.next().await {
        stretch.extend_from_slice(&piece.unwrap());
    }
    assert!(stretch == noise(9, 300_000)[100_000..101_000], "{} bytes of another stretch", stretch.len());

    // Elsewhere by name alone.
    let elsewhere = format!("{}/{repository}-fork:1", rig.address).parse::<Reference>().unwrap();
    assert!(!client.blob_exists(&elsewhere, &pushed.blob_digest).await.unwrap());
    client.mount_blob(&elsewhere, &at(":1"), &pushed.blob_digest).await.unwrap();
    assert!(client.blob_exists(&elsewhere, &pushed.blob_digest).await.unwrap());

    // What is about the image is found by its digest.
    let config = Config::new(b"{}".to_vec(), "application/vnd.oci.empty.v1+json".into(), None);
    let (notes, signed) = ([layer(b"signed")], BTreeMap::from([("by".to_owned(), "ci".to_owned())]));
    let mut signature = OciImageManifest::build(&notes, &config, Some(signed));
    signature.artifact_type = Some(SIGNATURE.into());
    signature.subject = Some(OciDescriptor { digest: digest.clone(), size: 1, ..OciDescriptor::default() });
    client.push(&at(":signature"), &notes, config, &anonymous, Some(signature)).await.unwrap();
    let named = at(&format!("@{digest}"));
    let found = client.pull_referrers(&named, Some(SIGNATURE)).await.unwrap();
    assert_eq!(found.manifests.len(), 1);
    assert_eq!(found.manifests[0].artifact_type.as_deref(), Some(SIGNATURE));
    assert!(client.pull_referrers(&named, Some("application/other")).await.unwrap().manifests.is_empty());

    // It has no call to delete by: after somebody else's it sees that.
    let gone = rig.ask("DELETE", &format!("/v2/{repository}/manifests/{digest}")).send().await.unwrap();
    assert_eq!(gone.status(), 202);
    assert!(client.fetch_manifest_digest(&at(":1"), &anonymous).await.is_err());
    let tags = client.list_tags(&at(""), &anonymous, None, None).await.unwrap();
    assert_eq!(tags.tags, ["signature"]);
}
