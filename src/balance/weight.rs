//! How much of the whole one takes.

/// A weight, in parts so small that a fraction of a configured one is exact enough. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

/// Parts of a configured weight of 1.
const PARTS: u32 = 1024;

impl Weight {
    /// The most that can be configured: the sum over thousands of them stays far from any limit.
    pub const MOST: u32 = 1000;

    /// A configured one; what is out of bounds is brought to the nearer end.
    pub fn of(configured: u32) -> Self {
        Self(configured.clamp(1, Self::MOST) * PARTS)
    }

    /// So much of it, from 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a u32, and not below 1"
    )]
    #[must_use]
    pub fn part(self, share: f64) -> Self {
        Self((f64::from(self.0) * share.clamp(0.0, 1.0)).max(1.0) as u32)
    }

    /// In its parts, for reckoning.
    pub fn get(self) -> u64 {
        u64::from(self.0)
    }

    /// As it is configured, for people.
    pub fn shown(self) -> f64 {
        f64::from(self.0) / f64::from(PARTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_weight_is_zero_and_none_overflows() {
        assert_eq!(Weight::of(0), Weight::of(1));
        assert_eq!(Weight::of(u32::MAX), Weight::of(1000));
        assert!(Weight::of(1).part(0.0).get() > 0);
        assert_eq!(Weight::of(7).part(2.0), Weight::of(7));
        assert!((Weight::of(3).part(0.5).shown() - 1.5).abs() < 0.001);
    }
}
