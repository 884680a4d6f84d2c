//! One blob that comes in chunks: its file, which chunks of it are here, and which of these are durable.
//!
//! A chunk is *here* once it is verified and written; the record lists it once that was synced. So after a kill or a
//! power cut every chunk that the record lists is really there, and the others come again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::super::{
    CHUNK, ChunkList, ContentError, FillError, Hashed, chunk_count, chunk_range, files::Files,
};
use super::{bits::Bits, blobs::Blobs, full_or, lock, trail::Trail};
use crate::{clock, model::Digest};

/// Chunks are made durable and recorded when so much of them came: a kill costs at most this and what is under way.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

/// Or when the last time is so long ago, so that a slow line loses little.
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// The running hash is saved when it is so many chunks further.
const SAVE_EVERY: u32 = 32;

/// Chunks that are hashed beside each one that comes: a hash that lags behind, after a restart or because chunks came
/// out of order, catches up before the end.
const HASH_BESIDE: u32 = 4;

/// A fill's file is closed when nobody wrote for so long.
const REST_AFTER: Duration = Duration::from_secs(60);

/// Locks for chunks that are being written; two calls for one chunk wait for each other.
const STRIPES: usize = 8;

const ABOUT: &str = "fill.json";
const CHUNKS: &str = "chunks";
const DATA: &str = "data";
const HAVE: &str = "have";
const HASH: &str = "hash";

/// What `fill.json` says. Written last: a directory without it is no fill.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// Version of this format.
    v: u32,
    /// Bytes of the whole.
    size: u64,
    /// Whether `chunks` has the list.
    listed: bool,
}

pub(super) struct Partial {
    blob: Digest,
    size: u64,
    /// Without one, chunks are taken unseen and the whole is verified at the end.
    list: Option<ChunkList>,
    dir: PathBuf,
    files: Files,
    /// [`clock::boot`] of the last chunk, in milliseconds.
    touched: AtomicU64,
    // Taken in this order: a stripe, `syncing`, `trail`, `state`.
    stripes: [Mutex<()>; STRIPES],
    /// What is recorded, and how far the saved hash goes. Held while the record or the directory's end is written.
    syncing: Mutex<Recorded>,
    trail: Mutex<Trail>,
    state: Mutex<State>,
}

struct Recorded {
    durable: Bits,
    hashed: u32,
}

struct State {
    file: Option<Arc<File>>,
    here: Bits,
    have: u64,
    unsynced: u64,
    synced: Duration,
    over: bool,
}

impl Partial {
    /// Begins one in an empty directory of its own.
    pub(super) fn create(
        dir: PathBuf,
        files: Files,
        blob: Digest,
        size: u64,
        list: Option<ChunkList>,
    ) -> Result<Self, ContentError> {
        let make = || {
            files.make_dir(&dir)?;
            if let Some(list) = &list {
                files.replace(&dir.join(CHUNKS), &list.to_bytes(), true)?;
            }
            files.set_len(&files.create(&dir.join(DATA))?, size)?;
            let about = serde_json::to_vec(&About { v: 1, size, listed: list.is_some() })?;
            files.replace(&dir.join(ABOUT), &about, true)
        };
        make().map_err(full_or("begin to fill a blob"))?;
        let trail = Trail::new(blob.algorithm(), list.is_none());
        Ok(Self::with(dir, files, blob, size, list, Bits::new(chunks_of(size)), trail))
    }

