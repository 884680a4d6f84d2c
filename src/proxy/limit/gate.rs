//! How many may be inside at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts what is under way against a bound that may change between two requests.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicUsize>);

/// One that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Inside(Arc<AtomicUsize>);

impl Gate {
    /// Lets one more in, unless `most` are inside already.
    pub fn enter(&self, most: usize) -> Option<Inside> {
        let one_more = |inside: usize| (inside < most).then_some(inside + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Inside(self.0.clone()))
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_lets_in_again_when_one_has_left() {
        let gate = Gate::default();
        let first = gate.enter(2).unwrap();
        let _second = gate.enter(2).unwrap();
        assert!(gate.enter(2).is_none());
        assert_eq!(gate.inside(), 2);
        drop(first);
        assert!(gate.enter(2).is_some());
    }
}
