//! The `process` driver: a small idle process in a directory of its own stands for a VM.
//!
//! The process is this same program, called as `switchyard vm-process …` ([`vm_process_main`]). It leads a
//! process group of its own, and everything its scripts start is in that group. It holds a lock in its
//! directory as long as it lives, and lives only as long as its standard input, whose other end the agent
//! holds: however the agent dies, its VMs die with it. The next agent looks at the lock, so it never takes a
//! process that is just ending for one that is gone.
//!
//! Templates of any architecture are taken, and their layers are not looked into.

mod files;
mod guest;
mod leftover;
mod main;
mod output;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{process::Command, sync::Notify};
use tracing::{info, warn};

pub use main::vm_process_main;

use self::guest::Guest;
use super::{Driver, DriverError, DriverFacts, Found, ScriptSpec, VmKey, VmSpec};
use crate::{
    clock,
    config::agent::ProcessDriver,
    model::{Arch, InstanceId, OURS},
    supervise::{Handle, Stage},
    wire::{
        node::HypervisorVersion,
        vm::{ScriptResult, VmInfo},
    },
};

/// Processors of a VM when neither start nor template says.
const CORES: u32 = 2;

/// Memory of a VM in MB when neither start nor template says.
const MEMORY: u64 = 2048;

/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// The driver.
pub struct Process {
    settings: ProcessDriver,
    program: PathBuf,
    root: PathBuf,
    tasks: Handle,
    guests: Mutex<BTreeMap<VmKey, Arc<Guest>>>,
    changed: Arc<Notify>,
    /// It was said once that its VMs have no devices of their own.
    told_of_hardware: AtomicBool,
}

impl Process {
    /// Keeps its VMs in directories under `root`.
    pub fn open(settings: ProcessDriver, root: PathBuf, tasks: Handle) -> Result<Self, DriverError> {
        std::fs::create_dir_all(&root).map_err(|source| DriverError::Files { path: root.clone(), source })?;
        let program = match &settings.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .map_err(|source| DriverError::Program { program: "switchyard".into(), source })?,
        };
        Ok(Self {
            settings,
            program,
            root,
            tasks,
            guests: Mutex::default(),
            changed: Arc::new(Notify::new()),
            told_of_hardware: AtomicBool::new(false),
        })
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<VmKey, Arc<Guest>>> {
        // A map of handles is whole at every step.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guest(&self, vm: &VmKey) -> Option<Arc<Guest>> {
        self.guests().get(vm).cloned()
    }

    fn dir(&self, vm: &VmKey) -> PathBuf {
        self.root.join(vm.to_string())
    }

    fn spawn(&self, spec: &VmSpec, uuid: &str, dir: &Path) -> Result<Arc<Guest>, DriverError> {
        let mut command = Command::new(&self.program);
        command.arg("vm-process").arg("--dir").arg(dir).arg("--instance").arg(spec.key.instance.as_str());
        if !self.settings.vanish_after.is_zero() {
            command.arg("--vanish-after-ms").arg(self.settings.vanish_after.as_millis().to_string());
        }
        command
            .current_dir(dir)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", dir)
            .env("SWITCHYARD_INSTANCE_ID", spec.key.instance.as_str())
            .env("SWITCHYARD_NODE_ID", &spec.node_id)
            .env("SWITCHYARD_TEMPLATE_ID", spec.task.template.as_str())
            .env("SWITCHYARD_TEMPLATE_NAME", &spec.task.template_name)
            .env("SWITCHYARD_TAG", &spec.task.tag)
            .env("SWITCHYARD_VM_NAME", &spec.name)
            .env("SWITCHYARD_VM_UUID", uuid)
            .env("SWITCHYARD_USB_DEVICE", &spec.task.hardware.usb_device)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let program = self.program.display().to_string();
        let child = command.spawn().map_err(|source| DriverError::Program { program, source })?;
        let (guest, keeper) = Guest::adopt(child, self.changed.clone())
            .ok_or_else(|| DriverError::NotStarted("its pipes are missing".into()))?;
        let guest = Arc::new(guest);
        // In the map before anything is awaited: a start that is dropped here leaves nothing unknown.
        self.guests().insert(spec.key.clone(), guest.clone());
        self.tasks.finish_at(Stage::Loops, format!("vm process {}", spec.key), |stop| keeper.run(stop));
        Ok(guest)
    }

    /// Kills what runs of a VM, known or left by an earlier run, and waits until it is gone.
    async fn kill(&self, vm: &VmKey) -> Result<(), DriverError> {
        let known = self.guest(vm);
        if let Some(guest) = &known {
            guest.kill();
            if tokio::time::timeout(DEATH, guest.gone()).await.is_err() {
                return Err(DriverError::Leftover { pid: guest.pid().to_string() });
            }
            self.guests().remove(vm);
        }
        leftover::clear(&self.dir(vm), clock::now() + DEATH).await
    }
}

#[async_trait]
impl Driver for Process {
    fn facts(&self) -> DriverFacts {
        DriverFacts {
            name: "process",
            runs: vec![Arch::Amd64, Arch::Arm64],
            usb_devices: self.settings.usb_devices.clone(),
            hypervisor: HypervisorVersion {
                product: "Switchyard process driver".into(),
                version: OURS.into(),
                build: String::new(),
                license: String::new(),
                expires: String::new(),
            },
        }
    }

