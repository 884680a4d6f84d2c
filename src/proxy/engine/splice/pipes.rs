//! The pipes of one thread.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::system;
use crate::proxy::{
    limit::gate::{Gate, Inside},
    record::metrics::ZeroCopy,
};

/// Pipes of one thread at most; each takes two descriptors. Full: bodies are copied.
pub(in super::super) const MOST: usize = 64;

/// So many of them are of [`LARGE`] bytes, the others of [`SMALL`]: together no more than a quarter of what a user
/// without privileges may have by default (`fs.pipe-user-pages-soft`: 64 MiB).
const FIRST: usize = 8;
const LARGE: usize = 1024 * 1024;
const SMALL: usize = 128 * 1024;

/// After one could not be made (the user's limit, or no descriptors) none is tried for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// One pipe.
#[derive(Debug)]
pub(in super::super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    size: usize,
    _inside: Inside,
}

impl Pipe {
    pub(in super::super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what comes out of a socket; 0 is its end. Only while it is empty: full and nothing to be read look alike.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let moved = system::splice(from, &self.write, most)?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives what it holds to a socket.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = system::splice(&self.read, to, self.held)?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }
}

/// All of them.
#[derive(Debug)]
pub(in super::super) struct Pipes {
    /// Bodies may move this way.
    pub(in super::super) offered: bool,
    pub(super) counted: ZeroCopy,
    alive: Gate,
    unused: Mutex<Unused>,
}

#[derive(Debug, Default)]
struct Unused {
    /// The large ones last: they are taken first, and closed last.
    pipes: VecDeque<Pipe>,
    /// As few have been unused since the last sweep: nobody missed them.
    fewest: usize,
    not_before: Option<Instant>,
}

impl Pipes {
    /// None yet; and never any unless they are `offered`. What goes through them is `counted`.
    pub(in super::super) fn new(offered: bool, counted: ZeroCopy) -> Self {
        Self { offered, counted, alive: Gate::default(), unused: Mutex::default() }
    }

    /// An empty pipe. `None`: there are too many already, or the system gives no more.
    pub(super) fn take(&self, now: Instant) -> Option<Pipe> {
        let unused = &mut *self.unused();
        if let Some(pipe) = unused.pipes.pop_back() {
            unused.fewest = unused.fewest.min(unused.pipes.len());
            return Some(pipe);
        }
        if unused.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let inside = self.alive.enter(MOST)?;
        let size = if self.alive.inside() <= FIRST { LARGE } else { SMALL };
        match system::pipe(size) {
            Ok((read, write)) => Some(Pipe { read, write, held: 0, size, _inside: inside }),
            Err(error) => {
                tracing::debug!(error = %error, bytes = size, "no pipe could be made; bodies are copied meanwhile");
                unused.not_before = Some(now + PAUSE);
                None
            }
        }
    }

    /// Keeps an empty pipe for the next one who needs it.
    pub(super) fn give_back(&self, pipe: Pipe) {
        match pipe.is_empty() {
            true if pipe.size >= LARGE => self.unused().pipes.push_back(pipe),
            true => self.unused().pipes.push_front(pipe),
            false => {}
        }
    }

    /// Closes those that nobody has needed since it was called last.
    pub(in super::super) fn sweep(&self) {
        let unused = &mut *self.unused();
        unused.pipes.drain(..unused.fewest.min(unused.pipes.len()));
        unused.fewest = unused.pipes.len();
    }

    fn unused(&self) -> MutexGuard<'_, Unused> {
        // A list of empty pipes cannot be left half changed.
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::{clock, proxy::record::ProxyMetrics};

    fn pipes() -> Pipes {
        Pipes::new(true, ProxyMetrics::new().unwrap().zero_copy())
    }

    #[test]
    fn there_are_so_many_and_no_more_and_what_nobody_needs_is_closed() {
        let (pipes, now) = (pipes(), clock::now());
        let mut taken: Vec<_> = (0..MOST).map(|_| pipes.take(now).unwrap()).collect();
        assert!(pipes.take(now).is_none());
        pipes.give_back(taken.pop().unwrap());
        taken.push(pipes.take(now).unwrap());
        assert_eq!(pipes.alive.inside(), MOST);
        for pipe in taken.drain(2..) {
            pipes.give_back(pipe);
        }
        pipes.sweep();
        assert_eq!(pipes.alive.inside(), MOST, "they were needed until now");
        taken.push(pipes.take(now).unwrap());
        pipes.sweep();
        assert_eq!(pipes.alive.inside(), 3);
        drop(taken);
        assert_eq!(pipes.alive.inside(), 0);
    }

    #[test]
    fn a_transfer_among_few_has_a_large_pipe_whatever_was_needed_before() {
        let (pipes, now) = (pipes(), clock::now());
        let many: Vec<_> = (0..FIRST * 3).map(|_| pipes.take(now).unwrap()).collect();
        // The large ones were made first, and come back first.
        for pipe in many {
            pipes.give_back(pipe);
        }
        for _ in 0..3 {
            let pipe = pipes.take(now).unwrap();
            assert_eq!(pipe.size, LARGE);
            pipes.give_back(pipe);
            pipes.sweep();
        }
        assert_eq!(pipes.alive.inside(), 1);
    }

    #[test]
    fn a_pipe_with_something_in_it_is_not_used_again() {
        let (pipes, now) = (pipes(), clock::now());
        let mut pipe = pipes.take(now).unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        rustix::io::write(&theirs, b"abc").unwrap();
        assert_eq!(pipe.fill(&ours, 2).unwrap(), 2);
        pipes.give_back(pipe);
        assert_eq!(pipes.alive.inside(), 0);
    }
}
