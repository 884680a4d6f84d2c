//! The registries' own API under `/replication/v1/`: log, snapshots, states, blobs.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};

use super::{ClientError, Credentials, Login, answer, failover::builder};
use crate::{
    config::{Address, BaseUrl},
    model::{Digest, Position},
    tls::{Http, Upstream},
    wire::{
        headers,
        replication::{self as wire, Compacted, Diverged, LogHead, LogQuery, SnapshotHead, State},
        upkeep::{self, Collected},
    },
};

/// Longest log answer that is taken; registries answer in pages of a few MiB, but a single entry may be longer.
const LOG: usize = 64 * 1024 * 1024;

/// Longest line of a snapshot: one repository with all it holds.
const LINE: usize = 64 * 1024 * 1024;

/// A registry looks up every blob of a repository before it writes its line.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(120);

/// Longest chunk list: of a blob of 2 TiB.
const CHUNKS: usize = 16 * 1024 * 1024;

/// Longest state.
const STATE: usize = 4 * 1024 * 1024;

/// An answer may take so long beyond the wait that was asked for.
const SLACK: Duration = Duration::from_secs(5);

/// What the log answers.
#[derive(Debug, Clone, PartialEq)]
pub enum LogAnswer {
    /// Head and lines, each as it was written.
    Lines(LogHead, Vec<Bytes>),
    /// The asker's history is another.
    Diverged(Diverged),
    /// What was asked for is not kept any more.
    Compacted(Compacted),
}

/// A client of one registry.
#[derive(Debug, Clone)]
pub struct Replication {
    http: Arc<Http>,
    base: BaseUrl,
    idle: Duration,
    login: Login,
}

/// A snapshot that is being read.
pub struct Snapshot {
    url: String,
    response: reqwest::Response,
    idle: Duration,
    buffer: BytesMut,
    left: usize,
}

