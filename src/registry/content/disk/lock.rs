//! One process per directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use super::OpenError;

/// Held until dropped; the system releases it when the process dies in any way.
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    pub(super) fn take(root: &Path) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Io { path: root.to_owned(), what: "take the lock", source };
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(root.join("lock"));
        let mut file = open().map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
                let holder = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(OpenError::Held { path: root.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(fail)?;
        Ok(Self { _file: file })
    }
}
