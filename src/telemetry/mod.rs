//! Logs and metrics: how they are set up, every name they use, and errors as one line.

pub mod names;
mod chain;
mod logs;
mod metrics;

pub use chain::chain;
pub use logs::{Access, LogFormat, LogSettings, check_filter, set_up};
pub use metrics::{Metrics, MetricsError};
