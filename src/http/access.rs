//! The access log of a server: lines that are written by one task from a bounded queue. What a line says is its room's.

use std::{io, os::fd::AsFd, path::PathBuf, sync::Arc};

use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
};
use tracing::warn;

use crate::{supervise::Stop, telemetry::Access};

/// Lines that wait for the disk. Full: further lines are dropped and counted, for a slow disk must not slow
/// requests.
const QUEUE: usize = 8192;

/// Bytes written at once at most.
const BATCH: usize = 256 * 1024;

/// Takes lines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    lines: Option<mpsc::Sender<Vec<u8>>>,
    reopen: Arc<Notify>,
}

/// Writes them; run it as a task.
#[derive(Debug)]
pub struct AccessWriter {
    lines: mpsc::Receiver<Vec<u8>>,
    reopen: Arc<Notify>,
    to: Place,
}

#[derive(Debug)]
enum Place {
    Stdout(File),
    File { path: PathBuf, file: File },
}

impl AccessLog {
    /// Opens the log; without a writer when it is off.
    pub async fn open(to: &Access) -> io::Result<(Self, Option<AccessWriter>)> {
        let reopen = Arc::new(Notify::new());
        let to = match to {
            Access::Off => return Ok((Self { lines: None, reopen }, None)),
            Access::Stdout => Place::Stdout(stdout()?),
            Access::File(path) => Place::File { file: append(path).await?, path: path.clone() },
        };
        let (sender, lines) = mpsc::channel(QUEUE);
        Ok((Self { lines: Some(sender), reopen: reopen.clone() }, Some(AccessWriter { lines, reopen, to })))
    }

    /// Queues a line; drops it, and says so, when the queue is full.
    pub fn write(&self, line: impl FnOnce() -> Vec<u8>, dropped: impl FnOnce()) {
        let Some(lines) = &self.lines else { return };
        match lines.try_reserve() {
            Ok(place) => place.send(line()),
            Err(_) => dropped(),
        }
    }

    /// Whether anybody reads what is written.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Opens the file anew: it was moved away.
    pub fn reopen(&self) {
        self.reopen.notify_one();
    }
}

/// Standard output under a descriptor of our own, past the lock and the line buffer of `std`.
fn stdout() -> io::Result<File> {
    let own = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(File::from_std(own.into()))
}

async fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).await
}

impl AccessWriter {
    /// Writes until told to stop and the queue is empty, or every [`AccessLog`] is gone.
    pub async fn run(mut self, stop: Stop) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut broken = false;
        loop {
            let line = tokio::select! {
                biased;
                () = self.reopen.notified() => {
                    self.open_anew().await;
                    continue;
                }
                line = self.lines.recv() => line,
                () = stop.requested() => self.lines.try_recv().ok(),
            };
            let Some(line) = line else { return };
            batch.extend_from_slice(&line);
            while batch.len() < BATCH
                && let Ok(line) = self.lines.try_recv()
            {
                batch.extend_from_slice(&line);
            }
            let written = self.put(&batch).await;
            if let (Err(error), false) = (&written, broken) {
                warn!(error = %error, "access log could not be written");
            }
            broken = written.is_err();
            batch.clear();
        }
    }

    async fn put(&mut self, batch: &[u8]) -> io::Result<()> {
        let (Place::Stdout(to) | Place::File { file: to, .. }) = &mut self.to;
        to.write_all(batch).await?;
        to.flush().await
    }

    async fn open_anew(&mut self) {
        if let Place::File { path, file } = &mut self.to {
            match append(path).await {
                Ok(next) => *file = next,
                Err(error) => {
                    warn!(error = %error, path = %path.display(), "access log could not be reopened")
                }
            }
        }
    }
}
