//! What was taken out of use and must not be lost: files in folders that nothing but an operator deletes.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::super::files::Files;

pub(super) struct Aside {
    root: PathBuf,
    files: Files,
}

impl Aside {
    pub(super) fn new(root: PathBuf, files: Files) -> Self {
        Self { root, files }
    }

    /// Writes a file, durably; gives the path of its folder. `folder` and `file` are names of ours, not paths.
    pub(super) fn put(&self, folder: &str, file: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let dir = self.root.join(folder);
        self.files.make_dirs(&dir)?;
        self.files.replace(&dir.join(file), bytes, true)?;
        Ok(dir)
    }

    /// This file of every folder that has it, in order of folder.
    pub(super) fn all(&self, file: &str) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut found = Vec::new();
        let folders = match self.files.list(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            folders => folders?,
        };
        for folder in folders {
            let dir = folder.path();
            if let Some(bytes) = self.read(&dir.join(file))? {
                found.push((dir, bytes));
            }
        }
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.files.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
