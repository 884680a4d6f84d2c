//! The lock that a VM process holds while it lives, and what an agent does about one that it did not start.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};
use tokio::time::Instant;
use tracing::warn;

use super::super::DriverError;
use crate::clock;

pub(super) const NAME: &str = "lock";

/// Between two looks at a lock.
const LOOK: Duration = Duration::from_millis(10);

/// A process by its pid and by when it began, so that a pid used again is not taken for it.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: Pid,
    /// Empty where the system does not tell.
    began: String,
}

/// Takes the lock for this process and notes who it is. Waits a while for one that is just ending.
pub(super) fn take(dir: &Path, wait: Duration) -> io::Result<File> {
    let mut file = open(dir, true)?;
    let deadline = clock::boot() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if clock::boot() < deadline => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process is this VM"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    let pid = rustix::process::getpid();
    file.set_len(0)?;
    write!(file, "{} {}", pid.as_raw_nonzero(), began(pid).unwrap_or_default())?;
    Ok(file)
}

/// Kills whatever process of an earlier run is still this VM, and waits until it is gone.
pub(super) async fn clear(dir: &Path, deadline: Instant) -> Result<(), DriverError> {
    let files = |source| DriverError::Files { path: dir.join(NAME), source };
    let file = match open(dir, false) {
        Ok(file) => file,
        // Where there is no directory there is no VM.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(files(error)),
    };
    let mut killed = false;
    loop {
        let holder = read(dir);
        let held = match file.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(files(error)),
        };
        if let Some(holder) = &holder
            && (!killed || held)
            && holder.may_be_killed()
        {
            if held && !killed {
                warn!(pid = %holder.pid.as_raw_nonzero(), "vm process of an earlier run was killed");
            }
            // Also without its leader: its scripts may have outlived it. None there is what we want.
            kill_process_group(holder.pid, Signal::KILL).ok();
            killed = true;
        }
        if !held {
            return Ok(());
        }
        if clock::now() >= deadline {
            let pid = holder.map_or("unknown".into(), |h| h.pid.as_raw_nonzero().to_string());
            return Err(DriverError::Leftover { pid });
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Holder {
    /// Whether its group is still its own: the process is gone (the number of a group that has members is not
    /// given out again), or it is the very one that wrote its name here.
    fn may_be_killed(&self) -> bool {
        match began(self.pid) {
            Some(began) => began == self.began,
            // Gone, or the system does not tell when it began; then only a dead one is certain.
            // Before a boot of the machine the number was another's.
            None => {
                of_this_boot(&self.began) && (self.began.is_empty() || test_kill_process(self.pid).is_err())
            }
        }
    }
}

fn open(dir: &Path, create: bool) -> io::Result<File> {
    fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(dir.join(NAME))
}

fn read(dir: &Path) -> Option<Holder> {
    let text = fs::read_to_string(dir.join(NAME)).ok()?;
    let (pid, began) = text.split_once(' ')?;
    Some(Holder { pid: Pid::from_raw(pid.parse().ok()?)?, began: began.trim().to_owned() })
}

/// When a process began, in the system's own count.
#[cfg(target_os = "linux")]
fn began(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name, in parentheses, may hold anything; field 22 is counted from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().nth(19)?;
    Some(format!("{}:{ticks}", boot()))
}

/// Which run of the machine this is: pids and ticks begin anew with each.
#[cfg(target_os = "linux")]
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether what was noted is of this run of the machine. Where the system does not tell, it may be.
fn of_this_boot(_began: &str) -> bool {
    #[cfg(target_os = "linux")]
    return _began.starts_with(&format!("{}:", boot()));
    #[cfg(not(target_os = "linux"))]
    true
}

#[cfg(not(target_os = "linux"))]
fn began(_pid: Pid) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_says_who_holds_it_and_when_that_began() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = take(dir.path(), Duration::ZERO).unwrap();
        let holder = read(dir.path()).unwrap();
        assert_eq!(holder.pid, rustix::process::getpid());
        assert!(holder.may_be_killed());
        let busy = take(dir.path(), Duration::ZERO).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pid_that_was_given_out_again_is_not_taken_for_the_old_one() {
        let here = rustix::process::getpid();
        assert!(!Holder { pid: here, began: "1".into() }.may_be_killed());
        let gone = Pid::from_raw(999_999_999).unwrap();
        let ticks = |boot: &str| Holder { pid: gone, began: format!("{boot}:1") };
        assert!(ticks(&boot()).may_be_killed(), "what it left running is of its group");
        assert!(!ticks("another-boot").may_be_killed(), "whose group that is now nobody knows");
    }

    #[tokio::test]
    async fn a_directory_without_a_process_is_clear() {
        let dir = tempfile::tempdir().unwrap();
        clear(dir.path(), clock::now()).await.unwrap();
        drop(take(dir.path(), Duration::ZERO).unwrap());
        fs::write(dir.path().join(NAME), "999999999 1").unwrap();
        clear(dir.path(), clock::now()).await.unwrap();
    }
}
