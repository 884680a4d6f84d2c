//! A log whose file fails on demand, for tests.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Builder, StorageBackend};

use super::{Log, LogError, failed};

/// Memory that outlives the database on it, and fails its next sync when told to: the bytes are there all the same.
#[derive(Debug, Clone, Default)]
struct Faulty {
    bytes: Arc<Mutex<Vec<u8>>>,
    fail: Arc<AtomicBool>,
}

impl Faulty {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        work(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn range(offset: u64, len: usize) -> std::ops::Range<usize> {
    let offset = usize::try_from(offset).unwrap();
    offset..offset + len
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|bytes| out.copy_from_slice(&bytes[range(offset, out.len())]));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(usize::try_from(len).unwrap(), 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fail.swap(false, Ordering::SeqCst) {
            Err(io::Error::other("the disk is gone"))
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|bytes| bytes[range(offset, data.len())].copy_from_slice(data));
        Ok(())
    }
}

impl Log {
    /// A new log, and what makes its next sync fail.
    pub(in crate::registry) fn faulty() -> Result<(Self, Arc<AtomicBool>), LogError> {
        let file = Faulty::default();
        let fail = file.fail.clone();
        let open =
            move || Builder::new().create_with_backend(file.clone()).map_err(failed("open its memory"));
        Ok((Self::with(Box::new(open))?, fail))
    }
}
