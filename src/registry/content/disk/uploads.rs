//! All upload sessions, and a request's hold on one.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::{sync::Notify, task::JoinHandle};
use uuid::Uuid;

use super::super::{ContentError, Swept, Upload, files::Files, shared::folder};
use super::session::{Claim, Session, Written};
use super::space::Reservation;
use super::{Disk, DiskSettings, full_or, lock};
use crate::{
    clock,
    model::{Algorithm, Digest, RepositoryName},
};

/// What is collected before it goes to a blocking thread. While one batch is written the next is collected:
/// an upload holds two of them, and what the connection has read ahead.
const BATCH: usize = 256 * 1024;

/// Free space is looked at anew after so many bytes, for uploads that declare no length.
const LOOK_EVERY: u64 = 16 * 1024 * 1024;

pub(super) struct Uploads {
    root: PathBuf,
    files: Files,
    name: String,
    idle: Duration,
    oldest: Duration,
    limit: usize,
    per_client: Option<usize>,
    open: Mutex<HashMap<Uuid, Arc<Session>>>,
    /// Thrown away since that was last told.
    thrown: Mutex<Swept>,
    /// Told when a session was dropped that nobody can go on with.
    pub(super) dropped: Notify,
}

impl Uploads {
    /// Finds the sessions of earlier runs; what is no session is removed.
    pub(super) fn open(root: PathBuf, files: Files, settings: &DiskSettings) -> io::Result<(Self, usize)> {
        files.make_dirs(&root)?;
        // The name goes into URLs, and a dot parts it from the rest.
        let name = folder(&settings.name);
        let uploads = Self {
            root,
            files,
            name,
            idle: settings.upload_idle,
            oldest: settings.upload_age,
            limit: settings.uploads,
            per_client: settings.uploads_per_client,
            open: Mutex::default(),
            thrown: Mutex::default(),
            dropped: Notify::new(),
        };
        let mut removed = 0;
        for entry in uploads.files.list(&uploads.root)? {
            let path = entry.path();
            match uploads.read_back(&path) {
                Some((uuid, session)) => {
                    lock(&uploads.open).insert(uuid, Arc::new(session));
                }
                None => {
                    removed += 1;
                    if path.is_dir() {
                        uploads.files.remove_all(&path)?
                    } else {
                        uploads.files.remove(&path)?
                    }
                }
            }
        }
        Ok((uploads, removed))
    }

    fn read_back(&self, dir: &std::path::Path) -> Option<(Uuid, Session)> {
        let uuid = Uuid::parse_str(dir.file_name()?.to_str()?).ok()?;
        let written: Written =
            serde_json::from_slice(&self.files.read(&dir.join("session.json")).ok()?).ok()?;
        let (len, age) = match self.files.look(&dir.join("data")) {
            Ok(meta) => (meta.len(), meta.modified().ok()),
            Err(_) => (0, self.files.look(dir).and_then(|meta| meta.modified()).ok()),
        };
        let age = age.and_then(|at| at.elapsed().ok()).unwrap_or_default();
        Some((uuid, Session::new(self.id(uuid), written, (dir.to_owned(), self.files.clone()), len, age)))
    }

    fn id(&self, uuid: Uuid) -> String {
        format!("{}.{uuid}", self.name)
    }

    /// A new session, with the first turn at it.
    pub(super) fn begin(
        &self,
        repository: RepositoryName,
        owner: String,
        algorithm: Algorithm,
    ) -> Result<Claim, ContentError> {
        let full = self.full(&lock(&self.open), &owner).is_some();
        if full {
            self.sweep();
        }
        let uuid = Uuid::new_v4();
        let began = Some(clock::wall().unix_seconds());
        let written = Written { v: 1, repository, algorithm, owner, began };
        let dir = self.root.join(uuid.to_string());
        let place = (dir.clone(), self.files.clone());
        let session = Arc::new(Session::new(self.id(uuid), written.clone(), place, 0, Duration::ZERO));
        {
            let mut open = lock(&self.open);
            if let Some(error) = self.full(&open, &written.owner) {
                return Err(error);
            }
            open.insert(uuid, session.clone());
        }
        let make = || {
            self.files.make_dir(&dir)?;
            let text = serde_json::to_vec(&written)?;
            // Not synced: a power cut loses a session, and the client begins anew.
            self.files.write(&dir.join("session.json"), &text)
        };
        if let Err(error) = make() {
            lock(&self.open).remove(&uuid);
            if let Err(error) = session.remove() {
                tracing::warn!(upload = %session.id, error = %error, "upload could not be removed");
            }
            return Err(full_or("begin an upload")(error));
        }
        session.claim(None)
    }

