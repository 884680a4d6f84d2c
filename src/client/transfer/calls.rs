//! The requests of OCI Distribution that a push and a pull need, one function each, each tried once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;

use super::{TransferError, tries::Failed};
use crate::{
    client::{ClientError, Credentials, Login, answer},
    config::BaseUrl,
    model::{Digest, RepositoryName, Tag},
    tls::Http,
    wire::{envelope::Envelope, oci},
};

/// Opening a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// An answer to a small call; a proxy may hold one for some seconds.
const SMALL: Duration = Duration::from_secs(30);

/// A commit is answered when every replica that is needed has it: a registry waits up to ten minutes for that.
const COMMIT: Duration = Duration::from_secs(15 * 60);

/// Longest manifest that is read.
const MANIFEST: usize = 4 * 1024 * 1024;

/// Most of an error that is read.
const WORDS: usize = 64 * 1024;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// One registry, or a front of some. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    http: Arc<Http>,
    base: BaseUrl,
    login: Login,
}

impl Calls {
    /// Of this address.
    pub fn new(base: BaseUrl, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        Ok(Self { http: credentials.http(CONNECT)?, base, login: credentials.login.clone() })
    }

    /// The address.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }

    fn url(&self, repository: &RepositoryName, rest: &str) -> String {
        self.base.join(&format!("/v2/{repository}/{rest}"))
    }

    /// The manifest behind a tag, as it says it is; nothing when there is none.
    pub(super) async fn tagged(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Failed> {
        let url = self.url(repository, &format!("manifests/{}", escaped(tag)));
        let ask = self.http.client().head(&url).header(header::ACCEPT, MANIFEST_TYPES);
        let Some(response) = found(self.send(&url, ask, SMALL).await)? else { return Ok(None) };
        let said = text(&response, "docker-content-digest").and_then(|text| Digest::parse(text).ok());
        let strange = || strange(&url, "it does not name the manifest's digest");
        said.map(Some).ok_or_else(|| strange().into())
    }

    /// The bytes behind a tag, or of a digest.
    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &str,
    ) -> Result<Bytes, Failed> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let ask = self.http.client().get(&url).header(header::ACCEPT, MANIFEST_TYPES).timeout(SMALL);
        let missing =
            || TransferError::Missing { what: format!("{repository}:{}", reference.replace("%2B", "+")) };
        let response = found(self.send(&url, ask, SMALL).await)?.ok_or_else(missing)?;
        Ok(answer::read_bounded(&url, response, MANIFEST).await?)
    }

    /// Takes a tag away; `false` when there was none.
    pub async fn untag(&self, repository: &RepositoryName, tag: &Tag) -> Result<bool, TransferError> {
        let url = self.url(repository, &format!("manifests/{}", escaped(tag)));
        let gone = found(self.send(&url, self.http.client().delete(&url), COMMIT).await);
        gone.map(|gone| gone.is_some()).map_err(|failed| *failed.error)
    }

    /// Whether the repository has a blob.
    pub(super) async fn has(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, Failed> {
        let url = self.url(repository, &format!("blobs/{blob}"));
        Ok(found(self.send(&url, self.http.client().head(&url), SMALL).await)?.is_some())
    }

    /// Has the registry take a blob over from another repository of its; `false` when it does not.
    pub(super) async fn mount(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        from: &RepositoryName,
    ) -> Result<bool, Failed> {
        let url = self.url(repository, &format!("blobs/uploads/?mount={blob}&from={from}"));
        let response =
            self.send(&url, self.http.client().post(&url).header(header::CONTENT_LENGTH, 0), SMALL).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // It has opened a session instead, which nobody will use.
        if let Ok(session) = self.location(&url, &response) {
            drop(self.send(&session, self.http.client().delete(self.base.join(&session)), SMALL).await);
        }
        Ok(false)
    }

    /// Opens an upload session; gives its path.
    pub(super) async fn begin(&self, repository: &RepositoryName) -> Result<String, Failed> {
        let url = self.url(repository, "blobs/uploads/");
        let response =
            self.send(&url, self.http.client().post(&url).header(header::CONTENT_LENGTH, 0), SMALL).await?;
        Ok(self.location(&url, &response)?)
    }

    /// How many bytes a session has; nothing when it is no more.
    pub(super) async fn received(&self, session: &str) -> Result<Option<u64>, Failed> {
        let url = self.base.join(session);
        let Some(response) = found(self.send(&url, self.http.client().get(&url), SMALL).await)? else {
            return Ok(None);
        };
        let last = text(&response, "range").and_then(|range| range.split_once('-')?.1.parse::<u64>().ok());
        // `0-0` may be one byte or none: the session says 416 if it is the other.
        Ok(last.map(|last| if last == 0 { 0 } else { last + 1 }))
    }

    /// Sends the bytes from `from` on; gives the path to go on at.
    pub(super) async fn append(
        &self,
        session: &str,
        (from, size): (u64, u64),
        body: reqwest::Body,
    ) -> Result<String, Failed> {
        let url = self.base.join(session);
        let ask = self
            .http
            .client()
            .patch(&url)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size - from)
            .header(header::CONTENT_RANGE, format!("{from}-{}", size.saturating_sub(1)))
            .body(body);
        // Whoever sends the body looks whether it moves.
        let response = self.send(&url, ask, Duration::MAX).await?;
        Ok(self.location(&url, &response)?)
    }

    /// Ends a session: its bytes are this blob.
    pub(super) async fn finish(&self, session: &str, blob: &Digest) -> Result<(), Failed> {
        let joint = if session.contains('?') { '&' } else { '?' };
        let url = self.base.join(&format!("{session}{joint}digest={blob}"));
        let ask = self.http.client().put(&url).header(header::CONTENT_LENGTH, 0);
        self.send(&url, ask, COMMIT).await.map(drop)
    }

    /// Publishes a manifest under a tag.
    pub(super) async fn publish(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        manifest: Bytes,
    ) -> Result<(), Failed> {
        let url = self.url(repository, &format!("manifests/{}", escaped(tag)));
        let ask =
            self.http.client().put(&url).header(header::CONTENT_TYPE, oci::IMAGE_MANIFEST).body(manifest);
        self.send(&url, ask, COMMIT).await.map(drop)
    }

    /// Begins to read a blob at this place; the answer, and where it begins.
    pub(super) async fn read(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        (from, last): (u64, u64),
    ) -> Result<(Response, u64), Failed> {
        let url = self.url(repository, &format!("blobs/{blob}"));
        let ask = self.http.client().get(&url).header(header::RANGE, format!("bytes={from}-{last}"));
        let missing = || TransferError::Missing { what: format!("{repository}@{blob}") };
        let response = found(self.send(&url, ask, SMALL).await)?.ok_or_else(missing)?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((response, 0));
        }
        let begins = text(&response, "content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        match begins {
            Some(begins) if begins <= from => Ok((response, begins)),
            _ => Err(strange(&url, "it begins at another place than was asked for").into()),
        }
    }

    async fn send(&self, url: &str, request: RequestBuilder, within: Duration) -> Result<Response, Failed> {
        let silent = |_| ClientError::Silent { url: url.to_owned(), within };
        let sent =
            tokio::time::timeout(within.min(DAY), self.login.send(url, request)).await.map_err(silent)?;
        let response = sent?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let wait = text(&response, "retry-after").and_then(|text| text.trim().parse().ok());
        let read = answer::read_bounded(url, response, WORDS);
        let words = tokio::time::timeout(SMALL, read).await;
        let message = said(&words.ok().and_then(Result::ok).unwrap_or_default());
        let error = ClientError::Refused { url: url.to_owned(), status, message };
        // A session that has ended is made anew by the next try.
        let anew = status == 401 && self.login.signs_in();
        Err(Failed { wait: wait.map(Duration::from_secs), anew, ..Failed::from(error) })
    }

    /// Where to go on: a path of this registry alone, for nobody else is to get what is sent.
    fn location(&self, url: &str, response: &Response) -> Result<String, ClientError> {
        let given = text(response, "location").unwrap_or_default();
        let path = given.strip_prefix(self.base.as_str()).unwrap_or(given);
        let ours = path.starts_with("/v2/");
        if ours { Ok(path.to_owned()) } else { Err(strange(url, "it does not say where to go on here")) }
    }
}

