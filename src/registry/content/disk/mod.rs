//! A directory: one that this process alone uses, or one that other registries use, too ([`super::shared`] has what is
//! different then).
//!
//! ```text
//! lock                                   held while the process lives; names its pid
//! blobs/<algorithm>/<2 hex>/<hex>        complete, verified, durable; sha256 or sha512
//! blobs/<algorithm>/<2 hex>/<hex>.chunks its chunk list, if it has more than one chunk
//! trash/<hex>, <hex>.chunks              blobs that nobody needed for a while; found by reads as if they were above
//! quarantine/<hex>, <hex>-<n>, ….chunks  blobs that were found bad; nothing here is read or deleted
//! uploads/<uuid>/session.json, data      what came so far; its length is the session's offset
//! uploads/<uuid>/hash                    the running hash at some earlier border
//! fills/<hex>/fill.json, chunks          a blob that comes in chunks: its size and chunk list
//! fills/<hex>/data, have, hash           what came so far; which of it is durable; the hash of its beginning
//! repositories/<name>/_catalogue.json    the newest generation, replaced by rename
//! repositories/<name>/_links/<hex>       blobs this repository was given; empty files
//! repositories/<name>/_pulls.json        when versions were last pulled
//! aside/<position>-<mark>/               history that was not the writer's; nothing here is ever deleted
//! tmp/                                   files before their rename; emptied at start
//! ```
//!
//! Publication is always: write under `tmp`, `uploads` or `fills`, sync, rename, sync the directory. A kill at any
//! instant leaves the old state or the new one, and a file that the next start removes.
//!
//! All file work runs on tokio's blocking threads, under [`READERS`] and [`WRITERS`].

mod aside;
mod bits;
mod blobs;
mod contract;
mod fills;
mod filling;
mod given;
mod inspect;
mod layout;
mod leases;
mod lock;
mod partial;
mod reading;
mod records;
mod session;
mod space;
mod staging;
mod trail;
mod trash;
mod uploads;
mod verified;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    Condition, Content, ContentError,
    files::{Files, full_or},
    shared::{Catalogues, Leases, Ledger, Names, Peers, folder},
};
use crate::config::registry::{Registry, Storage};

use aside::Aside;
use blobs::Blobs;
use fills::Fills;
use lock::DirectoryLock;
use records::Records;
use space::Room;
use uploads::Uploads;
use verified::Verified;

/// File reads at once. More wait: a slow disk must not take every blocking thread of the process.
const READERS: usize = 64;

/// File writes at once, apart from reads, so that syncs of big blobs never stop a download.
const WRITERS: usize = 32;

/// Between two looks at what others write.
const SETTLE: Duration = Duration::from_millis(250);

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("`{path}` is in use by another registry{holder}; stop it or choose another directory", path = .path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, or empty when the file does not tell.
        holder: String,
    },
    /// It is not this registry's, or only half of what was.
    #[error("`{path}` cannot be this registry's storage: {why}; {right}", path = .path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What it is.
        why: String,
        /// What would be right.
        right: String,
    },
    /// Another registry of the same name is alive in it.
    #[error("another registry named `{name}` uses `{path}` at this moment; give each its own `name` in `[server]`", path = .path.display())]
    Twin {
        /// The directory.
        path: PathBuf,
        /// The name of both.
        name: String,
    },
    /// It cannot be made or read.
    #[error("cannot use `{path}` as storage: failed to {what}", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The operation.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What the storage must know of the config.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// The directory; made if absent.
    pub path: PathBuf,
    /// Other registries use it, too. Else it is locked.
    pub shared: bool,
    /// This registry's name, in front of session ids. On a directory that is shared, nobody else's.
    pub name: String,
    /// Bytes that uploads leave free.
    pub reserve: u64,
    /// An upload session without a byte, or a fill without a chunk, for so long is thrown away.
    pub upload_idle: Duration,
    /// An upload session that was begun so long ago is thrown away.
    pub upload_age: Duration,
    /// Most sessions at once.
    pub uploads: usize,
    /// Most sessions of one owner.
    pub uploads_per_client: Option<usize>,
    /// A chunk that was not verified for so long is hashed before it is sent.
    pub verify_every: Duration,
}

