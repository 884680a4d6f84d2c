//! A body of known length goes from socket to socket through a pipe, and its bytes are never copied (`splice(2)`, Linux).
//!
//! ```text
//!   sender's socket ──splice──▶ pipe ──splice──▶ receiver's socket
//! ```
//!
//! Exactly what is left of the body is asked for, so what is behind it stays in the socket. A pipe is taken from the
//! thread's [`Pipes`] when there is something to be moved, and given back as soon as nothing is left in it; while none
//! is to be had the body is copied, which looks the same from outside.
//!
//! So that the thread is not woken for each piece of a few KiB, a sender that has proved fast is listened to only above
//! a low-water [`mark`]; one that then falls behind is read all the same after [`mark::PATIENCE`].

mod mark;
mod pipes;
mod system;

use std::{
    io,
    task::{Context, Poll},
};

use tokio::{io::Interest, net::TcpStream, time::Instant};

use self::mark::Mark;
use self::pipes::Pipe;
pub(super) use self::pipes::{MOST, Pipes};
use crate::clock;

/// A body of which less is left when it could begin is copied: up to here both cost the same (`docs/performance.md`).
pub(super) const LEAST: u64 = 64 * 1024;

/// Moved out of a socket at once at most: other connections wait for the thread.
const AT_ONCE: usize = 1024 * 1024;

/// Bytes that were written to a socket and that its other side has not acknowledged; `None` where the system does not say.
pub(super) fn queued(socket: &TcpStream) -> Option<u64> {
    system::queued(socket).ok()
}

/// A body that moves this way.
#[derive(Debug, Default)]
pub(super) struct Splice {
    /// Only while something is in it.
    pipe: Option<Pipe>,
    mark: Mark,
}

/// What came of a try to take more from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes; 0 is the end.
    Bytes(usize),
    /// There is no pipe to be had: they are to be copied.
    NoPipe,
}

impl Splice {
    /// Whether bytes wait for the receiver.
    pub(super) fn is_blocked(&self) -> bool {
        self.pipe.is_some()
    }

    /// When the sender should be looked at again although the system has not spoken up.
    pub(super) fn look_at(&self) -> Option<Instant> {
        if self.pipe.is_some() { None } else { self.mark.look_at() }
    }

    /// The rest comes from another sender.
    pub(super) fn other_sender(&mut self) {
        self.mark = Mark::default();
    }

    /// The sender's socket is as it was before.
    pub(super) fn release(&mut self, from: &TcpStream) -> io::Result<()> {
        let set = self.mark.reset();
        set.map_or(Ok(()), |mark| system::low_water(from, mark))
    }

    /// Moves what waits to the receiver, once; how many bytes that were.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        pipes: &Pipes,
    ) -> Poll<io::Result<usize>> {
        let Some(mut pipe) = self.pipe.take() else { return Poll::Ready(Ok(0)) };
        let mut moved = 0;
        let polled = loop {
            match to.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            let tried = to.try_io(Interest::WRITABLE, || {
                moved = pipe.drain(to)?;
                // The receiver's buffer is full: said so, the next try waits for an event instead of asking in vain.
                if pipe.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            });
            match tried {
                Ok(()) => break Poll::Ready(Ok(moved)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if moved > 0 {
                        break Poll::Ready(Ok(moved));
                    }
                }
                // What is in the pipe belongs to nobody any more; it is closed with it.
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        pipes.counted.add(moved as u64);
        if pipe.is_empty() {
            pipes.give_back(pipe);
        } else {
            self.pipe = Some(pipe);
        }
        polled
    }

    /// Takes from the sender, once, of the `left` bytes that are still to come. Only while nothing waits.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        left: u64,
        pipes: &Pipes,
    ) -> Poll<io::Result<Filled>> {
        let now = clock::now();
        let looks = self.mark.is_late(now);
        if looks {
            // It has become slow. Whatever is there is taken.
            self.release(from)?;
        } else if from.poll_read_ready(cx)?.is_pending() {
            self.mark.waits(now);
            return Poll::Pending;
        }
        let Some(mut pipe) = pipes.take(now) else {
            self.release(from)?;
            return Poll::Ready(Ok(Filled::NoPipe));
        };
        let filled = self.fill(cx, from, left, &mut pipe, looks, now);
        if pipe.is_empty() {
            pipes.give_back(pipe);
        } else {
            self.pipe = Some(pipe);
        }
        filled.map_ok(Filled::Bytes)
    }

    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        left: u64,
        pipe: &mut Pipe,
        looks: bool,
        now: Instant,
    ) -> Poll<io::Result<usize>> {
        let most = usize::try_from(left).map_or(AT_ONCE, |left| left.min(AT_ONCE));
        if looks {
            // Past the runtime, which may know of nothing to be read.
            match pipe.fill(from, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled.map(|moved| self.moved(from, moved, left, now))),
            }
        }
        loop {
            if from.poll_read_ready(cx)?.is_pending() {
                self.mark.waits(now);
                return Poll::Pending;
            }
            let mut moved = None;
            let tried = from.try_io(Interest::READABLE, || {
                let bytes = pipe.fill(from, most)?;
                moved = Some(bytes);
                // Less than was asked for is all there is, unless the pipe had no place for more pieces. Below the mark
                // it is not worth another look; said so, the next try waits for an event.
                if bytes > 0 && bytes < most {
                    let mark = self.mark.of(left.saturating_sub(bytes as u64));
                    if system::unread(from).is_ok_and(|unread| unread < mark) {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                Ok(())
            });
            match (tried, moved) {
                (Ok(()), moved) => return Poll::Ready(Ok(self.moved(from, moved.unwrap_or(0), left, now))),
                (Err(error), moved) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(moved) = moved {
                        return Poll::Ready(Ok(self.moved(from, moved, left, now)));
                    }
                }
                (Err(error), _) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// So many of the `left` bytes have come. They are in the pipe now, so nothing fails any more.
    fn moved(&mut self, from: &TcpStream, moved: usize, left: u64, now: Instant) -> usize {
        let rest = left.saturating_sub(moved as u64);
        if let Some(mark) = self.mark.moved(moved as u64, rest, now)
            && let Err(error) = system::low_water(from, mark)
        {
            tracing::debug!(error = %error, mark, "a socket did not take its low-water mark");
        }
        moved
    }
}
