//! A registry in this process, and a client of it that says what it sends.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use switchyard::{
    config::{
        Log, Server,
        registry::{Limits, Registry as Config, Replication, Storage},
    },
    model::Digest,
    registry::Registry,
    supervise::{Stage, Tree},
};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) dir: PathBuf,
    tree: Tree,
    client: reqwest::Client,
}

pub(crate) fn limits() -> Limits {
    Limits { reserve: 1024 * 1024, ..Limits::default() }
}

pub(crate) fn config(dir: &Path, limits: Limits) -> Config {
    Config {
        server: Server {
            listen: "127.0.0.1:0".parse().unwrap(),
            name: "r1".into(),
            grace: Duration::from_secs(5),
            address_file: None,
            advertise: None,
            zone: None,
            tls: None,
        },
        log: Log::default(),
        auth: Default::default(),
        access: switchyard::telemetry::Access::Off,
        storage: Storage::Disk(dir.to_owned()),
        limits,
        upkeep: Default::default(),
        replication: Replication::default(),
        members: None,
    }
}

impl Rig {
    pub(crate) async fn new(dir: &Path) -> Self {
        Self::with(dir, limits()).await
    }

    pub(crate) async fn with(dir: &Path, limits: Limits) -> Self {
        Self::of(config(dir, limits), dir).await
    }

    pub(crate) async fn of(config: Config, dir: &Path) -> Self {
        let tree = Tree::new();
        let role = Registry::open(config, tree.handle()).await.unwrap();
        let address = role.address();
        tree.handle().start_vital(Stage::Edge, "registry", |stop| role.run(stop));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { address, dir: dir.to_owned(), tree, client }
    }

    /// Stops it, so that the directory can be opened again.
    pub(crate) async fn stop(self) {
        drop(self.client);
        self.tree.shut_down(Duration::from_secs(10)).await;
    }

    pub(crate) async fn restarted(self) -> Self {
        let dir = self.dir.clone();
        self.stop().await;
        Self::new(&dir).await
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method: Method = method.parse().unwrap();
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask("GET", path).send().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// Opens an upload session; gives its path.
    pub(crate) async fn session(&self, name: &str) -> String {
        let began = self.ask("POST", &format!("/v2/{name}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(began.status(), StatusCode::ACCEPTED);
        header(&began, "location")
    }

    /// Pushes a blob at once.
    pub(crate) async fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let pushed = self.ask("POST", &path).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(pushed.status(), StatusCode::CREATED, "{}", pushed.text().await.unwrap());
        digest
    }

    pub(crate) async fn put_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Response {
        let kind = manifest["mediaType"].as_str().unwrap_or(MANIFEST);
        let put = self.ask("PUT", &format!("/v2/{name}/manifests/{reference}")).header("content-type", kind);
        put.body(manifest.to_string()).send().await.unwrap()
    }

    /// Pushes a whole image with these layers; gives its manifest's digest.
    pub(crate) async fn image(&self, name: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let config = format!(r#"{{"architecture":"arm64","of":"{name}:{tag}"}}"#);
        self.image_with(name, tag, &config, layers).await
    }

    pub(crate) async fn image_with(&self, name: &str, tag: &str, config: &str, layers: &[&[u8]]) -> Digest {
        self.blob(name, config.as_bytes()).await;
        for layer in layers {
            self.blob(name, layer).await;
        }
        let manifest = image(config.as_bytes(), layers);
        let put = self.put_manifest(name, tag, &manifest).await;
        assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
        Digest::of(manifest.to_string().as_bytes())
    }

    /// Reads everything that a tag needs, checked by digest; panics on anything half.
    pub(crate) async fn assert_complete(&self, name: &str, tag: &str) {
        let manifest = self.get(&format!("/v2/{name}/manifests/{tag}")).await;
        assert_eq!(manifest.status(), StatusCode::OK, "{name}:{tag}");
        let digest = header(&manifest, "docker-content-digest");
        let bytes = manifest.bytes().await.unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), digest, "{name}:{tag}");
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        for part in layers.iter().chain([&manifest["config"]]) {
            let digest = part["digest"].as_str().unwrap();
            let blob = self.get(&format!("/v2/{name}/blobs/{digest}")).await;
            assert_eq!(blob.status(), StatusCode::OK, "{name}:{tag} needs {digest}");
            let named = Digest::parse(digest).unwrap();
            assert_eq!(named.algorithm().of(&blob.bytes().await.unwrap()), named);
        }
    }
}

/// An image manifest.
pub(crate) fn image(config: &[u8], layers: &[&[u8]]) -> Value {
    let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(|layer| part("application/octet-stream", layer)).collect::<Vec<_>>(),
    })
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// Status and OCI error code of a refusal; panics when the body is not the standard one.
pub(crate) async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("an OCI error body");
    assert!(body["errors"][0]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    (status, body["errors"][0]["code"].as_str().expect("a code").to_owned())
}

/// Bytes that are not all alike.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = vec![0; len];
    for byte in &mut out {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        *byte = (state >> 32) as u8;
    }
    out
}

/// Files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
