//! Leases: keys that end with whoever keeps them alive.

/// A lease's number, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// What a keep-alive found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Renewed; this many seconds from when the renewal was *sent* are safe to count on.
    Alive {
        /// The full time again.
        ttl_seconds: i64,
    },
    /// Run out or revoked; its keys are deleted.
    Gone,
}
