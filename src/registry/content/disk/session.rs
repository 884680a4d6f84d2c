//! One upload session: its file, its running hash, and whose turn it is.

use std::{
    fs::File,
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

use super::super::{CHUNK, ContentError, Hasher, files::Files};
use super::{Inner, full_or, lock};
use crate::{
    clock,
    model::{Algorithm, Digest, RepositoryName, Timestamp},
};

/// Written data is pushed to the disk so often: a commit then has little left to sync, and one upload does
/// not fill the page cache with dirty pages.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

/// The running hash is saved so often, so that after a restart no client waits in silence while everything it
/// sent is read back. A multiple of [`CHUNK`], where a hash can be saved.
const SAVE_EVERY: u64 = 32 * CHUNK;

/// One read while a hash is caught up after a restart.
const CATCH_UP: usize = 1024 * 1024;

/// How much is caught up beside each batch that comes, so that the commit finds little left.
const CATCH_UP_BESIDE: u64 = 16 * 1024 * 1024;

/// A session's file is closed when nobody wrote for so long: sessions live for days, and descriptors are few.
const REST_AFTER: Duration = Duration::from_secs(60);

/// The running hash as last saved.
const HASH: &str = "hash";

/// What `session.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Written {
    /// Version of this format.
    pub(super) v: u32,
    /// Whose session it is.
    pub(super) repository: RepositoryName,
    /// What it is hashed by as it comes. Older sessions do not say: sha256.
    #[serde(default)]
    pub(super) algorithm: Algorithm,
    /// Who began it. Older sessions do not say.
    #[serde(default)]
    pub(super) owner: String,
    /// Unix seconds of that.
    #[serde(default)]
    pub(super) began: Option<i64>,
}

pub(super) struct Session {
    pub(super) id: String,
    pub(super) written: Written,
    dir: PathBuf,
    files: Files,
    /// What status requests see; follows the file.
    received: AtomicU64,
    /// Number of the request that has the turn; a higher one overtakes.
    turn: watch::Sender<u64>,
    /// [`clock::boot`] of the last byte, in milliseconds.
    touched: AtomicU64,
    /// [`clock::boot`] when it was begun.
    began: Duration,
    /// The client never learnt of it, or it is over: the next sweep removes it.
    pub(super) dropped: AtomicBool,
    writer: Mutex<Writer>,
}

