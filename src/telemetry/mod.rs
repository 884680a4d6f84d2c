//! Logs and metrics: how they are set up, and every name they use.

pub mod names;
mod logs;
mod metrics;

pub use logs::{LogFormat, LogSettings, check_filter, set_up};
pub use metrics::{Metrics, MetricsError};