/// Longer than anything that is waited for.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// 404 is nothing, and no failure.
fn found(sent: Result<Response, Failed>) -> Result<Option<Response>, Failed> {
    match sent {
        Ok(response) => Ok(Some(response)),
        Err(failed) if failed.error.status() == Some(404) => Ok(None),
        Err(failed) => Err(failed),
    }
}

fn strange(url: &str, why: &str) -> ClientError {
    ClientError::Strange { url: url.to_owned(), why: why.to_owned() }
}

fn text<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The vendor's tags have `+`; in a path that is itself, but some that stand between decode it.
fn escaped(tag: &Tag) -> String {
    tag.as_str().replace('+', "%2B")
}

/// The words of an error, whichever form it has.
fn said(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Oci(oci::Errors),
        Vendor(Envelope<serde::de::IgnoredAny>),
    }
    match serde_json::from_slice(bytes) {
        Ok(Form::Oci(errors)) => {
            errors.errors.into_iter().map(|error| error.message).collect::<Vec<_>>().join("; ")
        }
        Ok(Form::Vendor(envelope)) => envelope.message,
        Err(_) => answer::excerpt(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_in_its_servers_words() {
        assert_eq!(said(br#"{"errors":[{"code":"DENIED","message":"it is a replica"}]}"#), "it is a replica");
        assert_eq!(said(br#"{"status":"FAIL","body":null,"message":"no room"}"#), "no room");
        assert_eq!(said(b"<html>bad\ngateway"), "<html>bad gateway");
    }
}
