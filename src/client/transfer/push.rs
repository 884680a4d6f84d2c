//! A push: what is not there is sent, several blobs at once, each gone on with where it broke off; then the manifest.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{
    Calls, PARALLEL, Sessions, TransferError, Watch, pause,
    sessions::look,
    tries::{Failed, Tries},
};
use crate::{
    client::ClientError,
    clock,
    model::{Digest, RepositoryName, Tag},
};

pub use bytes::Bytes;

/// Read at once of a file that is sent.
const PIECE: usize = 256 * 1024;

/// How often it is looked whether bytes still move.
const LOOK: Duration = Duration::from_millis(250);

/// A body of which nothing moves for so long is given up, and gone on with in another request.
const STILL: Duration = Duration::from_secs(30);

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a file, which looked so when it was hashed.
    File {
        /// Which.
        path: PathBuf,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// Here.
    Bytes(Bytes),
}

/// What went wrong with one blob's session so far.
#[derive(Default)]
struct Faults {
    /// It stood elsewhere than it had said, just before.
    elsewhere: bool,
    /// How often its bytes were not the blob's.
    wrong: u32,
}

impl Source {
    /// Of its bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Self::File { digest, .. } => *digest,
            Self::Bytes(bytes) => Digest::of(bytes),
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// One push.
pub struct Push<'a> {
    /// To here.
    pub calls: &'a Calls,
    /// The template.
    pub repository: &'a RepositoryName,
    /// The version.
    pub tag: &'a Tag,
    /// Every blob that the manifest names, each once.
    pub sources: &'a [Source],
    /// What is published when all of them are there.
    pub manifest: Bytes,
    /// A tag that is there may be moved.
    pub force: bool,
    /// Repositories that may have some of the blobs already.
    pub from: &'a [RepositoryName],
    /// What an earlier run left.
    pub sessions: &'a Sessions,
    /// It ends when nothing has moved for so long.
    pub patience: Duration,
    /// Is told how it goes.
    pub watch: &'a dyn Watch,
}

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// For each blob, whether it was sent; the others were there.
    pub sent: Vec<bool>,
}

