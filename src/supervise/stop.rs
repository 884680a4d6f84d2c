//! The wish that a task ends.

use tokio_util::sync::CancellationToken;

/// Given to a task: tells when to stop. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Stop(CancellationToken);

/// Kept by whoever may ask for the stop.
#[derive(Debug, Clone, Default)]
pub struct StopSource(CancellationToken);

impl StopSource {
    /// A fresh one; nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The side for the task.
    pub fn stop(&self) -> Stop {
        Stop(self.0.clone())
    }

    /// Asks; asking again changes nothing.
    pub fn request(&self) {
        self.0.cancel();
    }
}

impl Stop {
    /// Completes once a stop was asked for. Cancel-safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether it was asked for already.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}
