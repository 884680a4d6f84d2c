//! The watch-fed cache of everything below the cluster's prefix, and reads that are linearizable all the same.

/// What was read, and whether it may be behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// What was read.
    pub value: T,
    /// Why it may be behind; `None`: it shows everything that was acknowledged before the read began.
    pub stale: Option<String>,
}

impl<T> Seen<T> {
    /// The same reading of something made from it.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        Seen { value: f(self.value), stale: self.stale }
    }
}
