//! When to try again: after a pause that grows, as long as something moved within the patience. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::TransferError;

/// The first pause; each one without progress is twice as long.
const FIRST: Duration = Duration::from_millis(250);

/// The longest pause of our own choosing.
const LONGEST: Duration = Duration::from_secs(10);

/// The longest that a server may make us wait (`Retry-After`).
const ASKED: Duration = Duration::from_secs(60);

/// A call that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Box<TransferError>,
    /// The server said when to ask again.
    pub(super) wait: Option<Duration>,
    /// It may be tried again although its kind would not.
    pub(super) anew: bool,
}

impl<E: Into<TransferError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), wait: None, anew: false }
    }
}

/// The tries of one thing.
#[derive(Debug)]
pub(super) struct Tries {
    patience: Duration,
    moved: Instant,
    since: u32,
}

impl Tries {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, moved: now, since: 0 }
    }

    /// Something came that was not there before.
    pub(super) fn moved(&mut self, now: Instant) {
        (self.moved, self.since) = (now, 0);
    }

    /// How long to pause before the next try, or why there is none. `draw` is even in 0..1.
    pub(super) fn next(
        &mut self,
        failed: Failed,
        now: Instant,
        draw: f64,
    ) -> Result<Duration, TransferError> {
        if !failed.anew && !failed.error.may_pass() {
            return Err(*failed.error);
        }
        self.since = self.since.saturating_add(1);
        let left = self.patience.saturating_sub(now.saturating_duration_since(self.moved));
        if left.is_zero() {
            let (patience, tries) = (self.patience, self.since);
            return Err(TransferError::GaveUp { patience, tries, last: failed.error });
        }
        let grown = FIRST.saturating_mul(1 << (self.since - 1).min(10)).min(LONGEST);
        let own = grown.mul_f64(0.5 + draw / 2.0);
        Ok(failed.wait.map_or(own, |wait| wait.min(ASKED).max(own)).min(left.max(FIRST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;

    fn failed(status: u16, wait: Option<u64>) -> Failed {
        let error = ClientError::Refused { url: "u".into(), status, message: String::new() };
        Failed { error: Box::new(error.into()), wait: wait.map(Duration::from_secs), anew: false }
    }

    #[test]
    fn pauses_grow_and_end_with_the_patience() {
        let start = crate::clock::now();
        let mut tries = Tries::new(Duration::from_secs(60), start);
        let mut now = start;
        let mut pauses = Vec::new();
        let end = loop {
            match tries.next(failed(503, None), now, 1.0) {
                Ok(pause) => {
                    pauses.push(pause);
                    now += pause;
                }
                Err(end) => break end,
            }
        };
        assert!(pauses.windows(2).take(5).all(|two| two[1] > two[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert!(matches!(end, TransferError::GaveUp { .. }) && end.status() == Some(503), "{end:?}");
        assert!(now - start < Duration::from_secs(61));
        tries.moved(now);
        assert!(tries.next(failed(503, None), now, 0.0).is_ok());
    }

    #[test]
    fn a_server_says_when_to_ask_again_and_a_full_one_is_not_asked_again() {
        let now = crate::clock::now();
        let mut tries = Tries::new(Duration::from_secs(600), now);
        assert_eq!(tries.next(failed(429, Some(7)), now, 0.0).unwrap(), Duration::from_secs(7));
        assert_eq!(tries.next(failed(503, Some(9999)), now, 0.0).unwrap(), ASKED);
        for status in [507, 501, 403, 400] {
            assert_eq!(tries.next(failed(status, None), now, 0.0).unwrap_err().status(), Some(status));
        }
        assert!(tries.next(Failed { anew: true, ..failed(404, None) }, now, 0.0).is_ok());
    }
}
