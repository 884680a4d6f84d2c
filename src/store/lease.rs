//! Leases: keys that end with whoever keeps them alive.

/// A lease's number, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// What a keep-alive found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Renewed: the time that it was granted for, counted from when the renewal was *sent*, is safe to count on.
    Alive,
    /// Run out or revoked; its keys are deleted.
    Gone,
}
