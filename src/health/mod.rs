//! What probes say about an upstream: may it be sent requests, and of which kind.
//!
//! [`verdict`] decides and is pure; [`probe`] asks once; [`watch`] runs one prober per upstream and tells
//! whoever follows. What real traffic says is not known here.

pub mod verdict;
mod direct;
pub mod probe;
pub mod watch;

pub use verdict::{Access, Found, May, State, Verdict};
pub use watch::Prober;
