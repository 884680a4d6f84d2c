//! What came from one source, and how fast lately.

use std::time::Duration;

/// The rate is over so many seconds.
const SECONDS: usize = 10;

/// Times are since any one moment.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: u64,
    /// Bytes of each second, by its number.
    recent: [(u64, u64); SECONDS],
}

impl Meter {
    pub(super) fn add(&mut self, bytes: u64, now: Duration) {
        self.bytes += bytes;
        let second = now.as_secs();
        let at = usize::try_from(second).unwrap_or(0) % SECONDS;
        let (of, so_far) = self.recent[at];
        self.recent[at] = (second, if of == second { so_far + bytes } else { bytes });
    }

    /// Ever.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes a second, this second and the nine before it.
    pub(super) fn rate(&self, now: Duration) -> f64 {
        let second = now.as_secs();
        let fresh = self.recent.iter().filter(|(of, _)| second - (*of).min(second) < SECONDS as u64);
        let bytes: u64 = fresh.map(|(_, bytes)| bytes).sum();
        // In the first seconds there were no ten.
        bytes as f64 / now.as_secs_f64().clamp(1.0, SECONDS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_ten_seconds() {
        let mut meter = Meter::default();
        let at = Duration::from_secs;
        assert_eq!(meter.rate(at(100)), 0.0);
        for second in 100..120 {
            meter.add(600, at(second));
            meter.add(400, at(second));
        }
        assert_eq!((meter.bytes(), meter.rate(at(119))), (20_000, 1000.0));
        assert_eq!(meter.rate(at(124)), 500.0);
        assert_eq!(meter.rate(at(129)), 0.0);
    }
}