    /// Why no session more is opened for this owner, if there is a reason.
    fn full(&self, open: &HashMap<Uuid, Arc<Session>>, owner: &str) -> Option<ContentError> {
        if open.len() >= self.limit {
            return Some(ContentError::TooManyUploads { limit: self.limit, client: None });
        }
        let most = self.per_client?;
        let own = open.values().filter(|session| session.written.owner == owner).count();
        (own >= most).then(|| ContentError::TooManyUploads { limit: most, client: Some(owner.to_owned()) })
    }

    pub(super) fn find(&self, repository: &RepositoryName, id: &str) -> Result<Arc<Session>, ContentError> {
        let (registry, uuid) = id.rsplit_once('.').ok_or(ContentError::UnknownUpload)?;
        let uuid = Uuid::parse_str(uuid).map_err(|_| ContentError::UnknownUpload)?;
        if registry != self.name {
            return Err(ContentError::ElsewhereUpload { registry: registry.to_owned() });
        }
        let session = lock(&self.open).get(&uuid).cloned().ok_or(ContentError::UnknownUpload)?;
        let known = session.written.repository == *repository && !session.dropped.load(Ordering::Acquire);
        if known { Ok(session) } else { Err(ContentError::UnknownUpload) }
    }

    /// Removes sessions that were idle too long, are too old, or were dropped.
    pub(super) fn expire(&self) -> Swept {
        self.sweep();
        let thrown = std::mem::take(&mut *lock(&self.thrown));
        Swept { open: lock(&self.open).len(), ..thrown }
    }

    fn sweep(&self) {
        let all: Vec<(Uuid, Arc<Session>)> =
            lock(&self.open).iter().map(|(uuid, session)| (*uuid, session.clone())).collect();
        for (uuid, session) in all {
            let dropped = session.dropped.load(Ordering::Acquire);
            let (idle, aged) = (session.idle() >= self.idle, session.age() >= self.oldest);
            if dropped || idle || aged {
                if !dropped {
                    let why = if idle {
                        "nothing came for limits.upload_idle"
                    } else {
                        "older than limits.upload_age"
                    };
                    tracing::info!(upload = %session.id, repository = %session.written.repository,
                        owner = session.written.owner, received = session.received(), why, "upload was thrown away");
                    let mut thrown = lock(&self.thrown);
                    *(if idle { &mut thrown.idle } else { &mut thrown.aged }) += 1;
                }
                // One that cannot be removed is tried again, and keeps no other.
                match session.remove() {
                    Ok(()) => drop(lock(&self.open).remove(&uuid)),
                    Err(error) => {
                        tracing::warn!(upload = %session.id, error = %error, "upload could not be removed");
                    }
                }
            } else {
                session.rest();
            }
        }
    }

    /// Ends a session now, for whoever holds it.
    pub(super) fn remove(&self, session: &Session) -> Result<(), ContentError> {
        session.remove()?;
        self.forget(session);
        Ok(())
    }

    /// Ends a session by the fault or success of whoever has the turn.
    fn discard(&self, session: &Session) {
        match session.discard() {
            Ok(()) => self.forget(session),
            Err(error) => {
                tracing::warn!(upload = %session.id, error = %error, "upload could not be removed");
            }
        }
    }

