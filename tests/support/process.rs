//! The real binary as real processes: started, killed, frozen and started again, always reaped.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    eventually::eventually,
    place::{MARK, Place},
};

/// How long a process may take until it has written its address; generous, for loaded machines.
const UP: Duration = Duration::from_secs(30);

/// The product.
pub const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");

/// One process of the product. Dropping it kills and reaps it.
pub struct Process {
    name: String,
    program: String,
    arguments: Vec<String>,
    mark: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `switchyard ARGUMENTS`; its output goes to `NAME.log` in the place.
    pub fn start(place: &Place, name: &str, arguments: &[&str]) -> Self {
        Self::start_by(place, name, BINARY, arguments)
    }

    /// Runs `PROGRAM ARGUMENTS` instead, which is to become the product: `unshare` and its like.
    pub fn start_by(place: &Place, name: &str, program: &str, arguments: &[&str]) -> Self {
        let mut process = Self::prepare_by(place, name, program, arguments);
        process.spawn();
        process
    }

    /// The same, not started yet.
    pub fn prepare_by(place: &Place, name: &str, program: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            mark: place.dir().to_owned(),
            log: place.path(&format!("{name}.log")),
            child: None,
        }
    }

    /// Starts it again with the same arguments, after it was killed or has ended.
    pub fn spawn(&mut self) {
        assert!(self.has_ended().is_some(), "{} runs already", self.name);
        let log = fs::File::options().create(true).append(true).open(&self.log).expect("a log file");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // Settings of the machine must not leak in.
            .env_clear()
            .envs(
                ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"]
                    .iter()
                    .filter_map(|k| Some((k, std::env::var_os(k)?))),
            )
            .env("RUST_BACKTRACE", "1")
            .env(MARK, &self.mark)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} did not start: {error}", self.name));
        self.child = Some(child);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `kill -9`; the process is gone and reaped when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Freezes it: its sockets stay open and it answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it has; `None` while it runs.
    pub fn has_ended(&mut self) -> Option<Option<ExitStatus>> {
        match self.child.as_mut() {
            None => Some(None),
            Some(child) => child.try_wait().expect("a child can be waited for").map(Some),
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        let what = format!("the end of {name}");
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{name} does not run"));
        let status = eventually(within, &what, || {
            let status = child.try_wait().expect("a child can be waited for");
            async move { status.ok_or("it runs") }
        })
        .await;
        self.child = None;
        status
    }

    /// `SIGTERM`, then its exit status.
    pub async fn stop(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(within).await
    }

    /// Waits until it has written `file`, and gives the addresses in it.
    pub async fn addresses(&mut self, file: &Path) -> Vec<SocketAddr> {
        let what = format!("{} to write {}", self.name, file.display());
        let found = eventually(UP, &what, || {
            let ended = self.has_ended().map(|_| self.log());
            async move {
                if let Some(log) = ended {
                    panic!("it ended instead:\n{log}");
                }
                let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
                let words = text.split(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
                let found: Vec<SocketAddr> = words.filter_map(|word| word.parse().ok()).collect();
                if found.is_empty() { Err(format!("it has {text:?}")) } else { Ok(found) }
            }
        });
        found.await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
