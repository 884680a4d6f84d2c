//! What one registry at a time does for a storage, and how it is known which one.
//!
//! A lease names a duty, not blobs: whatever is done under one is safe also where two hold it for a moment, for a call that a
//! network delayed may come true after its lease was lost. It keeps registries from doing the same work, and from doing half of
//! it after another began.

use std::time::Duration;

use async_trait::async_trait;

use super::ContentError;

/// What is done by one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Collecting garbage.
    Garbage,
    /// Reading all blobs.
    Scrub,
}

impl Duty {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Garbage, Self::Scrub];

    /// As it is called in the storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Scrub => "scrub",
        }
    }
}

/// One that was not heard of for so long has a lease no more, unless it says less.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The right to a duty. Dropped without [`Lease::end`], it is over for others once its silence has been long enough.
#[async_trait]
pub trait Lease: Send + Sync {
    /// An error once somebody else may have it. Costs nothing: to be asked before each step.
    fn check(&self) -> Result<(), ContentError>;

    /// Keeps it; completes when it is lost. Without this being awaited it is lost soon. Cancel-safe.
    async fn keep(&self) -> ContentError;

    /// What the last one who noted something left for the next.
    fn noted(&self) -> Option<String>;

    /// Leaves something for the next one, durably.
    async fn note(&self, text: String) -> Result<(), ContentError>;

    /// Gives it back: the next one need not wait.
    async fn end(self: Box<Self>) -> Result<(), ContentError>;
}

/// The storage's side.
#[async_trait]
pub trait Leases {
    /// A lease; `None` while somebody else has it who was heard of within `silence`.
    async fn lease(&self, duty: Duty, silence: Duration) -> Result<Option<Box<dyn Lease>>, ContentError>;
}