    /// Goes on with the one that is in this directory; nothing if it cannot be used.
    pub(super) fn take_up(dir: PathBuf, files: Files, blob: Digest) -> Option<Self> {
        let about: About = serde_json::from_slice(&files.read(&dir.join(ABOUT)).ok()?).ok()?;
        let len = files.look(&dir.join(DATA)).ok()?.len();
        if about.v != 1 || len != about.size {
            return None;
        }
        let chunks = chunks_of(about.size);
        let list = match about.listed {
            false => None,
            true => {
                let list = ChunkList::from_bytes(&files.read(&dir.join(CHUNKS)).ok()?)?;
                Some(list).filter(|list| list.0.len() as u64 == chunk_count(about.size))
            }
        };
        if about.listed && list.is_none() {
            return None;
        }
        let have = files.read(&dir.join(HAVE)).ok().and_then(|record| Bits::from_record(&record, chunks));
        let here = have.unwrap_or_else(|| Bits::new(chunks));
        let first_missing = here.missing().next().unwrap_or(chunks);
        let saved = files.read(&dir.join(HASH)).ok().filter(|_| list.is_some());
        let saved = saved
            .and_then(|saved| Trail::restored(blob.algorithm(), &saved))
            .filter(|t| t.at() <= first_missing);
        let trail = saved.unwrap_or_else(|| Trail::new(blob.algorithm(), list.is_none()));
        Some(Self::with(dir, files, blob, about.size, list, here, trail))
    }

    fn with(
        dir: PathBuf,
        files: Files,
        blob: Digest,
        size: u64,
        list: Option<ChunkList>,
        here: Bits,
        trail: Trail,
    ) -> Self {
        let have = here.present().map(|chunk| length(size, chunk)).sum();
        let recorded = Recorded { durable: here.clone(), hashed: trail.at() };
        let state = State { file: None, here, have, unsynced: 0, synced: clock::boot(), over: false };
        Self {
            blob,
            size,
            list,
            dir,
            files,
            touched: AtomicU64::new(millis(clock::boot())),
            stripes: Default::default(),
            syncing: Mutex::new(recorded),
            trail: Mutex::new(trail),
            state: Mutex::new(state),
        }
    }

