//! The directory of a running proxy: its control socket, its pid, and marks of the processes it has replaced.
//!
//! Whoever may write there may make the proxy hand over its ports, so it is nobody else's.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use crate::{model::Digest, wire::handover::Old};

const SOCKET: &str = "control.sock";
const PID: &str = "proxy.pid";
const OLD: &str = "old-";

/// Longest path of a Unix socket: 108 bytes with a zero at the end; fewer where the system is not Linux.
const SOCKET_PATH: usize = 103;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Somebody else could write there.
    #[error("`{path}` (`proxy.run_dir`) {what}; {right}")]
    Unsafe {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What would be right.
        right: String,
    },
    /// It is in use.
    #[error(
        "a proxy (pid {pid}) runs already with `{path}` as its `proxy.run_dir`: stop it, upgrade it by `switchyard upgrade --run-dir {path}`, or give this one another directory"
    )]
    Taken {
        /// Where.
        path: PathBuf,
        /// By whom.
        pid: String,
    },
    /// The path of the socket would be too long.
    #[error("`{path}` (`proxy.run_dir`) is too long for a socket in it: choose one of at most {most} bytes")]
    TooLong {
        /// Where.
        path: PathBuf,
        /// What is possible.
        most: usize,
    },
    /// Anything else.
    #[error("`{path}` could not be used (`proxy.run_dir`)")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where a proxy with this config file keeps it if nothing is said: its service manager's directory for it, the user's, or
/// one in the temporary directory.
pub fn default_run_dir(config: &Path) -> PathBuf {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = given("RUNTIME_DIRECTORY") {
        return own;
    }
    let config = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    let mark: String = Digest::of(config.as_os_str().as_encoded_bytes()).to_string();
    let mark: String = mark.trim_start_matches("sha256:").chars().take(12).collect();
    default_parent().join(format!("proxy-{mark}"))
}

/// Where those are that nobody has chosen.
fn default_parent() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("switchyard"),
        None => std::env::temp_dir().join(format!("switchyard-{}", rustix::process::geteuid().as_raw())),
    }
}

/// The directory, checked.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct RunDir(PathBuf);

impl RunDir {
    /// Makes it if it is missing; refuses one that is not ours alone.
    pub(in crate::proxy) fn open(path: &Path) -> Result<Self, RunDirError> {
        let failed = |source| RunDirError::Io { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let most = SOCKET_PATH - SOCKET.len() - ".4294967295/".len();
        if path.as_os_str().len() > most {
            return Err(RunDirError::TooLong { path, most });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        // Without following a link: who set it could set it elsewhere later.
        let found = fs::symlink_metadata(&path).map_err(failed)?;
        check(&path, &found)?;
        if let Some(parent) = path.parent() {
            // Whoever owns it can put another directory in this one's place.
            let found = fs::metadata(parent).map_err(failed)?;
            let sticky = found.mode() & 0o1000 != 0;
            if !is_trusted(&found) || (found.mode() & 0o022 != 0 && !sticky) {
                let what = "is in a directory in which others may rename things".into();
                return Err(RunDirError::Unsafe { path, what, right: "choose a directory elsewhere".into() });
            }
        }
        Ok(Self(path))
    }

    pub(super) fn socket(&self) -> PathBuf {
        Self::socket_in(&self.0)
    }

    /// Where the control socket of a directory is.
    pub(super) fn socket_in(dir: &Path) -> PathBuf {
        dir.join(SOCKET)
    }

    /// Refuses a directory in which a proxy serves.
    pub(in crate::proxy) async fn is_free(&self) -> Result<(), RunDirError> {
        match UnixStream::connect(self.socket()).await {
            Ok(_) => {
                let pid = fs::read_to_string(self.0.join(PID)).unwrap_or_default();
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
                Err(RunDirError::Taken { path: self.0.clone(), pid })
            }
            // Nobody is there, or one that was killed left its socket.
            Err(_) => Ok(()),
        }
    }

    /// Opens the control socket, in the place of the one that is there, and writes the pid.
    pub(in crate::proxy) fn listen(&self) -> Result<UnixListener, RunDirError> {
        let pid = std::process::id();
        let beside = self.0.join(format!("{SOCKET}.{pid}"));
        let open = || {
            // What another process of the same number has left.
            remove(&beside)?;
            let socket = UnixListener::bind(&beside)?;
            fs::rename(&beside, self.socket())?;
            let pid_beside = self.0.join(format!("{PID}.{pid}"));
            fs::write(&pid_beside, format!("{pid}\n"))?;
            fs::rename(pid_beside, self.0.join(PID))?;
            Ok(socket)
        };
        open().map_err(|source| RunDirError::Io { path: self.0.clone(), source })
    }

    /// Takes socket and pid away: nobody serves here any more. So is the directory, if nobody has chosen it and nothing
    /// is kept in it for the next start.
    pub(in crate::proxy) fn leave(&self) {
        self.leave_as(&default_parent());
    }

    fn leave_as(&self, default_parent: &Path) {
        let ours = fs::read_to_string(self.0.join(PID))
            .is_ok_and(|pid| pid.trim() == std::process::id().to_string());
        if ours {
            for path in [self.socket(), self.0.join(PID)] {
                if let Err(error) = remove(&path) {
                    tracing::debug!(error = %error, path = %path.display(), "file could not be removed");
                }
            }
            // One that was made for this proxy, by a service manager for example, could not be made again by it.
            if self.0.parent() == Some(default_parent) {
                // It stays if there is something in it.
                drop(fs::remove_dir(&self.0));
            }
        }
    }

    /// Marks this process as replaced, for as long as it lives or until the mark is dropped.
    pub(super) fn mark_old(&self, old: &Old) -> io::Result<OldMark> {
        let name = format!("{OLD}{}", old.pid);
        let beside = self.0.join(format!("{name}.new"));
        let file = File::create(&beside)?;
        let mark = OldMark { file, path: self.0.join(format!("{name}.json")) };
        // Before it has its name, or it would be taken for one that was left.
        mark.file.try_lock().map_err(io::Error::from)?;
        mark.tell(old)?;
        fs::rename(beside, &mark.path)?;
        Ok(mark)
    }

    /// The replaced processes that live. Marks of dead ones are removed.
    pub(in crate::proxy) fn old(&self) -> Vec<Old> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let marks = entries.flatten().map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(OLD) && name.ends_with(".json")
        });
        let mut old: Vec<Old> = marks.filter_map(|path| living(&path)).collect();
        old.sort_by_key(|old| old.generation);
        old
    }
}