impl DiskSettings {
    /// Of a directory that this registry has to itself, as tests have it where they say nothing else.
    #[cfg(test)]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shared: false,
            name: "r1".into(),
            reserve: 0,
            upload_idle: Duration::from_secs(3600),
            upload_age: Duration::from_secs(7 * 24 * 3600),
            uploads: 8,
            uploads_per_client: None,
            verify_every: Duration::from_secs(3600),
        }
    }

    /// As a registry's config says.
    pub fn of(config: &Registry) -> Self {
        let (path, shared) = match &config.storage {
            Storage::Disk(path) => (path.clone(), false),
            Storage::Shared(path) => (path.clone(), true),
        };
        Self {
            path,
            shared,
            name: config.server.name.clone(),
            reserve: config.limits.reserve,
            upload_idle: config.limits.upload_idle,
            upload_age: config.limits.upload_age,
            uploads: config.limits.uploads,
            uploads_per_client: config.limits.uploads_per_client,
            verify_every: config.limits.verify_every,
        }
    }

    /// Where this registry keeps what is nobody else's.
    fn own(&self, kind: &str) -> PathBuf {
        let all = self.path.join(kind);
        if self.shared { all.join(folder(&self.name)) } else { all }
    }

    fn tmp(&self) -> PathBuf {
        self.own("tmp")
    }
}

/// What an earlier run had begun, was not finished and is of no use to anybody: the start removed it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Files that had no name yet.
    pub files: usize,
    /// Upload sessions.
    pub uploads: usize,
    /// Blobs that came from elsewhere: complete by now, too old, or unusable.
    pub fills: usize,
}

/// The storage. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    files: Files,
    blobs: Blobs,
    records: Records,
    uploads: Uploads,
    fills: Fills,
    aside: Aside,
    room: Room,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    cleaned: Cleaned,
    busy: leases::Busy,
    /// Who has which duty, if others could have it, too.
    leases: Option<Leases>,
    /// Template ids, if others give them away, too.
    names: Option<Names>,
    /// The others that use the directory, if it is shared.
    peers: Option<Peers>,
    root: PathBuf,
    /// Uploads that others left behind are thrown away after so long.
    idle: Duration,
    /// Released with the last clone.
    _lock: Option<DirectoryLock>,
}

impl Disk {
    /// Locks the directory, makes what is missing, removes what a crash left and reads the catalogues.
    pub async fn open(settings: DiskSettings) -> Result<Self, OpenError> {
        let files = Files::new(&settings.tmp());
        Self::open_by(settings, files).await
    }

    /// With calls that misbehave.
    #[cfg(test)]
    pub(in crate::registry) async fn open_faulty(
        settings: DiskSettings,
        faults: &Arc<super::files::faulty::Faults>,
    ) -> Result<Self, OpenError> {
        let files = Files::faulty(&settings.tmp(), faults);
        Self::open_by(settings, files).await
    }

