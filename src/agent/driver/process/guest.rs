//! The agent's side of one VM process.

use std::{io, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    sync::{Mutex, Notify, mpsc, watch},
};
use tracing::{debug, warn};

use super::super::{DriverError, ScriptSpec};
use crate::{supervise::Stop, wire::vm::ScriptResult};

/// Beyond a script's own time: its last words, and a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// Longest result that is read: two streams of a megabyte, each byte escaped.
const RESULT: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    /// And what it said, if anything.
    Ended(String),
}

/// One VM process. Dropping it ends the process, for its input ends.
#[derive(Debug)]
pub(super) struct Guest {
    pid: u32,
    state: watch::Receiver<State>,
    kill: Arc<Notify>,
    pipe: Mutex<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    stdin: ChildStdin,
    results: mpsc::Receiver<ScriptResult>,
}

impl Guest {
    /// Takes a child over. The keeper is to be run as long as the child lives; `changed` is told of its end.
    pub(super) fn adopt(mut child: Child, changed: Arc<Notify>) -> Option<(Self, Keeper)> {
        let pid = child.id()?;
        let (stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
        let (told, state) = watch::channel(State::Starting);
        // One script at a time, so one result.
        let (results_in, results) = mpsc::channel(1);
        let kill = Arc::new(Notify::new());
        let keeper = Keeper {
            child,
            pid,
            out: BufReader::new(stdout),
            words: Words { told, results: results_in },
            orders: kill.clone(),
            changed,
        };
        Some((Self { pid, state, kill, pipe: Mutex::new(Pipe { stdin, results }) }, keeper))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn runs(&self) -> bool {
        self.state.has_changed().is_ok() && *self.state.borrow() == State::Ready
    }

    /// Completes when it is up.
    pub(super) async fn ready(&self) -> Result<(), DriverError> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| *state != State::Starting).await;
        match reached.as_deref() {
            Ok(State::Ready) => Ok(()),
            Ok(State::Ended(said)) if !said.is_empty() => Err(DriverError::NotStarted(said.clone())),
            _ => Err(DriverError::NotStarted("its process ended at once".into())),
        }
    }

    /// Orders its end.
    pub(super) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Completes when it has ended.
    pub(super) async fn gone(&self) {
        let mut state = self.state.clone();
        // An error is the keeper's end, after which there is no process either.
        drop(state.wait_for(|state| matches!(state, State::Ended(_))).await);
    }

    /// Begins a script whose end nobody waits for.
    pub(super) async fn launch(&self, body: &[u8]) -> Result<(), DriverError> {
        send(&mut self.pipe.lock().await.stdin, body, Duration::ZERO).await
    }

    /// Runs a script to its end.
    pub(super) async fn run(&self, script: ScriptSpec) -> Result<ScriptResult, DriverError> {
        let mut pipe = self.pipe.lock().await;
        // A millisecond at least: zero would mean no limit.
        let timeout = script.timeout.max(Duration::from_millis(1));
        send(&mut pipe.stdin, &script.body, timeout).await?;
        match tokio::time::timeout(timeout + SLACK, pipe.results.recv()).await {
            Ok(Some(result)) => Ok(result),
            Ok(None) | Err(_) => Err(DriverError::NotRunning),
        }
    }
}

async fn send(stdin: &mut ChildStdin, body: &[u8], timeout: Duration) -> Result<(), DriverError> {
    let head = format!("script {} {}\n", body.len(), timeout.as_millis());
    let sent = async {
        stdin.write_all(head.as_bytes()).await?;
        stdin.write_all(body).await?;
        stdin.flush().await
    };
    // It reads all the time; if not, it is no VM any more.
    match tokio::time::timeout(SLACK, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(DriverError::NotRunning),
    }
}

struct Words {
    told: watch::Sender<State>,
    results: mpsc::Sender<ScriptResult>,
}

/// Lives as long as the process: hears what it says, kills it when told, buries it.
pub(super) struct Keeper {
    child: Child,
    pid: u32,
    out: BufReader<ChildStdout>,
    words: Words,
    orders: Arc<Notify>,
    changed: Arc<Notify>,
}

impl Keeper {
    /// Until the process has ended; a stop ends it.
    pub(super) async fn run(self, stop: Stop) {
        let Self { mut child, pid, mut out, words, orders, changed } = self;
        let hear = async {
            while let Ok(true) = hear_one(&mut out, &words).await {}
            // It closed its output, or spoke nonsense: it is no VM any more.
        };
        let ended = tokio::select! {
            // Its last words first: they say why it ended.
            biased;
            () = hear => None,
            ended = child.wait() => Some(ended),
            () = orders.notified() => None,
            () = stop.requested() => None,
        };
        // Before its pid can be given out again, unless it ended by itself; then for what it left behind.
        kill_group(pid);
        if ended.is_none()
            && let Err(error) = child.wait().await
        {
            warn!(pid, error = %error, "vm process could not be waited for");
        }
        words.told.send_modify(|state| match state {
            State::Starting | State::Ready => *state = State::Ended(String::new()),
            State::Ended(_) => {}
        });
        changed.notify_one();
        debug!(pid, "vm process ended");
    }
}

fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // None there any more is what we want.
        kill_process_group(pid, Signal::KILL).ok();
    }
}

/// Hears one thing; false at the end.
async fn hear_one(out: &mut BufReader<impl AsyncRead + Unpin>, words: &Words) -> io::Result<bool> {
    let mut line = String::new();
    if (&mut *out).take(4096).read_line(&mut line).await? == 0 {
        return Ok(false);
    }
    let line = line.trim_end();
    match line.split_once(' ') {
        None if line == "ready" => {
            words.told.send_replace(State::Ready);
            Ok(true)
        }
        Some(("error", why)) => {
            words.told.send_replace(State::Ended(why.to_owned()));
            Ok(true)
        }
        Some(("result", length)) => {
            let length = length.parse().ok().filter(|length| *length <= RESULT);
            let length = length.ok_or(io::ErrorKind::InvalidData)?;
            let mut json = vec![0; length];
            out.read_exact(&mut json).await?;
            let result = serde_json::from_slice(&json)?;
            // Full: of a script that nobody waits for.
            drop(words.results.try_send(result));
            Ok(true)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
