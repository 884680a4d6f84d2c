//! One blob: is it what its name says, and is its chunk list its own?

use std::{future::Future, time::Duration};

use crate::{
    model::Digest,
    registry::content::{CHUNK, ChunkList, Content, ContentError, Hasher},
};

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes are others.
    Bytes {
        /// Why, in words.
        why: String,
    },
    /// Its bytes are right, and its list of chunks is missing or another's.
    List(ChunkList),
}

/// The system's word for a sector that cannot be read.
const EIO: i32 = 5;

/// Reads a blob from its storage, as it lies there. `paced` is told how many bytes were read and returns when the next may be.
///
/// `Ok(None)`: it is well, or is not here any more. A storage that fails in another way than by a bad sector is an error.
pub async fn examine<Wait: Future<Output = ()>>(
    content: &dyn Content,
    blob: &Digest,
    mut paced: impl FnMut(u64) -> Wait,
) -> Result<Option<Fault>, ContentError> {
    let mut hash = Hasher::new(blob.algorithm());
    loop {
        let before = hash.size();
        let scanned = match content.scan(blob, hash).await {
            Err(ContentError::Io { source, .. }) if source.raw_os_error() == Some(EIO) => {
                let why = format!("it cannot be read behind byte {before}: {source}");
                return Ok(Some(Fault::Bytes { why }));
            }
            scanned => scanned?,
        };
        let Some((next, end)) = scanned else { return Ok(None) };
        paced(next.size() - before).await;
        hash = next;
        if end {
            break;
        }
    }
    let hashed = hash.finish();
    if hashed.digest != *blob {
        let why = format!("its {} bytes are those of {}", hashed.size, hashed.digest);
        return Ok(Some(Fault::Bytes { why }));
    }
    if hashed.size > CHUNK && content.chunks(blob).await?.as_ref() != Some(&hashed.chunks) {
        return Ok(Some(Fault::List(hashed.chunks)));
    }
    Ok(None)
}

/// Bytes at a bounded rate. Pure: it is told the time.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second.
    rate: u64,
    /// When the next byte may be read.
    next: Duration,
}

impl Pace {
    /// Of so many bytes a second, above zero.
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Duration::ZERO }
    }

    /// So many bytes were read: how long to wait before the next. What was not used is not saved up.
    pub fn read(&mut self, bytes: u64, now: Duration) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.next = self.next.max(now).saturating_add(takes);
        self.next - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_at_the_rate_and_a_pause_saves_nothing_up() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(1000);
        assert_eq!(pace.read(500, second), second / 2);
        assert_eq!(pace.read(500, second), second);
        assert_eq!(pace.read(1000, second * 10), second, "as after the first");
        assert_eq!(Pace::new(0).read(1, Duration::ZERO), second);
    }
}