    async fn open_by(settings: DiskSettings, files: Files) -> Result<Self, OpenError> {
        let path = settings.path.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&settings, files)).await;
        opened
            .unwrap_or_else(|gone| Err(OpenError::Io { path, what: "open", source: io::Error::other(gone) }))
    }

    fn open_blocking(settings: &DiskSettings, files: Files) -> Result<Self, OpenError> {
        let root = settings.path.as_path();
        let fail = |what| move |source| OpenError::Io { path: root.to_owned(), what, source };
        files.make_dirs(root).map_err(fail("make the directory"))?;
        let shared = settings.shared;
        layout::check(&files, root, shared)?;
        let lock = if shared { None } else { Some(DirectoryLock::take(root)?) };
        // Of a registry's own things in a directory that others use, too.
        let own = |kind: &str| settings.own(kind);
        let peers = shared.then(|| Peers::new(root.join(".peers"), &settings.name, files.clone()));
        if let Some(peers) = &peers
            && peers.has_twin(|time| files.wait(time)).map_err(fail("look for others of its name"))?
        {
            return Err(OpenError::Twin { path: root.to_owned(), name: settings.name.clone() });
        }
        let tmp = own("tmp");
        let leftover = match files.list(&tmp) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            list => list.map_err(fail("look into `tmp`"))?.len(),
        };
        files.remove_all(&tmp).map_err(fail("empty `tmp`"))?;
        files.make_dirs(&tmp).map_err(fail("make `tmp`"))?;
        if let Some(peers) = &peers {
            peers.beat(settings.upload_idle).map_err(fail("look who else is here"))?;
        }
        let verified = Arc::new(Verified::new(settings.verify_every));
        let blobs = Blobs::open(&root.join("blobs"), root.join("trash"), (files.clone(), shared), verified)
            .map_err(fail("open `blobs`"))?;
        let ledger = || Ledger::new(files.clone(), root.to_owned(), settings.name.clone());
        let repositories = root.join("repositories");
        let records = if shared {
            let pulls = format!("{}.json", folder(&settings.name));
            let others = records::Shared { catalogues: Catalogues::new(ledger()), pulls };
            Records::open_shared(repositories, files.clone(), others)
        } else {
            Records::open(repositories, files.clone())
        };
        let records = records.map_err(fail("open `repositories`"))?;
        let leases =
            shared.then(|| Leases::new(root.join("leases"), files.clone(), ledger(), settings.name.clone()));
        let names = shared.then(|| Names::new(root.join("ids"), files.clone(), ledger()));
        let (uploads, upload) =
            Uploads::open(own("uploads"), files.clone(), settings).map_err(fail("open `uploads`"))?;
        let aside = Aside::new(root.join("aside"), files.clone());
        let (fills, fill) = Fills::open(own("fills"), files.clone(), settings.upload_idle, &blobs)
            .map_err(fail("open `fills`"))?;
        layout::mark(&files, root, shared).map_err(fail("mark the directory as its own"))?;
        files.sync_dir(root).map_err(fail("sync the directory"))?;
        let cleaned = Cleaned { files: leftover, uploads: upload, fills: fill };
        if cleaned != Cleaned::default() {
            let Cleaned { files, uploads, fills } = cleaned;
            tracing::info!(files, uploads, fills, "what an earlier run left unfinished was removed");
        }
        let inner = Inner {
            files: files.clone(),
            blobs,
            records,
            uploads,
            fills,
            aside,
            room: Room::new(root.to_owned(), settings.reserve),
            readers: Arc::new(Semaphore::new(READERS)),
            writers: Arc::new(Semaphore::new(WRITERS)),
            cleaned,
            busy: leases::Busy::default(),
            leases,
            names,
            peers,
            root: root.to_owned(),
            idle: settings.upload_idle,
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the start removed.
    pub fn cleaned(&self) -> Cleaned {
        self.inner.cleaned
    }

    /// Waits until it is known whether the mount shows what others write, some seconds at most; for what does not look at its
    /// condition all the time. At once in a directory that is not shared.
    pub async fn settle(&self) {
        while self.inner.peers.as_ref().is_some_and(|peers| peers.is_testing()) {
            self.condition().await;
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Runs file work for a reader. Cancelling the wait lets the work finish.
    async fn reading<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ContentError> {
        self.blocking(self.inner.readers.clone(), work).await
    }

    /// Runs file work for a writer. Cancelling the wait lets the work finish.
    async fn writing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ContentError> {
        self.blocking(self.inner.writers.clone(), work).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        permits: Arc<Semaphore>,
        work: impl FnOnce(&Inner) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ContentError> {
        let stopped =
            |_| ContentError::Io { what: "queue file work", source: io::ErrorKind::Interrupted.into() };
        let permit = permits.acquire_owned().await.map_err(stopped)?;
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&inner).map_err(|error| inner.room.explain(error))
        });
        done.await.unwrap_or_else(|gone| {
            Err(ContentError::Io { what: "run file work", source: io::Error::other(gone) })
        })
    }
}

impl Inner {
    /// What works at this moment: a directory is read, a small file is written and taken away again.
    fn condition(&self) -> Condition {
        let said = |done: io::Result<()>| done.err().map(|error| error.to_string());
        let beside = self.files.beside();
        let write = self.files.write(&beside, b"whether it can be written");
        self.files.forget(&beside);
        let read = self.files.list(&self.root.join("repositories")).map(drop);
        let mut condition = Condition {
            read: said(read).map(|why| format!("its storage cannot be read: {why}")),
            write: said(write).map(|why| format!("its storage cannot be written: {why}")),
        };
        if let Some(peers) = &self.peers {
            // One that cannot be written tells the others nothing; that is said already.
            if condition.write.is_none()
                && let Err(error) = peers.beat(self.idle)
            {
                condition.write = Some(format!("it cannot look who else is here: {error}"));
            }
            if let Some(why) = peers.doubt() {
                (condition.read, condition.write) = (Some(why.clone()), Some(why));
            }
        }
        condition
    }

    /// Removes what registries left behind that were silent for as long as an upload may be.
    fn clean_after_others(&self) {
        for folder in self.peers.iter().flat_map(Peers::gone) {
            let all = ["uploads", "fills", "tmp", ".peers"].map(|kind| self.root.join(kind).join(&folder));
            match all.iter().try_for_each(|dir| self.files.remove_all(dir)) {
                Ok(()) => {
                    tracing::info!(registry = %folder, "what a registry left that is long gone was removed")
                }
                Err(error) => {
                    tracing::warn!(registry = %folder, error = %error, "what a registry left could not be removed");
                }
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(peers) = &self.peers {
            peers.leave();
        }
    }
}

/// What a panicking holder left is whole at every step, by the order in which it is changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