    fn forget(&self, session: &Session) {
        lock(&self.open).retain(|_, open| !std::ptr::eq(&raw const **open, session));
    }
}

/// See [`Upload`]. Batches are written on blocking threads, one behind the one being collected.
pub(super) struct DiskUpload {
    disk: Disk,
    claim: Claim,
    reservation: Reservation,
    received: u64,
    batch: BytesMut,
    unlooked: u64,
    resumable: bool,
    writing: Option<JoinHandle<Result<(), ContentError>>>,
}

impl DiskUpload {
    pub(super) fn new(disk: Disk, claim: Claim, reservation: Reservation) -> Self {
        let received = claim.received;
        Self {
            disk,
            claim,
            reservation,
            received,
            batch: BytesMut::new(),
            unlooked: 0,
            resumable: true,
            writing: None,
        }
    }

    async fn written(&mut self) -> Result<(), ContentError> {
        // Polled in place: a cancelled wait must not forget the batch that is being written.
        if let Some(writing) = &mut self.writing {
            let done = writing.await;
            self.writing = None;
            done.map_err(|gone| ContentError::Io {
                what: "write an upload",
                source: io::Error::other(gone),
            })??;
        }
        Ok(())
    }

    async fn start_batch(&mut self) -> Result<(), ContentError> {
        self.written().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let permit = self.disk.inner.writers.clone().acquire_owned().await.map_err(|_| ContentError::Io {
            what: "queue file work",
            source: io::ErrorKind::Interrupted.into(),
        })?;
        let look = self.unlooked >= LOOK_EVERY;
        if look {
            self.unlooked = 0;
        }
        let batch = self.batch.split().freeze();
        let (session, turn, inner) = (self.claim.session.clone(), self.claim.turn, self.disk.inner.clone());
        self.reservation.spent(batch.len() as u64);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if look {
                inner.room.check(0)?;
            }
            session.append(turn, &batch).map_err(|error| {
                // The disk is full to the last byte: what this session holds is worth more to the others.
                if matches!(error, ContentError::Full { .. }) {
                    inner.uploads.discard(&session);
                }
                inner.room.explain(error)
            })
        }));
        Ok(())
    }

    async fn ending<T: Send + 'static>(
        &self,
        work: impl FnOnce(&super::Inner, &Session, u64) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ContentError> {
        let (session, turn) = (self.claim.session.clone(), self.claim.turn);
        let work = move |disk: &super::Inner| {
            let done = work(disk, &session, turn);
            // Ended by success or by its own fault: its directory goes now, not at the next sweep.
            if session.dropped.load(Ordering::Acquire) {
                disk.uploads.discard(&session);
            }
            done
        };
        self.disk.writing(work).await
    }
}

#[async_trait]
impl Upload for DiskUpload {
    fn id(&self) -> &str {
        &self.claim.session.id
    }

    fn received(&self) -> u64 {
        self.received
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        self.received += bytes.len() as u64;
        self.unlooked += bytes.len() as u64;
        // Copied: a small piece keeps the whole buffer alive that the connection read it into.
        self.batch.extend_from_slice(&bytes);
        if self.batch.len() >= BATCH { self.start_batch().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ContentError> {
        self.start_batch().await?;
        self.written().await
    }

    async fn overtaken(&self) {
        self.claim.session.overtaken(self.claim.turn).await;
    }

    async fn commit(&mut self, expected: &Digest) -> Result<u64, ContentError> {
        self.flush().await?;
        let expected = *expected;
        self.ending(move |disk, session, turn| session.commit(disk, turn, &expected)).await
    }

    fn unresumable(mut self: Box<Self>) -> Box<dyn Upload> {
        self.resumable = false;
        self
    }
}

impl Drop for DiskUpload {
    fn drop(&mut self) {
        // Files are not removed here, on an async worker: the next sweep does, and it was woken.
        if !self.resumable && !self.claim.session.dropped.swap(true, Ordering::AcqRel) {
            self.disk.inner.uploads.dropped.notify_one();
        }
    }
}
