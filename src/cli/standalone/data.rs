//! The directory of a standalone cloud: one process at a time, one store for its life.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::super::Failure;

/// The directory, locked. Dropping it lets the next process in.
#[derive(Debug)]
pub(super) struct Data {
    dir: PathBuf,
    _lock: File,
}

impl Data {
    /// Makes and locks the directory. With `etcd`, refuses one that has an embedded store: its state would
    /// silently be out of sight.
    pub(super) fn open(given: Option<PathBuf>, etcd: bool) -> Result<Self, Failure> {
        let dir = given.or_else(default_dir).ok_or_else(|| Failure::Usage {
            error: "there is no home directory to keep the data in".into(),
            hint: Some("name a directory with `--data DIR`".into()),
        })?;
        let cannot = |error: io::Error| Failure::Runtime {
            error: format!("cannot use `{}`: {error}", dir.display()),
            hint: Some("name another directory with `--data DIR`".into()),
        };
        fs::create_dir_all(&dir).map_err(cannot)?;
        let dir = dir.canonicalize().map_err(cannot)?;
        let lock = match lock(&dir.join("lock")).map_err(cannot)? {
            Locked::Ours(file) => file,
            Locked::Theirs(holder) => {
                return Err(Failure::Runtime {
                    error: format!("`{}` is in use by the process with pid {holder}", dir.display()),
                    hint: Some(format!(
                        "stop it (`kill {holder}`), or name another directory with `--data DIR`"
                    )),
                });
            }
        };
        let data = Self { dir, _lock: lock };
        if etcd && has_entries(&data.store()) {
            return Err(Failure::Runtime {
                error: format!(
                    "`{}` already holds an embedded store, which `--etcd` would hide",
                    data.dir.display()
                ),
                hint: Some(
                    "take its state along with `switchyard store export`, or name another `--data DIR`"
                        .into(),
                ),
            });
        }
        Ok(data)
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The controllers' embedded store.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// A registry's content.
    pub(super) fn registry(&self, number: u16) -> PathBuf {
        self.dir.join(format!("registry-{number}"))
    }

    /// An agent's templates, VMs and journal.
    pub(super) fn agent(&self, number: u16) -> PathBuf {
        self.dir.join(format!("agent-{number}"))
    }

    /// The image that the printed lines push.
    pub(super) fn sample(&self) -> PathBuf {
        self.dir.join("sample")
    }
}

fn default_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // XDG Base Directory Specification: a relative path in the variable is ignored.
    let data = set("XDG_DATA_HOME").filter(|dir| dir.is_absolute());
    Some(data.or_else(|| Some(set("HOME")?.join(".local/share")))?.join("switchyard/standalone"))
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

enum Locked {
    Ours(File),
    /// By the process with this id.
    Theirs(String),
}

/// The system frees the lock with the process, however that ends; the file's text only says who has it.
fn lock(path: &Path) -> io::Result<Locked> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Locked::Ours(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            let holder = holder.trim();
            Ok(Locked::Theirs(if holder.is_empty() { "unknown".into() } else { holder.to_owned() }))
        }
        Err(error) => Err(error.into()),
    }
}
