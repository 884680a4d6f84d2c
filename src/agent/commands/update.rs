//! Has a newer program of this agent installed, and goes on as that.
//!
//! A command that the operator names installs it. Then nothing is started any more, the last VM is waited for (VMs of the
//! `process` driver die with their agent), and the process becomes the program that is on the disk now. Whether that came
//! about is seen by the next run: it finds the command's id where this one left it.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use tracing::{info, warn};

use crate::{
    agent::{home::write_durably, node::Node},
    model::{CommandId, OURS, Progress},
};

/// Output of a program that is kept: its end.
const KEPT: usize = 2000;

/// Output that is on its way when a program ends is waited for so long.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The new program has to say its version within this.
const FIRST_WORDS: Duration = Duration::from_secs(30);

/// How often it is looked whether VMs are left.
const LOOK: Duration = Duration::from_millis(500);

/// The program that this process is, as it was on the disk when the process began.
#[derive(Debug)]
pub(in crate::agent) struct Program {
    path: PathBuf,
    began: Option<Mark>,
}

/// What tells one file from another that took its name.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Mark {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            changed: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Program {
    pub(in crate::agent) fn new(path: PathBuf) -> Self {
        let began = Mark::of(&path).ok();
        Self { path, began }
    }

    /// Whether something else is on the disk now.
    fn is_another_now(&self) -> Result<bool, String> {
        match Mark::of(&self.path) {
            Ok(now) => Ok(self.began.as_ref() != Some(&now)),
            Err(error) => Err(format!("there is no program `{}` any more: {error}", self.path.display())),
        }
    }
}

/// Ends when there is nothing newer, or in the run that began as the newer one.
pub(super) async fn update(node: &Node, id: &CommandId) -> Result<(), String> {
    let Some(settings) = &node.config.update else {
        return Err(
            "this agent has no command that installs a newer one: name it in `[agent.update]` of its \
                    config, or install it there yourself"
                .into(),
        );
    };
    let Some(program) = node.program.get() else {
        return Err("this agent is a part of another program, and is replaced with that alone".into());
    };
    let note = node.config.data.join("updated");
    if std::fs::read_to_string(&note).is_ok_and(|of| of.trim() == id.as_str()) {
        info!(command.id = %id, version = OURS, "agent goes on after its update");
        return Ok(());
    }
    let words: Vec<&str> = settings.command.iter().map(String::as_str).collect();
    info!(command.id = %id, update.command = ?words, "update of the agent began");
    let output = run(&words, settings.timeout).await.map_err(|why| format!("the update command {why}"))?;
    if !program.is_another_now()? {
        info!(command.id = %id, output, "there was nothing newer to install");
        return Ok(());
    }
    let path = program.path.display().to_string();
    let said = run(&[&path, "--version"], FIRST_WORDS).await;
    let version =
        said.map_err(|why| format!("what was installed as `{path}` is not begun: `--version` {why}"))?;
    info!(command.id = %id, version = version.trim(), output, "a newer agent was installed");
    alone(node, id, version.trim()).await;
    write_durably(&note, id.as_str().as_bytes()).map_err(|error| {
        format!("the agent is not begun anew: cannot write `{}`: {error}", note.display())
    })?;
    // It waits for no VM any more: should it not be replaced, its command has its time and no longer.
    node.commands.progress(id, Progress::NONE, String::new());
    node.replaced.request();
    // Whoever runs this process stops the agent now, and this with it.
    std::future::pending().await
}

/// Waits until no VM is left. None is added meanwhile.
async fn alone(node: &Node, id: &CommandId, version: &str) {
    let mut told = 0;
    loop {
        let left = node.vms.used();
        if left == 0 {
            return;
        }
        if told != left {
            let waits = format!("`{version}` is installed, and begins when no VM is left here: {left} now");
            node.commands.progress(id, Progress::NONE, waits);
            node.beat.notify_one();
            told = left;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A program's process group, killed when this is dropped: nothing that it began goes on unwatched.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already is what is wanted.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

/// Runs a program to its end; the end of what it wrote, or what went wrong.
async fn run(words: &[&str], limit: Duration) -> Result<String, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("is empty".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .process_group(0)
        .spawn()
        .map_err(|error| format!("could not be run: `{program}`: {error}"))?;
    let mut group = Group(child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)));
    let tail = Mutex::new(Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = async { tokio::join!(read(out, &tail), read(err, &tail)) };
    let ending = tokio::time::timeout(limit, child.wait());
    tokio::pin!(reading, ending);
    let mut read = false;
    let ended = loop {
        tokio::select! {
            ended = &mut ending => break ended,
            _ = &mut reading, if !read => read = true,
        }
    };
    // What it left running may hold its pipes open for ever.
    if !read && ended.is_ok() && tokio::time::timeout(LAST_WORDS, &mut reading).await.is_err() {
        warn!(program, "program has ended, and something that it began has not");
    }
    let output = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    let said = |what: String| if output.is_empty() { what } else { format!("{what}: {output}") };
    match ended {
        Err(_) => Err(said(format!("did not end within {} s", limit.as_secs()))),
        Ok(Err(error)) => Err(said(format!("could not be waited for: {error}"))),
        Ok(Ok(status)) => {
            // It was reaped: the number may be another's soon.
            group.0 = None;
            if status.success() { Ok(output) } else { Err(said(format!("ended with {status}"))) }
        }
    }
}

/// Reads to the end, and keeps the end.
async fn read(from: Option<impl AsyncRead + Unpin>, tail: &Mutex<Vec<u8>>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(piece.iter().take(length));
        let over = tail.len().saturating_sub(KEPT);
        tail.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(text: &str, limit: Duration) -> Result<String, String> {
        run(&["sh", "-c", text], limit).await
    }

    #[tokio::test]
    async fn a_programs_end_is_told_with_its_last_words() {
        let minute = Duration::from_secs(60);
        assert_eq!(sh("echo one; echo two >&2", minute).await.unwrap().lines().count(), 2);
        let failed = sh("echo no package >&2; exit 3", minute).await.unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.ends_with("no package"), "{failed}");
        let long = sh("yes | head -c 100000; echo end", minute).await.unwrap();
        assert!(long.len() <= KEPT && long.ends_with("end"));
        let none = run(&["/no/such/program"], minute).await.unwrap_err();
        assert!(none.contains("/no/such/program"), "{none}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended_with_what_it_began_and_one_that_leaves_something_is_not_waited_for()
     {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!("sleep 600 & echo $! > '{}'; wait", pid.display());
        let late = sh(&text, Duration::from_millis(300)).await.unwrap_err();
        assert!(late.starts_with("did not end within"), "{late}");
        let left: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let left = Pid::from_raw(left).unwrap();
        let gone = |pid: Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            stat.ok().and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z'))).unwrap_or(true)
        };
        let until = crate::clock::boot() + Duration::from_secs(10);
        while !gone(left) {
            assert!(crate::clock::boot() < until, "what it began goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sh("sleep 5 & echo said", Duration::from_secs(60)).await.unwrap(), "said");
    }

    #[test]
    fn a_program_that_was_replaced_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switchyard");
        std::fs::write(&path, "old").unwrap();
        let program = Program::new(path.clone());
        assert_eq!(program.is_another_now(), Ok(false));
        let beside = dir.path().join("new");
        std::fs::write(&beside, "new").unwrap();
        std::fs::rename(&beside, &path).unwrap();
        assert_eq!(program.is_another_now(), Ok(true));
        std::fs::remove_file(&path).unwrap();
        assert!(program.is_another_now().unwrap_err().contains("no program"));
    }
}