impl Push<'_> {
    /// Pushes. Dropping it leaves what was sent in sessions that the next run goes on with.
    pub async fn run(&self) -> Result<Pushed, TransferError> {
        let digest = Digest::of(&self.manifest);
        if self.taken(digest).await? {
            // Whole already: a tag is visible only when everything it needs is there.
            for (at, source) in self.sources.iter().enumerate() {
                self.watch.at(at, source.size());
            }
            self.sessions.end();
            return Ok(Pushed { digest, sent: vec![false; self.sources.len()] });
        }
        let blobs = self
            .sources
            .iter()
            .enumerate()
            .map(|(at, source)| async move { self.blob(at, source).await.map(|sent| (at, sent)) });
        let sent: Vec<(usize, bool)> =
            futures_util::stream::iter(blobs).buffer_unordered(PARALLEL).try_collect().await?;
        // Somebody may have pushed it meanwhile.
        self.taken(digest).await?;
        let publish = || self.calls.publish(self.repository, self.tag, self.manifest.clone());
        self.again(self.sources.len(), publish).await?;
        self.sessions.end();
        let mut whole = vec![false; self.sources.len()];
        for (at, sent) in sent {
            whole[at] = sent;
        }
        Ok(Pushed { digest, sent: whole })
    }

    /// Whether the tag has this very manifest; that it has another one is an error unless that is to be.
    async fn taken(&self, digest: Digest) -> Result<bool, TransferError> {
        let there = self.again(self.sources.len(), || self.calls.tagged(self.repository, self.tag)).await?;
        match there {
            Some(there) if there == digest => Ok(true),
            Some(there) if !self.force => Err(TransferError::Exists {
                repository: self.repository.clone(),
                tag: self.tag.clone(),
                there,
            }),
            _ => Ok(false),
        }
    }

    /// A small call, until it is answered.
    async fn again<T, F>(&self, at: usize, mut call: impl FnMut() -> F) -> Result<T, TransferError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut tries = Tries::new(self.patience, clock::now());
        loop {
            match call().await {
                Ok(done) => return Ok(done),
                Err(failed) => pause(self.watch, at, &mut tries, failed).await?,
            }
        }
    }

    /// Brings one blob there; tells whether any of it was sent.
    async fn blob(&self, at: usize, source: &Source) -> Result<bool, TransferError> {
        let mut tries = Tries::new(self.patience, clock::now());
        // Only a byte that was never there before is a step forward.
        let (mut most, mut sent) = (0, false);
        let mut faults = Faults::default();
        loop {
            let began = AtomicU64::new(0);
            let failed = match self.step(at, source, &mut sent, &began).await {
                Ok(()) => return Ok(sent),
                Err(failed) => failed,
            };
            let reached = began.load(Ordering::Relaxed);
            if reached > most {
                most = reached;
                tries.moved(clock::now());
            }
            let failed = self.sorted(source, failed, &mut faults)?;
            pause(self.watch, at, &mut tries, failed).await?;
        }
    }

    /// What a failure says of the session: one that is no more is begun anew, and one that stands elsewhere is asked once
    /// more where, since what was under way from before may have come meanwhile. Without one, such an answer is the
    /// server's last word: it is no registry, perhaps.
    fn sorted(&self, source: &Source, failed: Failed, faults: &mut Faults) -> Result<Failed, TransferError> {
        if self.sessions.session(&source.digest()).is_none() {
            return Ok(failed);
        }
        match failed.error.status() {
            Some(409 | 416) if !faults.elsewhere => {
                faults.elsewhere = true;
                Ok(Failed { anew: true, ..failed })
            }
            Some(404 | 409 | 416) => {
                faults.elsewhere = false;
                self.sessions.forget(&source.digest());
                Ok(Failed { anew: true, ..failed })
            }
            // The bytes are not the blob's: an old session's may have been another file's, ours may have changed.
            Some(400) => {
                self.sessions.forget(&source.digest());
                faults.wrong += 1;
                match source {
                    Source::File { path, .. } if faults.wrong > 1 => {
                        Err(TransferError::Changed { path: path.clone() })
                    }
                    _ if faults.wrong > 1 => Err(*failed.error),
                    _ => Ok(Failed { anew: true, ..failed }),
                }
            }
            _ => Ok(failed),
        }
    }

    async fn step(
        &self,
        at: usize,
        source: &Source,
        sent: &mut bool,
        reached: &AtomicU64,
    ) -> Result<(), Failed> {
        let (digest, size) = (source.digest(), source.size());
        if self.calls.has(self.repository, &digest).await? {
            self.sessions.forget(&digest);
            self.watch.at(at, size);
            return Ok(());
        }
        let known = match self.sessions.session(&digest) {
            Some(session) => {
                let there = self.calls.received(&session).await?.filter(|there| *there <= size);
                there.map(|there| (session, there))
            }
            None => None,
        };
        let (mut session, from) = match known {
            Some(known) => known,
            None => {
                for from in self.from {
                    if from != self.repository && self.calls.mount(self.repository, &digest, from).await? {
                        self.watch.at(at, size);
                        return Ok(());
                    }
                }
                let session = self.calls.begin(self.repository).await?;
                self.sessions.put(&digest, &session);
                (session, 0)
            }
        };
        *sent = true;
        self.watch.at(at, from);
        if from < size {
            session = self.append(at, source, &session, from, reached).await?;
        }
        self.calls.finish(&session, &digest).await?;
        self.sessions.forget(&digest);
        self.watch.at(at, size);
        Ok(())
    }

    /// Sends what is missing, and looks whether it moves.
    async fn append(
        &self,
        at: usize,
        source: &Source,
        session: &str,
        from: u64,
        reached: &AtomicU64,
    ) -> Result<String, Failed> {
        let size = source.size();
        let taken = Arc::new(AtomicU64::new(from));
        let body = body(source, from, taken.clone()).await?;
        let mut call = std::pin::pin!(self.calls.append(session, (from, size), body));
        let (mut seen, mut moved) = (from, clock::now());
        let ended = loop {
            tokio::select! {
                ended = &mut call => break ended,
                () = tokio::time::sleep(LOOK) => {
                    let now = taken.load(Ordering::Relaxed);
                    self.watch.at(at, now);
                    if now != seen {
                        (seen, moved) = (now, clock::now());
                    }
                    // What is in this machine's buffers is seen as sent; the answer has its time, too.
                    if clock::now() - moved >= STILL {
                        let url = self.calls.base().join(session);
                        break Err(ClientError::Silent { url, within: STILL }.into());
                    }
                }
            }
        };
        if ended.is_ok() {
            reached.store(size, Ordering::Relaxed);
        } else if let Ok(Some(there)) = self.calls.received(session).await {
            // What the registry has, not what was sent.
            reached.store(there, Ordering::Relaxed);
        }
        ended
    }
}

/// The bytes from `from` on, counted as they are taken.
async fn body(source: &Source, from: u64, taken: Arc<AtomicU64>) -> Result<reqwest::Body, Failed> {
    let (path, size) = match source {
        Source::Bytes(bytes) => {
            let rest = bytes.slice(usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len())..);
            taken.fetch_add(rest.len() as u64, Ordering::Relaxed);
            return Ok(rest.into());
        }
        Source::File { path, size, .. } => (path, *size),
    };
    let opened = async {
        if look(path)?.0 != size {
            return Ok(None);
        }
        let mut file = tokio::fs::File::open(path).await?;
        file.seek(io::SeekFrom::Start(from)).await?;
        Ok(Some(file))
    };
    let Some(file) = opened.await.map_err(TransferError::local("read", path))? else {
        return Err(TransferError::Changed { path: path.clone() }.into());
    };
    let pieces = ReaderStream::with_capacity(file.take(size - from), PIECE);
    let counted = pieces.inspect_ok(move |piece| {
        taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
    });
    Ok(reqwest::Body::wrap_stream(counted))
}