    pub(super) fn blob(&self) -> &Digest {
        &self.blob
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn have(&self) -> u64 {
        lock(&self.state).have
    }

    pub(super) fn verifies(&self) -> bool {
        self.list.is_some()
    }

    pub(super) fn missing(&self) -> Vec<u32> {
        lock(&self.state).here.missing().collect()
    }

    /// Whether a fill of this size and list goes on with this one. No list: with whichever it has.
    pub(super) fn fits(&self, size: u64, list: Option<&ChunkList>) -> bool {
        self.size == size && list.is_none_or(|list| self.list.as_ref() == Some(list))
    }

    pub(super) fn idle(&self) -> Duration {
        clock::boot().saturating_sub(Duration::from_millis(self.touched.load(Ordering::Acquire)))
    }

    pub(super) fn touch(&self) {
        self.touched.store(millis(clock::boot()), Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    /// Verifies a chunk, then writes it.
    pub(super) fn write(&self, chunk: u32, bytes: &[u8]) -> Result<(), FillError> {
        let (got, expected) = (bytes.len() as u64, length(self.size, chunk));
        if chunk >= chunks_of(self.size) || got != expected {
            return Err(FillError::Misfit { blob: self.blob, chunk, got, expected });
        }
        let stripe = lock(&self.stripes[chunk as usize % STRIPES]);
        let file = {
            let mut state = self.running()?;
            if state.here.get(chunk) {
                return Ok(());
            }
            state.open(&self.files, &self.dir)?
        };
        if let Some(expected) = self.list.as_ref().and_then(|list| list.0.get(chunk as usize)) {
            let got = Digest::of(bytes);
            if got != *expected {
                return Err(ContentError::Corrupt { expected: *expected, got }.into());
            }
        }
        self.files.write_at(&file, bytes, u64::from(chunk) * CHUNK).map_err(full_or("write a chunk"))?;
        let due = {
            let mut state = self.running()?;
            if state.here.put(chunk, true) {
                state.have += got;
                state.unsynced += got;
            }
            state.unsynced >= SYNC_EVERY || clock::boot().saturating_sub(state.synced) >= SYNC_AFTER
        };
        drop(stripe);
        self.touch();
        // Somebody else is at it already: what is left then is for the next chunk, or for the end.
        if let Ok(mut trail) = self.trail.try_lock() {
            self.hash(&mut trail, &file, HASH_BESIDE)?;
        }
        if due { self.sync() } else { Ok(()) }
    }

    /// Hashes on, at most so many chunks.
    fn hash(&self, trail: &mut Trail, file: &File, most: u32) -> Result<(), ContentError> {
        for _ in 0..most {
            if !lock(&self.state).here.get(trail.at()) {
                break;
            }
            trail.advance(file, self.size).map_err(ContentError::io("read a chunk back"))?;
        }
        Ok(())
    }

    /// Makes what is here durable and records it.
    pub(super) fn sync(&self) -> Result<(), FillError> {
        let mut recorded = lock(&self.syncing);
        self.sync_held(&mut recorded)
    }

    fn sync_held(&self, recorded: &mut Recorded) -> Result<(), FillError> {
        // The hash first: what it covers was here before we look at what is here.
        let saved = self.trail.try_lock().ok().filter(|trail| trail.at() >= recorded.hashed + SAVE_EVERY);
        let saved = saved.and_then(|trail| Some((trail.at(), trail.saved(self.size)?)));
        let (file, here) = {
            let mut state = self.running()?;
            let file = state.open(&self.files, &self.dir)?;
            (state.unsynced, state.synced) = (0, clock::boot());
            (file, state.here.clone())
        };
        if here == recorded.durable {
            return Ok(());
        }
        if let Err(error) = self.files.sync_data(&file) {
            self.distrust(&recorded.durable);
            return Err(full_or("sync a chunk")(error).into());
        }
        self.files
            .replace(&self.dir.join(HAVE), &here.to_record(), true)
            .map_err(full_or("record a chunk"))?;
        recorded.durable = here;
        if let Some((at, saved)) = saved {
            match self.files.replace(&self.dir.join(HASH), &saved, false) {
                Ok(()) => recorded.hashed = at,
                // Without it, a restart reads the file back.
                Err(error) => tracing::warn!(blob = %self.blob, error = %error, "running hash was not saved"),
            }
        }
        Ok(())
    }

    /// After a failed sync nobody knows what is on the disk: chunks that were not durable before come again.
    fn distrust(&self, durable: &Bits) {
        let mut trail = lock(&self.trail);
        let mut state = lock(&self.state);
        // Those too that were written while it was synced: the system tells of their fault only once, and now.
        let doubtful: Vec<u32> = state.here.present().filter(|chunk| !durable.get(*chunk)).collect();
        for chunk in doubtful {
            if state.here.put(chunk, false) {
                state.have -= length(self.size, chunk);
            }
        }
        if state.here.missing().next().is_some_and(|first| first < trail.at()) {
            *trail = Trail::new(self.blob.algorithm(), self.list.is_none());
        }
    }

    /// Verifies the whole, makes it durable and gives it its name. Over by success and by a wrong whole.
    pub(super) fn commit(&self, blobs: &Blobs) -> Result<(), FillError> {
        let mut recorded = lock(&self.syncing);
        let file = {
            let mut state = self.running()?;
            if !state.here.is_full() {
                let missing = u64::from(state.here.unset());
                return Err(FillError::Incomplete { blob: self.blob, missing });
            }
            state.open(&self.files, &self.dir)?
        };
        self.sync_held(&mut recorded)?;
        let mut trail = lock(&self.trail);
        self.hash(&mut trail, &file, u32::MAX)?;
        let got = trail.digest();
        let list = self.list.clone().or_else(|| trail.learnt());
        let (Some(chunks), true) = (list, got == self.blob) else {
            lock(&self.state).end();
            return Err(ContentError::Corrupt { expected: self.blob, got }.into());
        };
        self.files.sync(&file).map_err(full_or("sync a blob"))?;
        let data = self.dir.join(DATA);
        let adopted = blobs.adopt(&data, &Hashed { digest: got, size: self.size, chunks });
        // On a full disk the bytes stay for another try, unless they were moved already.
        if adopted.is_ok() || !data.exists() {
            lock(&self.state).end();
        }
        Ok(adopted?)
    }

    /// Closes the file of a fill that nobody writes to.
    pub(super) fn rest(&self) {
        if self.idle() < REST_AFTER || lock(&self.state).file.is_none() {
            return;
        }
        if let Err(error) = self.sync() {
            tracing::warn!(blob = %self.blob, error = %error, "idle fill could not be synced");
        }
        lock(&self.state).file = None;
    }

    /// Ends it for whoever holds it, and frees its space.
    pub(super) fn remove(&self) -> Result<(), ContentError> {
        {
            // After this nobody writes into the directory, which another fill of this blob may have next.
            let _alone = lock(&self.syncing);
            lock(&self.state).end();
        }
        remove_dir(&self.files, &self.dir)
    }

    fn running(&self) -> Result<MutexGuard<'_, State>, FillError> {
        let state = lock(&self.state);
        if state.over { Err(FillError::Gone { blob: self.blob }) } else { Ok(state) }
    }
}

impl State {
    fn open(&mut self, files: &Files, dir: &Path) -> Result<Arc<File>, ContentError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => Arc::new(files.open_to_write(&dir.join(DATA)).map_err(full_or("open a fill"))?),
        };
        Ok(self.file.insert(file).clone())
    }

