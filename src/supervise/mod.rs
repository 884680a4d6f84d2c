//! The task tree: every long-lived task has a name, a stage and a meaning of its end; nobody detaches.
//!
//! Stopping goes edge first: stop accepting, finish requests, then loops, then leases, then the store. Each
//! stage has what is left of the grace; tasks that are late are logged by name and aborted.

mod signals;
mod stop;
mod tree;

pub use signals::{Signal, signals};
pub use stop::{Stop, StopSource};
pub use tree::{Ended, Handle, OnEnd, Stage, Tree};
