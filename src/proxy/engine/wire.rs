//! One end of a connection, with what was read of it and not used yet.

use std::{
    future::poll_fn,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::timeout;

use super::{lanes::Turns, splice::Pipes, stream::Stream};
use crate::proxy::record::metrics::ZeroCopy;

/// Read at once at most.
pub(super) const SCRATCH: usize = 256 * 1024;

/// After an early answer, input is read and dropped for so long at most.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// And so much of it at most.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What a thread moves bytes with: the one buffer into which it reads, so that a connection that waits has none (what
/// comes is used before the next read, or copied to where it waits); its pipes; and whose turn it is.
#[derive(Debug)]
pub(super) struct Scratch {
    room: Mutex<Box<[u8]>>,
    pub(super) pipes: Pipes,
    pub(super) turns: Turns,
}

impl Scratch {
    /// `zero_copy`: bodies may move through pipes; `counted` there.
    pub(super) fn new(zero_copy: bool, counted: ZeroCopy) -> Self {
        let room = Mutex::new(vec![0; SCRATCH].into_boxed_slice());
        Self { room, pipes: Pipes::new(zero_copy, counted), turns: Turns::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<[u8]>> {
        // Bytes have no state that could be left half changed.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's end, and what was read beyond what was asked for.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) ahead: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Reads once, `most` bytes at most, and keeps them in `ahead`; 0 is the end.
    pub(super) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_readable(cx))?;
        let mut room = scratch.lock();
        let read = ready!(self.stream.poll_read(cx, &mut room, most))?;
        self.ahead.extend_from_slice(room.get(..read).unwrap_or_default());
        Poll::Ready(Ok(read))
    }

    /// Bytes that lie in memory, or that the other side may still send without being asked for them.
    pub(super) fn in_memory(&self) -> u64 {
        self.ahead.len() as u64 + self.stream.promised()
    }

    /// Gives up the first `count` bytes of what was read ahead.
    pub(super) fn used(&mut self, count: usize) {
        if count >= self.ahead.len() {
            // Not merely cleared: a connection that waits has no buffer.
            self.ahead = Vec::new();
        } else {
            self.ahead.drain(..count);
        }
    }

    /// Closes after the last answer so that it is not lost: a connection that is closed with unread input is reset.
    pub(super) async fn linger(mut self, scratch: &Scratch) {
        let mut dropped = self.ahead.len();
        let mut shut = false;
        let drain = poll_fn(|cx| {
            if !shut {
                if ready!(self.stream.poll_shut(cx)).is_err() {
                    return Poll::Ready(());
                }
                shut = true;
            }
            while dropped < LINGER_BYTES {
                match ready!(self.stream.poll_read(cx, &mut scratch.lock(), SCRATCH)) {
                    Ok(read) if read > 0 => dropped += read,
                    _ => break,
                }
            }
            Poll::Ready(())
        });
        // Late or not, the connection is closed now.
        drop(timeout(LINGER_TIME, drain).await);
    }
}
