//! Small artifacts, pushed and read over plain HTTP: where a scenario needs many and wants to know of each answer.

use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use switchyard::{
    model::{Digest, Position},
    wire::headers,
};

use super::{
    api::Api,
    history::{self, Answer, History, Outcome},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest, its config and its layer. Equal labels give equal bytes.
#[derive(Clone)]
pub struct Artifact {
    manifest: Vec<u8>,
    blobs: [Vec<u8>; 2],
}

impl Artifact {
    /// With a layer of so many bytes of noise.
    pub fn new(label: &str, layer: usize) -> Self {
        let config = json!({ "architecture": "arm64", "os": "darwin", "of": label }).to_string().into_bytes();
        let mut noise = vec![0; layer];
        StdRng::from_seed(Digest::of(label.as_bytes()).as_bytes().try_into().expect("sha256"))
            .fill_bytes(&mut noise);
        let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("application/vnd.oci.image.config.v1+json", &config),
            "layers": [part("application/octet-stream", &noise)],
        });
        Self { manifest: manifest.to_string().into_bytes(), blobs: [config, noise] }
    }

    /// The manifest's digest.
    pub fn digest(&self) -> String {
        Digest::of(&self.manifest).to_string()
    }

    /// The layer's digest.
    pub fn layer(&self) -> String {
        Digest::of(&self.blobs[1]).to_string()
    }

    /// Pushes the blobs alone: nothing is visible after it.
    pub async fn push_blobs(&self, to: &Api, repository: &str) -> Result<(), String> {
        for blob in &self.blobs {
            push_blob(to, repository, blob).await?;
        }
        Ok(())
    }

    /// Publishes it under a tag: what makes it visible.
    pub async fn publish(&self, to: &Api, repository: &str, tag: &str) -> (Outcome, Option<Position>) {
        let url = format!("{}/v2/{repository}/manifests/{tag}", to.base());
        let sent =
            to.http().put(url).header("content-type", MANIFEST).body(self.manifest.clone()).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            // Not a byte of it has left.
            Err(error) if error.is_connect() => return (Outcome::Refused(format!("{error:?}")), None),
            Err(error) => return (Outcome::Unknown(format!("{error:?}")), None),
        };
        let status = answer.status().as_u16();
        let (position, from_proxy) =
            (position(answer.headers()), answer.headers().contains_key(headers::ANSWERED_BY));
        let text = answer.text().await.unwrap_or_default();
        match status {
            201 => (Outcome::Acknowledged, position),
            // The proxy says 503 only of what it has not sent; a registry may say it of what it has done.
            400..=499 | 507 => (Outcome::Refused(format!("{status}: {text}")), None),
            503 if from_proxy => (Outcome::Refused(format!("{status}: {text}")), None),
            _ => (Outcome::Unknown(format!("{status}: {text}")), None),
        }
    }

    /// Pushes all of it; panics with what was answered if it is not taken.
    #[track_caller]
    pub fn push<'a>(
        &'a self,
        to: &'a Api,
        repository: &'a str,
        tag: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let blobs = self.push_blobs(to, repository).await;
            assert_eq!(blobs, Ok(()), "at {caller}: {}/{repository}:{tag}", to.base());
            let (outcome, _) = self.publish(to, repository, tag).await;
            assert_eq!(outcome, Outcome::Acknowledged, "at {caller}: {}/{repository}:{tag}", to.base());
        }
    }
}

async fn push_blob(to: &Api, repository: &str, bytes: &[u8]) -> Result<(), String> {
    let begin = format!("{}/v2/{repository}/blobs/uploads/", to.base());
    let began = to.http().post(begin).send().await.map_err(|error| format!("{error:?}"))?;
    let (status, location) = (began.status().as_u16(), began.headers().get("location").cloned());
    let text = began.text().await.unwrap_or_default();
    let location = location.as_ref().and_then(|location| location.to_str().ok());
    let (202, Some(location)) = (status, location) else { return Err(format!("{status}: {text}")) };
    let to_url =
        if location.starts_with('/') { format!("{}{location}", to.base()) } else { location.to_owned() };
    let joint = if to_url.contains('?') { '&' } else { '?' };
    let put = to.http().put(format!("{to_url}{joint}digest={}", Digest::of(bytes))).body(bytes.to_vec());
    let done = put.send().await.map_err(|error| format!("{error:?}"))?;
    match done.status().as_u16() {
        201 => Ok(()),
        status => Err(format!("{status}: {}", done.text().await.unwrap_or_default())),
    }
}

/// What a read of a tag gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    pub answer: Answer,
    /// What the stale mark says, if there is one.
    pub stale: Option<String>,
    pub position: Option<Position>,
    /// The blobs that the manifest names.
    pub blobs: Vec<String>,
}

