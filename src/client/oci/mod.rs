//! Pulling from a registry by the OCI Distribution API: manifests by digest, blobs into files.
//!
//! Nothing a registry says is believed: a manifest is hashed, a blob is hashed as it arrives, neither may be
//! longer than it should, and a server that goes silent is given up on. A blob that broke off is gone on with.

mod partial;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{StatusCode, header};

pub use partial::Partial;

use super::{ClientError, Credentials, Login, answer};
use crate::{
    config::BaseUrl,
    model::{Digest, RepositoryName},
    tls::Http,
};

/// Longest manifest that is read; registries take no longer ones.
const MANIFEST: usize = 4 * 1024 * 1024;

/// Most of an error body that is read.
const ERROR: usize = 64 * 1024;

/// Redirects that are followed: a registry may send a download on to where the bytes lie. No credential is
/// ever sent, so none can be led astray.
const REDIRECTS: usize = 3;

/// The kinds of manifest that are understood.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Why a pull did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The call itself.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The registry does not have it.
    #[error("the registry does not have `{what}`")]
    Missing {
        /// Repository and digest.
        what: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{expected} arrived as {got}; the copy was thrown away")]
    Corrupt {
        /// Asked for.
        expected: Digest,
        /// Arrived.
        got: Digest,
    },
    /// More bytes than the manifest says.
    #[error("{digest} is longer than the {size} bytes that its manifest says; the copy was thrown away")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// Fewer bytes than the manifest says; what came is kept.
    #[error("{digest} broke off after {got} of {size} bytes")]
    BrokenOff {
        /// The blob.
        digest: Digest,
        /// On disk now.
        got: u64,
        /// Its size.
        size: u64,
    },
    /// Nothing came for too long; what came before is kept.
    #[error("`{url}` sent nothing for {idle:?}")]
    Silent {
        /// What was called.
        url: String,
        /// For how long.
        idle: Duration,
    },
    /// The local disk.
    #[error("cannot write the download of {digest}")]
    Disk {
        /// The blob.
        digest: Digest,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl PullError {
    /// Whether asking again later can help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Client(error) => error.may_pass(),
            Self::BrokenOff { .. } | Self::Silent { .. } => true,
            Self::Missing { .. } | Self::Corrupt { .. } | Self::TooLong { .. } | Self::Disk { .. } => false,
        }
    }

    /// Whether the bytes themselves were wrong: another copy may be right.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::TooLong { .. })
    }

    /// Whether the local disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// A client of one registry address.
#[derive(Debug, Clone)]
pub struct Oci {
    http: Arc<Http>,
    base: BaseUrl,
    idle: Duration,
    login: Login,
}

/// Indexes that point to indexes: nobody makes more.
const INDEXES: usize = 3;

impl Oci {
    /// Of this address. `dial` bounds the connect, `idle` every wait for a next byte.
    pub fn new(
        base: BaseUrl,
        credentials: &Credentials,
        dial: Duration,
        idle: Duration,
    ) -> Result<Self, reqwest::Error> {
        // What was asked for inside TLS is not had from anywhere else in the open.
        let secured = base.is_secured();
        let http = credentials.built(move || {
            reqwest::Client::builder()
                .connect_timeout(dial)
                .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
                .https_only(secured)
                .no_proxy()
        })?;
        Ok(Self { http, base, idle, login: credentials.login.clone() })
    }

    /// The manifest of an image: that with this digest, or, if it is an index, the first that it names.
    pub async fn image_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Bytes, PullError> {
        let mut digest = *digest;
        for _ in 0..INDEXES {
            let bytes = self.manifest(repository, &digest).await?;
            let read: Option<crate::wire::oci::Manifest> = serde_json::from_slice(&bytes).ok();
            let first = read.and_then(|read| Digest::parse(&read.manifests.first()?.digest).ok());
            match first {
                Some(first) => digest = first,
                None => return Ok(bytes),
            }
        }
        self.manifest(repository, &digest).await
    }

    /// The manifest with this digest, checked against it.
    pub async fn manifest(&self, repository: &RepositoryName, digest: &Digest) -> Result<Bytes, PullError> {
        let url = self.base.join(&format!("/v2/{repository}/manifests/{digest}"));
        let request = self.http.client().get(&url).header(header::ACCEPT, MANIFEST_TYPES);
        let whole = async {
            let response = self.send(&url, repository, digest, request).await?;
            Ok::<_, PullError>(answer::read_bounded(&url, response, MANIFEST).await?)
        };
        let bytes = tokio::time::timeout(self.idle, whole)
            .await
            .map_err(|_| PullError::Silent { url: url.clone(), idle: self.idle })??;
        let got = digest.algorithm().of(&bytes);
        if got == *digest { Ok(bytes) } else { Err(PullError::Corrupt { expected: *digest, got }) }
    }

    /// Fetches what is missing of a blob, once. `progress` is told how many bytes are there.
    ///
    /// What came stays in the partial file also after an error, and when the call is dropped, unless the bytes
    /// were wrong. `Ok` means: whole, verified, and on disk. Memory: one network chunk at a time.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        partial: &mut Partial,
        mut progress: impl FnMut(u64),
    ) -> Result<(), PullError> {
        progress(partial.len());
        if partial.len() < partial.size() {
            self.fetch(repository, partial, &mut progress).await?;
        }
        partial.finish().await
    }

    async fn fetch(
        &self,
        repository: &RepositoryName,
        partial: &mut Partial,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), PullError> {
        let (digest, from) = (partial.digest(), partial.len());
        let url = self.base.join(&format!("/v2/{repository}/blobs/{digest}"));
        let mut request = self.http.client().get(&url);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let silent = |_| PullError::Silent { url: url.clone(), idle: self.idle };
        let sent = self.send(&url, repository, &digest, request);
        let mut response = match tokio::time::timeout(self.idle, sent).await.map_err(silent)? {
            // What is here is not a beginning of what is there: start over.
            Err(PullError::Client(ClientError::Refused { status: 416, .. })) => {
                partial.clear().await?;
                return Err(PullError::BrokenOff { digest, got: 0, size: partial.size() });
            }
            other => other?,
        };
        if from > 0 && !goes_on_at(&response, from) {
            // The server answers with the whole of it, as it may.
            partial.clear().await?;
        }
        loop {
            let chunk = tokio::time::timeout(self.idle, response.chunk()).await.map_err(silent)?;
            let chunk = chunk.map_err(|source| ClientError::transport(&url, source));
            let Some(chunk) = chunk? else { break };
            partial.write(&chunk).await?;
            progress(partial.len());
        }
        if partial.len() < partial.size() {
            return Err(PullError::BrokenOff { digest, got: partial.len(), size: partial.size() });
        }
        Ok(())
    }

    async fn send(
        &self,
        url: &str,
        repository: &RepositoryName,
        digest: &Digest,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, PullError> {
        let response = self.login.send(url, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::NOT_FOUND {
            return Err(PullError::Missing { what: format!("{repository}@{digest}") });
        }
        let status = status.as_u16();
        // The words of an error help; that they cannot be had is no news.
        let words = answer::read_bounded(url, response, ERROR).await.unwrap_or_default();
        let message = answer::excerpt(&words);
        Err(ClientError::Refused { url: url.to_owned(), status, message }.into())
    }
}

/// Whether a partial answer begins where ours ends.
fn goes_on_at(response: &reqwest::Response, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.and_then(|r| r.strip_prefix("bytes ")).and_then(|r| r.split('-').next())
            == Some(from.to_string().as_str())
}