    async fn start(&self, spec: &VmSpec) -> Result<VmInfo, DriverError> {
        self.kill(&spec.key).await?;
        tokio::time::sleep(self.settings.start_delay).await;
        if self.settings.fail_starts {
            return Err(DriverError::NotStarted("`agent.process.fail_starts` is set".into()));
        }
        let dir = self.dir(&spec.key);
        let files = |source| DriverError::Files { path: dir.clone(), source };
        tokio::fs::create_dir_all(&dir).await.map_err(files)?;
        // The directory is the mark that it was started, also after the machine itself has crashed.
        let root = tokio::fs::File::open(&self.root).await.map_err(files)?;
        root.sync_all().await.map_err(files)?;
        let uuid = uuid::Uuid::new_v4().to_string();
        let asked = spec.task.hardware.asked();
        if !asked.is_empty() && !self.told_of_hardware.swap(true, Ordering::Relaxed) {
            warn!(
                vm = %spec.key, options = %asked.join(", "),
                "a process has no such hardware: these options of starts are without effect here; said once"
            );
        }
        let guest = self.spawn(spec, &uuid, &dir)?;
        guest.ready().await?;
        info!(vm = %spec.key, pid = guest.pid(), "vm process was started");

        let now = clock::wall();
        let memory = spec.task.vram.filter(|mb| *mb > 0).unwrap_or(MEMORY);
        Ok(VmInfo {
            uuid,
            name: spec.name.clone(),
            status: "running".into(),
            version: String::new(),
            creation_date: Some(now),
            access_date: Some(now),
            start_date: Some(now),
            stop_date: None,
            timestamp: Some(now),
            cpu_cores: spec.task.vcpu.filter(|count| *count > 0).unwrap_or(CORES),
            ram: in_gigabytes(memory),
            node_id: spec.node_id.clone(),
            host_ip: spec.host.clone(),
            // The guest's network is this machine's own.
            ip: "127.0.0.1".into(),
            vnc_port: None,
            port_forwarding: Vec::new(),
        })
    }

    async fn script(&self, vm: &VmKey, script: ScriptSpec) -> Result<ScriptResult, DriverError> {
        let guest = self.guest(vm).ok_or(DriverError::NotRunning)?;
        guest.run(script).await
    }

    async fn launch(&self, vm: &VmKey, body: Vec<u8>) -> Result<(), DriverError> {
        let guest = self.guest(vm).ok_or(DriverError::NotRunning)?;
        guest.launch(&body).await
    }

    async fn stop(&self, vm: &VmKey) -> Result<(), DriverError> {
        self.kill(vm).await
    }

    async fn files(&self, vm: &VmKey) -> Result<Vec<(String, PathBuf)>, DriverError> {
        let root = self.dir(vm);
        let lost =
            DriverError::Files { path: root.clone(), source: io::Error::other("the look at it ended") };
        tokio::task::spawn_blocking(move || files::of(&root)).await.unwrap_or(Err(lost))
    }

    async fn delete(&self, vm: &VmKey) -> Result<(), DriverError> {
        self.kill(vm).await?;
        let path = self.dir(vm);
        let of = path.clone();
        let removed = tokio::task::spawn_blocking(move || files::remove(&of)).await;
        match removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DriverError::Files { path, source })
            }
            _ => Ok(()),
        }
    }

    async fn inspect(&self, vm: &VmKey) -> Result<Found, DriverError> {
        if self.guest(vm).is_some_and(|guest| guest.runs()) {
            return Ok(Found::Running);
        }
        let path = self.dir(vm);
        match tokio::fs::try_exists(&path).await {
            Ok(true) => Ok(Found::Stopped),
            Ok(false) => Ok(Found::Nothing),
            Err(source) => Err(DriverError::Files { path, source }),
        }
    }

    async fn list(&self) -> Result<Vec<VmKey>, DriverError> {
        let files = |source| DriverError::Files { path: self.root.clone(), source };
        let mut entries = tokio::fs::read_dir(&self.root).await.map_err(files)?;
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(files)? {
            let name = entry.file_name();
            match name.to_str().and_then(key_of) {
                Some(key) => found.push(key),
                None => warn!(name = ?name, "something that is no VM was found among the VMs"),
            }
        }
        Ok(found)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn key_of(name: &str) -> Option<VmKey> {
    let (instance, attempt) = name.rsplit_once('.')?;
    Some(VmKey { instance: InstanceId::parse(instance).ok()?, attempt: attempt.parse().ok()? })
}

/// `4G` for 4096, `1536M` for what is no whole number of gigabytes.
fn in_gigabytes(megabytes: u64) -> String {
    if megabytes.is_multiple_of(1024) { format!("{}G", megabytes / 1024) } else { format!("{megabytes}M") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_says_which_vm_it_is_of() {
        for (instance, attempt) in [("5d2b8f10-6a77", 1), ("mac.07.example", 12)] {
            let key = VmKey { instance: InstanceId::parse(instance).unwrap(), attempt };
            assert_eq!(key_of(&key.to_string()), Some(key));
        }
        for name in ["", "x", ".1", "x.", "x.y", "x.-1"] {
            assert_eq!(key_of(name), None, "{name}");
        }
    }

    #[test]
    fn memory_is_written_with_its_unit() {
        assert_eq!([in_gigabytes(4096), in_gigabytes(1536)], ["4G", "1536M"]);
    }
}