impl Read {
    /// The digest, read in full and unmarked; panics on anything else.
    #[track_caller]
    pub fn fresh(&self) -> &str {
        assert_eq!(self.stale, None, "a mark on what should be fresh: {self:?}");
        self.digest()
    }

    /// The digest; panics when there is none.
    #[track_caller]
    pub fn digest(&self) -> &str {
        match &self.answer {
            Answer::Found(digest) => digest,
            other => panic!("not read: {other:?}"),
        }
    }
}

/// Reads a tag's manifest and checks it against its own digest; the blobs are left alone.
pub async fn read(from: &Api, repository: &str, tag: &str) -> Read {
    let nothing = |answer| Read { answer, stale: None, position: None, blobs: Vec::new() };
    let url = format!("{}/v2/{repository}/manifests/{tag}", from.base());
    let got = match from.http().get(url).header("accept", MANIFEST).send().await {
        Ok(got) => got,
        Err(error) => return nothing(Answer::Failed(format!("{error:?}"))),
    };
    let (status, head) = (got.status().as_u16(), got.headers().clone());
    let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (stale, position) = (text(headers::STALE), position(&head));
    let bytes = match got.bytes().await {
        Ok(bytes) => bytes,
        Err(error) => return nothing(Answer::Failed(format!("{error:?}"))),
    };
    let (answer, blobs) = match status {
        200 => {
            let digest = Digest::of(&bytes).to_string();
            match text("docker-content-digest") {
                Some(named) if named == digest => (Answer::Found(digest), blobs_of(&bytes)),
                named => (Answer::Half(format!("{named:?} with the bytes of {digest}")), Vec::new()),
            }
        }
        404 => (Answer::Missing, Vec::new()),
        _ => (Answer::Failed(format!("{status}: {}", String::from_utf8_lossy(&bytes))), Vec::new()),
    };
    Read { answer, stale, position, blobs }
}

/// The same with every blob, each checked: a tag that lacks one is half. A blob that could not be asked for
/// proves nothing.
pub async fn read_all(from: &Api, repository: &str, tag: &str) -> Read {
    let mut read = read(from, repository, tag).await;
    check_blobs(&mut read, from, repository).await;
    read
}

async fn check_blobs(read: &mut Read, from: &Api, repository: &str) {
    for blob in &read.blobs {
        if let Err(wrong) = read_blob(from, repository, blob).await {
            read.answer = Answer::Half(wrong);
            return;
        }
    }
}

/// `Err` when the blob is not there or is another; `Ok(false)` when that cannot be told.
pub async fn read_blob(from: &Api, repository: &str, digest: &str) -> Result<bool, String> {
    let url = format!("{}/v2/{repository}/blobs/{digest}", from.base());
    let Ok(got) = from.http().get(url).send().await else { return Ok(false) };
    let status = got.status().as_u16();
    let Ok(bytes) = got.bytes().await else { return Ok(false) };
    match status {
        200 if Digest::of(&bytes).to_string() == digest => Ok(true),
        200 => Err(format!("blob {digest} came with the bytes of {}", Digest::of(&bytes))),
        404 => Err(format!("blob {digest} is missing: {}", String::from_utf8_lossy(&bytes))),
        _ => Ok(false),
    }
}

fn blobs_of(manifest: &[u8]) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let layers = manifest["layers"].as_array().into_iter().flatten();
    layers
        .chain([&manifest["config"]])
        .filter_map(|part| part["digest"].as_str())
        .map(str::to_owned)
        .collect()
}

fn position(headers: &reqwest::header::HeaderMap) -> Option<Position> {
    headers.get(headers::POSITION)?.to_str().ok()?.parse().ok()
}

/// Publishes an artifact whose blobs are there already, and records how that went.
pub async fn record_publish(
    history: &History,
    artifact: &Artifact,
    to: &Api,
    repository: &str,
    tag: &str,
) -> Outcome {
    let number = history.begins(format!("{repository}:{tag}"), artifact.digest());
    let (outcome, position) = artifact.publish(to, repository, tag).await;
    history.ends(number, outcome.clone(), position);
    outcome
}

/// Reads a tag with its blobs, and records what came.
pub async fn record_read(history: &History, client: &str, from: &Api, repository: &str, tag: &str) -> Read {
    let begin = history.now();
    let mut seen = read(from, repository, tag).await;
    // What the tag said was said by now; the blobs take longer.
    let end = history.now();
    check_blobs(&mut seen, from, repository).await;
    history.read(history::Read {
        client: client.to_owned(),
        tag: format!("{repository}:{tag}"),
        begin,
        end,
        answer: seen.answer.clone(),
        stale: seen.stale.clone(),
        position: seen.position,
    });
    seen
}
