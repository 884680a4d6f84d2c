//! The VM process itself: what `switchyard vm-process` does. Plain threads, no runtime: it must be small.
//!
//! It speaks with the agent over its standard streams:
//!
//! ```text
//!   in    script LENGTH TIMEOUT_MS \n bytes     run this; 0: no limit
//!   out   ready \n                              up
//!         result LENGTH \n json                 how a script ended
//!         error text \n                         it cannot be
//! ```
//!
//! The end of its input is the end of the agent: it kills its group, itself included.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpgrp, getpid, kill_process_group};

use super::{
    leftover,
    output::{Tail, drain},
};
use crate::{clock, wire::vm::ScriptResult};

/// How long the lock of a process that is just ending is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Output that is on its way when a script ends is waited for so long: what it left running may hold the pipes
/// open for ever.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How often a running script is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Longest script that is taken.
const SCRIPT: usize = 16 * 1024 * 1024;

struct Args {
    dir: PathBuf,
    vanish_after: Option<Duration>,
}

/// Stands for a VM until standard input ends. `args` are those behind `vm-process`. Returns the exit code.
pub fn vm_process_main(args: &[String]) -> u8 {
    let Some(args) = read_args(args) else {
        say("error vm-process is started by the agent alone\n".as_bytes());
        return 2;
    };
    // Held to the end of the process: whoever can take it knows that no such process lives.
    let _lock = match leftover::take(&args.dir, LOCK_WAIT) {
        Ok(lock) => lock,
        Err(error) => {
            say(format!("error {}: {error}\n", args.dir.display()).as_bytes());
            return 1;
        }
    };
    if let Some(after) = args.vanish_after {
        thread::spawn(move || {
            thread::sleep(after);
            die();
        });
    }
    say(b"ready\n");
    let mut input = BufReader::new(io::stdin());
    while let Some((body, timeout)) = next_script(&mut input) {
        let dir = args.dir.clone();
        // Beside this thread, which must see the end of the input at once.
        thread::spawn(move || {
            let result = run(&dir, body, timeout);
            let json = serde_json::to_vec(&result).unwrap_or_default();
            say(&[format!("result {}\n", json.len()).as_bytes(), &json].concat());
        });
    }
    die();
    0
}

fn read_args(args: &[String]) -> Option<Args> {
    let (mut dir, mut vanish_after) = (None, None);
    for pair in args.chunks(2) {
        let [key, value] = pair else { return None };
        match key.as_str() {
            "--dir" => dir = Some(PathBuf::from(value)),
            // Only so that a list of processes shows which is which.
            "--instance" => {}
            "--vanish-after-ms" => vanish_after = Some(Duration::from_millis(value.parse().ok()?)),
            _ => return None,
        }
    }
    Some(Args { dir: dir?, vanish_after })
}

/// Writes whole, or not at all: an agent that does not read any more is an agent that is gone.
fn say(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Kills whatever was started here, and this process.
fn die() {
    // Started by hand it may be in the group of somebody's shell.
    if getpgrp() == getpid() {
        kill_process_group(getpid(), Signal::KILL).ok();
    }
    std::process::exit(0);
}

fn next_script(input: &mut impl BufRead) -> Option<(Vec<u8>, Option<Duration>)> {
    let mut line = String::new();
    // A line without its end is an agent that died while writing.
    input.by_ref().take(128).read_line(&mut line).ok().filter(|_| line.ends_with('\n'))?;
    let mut words = line.split_whitespace();
    let ("script", length, timeout) = (words.next()?, words.next()?, words.next()?) else { return None };
    let length: usize = length.parse().ok().filter(|length| *length <= SCRIPT)?;
    let timeout = timeout.parse().ok().map(Duration::from_millis)?;
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some((body, Some(timeout).filter(|timeout| !timeout.is_zero())))
}

fn run(dir: &Path, body: Vec<u8>, timeout: Option<Duration>) -> ScriptResult {
    let spawned = Command::new("sh")
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(format!("`sh` could not be run: {error}")),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A script need not read all of itself (`exit` in its middle), so an error here says nothing.
        thread::spawn(move || drop(stdin.write_all(&body)));
    }
    let (ended, both) = mpsc::channel();
    let out = collect(child.stdout.take(), ended.clone());
    let err = collect(child.stderr.take(), ended);
    let (code, did_timeout, error) = wait(&mut child, timeout);
    let deadline = clock::boot() + LAST_WORDS;
    while let Some(left) = deadline.checked_sub(clock::boot()) {
        match both.recv_timeout(left) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => break,
        }
    }
    let text = |tail: &Mutex<Tail>| tail.lock().unwrap_or_else(PoisonError::into_inner).text();
    ScriptResult {
        return_code: code,
        did_timeout,
        stdout: text(&out),
        stderr: text(&err),
        errors: error.into_iter().collect(),
    }
}

/// Collects the end of a stream. It is read on after the script has ended: what the script left running must
/// not be stopped by a full pipe.
fn collect(stream: Option<impl Read + Send + 'static>, ended: mpsc::Sender<()>) -> Arc<Mutex<Tail>> {
    let tail = Arc::new(Mutex::new(Tail::default()));
    if let Some(stream) = stream {
        let tail = tail.clone();
        thread::spawn(move || {
            drain(stream, |bytes| tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes));
            // Nobody may be waiting for it any more.
            ended.send(()).ok();
        });
    }
    tail
}

/// Exit code, whether the time ran out, and what else went wrong.
fn wait(child: &mut Child, timeout: Option<Duration>) -> (i64, bool, Option<String>) {
    let deadline = timeout.map(|timeout| clock::boot() + timeout);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                use std::os::unix::process::ExitStatusExt;
                return match (status.code(), status.signal()) {
                    (Some(code), _) => (code.into(), false, None),
                    // As a shell says it.
                    (None, signal) => {
                        let signal = signal.unwrap_or(0);
                        (i64::from(128 + signal), false, Some(format!("killed by signal {signal}")))
                    }
                };
            }
            Ok(None) => {}
            Err(error) => return (-1, false, Some(error.to_string())),
        }
        if deadline.is_some_and(|deadline| clock::boot() >= deadline) {
            // The shell alone: what it started belongs to the VM, which may be kept.
            drop(child.kill());
            drop(child.wait());
            return (-1, true, None);
        }
        thread::sleep(LOOK);
    }
}

fn failed(why: String) -> ScriptResult {
    ScriptResult { return_code: -1, errors: vec![why], ..ScriptResult::default() }
}
