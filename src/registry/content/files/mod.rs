//! Between content and the system calls: whatever a storage does to its directory goes through here.
//!
//! In the program each of these is the system's own call and nothing else. In tests each is a step at which something
//! may go wrong (`faulty`). Bytes that are read from an open file do not pass here, only those that are written.

#[cfg(test)]
pub(in crate::registry) mod faulty;

use std::{
    fs::{self, DirEntry, File, Metadata, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{Timespec, Timestamps, UTIME_NOW, futimens},
    io::Errno,
};

use super::ContentError;

/// Times that directories are made before one that is gone again is an error.
const MADE_ANEW: usize = 4;

/// What a call is to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Needs the name to be seen.
    Look,
    /// Opens a directory: what others changed in it is seen from now on.
    Open,
    /// Gives the name to something.
    Make,
    /// Takes the name away.
    Take,
    /// Is about an open file alone.
    Bytes,
}

/// The calls, and where files lie until they are whole and get their names. Cheap to clone.
#[derive(Clone)]
pub(super) struct Files {
    tmp: Arc<Path>,
    #[cfg(test)]
    faults: Option<Arc<faulty::Faults>>,
}

impl Files {
    /// `tmp`: on the same file system as everything else, and nobody else's.
    pub(super) fn new(tmp: &Path) -> Self {
        Self {
            tmp: tmp.into(),
            #[cfg(test)]
            faults: None,
        }
    }

    /// A name of nobody else's for a file that is not whole yet.
    pub(super) fn beside(&self) -> PathBuf {
        self.tmp.join(uuid::Uuid::new_v4().to_string())
    }

    #[cfg(not(test))]
    fn step<T>(&self, _: Call, _: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        work()
    }

    #[cfg(test)]
    fn step<T>(&self, call: Call, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.faults {
            Some(faults) => faults.step(call, path, work),
            None => work(),
        }
    }