struct Writer {
    file: Option<File>,
    len: u64,
    unsynced: u64,
    /// Behind `len` after a restart; caught up beside later batches and by the commit.
    hash: Hasher,
    /// The state of `hash` at the last border, not saved yet.
    unsaved: Option<Vec<u8>>,
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
    pub(super) fn new(
        id: String,
        written: Written,
        (dir, files): (PathBuf, Files),
        len: u64,
        age: Duration,
    ) -> Self {
        let touched = clock::boot().saturating_sub(age);
        let since = written.began.map(|began| clock::wall().since(Timestamp::from_unix_seconds(began)));
        let began = clock::boot().saturating_sub(since.unwrap_or(age));
        // What was saved is of bytes that were durable before: the file still has them, or is shorter.
        let saved = files.read(&dir.join(HASH)).ok();
        let saved = saved.and_then(|saved| Hasher::restored(written.algorithm, &saved));
        let hash = saved.filter(|hash| hash.size() <= len);
        let hash = hash.unwrap_or_else(|| Hasher::new(written.algorithm));
        let writer = Writer { file: None, len, unsynced: 0, hash, unsaved: None, turn: 0, over: false };
        Self {
            id,
            written,
            dir,
            files,
            received: AtomicU64::new(len),
            turn: watch::Sender::new(0),
            touched: AtomicU64::new(millis(touched)),
            began,
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

    pub(super) fn age(&self) -> Duration {
        clock::boot().saturating_sub(self.began)
    }

    fn touch(&self) {
        self.touched.store(millis(clock::boot()), Ordering::Release);
    }

    /// Takes the turn from whoever has it, and tells where the session stands. Bytes of an earlier turn that
    /// were not written by now never will be.
    pub(super) fn claim(self: Arc<Self>, ends_by: Option<Algorithm>) -> Result<Claim, ContentError> {
        let mut mine = 0;
        self.turn.send_modify(|turn| {
            *turn += 1;
            mine = *turn;
        });
        let received = {
            let mut writer = lock(&self.writer);
            writer.take_turn(mine)?;
            if let Some(algorithm) = ends_by.filter(|_| writer.len == 0) {
                writer.hash = Hasher::new(algorithm);
            }
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
        let file = writer.open(&self.files, &data).map_err(full_or("open an upload"))?;
        if let Err(error) = self.files.write_at(file, batch, from) {
            if let Err(error) = self.files.set_len(file, from) {
                tracing::error!(upload = %self.id, error = %error, "upload could not be cut back");
                writer.end();
                self.dropped.store(true, Ordering::Release);
            }
            return Err(full_or("write an upload")(error));
        }
        let at = from + batch.len() as u64;
        writer.unsynced += at - from;
        writer.catch_up(from, CATCH_UP_BESIDE).map_err(ContentError::io("read an upload back"))?;
        if writer.hash.size() == from {
            writer.feed(batch);
        }
        if writer.unsynced >= SYNC_EVERY || writer.unsaved.is_some() {
            self.sync(&mut writer)?;
        }
        writer.len = at;
        self.received.store(at, Ordering::Release);
        self.touch();
        Ok(())
    }

    /// Pushes what was written to the disk, and then the hash of it.
    fn sync(&self, writer: &mut Writer) -> Result<(), ContentError> {
        if let Some(file) = &writer.file
            && let Err(error) = self.files.sync_data(file)
        {
            // After a failed sync nobody knows what is on the disk: these bytes are not to be trusted again.
            self.spoil(writer);
            return Err(full_or("sync an upload")(error));
        }
        writer.unsynced = 0;
        if let Some(state) = writer.unsaved.take() {
            let beside = self.dir.join("hash.new");
            let rename = || self.files.rename(&beside, &self.dir.join(HASH));
            let save = || self.files.write(&beside, &state).and_then(|()| rename());
            if let Err(error) = save() {
                // Without it, a restart reads the file back.
                tracing::warn!(upload = %self.id, error = %error, "running hash was not saved");
                self.files.forget(&beside);
            }
        }
        Ok(())
    }

    /// Ends the session by its own fault; the next sweep removes it.
    fn spoil(&self, writer: &mut Writer) {
        writer.end();
        self.dropped.store(true, Ordering::Release);
    }

    /// Closes the file of a session that nobody writes to. Waits for nobody.
    pub(super) fn rest(&self) {
        if self.idle() < REST_AFTER {
            return;
        }
        let Ok(mut writer) = self.writer.try_lock() else { return };
        if writer.file.is_some()
            && let Err(error) = self.sync(&mut writer)
        {
            tracing::warn!(upload = %self.id, error = %error, "idle upload could not be synced and was given up");
        }
        writer.file = None;
    }

    /// Verifies, syncs, publishes and links. A wrong digest ends the session; so does success.
    pub(super) fn commit(&self, disk: &Inner, turn: u64, expected: &Digest) -> Result<u64, ContentError> {
        let mut writer = lock(&self.writer);
        writer.take_turn(turn)?;
        let data = self.dir.join("data");
        writer.open(&self.files, &data).map_err(full_or("open an upload"))?;
        let len = writer.len;
        if writer.hash.algorithm() != expected.algorithm() {
            // Its client did not say at the start by what it would name it: one more look at all of it.
            writer.hash = Hasher::new(expected.algorithm());
        }
        writer.catch_up(len, u64::MAX).map_err(ContentError::io("read an upload back"))?;
        let hashed = writer.hash.clone().finish();
        if hashed.digest != *expected {
            self.spoil(&mut writer);
            return Err(ContentError::Corrupt { expected: *expected, got: hashed.digest });
        }
        // What a failed batch left behind the end is not part of the blob.
        let whole = writer
            .file
            .as_ref()
            .map_or(Ok(()), |file| self.files.set_len(file, len).and_then(|()| self.files.sync(file)));
        if let Err(error) = whole {
            self.spoil(&mut writer);
            return Err(full_or("sync an upload")(error));
        }
        let adopted = disk.blobs.adopt(&data, &hashed);
        // On a full disk the bytes stay for another try, unless they were moved already, or may be a blob by now: of a shared
        // directory this file is the blob, and what came next would be written to that.
        let is_full = matches!(adopted, Err(ContentError::Full { .. }));
        if adopted.is_ok() || !data.exists() || (disk.blobs.shared && !is_full) {
            self.spoil(&mut writer);
        }
        adopted?;
        disk.records.link(&self.written.repository, expected).map_err(full_or("link a blob"))?;
        Ok(hashed.size)
    }

    /// Ends the session for whoever holds it, and frees its space.
    pub(super) fn remove(&self) -> Result<(), ContentError> {
        self.dropped.store(true, Ordering::Release);
        self.turn.send_modify(|turn| *turn += 1);
        self.discard()
    }

    /// The same for whoever has the turn: that is told what went wrong, not that it was overtaken.
    pub(super) fn discard(&self) -> Result<(), ContentError> {
        self.dropped.store(true, Ordering::Release);
        lock(&self.writer).end();
        self.files.remove_all(&self.dir).map_err(ContentError::io("remove an upload"))
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

    fn open(&mut self, files: &Files, path: &std::path::Path) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => files.create(path)?,
        };
        Ok(self.file.insert(file))
    }

    /// Hashes what is in the file up to `end`, at most so much of it.
    fn catch_up(&mut self, end: u64, most: u64) -> io::Result<()> {
        let end = end.min(self.hash.size().saturating_add(most));
        if self.hash.size() >= end {
            return Ok(());
        }
        let mut piece = vec![0; CATCH_UP];
        while self.hash.size() < end {
            let from = self.hash.size();
            let left = usize::try_from(end - from).unwrap_or(CATCH_UP).min(CATCH_UP);
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            file.read_exact_at(&mut piece[..left], from)?;
            self.feed(&piece[..left]);
        }
        Ok(())
    }

    /// Hashes the next bytes, and keeps the state at a border.
    fn feed(&mut self, bytes: &[u8]) {
        let border = SAVE_EVERY - self.hash.size() % SAVE_EVERY;
        let border = usize::try_from(border).unwrap_or(usize::MAX);
        match bytes.split_at_checked(border) {
            None => self.hash.update(bytes),
            Some((before, after)) => {
                self.hash.update(before);
                self.unsaved = self.hash.saved();
                self.feed(after);
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.file = None;
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(dir: &std::path::Path, len: u64) -> Arc<Session> {
        let repository = RepositoryName::parse("a").unwrap();
        let written =
            Written { v: 1, repository, algorithm: Algorithm::Sha256, owner: String::new(), began: None };
        Arc::new(Session::new("r1.x".into(), written, (dir.to_owned(), Files::new(dir)), len, Duration::ZERO))
    }

    fn hashed(session: &Session) -> u64 {
        lock(&session.writer).hash.size()
    }

    #[test]
    fn after_a_restart_only_what_came_since_the_last_border_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = session(dir.path(), 0).claim(None).unwrap();
        let batch: Vec<u8> = (0..5_000_011u32).map(|n| (n % 251) as u8).collect();
        let mut whole = Hasher::default();
        let mut len = 0;
        while len < SAVE_EVERY + 7_000_000 {
            first.session.append(first.turn, &batch).unwrap();
            whole.update(&batch);
            len += batch.len() as u64;
        }
        drop(first);

        let again = session(dir.path(), len).claim(None).unwrap();
        assert_eq!(hashed(&again.session), SAVE_EVERY);
        again.session.append(again.turn, b"rest").unwrap();
        whole.update(b"rest");
        assert_eq!(hashed(&again.session), len + 4, "the lag is gone before the client asks for the end");
        assert_eq!(lock(&again.session.writer).hash.clone().finish(), whole.finish());

        // What does not fit the file is not used, nor what is damaged.
        assert_eq!(hashed(&session(dir.path(), SAVE_EVERY - 1)), 0);
        std::fs::write(dir.path().join(HASH), b"garbage").unwrap();
        let lost = session(dir.path(), len).claim(None).unwrap();
        assert_eq!(hashed(&lost.session), 0);
        lost.session.append(lost.turn, b"x").unwrap();
        assert_eq!(hashed(&lost.session), CATCH_UP_BESIDE, "a long lag is caught up beside what comes");
    }
}