impl Replication {
    /// Of this address. `dial` bounds the connect, `idle` every wait for a next byte.
    pub fn new(
        base: BaseUrl,
        credentials: &Credentials,
        dial: Duration,
        idle: Duration,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self { http: credentials.http(dial)?, base, idle, login: credentials.login.clone() })
    }

    /// Of the upstream at this address, inside this TLS.
    pub fn secured(
        address: &Address,
        (tls, login): (&Upstream, Login),
        dial: Duration,
        idle: Duration,
    ) -> Result<Self, reqwest::Error> {
        let base = BaseUrl::https(tls.name(&address.host), address.port);
        let http = Http::new((&address.host, address.port), Some(tls.clone()), move || builder(dial))?;
        Ok(Self { http: Arc::new(http), base, idle, login })
    }

    /// Whose client it is.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }

    /// Asks the log. The answer begins within the wait that is asked for, and a little; every wait for a next byte of
    /// it is bounded by the idle limit.
    pub async fn log(&self, query: &LogQuery) -> Result<LogAnswer, ClientError> {
        let url = self.url(wire::LOG, query)?;
        let within = Duration::from_millis(query.wait.unwrap_or(0)) + SLACK;
        let response = self.within(&url, within, self.send(Method::GET, &url, |request| request)).await?;
        let status = response.status();
        // A page may take long over a slow link: what counts is that something comes.
        let whole = self.pieces(&url, response, LOG).await?;
        match status {
            StatusCode::OK => lines(&url, &whole),
            StatusCode::CONFLICT => Ok(LogAnswer::Diverged(json(&url, &whole)?)),
            StatusCode::GONE => Ok(LogAnswer::Compacted(json(&url, &whole)?)),
            other => Err(refused(&url, other, &whole)),
        }
    }

    /// How the registry stands; with `after`, once its position is another or the wait is over.
    pub async fn state(&self, after: Option<Position>, wait: Duration) -> Result<State, ClientError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let query = LogQuery { after, wait: Some(wait_ms), ..LogQuery::default() };
        let url = self.url(wire::STATE, &query)?;
        let asked = async {
            let response = self.send(Method::GET, &url, |request| request).await?;
            let status = response.status();
            let whole = answer::read_bounded(&url, response, STATE).await?;
            if status == StatusCode::OK { json(&url, &whole) } else { Err(refused(&url, status, &whole)) }
        };
        self.within(&url, wait + SLACK, asked).await
    }

    /// Has the registry collect its garbage, or tell what it would collect.
    pub async fn collect(&self, dry_run: bool, within: Duration) -> Result<Collected, ClientError> {
        let url = self.base.join(upkeep::GC);
        let method = if dry_run { Method::GET } else { Method::POST };
        let asked = async {
            let response = self.send(method, &url, |request| request).await?;
            let status = response.status();
            let whole = answer::read_bounded(&url, response, STATE).await?;
            if status == StatusCode::OK { json(&url, &whole) } else { Err(refused(&url, status, &whole)) }
        };
        self.within(&url, within, asked).await
    }

    /// Gives a proxy's lease up, so that no push waits for it.
    pub async fn release(&self, proxy: &str) -> Result<(), ClientError> {
        let query = LogQuery { proxy: Some(proxy.to_owned()), ..LogQuery::default() };
        let url = self.url(wire::LEASE, &query)?;
        let asked = async {
            let response = self.send(Method::DELETE, &url, |request| request).await?;
            let status = response.status();
            let whole = answer::read_bounded(&url, response, STATE).await?;
            if status.is_success() { Ok(()) } else { Err(refused(&url, status, &whole)) }
        };
        self.within(&url, SLACK, asked).await
    }

    /// Begins to read a snapshot.
    pub async fn snapshot(&self) -> Result<(SnapshotHead, Snapshot), ClientError> {
        let url = self.base.join(wire::SNAPSHOT);
        let idle = self.idle.max(SNAPSHOT_IDLE);
        let response = self.within(&url, idle, self.send(Method::GET, &url, |request| request)).await?;
        let response = self.ok(&url, response).await?;
        let mut snapshot = Snapshot { url: url.clone(), response, idle, buffer: BytesMut::new(), left: 1 };
        let Some(line) = snapshot.line().await? else {
            return Err(strange(&url, "it is empty"));
        };
        let head: SnapshotHead = json(&url, &line)?;
        snapshot.left = head.repositories;
        Ok((head, snapshot))
    }

    /// The size of a blob and its chunk list as stored; `None` if the registry does not have it.
    pub async fn chunks(&self, blob: &Digest) -> Result<Option<(u64, Bytes)>, ClientError> {
        let url = self.base.join(&format!("{}/{blob}/chunks", wire::BLOBS));
        let response = self.within(&url, self.idle, self.send(Method::GET, &url, |request| request)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.ok(&url, response).await?;
        let size = response.headers().get(headers::BLOB_SIZE).and_then(|size| size.to_str().ok());
        let size = size.and_then(|size| size.parse().ok());
        let Some(size) = size else { return Err(strange(&url, "it does not say how long the blob is")) };
        Ok(Some((size, self.pieces(&url, response, CHUNKS).await?)))
    }

    /// A range of a blob, whole; `None` if the registry does not have the blob. Every wait for a next byte is
    /// bounded by the idle limit. `progress` is told of bytes as they come.
    pub async fn range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        mut progress: impl FnMut(usize),
    ) -> Result<Option<Bytes>, ClientError> {
        let url = self.base.join(&format!("{}/{blob}", wire::BLOBS));
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let sent = self.send(Method::GET, &url, |request| {
            if wanted == 0 { request } else { request.header(header::RANGE, &bytes) }
        });
        let response = self.within(&url, self.idle, sent).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut response = self.ok(&url, response).await?;
        if wanted > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(strange(&url, "it is not the range that was asked for"));
        }
        let mut whole = BytesMut::with_capacity(wanted);
        loop {
            let next =
                async { response.chunk().await.map_err(|source| ClientError::transport(&url, source)) };
            let Some(piece) = self.within(&url, self.idle, next).await? else { break };
            if whole.len() + piece.len() > wanted {
                return Err(strange(&url, "it is longer than the range that was asked for"));
            }
            progress(piece.len());
            whole.extend_from_slice(&piece);
        }
        if whole.len() < wanted {
            return Err(strange(&url, "it is shorter than the range that was asked for"));
        }
        Ok(Some(whole.freeze()))
    }

    fn url(&self, path: &str, query: &impl Serialize) -> Result<String, ClientError> {
        let plain = self.base.join(path);
        let built = self.http.client().get(&plain).query(query).build();
        let built = built.map_err(|source| ClientError::transport(&plain, source))?;
        Ok(built.url().as_str().to_owned())
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        edit: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        self.login.send(url, edit(self.http.client().request(method, url))).await
    }

    /// The whole body, if it is at most `most` bytes long and never stands still for longer than the idle limit.
    async fn pieces(
        &self,
        url: &str,
        mut response: reqwest::Response,
        most: usize,
    ) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        loop {
            let next = async { response.chunk().await.map_err(|source| ClientError::transport(url, source)) };
            let Some(piece) = self.within(url, self.idle, next).await? else { return Ok(whole.freeze()) };
            if whole.len() + piece.len() > most {
                return Err(strange(url, format!("it is longer than {most} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
    }

    async fn ok(&self, url: &str, response: reqwest::Response) -> Result<reqwest::Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let words = self.within(url, self.idle, answer::read_bounded(url, response, STATE)).await;
        Err(refused(url, status, &words.unwrap_or_default()))
    }

    async fn within<T>(
        &self,
        url: &str,
        within: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(within, work).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Silent { url: url.to_owned(), within }),
        }
    }
}

impl Snapshot {
    /// The next repository's line; `None` after the last one. An end before its time is an error.
    pub async fn next(&mut self) -> Result<Option<wire::SnapshotRepository>, ClientError> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(line) = self.line().await? else { return Err(strange(&self.url, "it ended too early")) };
        self.left -= 1;
        json(&self.url, &line).map(Some)
    }

    async fn line(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > LINE {
                return Err(strange(&self.url, "a line of it is too long"));
            }
            let next = tokio::time::timeout(self.idle, self.response.chunk()).await;
            let silent = |_| ClientError::Silent { url: self.url.clone(), within: self.idle };
            let next = next.map_err(silent)?;
            match next.map_err(|source| ClientError::transport(&self.url, source))? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

/// Head and lines of a log answer, all of them or none.
fn lines(url: &str, whole: &Bytes) -> Result<LogAnswer, ClientError> {
    let mut lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let head: LogHead = json(url, lines.next().unwrap_or_default())?;
    let lines: Vec<Bytes> = lines.map(|line| whole.slice_ref(line)).collect();
    if lines.len() != head.lines {
        return Err(strange(url, format!("it has {} of {} lines", lines.len(), head.lines)));
    }
    Ok(LogAnswer::Lines(head, lines))
}

fn json<T: DeserializeOwned>(url: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| strange(url, error.to_string()))
}

fn strange(url: &str, why: impl Into<String>) -> ClientError {
    ClientError::Strange { url: url.to_owned(), why: why.into() }
}

fn refused(url: &str, status: StatusCode, words: &[u8]) -> ClientError {
    ClientError::Refused { url: url.to_owned(), status: status.as_u16(), message: answer::excerpt(words) }
}
