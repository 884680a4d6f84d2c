//! What this node is and has. Numbers that never stand still are rounded: the controllers write a node's
//! record when it changed, and it must not change with every heartbeat.

use std::{collections::BTreeMap, path::Path};

use super::driver::DriverFacts;
use crate::{
    model::{Arch, LayerId, OURS},
    wire::{agent::NodeFacts, command::KNOWN, node::NodeTemplate},
};

/// Free space is told in steps of this.
const SPACE: u64 = 64 * 1024 * 1024;

/// Utilisation is told in steps of this.
const SHARE: f64 = 0.05;

/// Room on the disk that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// What this process may still write.
    pub(super) free: u64,
}

/// Looks at the disk under `path`.
pub(super) fn space(path: &Path) -> std::io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// What the agent itself knows, for [`facts`].
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// Bytes that templates and VMs take.
    pub(super) used: u64,
    /// Sorted.
    pub(super) templates: Vec<NodeTemplate>,
    /// The largest.
    pub(super) layers: BTreeMap<LayerId, u64>,
}

/// Puts the facts together.
pub(super) fn facts(driver: DriverFacts, data: &Path, own: Own) -> NodeFacts {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let memory = memory();
    // A disk that cannot be asked is told as full rather than as roomy.
    let space = space(data).unwrap_or(Space { total: 0, free: 0 });
    NodeFacts {
        host_arch: Arch::here(),
        runs: driver.runs,
        driver: driver.name.into(),
        hypervisor: driver.hypervisor,
        agent_version: OURS.into(),
        cpu_count: cpus,
        memory: memory.total,
        disk_size: space.total,
        disk_free: space.free / SPACE * SPACE,
        disk_used: own.used,
        templates: own.templates,
        layers: own.layers,
        cpu_util: rounded(load() / f64::from(cpus)),
        usb_devices: driver.usb_devices,
        commands: KNOWN.map(str::to_owned).to_vec(),
        ram_util: rounded(if memory.total == 0 {
            0.0
        } else {
            1.0 - memory.free as f64 / memory.total as f64
        }),
    }
}

fn rounded(share: f64) -> f64 {
    let steps = (share.clamp(0.0, 1.0) / SHARE).round();
    // Two digits, so that 0.15 is not told as 0.15000000000000002.
    (steps * SHARE * 100.0).round() / 100.0
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    free: u64,
}

#[cfg(target_os = "linux")]
fn memory() -> Memory {
    std::fs::read_to_string("/proc/meminfo").map(|text| meminfo(&text)).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn memory() -> Memory {
    let total = super::driver::sysctl("hw.memsize").and_then(|text| text.parse().ok()).unwrap_or(0);
    // There is no cheap count of what could be freed; half is never far off on a build machine.
    Memory { total, free: total / 2 }
}

/// The one-minute load.
#[cfg(target_os = "linux")]
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[cfg(not(target_os = "linux"))]
fn load() -> f64 {
    // `{ 1.52 1.40 1.33 }`
    let text = super::driver::sysctl("vm.loadavg").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[cfg(any(target_os = "linux", test))]
fn meminfo(text: &str) -> Memory {
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Memory {
        total: of("MemTotal").unwrap_or(0),
        free: of("MemAvailable").or_else(|| of("MemFree")).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let text = "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:   4000 kB\n";
        assert_eq!(meminfo(text), Memory { total: 16000 * 1024, free: 4000 * 1024 });
        assert_eq!(meminfo("nonsense"), Memory::default());
    }

    #[test]
    fn small_changes_are_not_told() {
        assert_eq!([rounded(0.151), rounded(0.14), rounded(7.0), rounded(-1.0)], [0.15, 0.15, 1.0, 0.0]);
    }

    #[test]
    fn this_machine_has_facts() {
        let driver = DriverFacts {
            name: "process",
            runs: vec![Arch::Arm64],
            hypervisor: Default::default(),
            usb_devices: Vec::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let facts =
            facts(driver, dir.path(), Own { used: 5, templates: Vec::new(), layers: BTreeMap::new() });
        assert!(facts.cpu_count > 0 && facts.memory > 0 && facts.disk_size > 0);
        assert_eq!((facts.runs, facts.disk_used), (vec![Arch::Arm64], 5));
    }
}
