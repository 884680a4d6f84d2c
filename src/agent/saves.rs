//! Savings of VMs that another run of the agent can go on with: what is left to do of each, beside what its push remembers.
//!
//! A saving is written down before its VM is stopped for it. From then on the VM is not touched by anything else, so its files
//! are what is to be pushed, however often the agent goes away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{driver::VmKey, home};
use crate::{
    model::CommandId,
    wire::{command::SaveVm, vm::ScriptResult},
};

/// One saving that has come so far that its VM is to be stopped, or is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Saving {
    v: u32,
    /// Which command it is.
    pub(super) id: CommandId,
    /// What is left to do of it: versions that were taken back are not named any more.
    pub(super) order: SaveVm,
    /// How the script ended that came before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) script: Option<ScriptResult>,
    /// What is to be published, once that is known: the version that it is made of may be taken back meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<String>,
}

impl Saving {
    pub(super) fn new(id: CommandId, order: SaveVm, script: Option<ScriptResult>) -> Self {
        Self { v: 1, id, order, script, manifest: None }
    }

    fn key(&self) -> VmKey {
        VmKey { instance: self.order.instance.clone(), attempt: self.order.attempt }
    }
}

/// All savings of a node: a folder for each VM. Its calls block for a moment.
#[derive(Debug, Clone)]
pub(super) struct Saves {
    root: PathBuf,
}

impl Saves {
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Where the push of a VM's image keeps what it remembers.
    pub(super) fn folder(&self, vm: &VmKey) -> PathBuf {
        self.root.join(vm.to_string())
    }

    /// Writes down what is left to do; on disk when it returns.
    pub(super) fn put(&self, saving: &Saving) -> io::Result<()> {
        let folder = self.folder(&saving.key());
        fs::create_dir_all(&folder)?;
        home::sync_parent(&folder)?;
        let file = folder.join(FILE);
        home::write_durably(&file, &serde_json::to_vec(saving)?)?;
        home::sync_parent(&file)
    }

    /// The saving of a VM. One that cannot be read is none: its VM then has vanished, as without it.
    pub(super) fn of(&self, vm: &VmKey) -> Option<Saving> {
        let file = self.folder(vm).join(FILE);
        match read(&file) {
            Ok(saving) => Some(saving).filter(|saving| saving.v == 1 && saving.key() == *vm),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %file.display(), error = %error, "a saving could not be read");
                None
            }
        }
    }

    /// Nothing of it is to be gone on with.
    pub(super) fn forget(&self, vm: &VmKey) {
        remove(&self.folder(vm));
    }

    /// Forgets all but those of these VMs.
    pub(super) fn keep(&self, vms: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !vms(name)) {
                remove(&entry.path());
            }
        }
    }
}

const FILE: &str = "saving.json";

fn read(file: &Path) -> io::Result<Saving> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The next start of the agent tries again.
            warn!(path = %folder.display(), error = %error, "what is left of a saving could not be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saving_is_known_by_its_vm_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let saves = Saves::open(dir.path().join("saves")).unwrap();
        let order = SaveVm {
            instance: "i".parse().unwrap(),
            attempt: 2,
            registry: String::new(),
            repository: "r".parse().unwrap(),
            tag: "v1".parse().unwrap(),
            description: String::new(),
            suspend: true,
            suspend_test: false,
            script: String::new(),
            cancel_on_script_failure: false,
            revert: None,
        };
        let script = ScriptResult { stdout: "said".into(), ..ScriptResult::default() };
        let saving = Saving::new("c".parse().unwrap(), order, Some(script));
        let key = saving.key();
        assert_eq!(saves.of(&key), None);
        saves.put(&saving).unwrap();
        assert_eq!(saves.of(&key), Some(saving.clone()));
        assert_eq!(saves.of(&VmKey { attempt: 1, ..key.clone() }), None, "another attempt is another VM");
        fs::write(saves.folder(&key).join(FILE), "{\"v\":1,").unwrap();
        assert_eq!(saves.of(&key), None, "it cannot be read");
        saves.put(&saving).unwrap();
        saves.keep(|name| name == "i.2");
        assert_eq!(saves.of(&key), Some(saving));
        saves.keep(|_| false);
        assert_eq!((saves.of(&key), fs::read_dir(dir.path().join("saves")).unwrap().count()), (None, 0));
    }
}
