//! Where one scenario happens: a directory, a loopback address of its own, and the logs of its processes.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Every process of a scenario inherits it, so that what a killed one leaves behind can be found.
pub const MARK: &str = "SCENARIO_PLACE";

/// How much of each log is shown when a scenario fails.
const SHOWN: usize = 6 * 1024;

/// One scenario's place. Dropping it ends whatever still runs there and deletes the directory; when the test
/// has failed, the ends of all logs are printed first, and with `SWITCHYARD_TEST_KEEP` the directory stays.
pub struct Place {
    dir: Option<TempDir>,
    ip: IpAddr,
    /// Ports that were given out, whether anybody listens there yet or not.
    given: Mutex<BTreeSet<u16>>,
}

impl Place {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("switchyard-{name}-"))
            .tempdir()
            .expect("a directory under the temp directory");
        Self { dir: Some(dir), ip: own_loopback(), given: Mutex::default() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until dropped").path()
    }

    /// A path in the place; its parent exists.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a directory in the place");
        }
        path
    }

    /// A port that a process may bind now and again after a restart. Nobody else can take it between: it is on
    /// a loopback address of this scenario alone (where the system has only one, it is merely free).
    pub fn address(&self) -> SocketAddr {
        let free = || TcpListener::bind((self.ip, 0)).and_then(|l| l.local_addr());
        let mut given = self.given.lock().expect("nobody has failed with it");
        loop {
            let address = free().expect("a free port on loopback");
            if given.insert(address.port()) {
                return address;
            }
        }
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the place");
        path
    }

    /// Ends what still runs here, whoever started it.
    pub fn clear(&self) {
        for pid in marked(self.dir()) {
            // Gone already is as good.
            kill_process(pid, Signal::KILL).ok();
        }
    }

    fn show_logs(&self) {
        let Ok(entries) = fs::read_dir(self.dir()) else { return };
        let mut logs: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
            .collect();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let from = text.len().saturating_sub(SHOWN);
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            println!("───── {name}{}", if from > 0 { " (its end)" } else { "" });
            println!("{}", String::from_utf8_lossy(&text[from..]));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
        if !std::thread::panicking() {
            return;
        }
        self.show_logs();
        if std::env::var_os("SWITCHYARD_TEST_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            println!("kept: {}", dir.keep().display());
        }
    }
}

/// Linux has all of 127/8: an address for each scenario, so that ports are ours alone.
fn own_loopback() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    if cfg!(not(target_os = "linux")) {
        return Ipv4Addr::LOCALHOST.into();
    }
    // 16 bits of pid and 7 of counter, kept off 127.0 and off a last byte of 0 and 255.
    let number = (std::process::id() & 0xffff) << 7 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0x7f);
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(127, a | 0x80, b, c.clamp(1, 254)).into()
}

/// The processes whose environment carries this place's mark.
fn marked(dir: &Path) -> Vec<Pid> {
    let mark = format!("{MARK}={}", dir.display());
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
}