    fn end(&mut self) {
        self.over = true;
        self.file = None;
    }
}

/// Removes a fill's directory; one that is gone is no error.
pub(super) fn remove_dir(files: &Files, dir: &Path) -> Result<(), ContentError> {
    files.remove_all(dir).map_err(ContentError::io("remove a fill"))
}

/// Space for so many chunks was promised before, so that their number has a bound.
fn chunks_of(size: u64) -> u32 {
    u32::try_from(chunk_count(size)).unwrap_or(u32::MAX)
}

fn length(size: u64, chunk: u32) -> u64 {
    let range = chunk_range(size, chunk);
    range.end - range.start
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a directory of an earlier run holds a fill, and for how long nobody went on with it.
pub(super) fn age(files: &Files, dir: &Path) -> Option<Duration> {
    files.look(&dir.join(ABOUT)).ok()?;
    let last = files.look(&dir.join(DATA)).and_then(|meta| meta.modified()).ok()?;
    Some(last.elapsed().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restart_only_what_came_since_the_hash_was_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = SAVE_EVERY + 3;
        let bytes = vec![7; CHUNK as usize];
        let list = ChunkList(vec![Digest::of(&bytes); chunks as usize]);
        let (blob, size) = (Digest::of(b"the name does not matter"), u64::from(chunks) * CHUNK);
        let (at, files) = (dir.path().join("fill"), Files::new(dir.path()));
        let partial = Partial::create(at.clone(), files.clone(), blob, size, Some(list)).unwrap();
        // The first chunk comes late: the hash waits for it, then catches up beside those that come.
        for chunk in 1..SAVE_EVERY - 5 {
            partial.write(chunk, &bytes).unwrap();
        }
        assert_eq!(lock(&partial.trail).at(), 0);
        partial.write(0, &bytes).unwrap();
        assert_eq!(lock(&partial.trail).at(), HASH_BESIDE);
        for chunk in SAVE_EVERY - 5..SAVE_EVERY + 2 {
            partial.write(chunk, &bytes).unwrap();
        }
        let mut trail = lock(&partial.trail);
        partial.hash(&mut trail, &File::open(at.join(DATA)).unwrap(), u32::MAX).unwrap();
        drop(trail);
        partial.write(SAVE_EVERY + 2, &bytes).unwrap();
        partial.sync().unwrap();
        // The saved hash is not ahead of the record, and after a restart the hash goes on from it.
        let hashed = lock(&partial.syncing).hashed;
        assert!(hashed >= SAVE_EVERY, "{hashed}");
        drop(partial);
        let again = Partial::take_up(at.clone(), files.clone(), blob).unwrap();
        assert_eq!((lock(&again.trail).at(), again.missing()), (hashed, vec![]));

        let mut have = Bits::new(chunks);
        have.put(1, true);
        std::fs::write(at.join(HAVE), have.to_record()).unwrap();
        let behind = Partial::take_up(at, files, blob).unwrap();
        assert_eq!((lock(&behind.trail).at(), behind.have()), (0, CHUNK), "a hash ahead of the record");
    }
}