    fn bytes<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.step(Call::Bytes, Path::new(""), work)
    }

    /// Waits for others to do something.
    pub(super) fn wait(&self, time: Duration) {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.pass(time);
        }
        std::thread::sleep(time);
    }

    /// What is in a directory, opened anew: a client of a network file system asks its server by that.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let list = || fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
        let list = self.step(Call::Open, dir, list)?;
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return Ok(list.into_iter().filter(|entry| faults.sees(&entry.path())).collect());
        }
        Ok(list)
    }

    /// Opens a directory and closes it again, so that names which are looked for next are asked for anew.
    pub(super) fn refresh(&self, dir: &Path) -> io::Result<()> {
        self.step(Call::Open, dir, || File::open(dir).map(drop))
    }

    pub(super) fn look(&self, path: &Path) -> io::Result<Metadata> {
        self.step(Call::Look, path, || fs::metadata(path))
    }

    pub(super) fn is_there(&self, path: &Path) -> io::Result<bool> {
        match self.look(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step(Call::Look, path, || fs::read(path))
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        self.step(Call::Look, path, || File::open(path))
    }

    /// For reading and writing.
    pub(super) fn open_to_write(&self, path: &Path) -> io::Result<File> {
        self.step(Call::Look, path, || OpenOptions::new().read(true).write(true).open(path))
    }

    /// For reading and writing; made if it is not there.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        self.step(Call::Make, path, open)
    }

    /// An empty file, which was not there before.
    pub(super) fn create_new(&self, path: &Path) -> io::Result<File> {
        self.step(Call::Make, path, || File::create_new(path))
    }

    /// Writes a file of which nobody knows yet; not synced.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.step(Call::Make, path, || File::create(path))?;
        self.write_at(&file, bytes, 0)
    }

    pub(super) fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.bytes(|| file.write_all_at(bytes, at))
    }

    pub(super) fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.bytes(|| file.set_len(len))
    }

    /// Makes a file durable.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.bytes(|| file.sync_all())
    }

    /// Makes a file's bytes durable.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        self.bytes(|| file.sync_data())
    }

    /// Sets a file's time to now by the storage's own clock: that is what the collector measures age by. On a storage
    /// that takes no writes nobody collects, either.
    pub(super) fn touch(&self, file: &File) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        self.bytes(|| match futimens(file, &times) {
            Err(Errno::ROFS) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Makes renames and new names in a directory durable.
    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Call::Open, path, || File::open(path)?.sync_all())
    }

    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Call::Make, path, || fs::create_dir(path))
    }

    /// Makes a directory and all above it, durably, up to one that is there.
    pub(super) fn make_dirs(&self, path: &Path) -> io::Result<()> {
        // What is above may be removed meanwhile by another registry, to which it was empty.
        for _ in 1..MADE_ANEW {
            match self.make_dirs_once(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => return made,
            }
        }
        self.make_dirs_once(path)
    }

    fn make_dirs_once(&self, path: &Path) -> io::Result<()> {
        if self.look(path).is_ok_and(|meta| meta.is_dir()) {
            return Ok(());
        }
        let above = path.parent().ok_or(io::ErrorKind::NotFound)?;
        // Of a name alone: where the process is.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        self.make_dirs_once(above)?;
        match self.make_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Taken back: the next caller would find it and take it for durable.
        self.sync_dir(above).inspect_err(|_| drop(self.remove_dir(path)))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Call::Make, to, || {
            #[cfg(test)]
            if self.faults.as_ref().is_some_and(|faults| !faults.sees(from)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            fs::rename(from, to)
        })
    }

    /// A second name for a file, which nothing has yet.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Call::Make, to, || fs::hard_link(from, to))
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Call::Take, path, || fs::remove_file(path))
    }

    pub(super) fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Call::Take, path, || fs::remove_dir(path))
    }

    /// A directory with all that is in it; one that is gone is no error.
    pub(super) fn remove_all(&self, path: &Path) -> io::Result<()> {
        match self.step(Call::Take, path, || fs::remove_dir_all(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes a file of which nobody knows yet, durably; tells where it is.
    pub(super) fn write_beside(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let beside = self.beside();
        let write = || {
            self.write(&beside, bytes)?;
            let file = self.open(&beside)?;
            self.sync(&file)
        };
        write().inspect_err(|_| self.forget(&beside))?;
        Ok(beside)
    }

    /// Writes a file whole, synced if it must survive a power cut, and renames it into place.
    pub(super) fn replace(&self, target: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let beside = self.beside();
        let write = || {
            self.write(&beside, bytes)?;
            if durable {
                let file = self.open(&beside)?;
                self.sync(&file)?;
            }
            self.rename(&beside, target)?;
            match target.parent() {
                Some(above) if durable => self.sync_dir(above),
                _ => Ok(()),
            }
        };
        write().inspect_err(|_| self.forget(&beside))
    }

    /// Gives a whole, synced file a second name that it keeps for ever, unless one of this size has it: whoever was first,
    /// its content is the same. What the call returned counts for nothing; what is there then does.
    pub(super) fn give(&self, file: &Path, target: &Path, size: u64) -> io::Result<()> {
        let linked = self.link(file, target);
        let dir = target.parent().ok_or(io::ErrorKind::NotFound)?;
        let synced = self.sync_dir(dir);
        match self.look(target) {
            Ok(there) if there.len() == size => synced,
            Ok(there) => Err(io::Error::other(format!(
                "`{}` is there with {} bytes instead of {size}",
                target.display(),
                there.len()
            ))),
            Err(error) => Err(linked.err().unwrap_or(error)),
        }
    }

    /// Writes a file whole and [gives](Files::give) it its name.
    pub(super) fn place(&self, target: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = self.beside();
        let write = || {
            self.write(&beside, bytes)?;
            let file = self.open(&beside)?;
            self.sync(&file)?;
            self.give(&beside, target, bytes.len() as u64)
        };
        let written = write();
        self.forget(&beside);
        written
    }

    /// Removes a file that nothing refers to. A failure leaves it to the next start, which removes it too.
    pub(super) fn forget(&self, path: &Path) {
        if let Err(error) = self.remove(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), error = %error, "leftover file could not be removed");
        }
    }
}

/// Tells a full disk from other failures; the storage puts the numbers in.
pub(super) fn full_or(what: &'static str) -> impl FnOnce(io::Error) -> ContentError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ContentError::Full { free: 0, needed: 0 }
        }
        _ => ContentError::Io { what, source },
    }
}