/// Says that this process was replaced. The lock on it ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct OldMark {
    file: File,
    path: PathBuf,
}

impl OldMark {
    /// Says how things are now.
    pub(super) fn tell(&self, old: &Old) -> io::Result<()> {
        let text = serde_json::to_vec(old)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)?;
        (&self.file).flush()
    }
}

impl Drop for OldMark {
    fn drop(&mut self) {
        drop(remove(&self.path));
    }
}

fn living(path: &Path) -> Option<Old> {
    let file = File::open(path).ok()?;
    if file.try_lock_shared().is_ok() {
        drop(remove(path));
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    match serde_json::from_str(&text) {
        Ok(old) => Some(old),
        // It is being written. It counts all the same.
        Err(_) => {
            let pid = path.file_stem()?.to_str()?.strip_prefix(OLD)?.parse().ok()?;
            let at = crate::clock::wall();
            Some(Old { pid, generation: 0, since: at, until: at, connections: 0 })
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_trusted(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw()
}

fn check(path: &Path, found: &Metadata) -> Result<(), RunDirError> {
    let unsafe_because =
        |what: String, right: String| Err(RunDirError::Unsafe { path: path.to_owned(), what, right });
    if !found.is_dir() {
        return unsafe_because("is no directory".into(), "name a directory, not a link to one".into());
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        let what = format!("belongs to user {}", found.uid());
        return unsafe_because(what, format!("it must belong to user {us}, as whom the proxy runs"));
    }
    if found.mode() & 0o077 != 0 {
        let what = format!("may be entered by others (mode {:o})", found.mode() & 0o777);
        let right =
            format!("run `chmod 700 {}`; under systemd write `RuntimeDirectoryMode=0700`", path.display());
        return unsafe_because(what, right);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock;

    fn old(pid: u32) -> Old {
        Old { pid, generation: 1, since: clock::wall(), until: clock::wall(), connections: 3 }
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused_with_what_would_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        RunDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("mode 755") && error.contains("chmod 700"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(RunDir::open(&link).unwrap_err().to_string().contains("no directory"));
        assert!(matches!(RunDir::open(&dir.path().join("x".repeat(200))), Err(RunDirError::TooLong { .. })));
    }

    #[tokio::test]
    async fn one_that_serves_is_noticed_and_one_that_died_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(&dir.path().join("run")).unwrap();
        run.is_free().await.unwrap();
        let socket = run.listen().unwrap();
        let error = run.is_free().await.unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(socket);
        run.is_free().await.unwrap();
        run.leave();
        assert!(!run.socket().exists());
    }

    #[tokio::test]
    async fn a_directory_that_nobody_chose_goes_when_nothing_is_kept_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let leaves = |kept: bool, default_parent: &Path| {
            let run = RunDir::open(&parent.path().join("proxy-1")).unwrap();
            let _socket = run.listen().unwrap();
            if kept {
                fs::write(run.0.join("orders.json"), "[]").unwrap();
            }
            run.leave_as(default_parent);
            run.0.exists()
        };
        assert!(!leaves(false, parent.path()));
        assert!(leaves(false, Path::new("/elsewhere")), "it was chosen");
        assert!(leaves(true, parent.path()), "the next start needs it");
    }

    #[test]
    fn a_mark_counts_while_its_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(&dir.path().join("run")).unwrap();
        let mark = run.mark_old(&old(7)).unwrap();
        assert_eq!(run.old(), [mark_of(&run)]);
        drop(mark);
        fs::write(run.0.join("old-8.json"), "left").unwrap();
        assert_eq!(run.old(), []);
        assert!(!run.0.join("old-8.json").exists());
    }

    fn mark_of(run: &RunDir) -> Old {
        serde_json::from_str(&fs::read_to_string(run.0.join("old-7.json")).unwrap()).unwrap()
    }
}
