//! The data directory: locked by one agent at a time, and the node's identity in it.
//!
//! ```text
//!   lock           held while an agent works here; its pid
//!   node.json      node id, and what the node joined with
//!   journal        every VM that was begun here (journal.rs)
//!   cache/         pulled templates, their layers, downloads (templates.rs)
//!   vms/           a directory for each VM (driver/)
//!   saves/         what is left to do of savings of VMs (saves.rs)
//!   updated        the last update that this agent began anew for (commands/update.rs)
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::AgentError;
use crate::{clock, model::NodeId, wire::agent::NodeWish};

/// A child that an agent was about to start when it was killed holds the lock for some moments more: between
/// fork and exec it has its parent's files. A lock that is held for longer is another agent's.
const LOCK_WAIT: Duration = Duration::from_millis(400);

/// The data directory, ours until this is dropped.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    // Closing the file gives the lock back, also when the process is killed.
    _lock: File,
}

/// `node.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    v: u32,
    /// The node, for ever.
    pub(super) node_id: NodeId,
    /// What it joined with last; nothing before the first join and after a leave.
    pub(super) joined: Option<NodeWish>,
}

impl Identity {
    pub(super) fn new(node_id: NodeId) -> Self {
        Self { v: 1, node_id, joined: None }
    }
}

impl Home {
    /// Makes the directory if needed and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, AgentError> {
        fs::create_dir_all(path).map_err(AgentError::data(path))?;
        // VMs and scripts run in directories of their own, from where a relative name would be another place.
        let path = &std::path::absolute(path).map_err(AgentError::data(path))?;
        let file = path.join("lock");
        let mut lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(AgentError::data(&file))?;
        let deadline = clock::boot() + LOCK_WAIT;
        let taken = loop {
            match lock.try_lock() {
                Err(fs::TryLockError::WouldBlock) if clock::boot() < deadline => {
                    std::thread::sleep(LOCK_WAIT / 20);
                }
                taken => break taken,
            }
        };
        match taken {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&file).unwrap_or_default();
                let pid = pid.trim();
                let holder = if pid.is_empty() { "unknown".into() } else { pid.to_owned() };
                return Err(AgentError::InUse { data: path.to_owned(), holder });
            }
            Err(fs::TryLockError::Error(source)) => return Err(AgentError::Data { path: file, source }),
        }
        let noted = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = noted {
            // Only for the words of a refusal; a full disk is no reason not to say what runs here.
            warn!(path = %file.display(), error = %error, "the lock's holder could not be noted");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Who this node is, if it was ever said.
    pub(super) fn identity(&self) -> Result<Option<Identity>, AgentError> {
        let path = self.join("node.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AgentError::Data { path, source }),
        };
        let damaged = |why: String| AgentError::Damaged { path: path.clone(), why };
        let identity: Identity = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if identity.v != 1 {
            return Err(damaged(format!("it has version {}, and this agent knows only 1", identity.v)));
        }
        Ok(Some(identity))
    }

    /// Who this node is: as configured, else as kept, else a new one that is kept from now on.
    pub(super) fn identify(&self, configured: Option<&NodeId>) -> Result<Identity, AgentError> {
        let kept = self.identity()?;
        let identity = match (configured, kept) {
            (Some(id), Some(kept)) if kept.node_id == *id => return Ok(kept),
            (None, Some(kept)) => return Ok(kept),
            (Some(id), _) => Identity::new(id.clone()),
            (None, None) => Identity::new(NodeId::random()),
        };
        self.remember(&identity)?;
        Ok(identity)
    }

    /// Keeps the identity, durably.
    pub(super) fn remember(&self, identity: &Identity) -> Result<(), AgentError> {
        let path = self.join("node.json");
        let text = serde_json::to_vec_pretty(identity)
            .map_err(|error| AgentError::Damaged { path: path.clone(), why: error.to_string() })?;
        write_durably(&path, &text).map_err(AgentError::data(path))
    }
}

/// Writes a file so that after a crash there is the old one or the new one, whole.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Makes a rename or a new name durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_works_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        let refused = Home::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(first);
        Home::open(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_that_a_dying_child_still_holds_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(LOCK_WAIT / 8);
                drop(first);
            });
            Home::open(dir.path()).unwrap();
        });
    }

    #[test]
    fn the_node_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let made = home.identify(None).unwrap();
        assert_eq!(home.identify(None).unwrap(), made);
        let given = NodeId::parse("mac-07").unwrap();
        assert_eq!(home.identify(Some(&given)).unwrap().node_id, given);
        assert_eq!(home.identify(None).unwrap().node_id, given);
    }

    #[test]
    fn a_damaged_identity_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        fs::write(dir.path().join("node.json"), "{\"v\":1,").unwrap();
        let error = home.identify(None).unwrap_err().to_string();
        assert!(error.contains("node.json"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("node.json")).unwrap(), "{\"v\":1,");
    }
}
