//! Free space, and promises of it to uploads that run at the same time.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::super::{ContentError, Space};

/// What is left for uploads.
pub(super) struct Room {
    root: PathBuf,
    reserve: u64,
    /// Bytes that running uploads declared and have not written yet.
    promised: Arc<AtomicU64>,
}

/// A promise of space to one upload; what is not used is given back with it.
pub(super) struct Reservation {
    left: u64,
    promised: Arc<AtomicU64>,
}

impl Room {
    pub(super) fn new(root: PathBuf, reserve: u64) -> Self {
        Self { root, reserve, promised: Arc::default() }
    }

    /// As the file system counts for a process without privileges.
    pub(super) fn space(&self) -> Result<Space, ContentError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|errno| ContentError::Io { what: "read the free space", source: errno.into() })?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// Promises space, or refuses before a byte is taken.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, ContentError> {
        let before = self.promised.fetch_add(bytes, Ordering::AcqRel);
        let reservation = Reservation { left: bytes, promised: self.promised.clone() };
        self.check(bytes.saturating_add(before))?;
        Ok(reservation)
    }

    /// Refuses while less than the reserve and this much is free.
    pub(super) fn check(&self, bytes: u64) -> Result<(), ContentError> {
        let free = self.space()?.free;
        let needed = self.reserve.saturating_add(bytes);
        if free < needed { Err(ContentError::Full { free, needed }) } else { Ok(()) }
    }

    /// Puts numbers to a "disk full" that came from the system.
    pub(super) fn explain(&self, error: ContentError) -> ContentError {
        match (error, self.space()) {
            (ContentError::Full { needed: 0, .. }, Ok(space)) => {
                ContentError::Full { free: space.free, needed: self.reserve.max(space.free + 1) }
            }
            (error, _) => error,
        }
    }
}

impl Reservation {
    /// So many bytes of it are on the disk now.
    pub(super) fn spent(&mut self, bytes: u64) {
        let spent = bytes.min(self.left);
        self.left -= spent;
        self.promised.fetch_sub(spent, Ordering::AcqRel);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.left, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_at_the_same_time_are_not_promised_the_same_space() {
        let room = Room::new(std::env::temp_dir(), 0);
        let most = room.space().unwrap().free / 10 * 6;
        let first = room.reserve(most).unwrap();
        assert!(matches!(room.reserve(most), Err(ContentError::Full { .. })));
        drop(first);
        assert!(room.reserve(most).is_ok());
    }
}
