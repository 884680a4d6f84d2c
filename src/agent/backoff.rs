//! Pauses between tries: each about twice the last, up to a bound, never the same for two agents. Pure.

use std::time::Duration;

/// How long to wait before the next try.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause is about `least`, none is longer than `most`.
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The next pause: between half and the whole of the step. `draw` is a random number from 0 to 1: the
    /// agents that lost a controller at the same moment must not all come back at the same moment.
    pub(super) fn pause(&mut self, draw: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }

    /// It went well: begin anew.
    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let mut full = || backoff.pause(1.0).as_secs();
        assert_eq!([full(), full(), full(), full(), full()], [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.pause(0.0), Duration::from_millis(500));
    }
}
