//! The directory and the file in it: locked, opened, repaired after a crash, opened anew after a fault.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use redb::{Builder, Database};

use super::disk::{
    self, COMPACTED, CURRENT, FORMAT, FORMAT_NOW, HISTORY, LEASED, LEASES, META, OLD, REVISION,
};
use crate::store::LeaseId;

/// Memory for pages of the file. What does not fit is read from the disk again.
const CACHE: usize = 64 << 20;

/// Why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("store `{dir}` is in use by {holder}")]
    Locked {
        /// The directory.
        dir: String,
        /// Who, in words, with the process id if it could be read.
        holder: String,
    },
    /// The directory or its lock.
    #[error("store directory `{dir}` cannot be used")]
    Directory {
        /// The directory.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file in it.
    #[error("store file `{file}` cannot be used")]
    File {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// Written by a later version of this program.
    #[error(
        "store file `{file}` has format {found}, and this version knows {FORMAT_NOW}; use the newer version"
    )]
    Format {
        /// The file.
        file: String,
        /// What it has.
        found: i64,
    },
}

/// What opens the database, and opens it again after a fault: redb takes no more calls after the first one.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

/// The lock on a directory; let go when dropped, by the system if need be.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

/// Makes the directory if it is not there and locks it. The lock's file holds the process id, for people.
pub(super) fn lock(dir: &Path) -> Result<DirLock, OpenError> {
    let name = || dir.display().to_string();
    let failed = |source| OpenError::Directory { dir: name(), source };
    // Startup scripts may hold secrets: for our eyes alone.
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let path = dir.join("lock");
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let holder = match (&file).take(32).read_to_string(&mut pid) {
                Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
                _ => "another process".to_owned(),
            };
            return Err(OpenError::Locked { dir: name(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed)?;
    Ok(DirLock { _file: file })
}

/// The opener for the file in `dir`.
pub(super) fn opener(dir: &Path) -> (PathBuf, Opener) {
    let path = dir.join("store.redb");
    let (file, dir) = (path.clone(), dir.to_owned());
    let opener = move || {
        let new = !file.exists();
        let db = Builder::new().set_cache_size(CACHE).create(&file)?;
        if new {
            // The entry in the directory must last as well.
            fs::File::open(&dir)?.sync_all()?;
        }
        Ok(db)
    };
    (path, Box::new(opener))
}

/// What is known after opening.
pub(super) struct Found {
    pub(super) revision: i64,
    pub(super) leases: Vec<(LeaseId, u32)>,
}

/// Lays the tables out if there are none and reads what has to be known.
pub(super) fn prepare(db: &Database) -> Result<Result<Found, i64>, redb::Error> {
    let write = db.begin_write()?;
    let mut found = Found { revision: disk::FIRST_REVISION, leases: Vec::new() };
    {
        let mut meta = write.open_table(META)?;
        let format = disk::number(&meta, FORMAT)?;
        if format > FORMAT_NOW {
            return Ok(Err(format));
        }
        if format == 0 {
            meta.insert(FORMAT, FORMAT_NOW)?;
            meta.insert(REVISION, disk::FIRST_REVISION)?;
            meta.insert(COMPACTED, 0)?;
        }
        found.revision = disk::number(&meta, REVISION)?;
        write.open_table(CURRENT)?;
        write.open_table(OLD)?;
        write.open_table(HISTORY)?;
        write.open_table(LEASED)?;
        let leases = write.open_table(LEASES)?;
        for lease in redb::ReadableTable::iter(&leases)? {
            let (id, ttl) = lease?;
            found.leases.push((LeaseId(id.value()), ttl.value()));
        }
    }
    write.commit()?;
    Ok(Ok(found))
}
