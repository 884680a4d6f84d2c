//! Lists that a proxy keeps in `run_dir` for its next start, each as JSON in a file of its own.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

/// One such list.
pub(super) struct Kept {
    /// The name of the file.
    pub(super) file: &'static str,
    /// Bytes of it that are read: a longer file is none of ours.
    pub(super) longest: u64,
    /// What is logged when it cannot be read, and so counts as empty.
    pub(super) unread: &'static str,
    /// What is logged when it cannot be written.
    pub(super) unkept: &'static str,
}

impl Kept {
    /// What was kept; nothing if there is none that can be read.
    pub(super) fn recall<T: DeserializeOwned>(&self, run_dir: &Path) -> Vec<T> {
        let Ok(file) = File::open(run_dir.join(self.file)) else { return Vec::new() };
        let mut text = String::new();
        let read = file.take(self.longest).read_to_string(&mut text).map_err(|error| error.to_string());
        match read.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string())) {
            Ok(kept) => kept,
            Err(why) => {
                warn!(file = self.file, why, "{}", self.unread);
                Vec::new()
            }
        }
    }

    /// Keeps it; of an empty one there is no file. It is whole or as it was, whenever the machine goes down.
    pub(super) fn keep<T: Serialize>(&self, run_dir: &Path, all: &[T]) {
        if let Err(error) = self.write(run_dir, all) {
            warn!(file = self.file, error = %error, "{}", self.unkept);
        }
    }

    fn write<T: Serialize>(&self, run_dir: &Path, all: &[T]) -> io::Result<()> {
        if all.is_empty() {
            return match fs::remove_file(run_dir.join(self.file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => File::open(run_dir)?.sync_all(),
            };
        }
        let next = run_dir.join(format!("{}.next", self.file));
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(all)?)?;
        file.sync_all()?;
        fs::rename(&next, run_dir.join(self.file))?;
        File::open(run_dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_recalled_and_of_nothing_there_is_no_file() {
        let kept = Kept { file: "list.json", longest: 100, unread: "unread", unkept: "unkept" };
        let dir = tempfile::tempdir().unwrap();
        kept.write::<u32>(dir.path(), &[]).unwrap();
        kept.write(dir.path(), &[1, 2]).unwrap();
        assert_eq!(kept.recall::<u32>(dir.path()), [1, 2]);
        kept.write::<u32>(dir.path(), &[]).unwrap();
        assert_eq!((kept.recall::<u32>(dir.path()), fs::read_dir(dir.path()).unwrap().count()), (vec![], 0));
    }
}
