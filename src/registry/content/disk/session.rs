//! One upload session: its file, its running hash, and whose turn it is.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::super::{ContentError, Hasher};
use super::{Inner, full_or, lock};
use crate::{
    clock,
    model::{Digest, RepositoryName},
};

/// Written data is pushed to the disk so often: a commit then has little left to sync, and one upload does
/// not fill the page cache with dirty pages.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

/// One read while a hash is caught up after a restart.
const CATCH_UP: usize = 1024 * 1024;

/// What `session.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    /// Version of this format.
    pub(super) v: u32,
    /// Whose session it is.
    pub(super) repository: RepositoryName,
}

pub(super) struct Session {
    pub(super) id: String,
    pub(super) repository: RepositoryName,
    dir: PathBuf,
    /// What status requests see; follows the file.
    received: AtomicU64,
    /// Number of the request that has the turn; a higher one overtakes.
    turn: watch::Sender<u64>,
    /// [`clock::boot`] of the last byte, in milliseconds.
    touched: AtomicU64,
    /// The client never learnt of it, or it is over: the next sweep removes it.
    pub(super) dropped: AtomicBool,
    writer: Mutex<Writer>,
}

struct Writer {
    file: Option<File>,
    len: u64,
    unsynced: u64,
    /// Behind `len` after a restart; caught up by the commit.
    hash: Hasher,
    turn: u64,
    over: bool,
}

/// One request's turn at a session.
pub(super) struct Claim {
    pub(super) session: Arc<Session>,
    pub(super) turn: u64,
    pub(super) received: u64,
}

impl Session {
    pub(super) fn new(id: String, repository: RepositoryName, dir: PathBuf, len: u64, age: Duration) -> Self {
        let touched = clock::boot().saturating_sub(age);
        let writer = Writer { file: None, len, unsynced: 0, hash: Hasher::default(), turn: 0, over: false };
        Self {
            id,
            repository,
            dir,
            received: AtomicU64::new(len),
            turn: watch::Sender::new(0),
            touched: AtomicU64::new(millis(touched)),
            dropped: AtomicBool::new(false),
            writer: Mutex::new(writer),
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    pub(super) fn idle(&self) -> Duration {
        clock::boot().saturating_sub(Duration::from_millis(self.touched.load(Ordering::Acquire)))
    }

    fn touch(&self) {
        self.touched.store(millis(clock::boot()), Ordering::Release);
    }

    /// Takes the turn from whoever has it, and tells where the session stands. Bytes of an earlier turn that
    /// were not written by now never will be.
    pub(super) fn claim(self: Arc<Self>) -> Result<Claim, ContentError> {
        let mut mine = 0;
        self.turn.send_modify(|turn| {
            *turn += 1;
            mine = *turn;
        });
        let received = {
            let mut writer = lock(&self.writer);
            writer.take_turn(mine)?;
            self.touch();
            writer.len
        };
        Ok(Claim { session: self, turn: mine, received })
    }

    /// Completes when a later turn was taken.
    pub(super) async fn overtaken(&self, turn: u64) {
        // An error means that the sender is gone; we hold it.
        if self.turn.subscribe().wait_for(|now| *now > turn).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Appends in a turn. On an error the file ends where it did before.
    pub(super) fn append(&self, turn: u64, batch: &[u8]) -> Result<(), ContentError> {
        let mut writer = lock(&self.writer);
        writer.take_turn(turn)?;
        let from = writer.len;
        let data = self.dir.join("data");
        let file = writer.open(&data).map_err(full_or("open an upload"))?;
        if let Err(error) = file.write_all_at(batch, from) {
            if let Err(error) = file.set_len(from) {
                tracing::error!(upload = %self.id, error = %error, "upload could not be cut back");
                writer.end();
                self.dropped.store(true, Ordering::Release);
            }
            return Err(full_or("write an upload")(error));
        }
        let at = from + batch.len() as u64;
        writer.unsynced += at - from;
        if writer.unsynced >= SYNC_EVERY {
            writer.unsynced = 0;
            if let Some(file) = &writer.file {
                file.sync_data().map_err(full_or("sync an upload"))?;
            }
        }
        if writer.hash.size() == from {
            writer.hash.update(batch);
        }
        writer.len = at;
        self.received.store(at, Ordering::Release);
        self.touch();
        Ok(())
    }

    /// Verifies, syncs, publishes and links. A wrong digest ends the session; so does success.
    pub(super) fn commit(&self, disk: &Inner, turn: u64, expected: &Digest) -> Result<u64, ContentError> {
        let mut writer = lock(&self.writer);
        writer.take_turn(turn)?;
        let data = self.dir.join("data");
        writer.open(&data).map_err(full_or("open an upload"))?;
        writer.catch_up().map_err(ContentError::io("read an upload back"))?;
        let hashed = writer.hash.clone().finish();
        if hashed.digest != *expected {
            writer.end();
            self.dropped.store(true, Ordering::Release);
            return Err(ContentError::Corrupt { expected: *expected, got: hashed.digest });
        }
        if let Some(file) = &writer.file
            && let Err(error) = file.sync_all()
        {
            // After a failed sync nobody knows what is on the disk: these bytes are not to be trusted again.
            writer.end();
            self.dropped.store(true, Ordering::Release);
            return Err(full_or("sync an upload")(error));
        }
        disk.blobs.adopt(&data, &hashed)?;
        writer.end();
        self.dropped.store(true, Ordering::Release);
        disk.records.link(&self.repository, expected).map_err(full_or("link a blob"))?;
        Ok(hashed.size)
    }

    /// Ends the session for whoever holds it, and frees its space.
    pub(super) fn remove(&self) -> Result<(), ContentError> {
        self.dropped.store(true, Ordering::Release);
        self.turn.send_modify(|turn| *turn += 1);
        lock(&self.writer).end();
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ContentError::Io { what: "remove an upload", source: error })
            }
            _ => Ok(()),
        }
    }
}

impl Writer {
    fn take_turn(&mut self, turn: u64) -> Result<(), ContentError> {
        if self.over {
            return Err(ContentError::UnknownUpload);
        }
        if turn < self.turn {
            return Err(ContentError::Overtaken);
        }
        self.turn = turn;
        Ok(())
    }

    fn open(&mut self, path: &std::path::Path) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?,
        };
        Ok(self.file.insert(file))
    }

    fn catch_up(&mut self) -> io::Result<()> {
        if self.hash.size() > self.len {
            self.hash = Hasher::default();
        }
        let Some(file) = &self.file else { return Ok(()) };
        let mut piece = vec![0; CATCH_UP];
        while self.hash.size() < self.len {
            let left = usize::try_from(self.len - self.hash.size()).unwrap_or(CATCH_UP).min(CATCH_UP);
            file.read_exact_at(&mut piece[..left], self.hash.size())?;
            self.hash.update(&piece[..left]);
        }
        Ok(())
    }

    fn end(&mut self) {
        self.over = true;
        self.file = None;
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
