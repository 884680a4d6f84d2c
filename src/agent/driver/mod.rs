//! What runs the VMs. The agent decides what should be; a driver makes it so, and knows nothing of controllers.

pub mod process;

use std::{fmt, io, path::PathBuf, time::Duration};

use async_trait::async_trait;

use crate::{
    model::{Arch, Attempt, InstanceId},
    wire::{
        agent::StartTask,
        node::HypervisorVersion,
        vm::{ScriptResult, VmInfo},
    },
};

/// Which VM: an instance's attempt. Two attempts of one instance are two VMs, and never live at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmKey {
    /// The instance.
    pub instance: InstanceId,
    /// Which offer of it.
    pub attempt: Attempt,
}

impl fmt::Display for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.instance, self.attempt)
    }
}

/// What a driver is and can.
#[derive(Debug, Clone)]
pub struct DriverFacts {
    /// Its name in config.
    pub name: &'static str,
    /// Architectures it can run.
    pub runs: Vec<Arch>,
    /// The hypervisor behind it.
    pub hypervisor: HypervisorVersion,
    /// USB devices that its VMs can be given, by name.
    pub usb_devices: Vec<String>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Which VM.
    pub key: VmKey,
    /// The start as asked for.
    pub task: StartTask,
    /// Name on the node.
    pub name: String,
    /// The node.
    pub node_id: String,
    /// Address published to CI clients.
    pub host: String,
    /// The layers on disk, lowest first.
    pub layers: Vec<PathBuf>,
}

/// A script to run in a VM.
#[derive(Debug, Clone)]
pub struct ScriptSpec {
    /// Fed to a shell.
    pub body: Vec<u8>,
    /// Ends it.
    pub timeout: Duration,
}

/// What there is of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Its files; it does not run.
    Stopped,
    /// It runs.
    Running,
}

/// Why a driver could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The VM's files.
    #[error("cannot use `{}`", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program that stands for or starts a VM.
    #[error("cannot run `{program}`")]
    Program {
        /// Which.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The VM did not come up.
    #[error("the VM did not start: {0}")]
    NotStarted(String),
    /// It is not there any more.
    #[error("the VM is not running")]
    NotRunning,
    /// A process of an earlier run that does not end.
    #[error("a process of an earlier run, pid {pid}, does not end")]
    Leftover {
        /// Its pid.
        pid: String,
    },
}

/// A hypervisor, or what stands for one. Every call may be repeated.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// What it is and can.
    fn facts(&self) -> DriverFacts;

    /// Starts a VM; it is up when this returns. From the moment that anything of it may run, also after a crash,
    /// until [`Driver::delete`], [`Driver::inspect`] finds something. Dropping the call leaves what is there.
    async fn start(&self, spec: &VmSpec) -> Result<VmInfo, DriverError>;

    /// Runs a script in a running VM and waits for its end. One at a time for each VM.
    async fn script(&self, vm: &VmKey, script: ScriptSpec) -> Result<ScriptResult, DriverError>;

    /// Begins a script whose end nobody waits for; it may run as long as its VM.
    async fn launch(&self, vm: &VmKey, body: Vec<u8>) -> Result<(), DriverError>;

    /// Stops a VM, by force; its files stay. Whatever an earlier run of the agent left running is stopped too.
    async fn stop(&self, vm: &VmKey) -> Result<(), DriverError>;

    /// The files of a stopped VM that make it another one than its template, with their names; the same files in the same
    /// order whenever it is asked.
    async fn files(&self, vm: &VmKey) -> Result<Vec<(String, PathBuf)>, DriverError>;

    /// Stops a VM and deletes its files. Nothing of it is left when this returns.
    async fn delete(&self, vm: &VmKey) -> Result<(), DriverError>;

    /// What there is of a VM.
    async fn inspect(&self, vm: &VmKey) -> Result<Found, DriverError>;

    /// Every VM there are files of, whoever made them.
    async fn list(&self) -> Result<Vec<VmKey>, DriverError>;

    /// Completes when a VM may have ended by itself since the last call. May complete for nothing.
    async fn changed(&self);
}

/// A value of the kernel's table, where there is no `/proc`.
#[cfg(not(target_os = "linux"))]
pub(super) fn sysctl(name: &str) -> Option<String> {
    let asked = std::process::Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
    Some(String::from_utf8(asked.stdout).ok()?.trim().to_owned())
}
