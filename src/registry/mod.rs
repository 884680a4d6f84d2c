//! The registry: one content-addressed store, two APIs over it.
//!
//! ```text
//!   oci/      /v2/…         push and pull, OCI Distribution v1.1 ──┐
//!   vendor/   /registry/…   templates and versions, the vendor's ──┤
//!                                                                  ▼
//!             repositories/   what may be done: put, find, delete, revert, list
//!                                                                  ▼
//!             content/        blobs, upload sessions, catalogues: the trait, and `disk`
//! ```
//!
//! A repository is a template, a tag is a version. What one API deletes, the other no longer shows.
//! Knows nothing of other roles; no handler touches a file.

mod service;
mod state;
mod query;
pub mod oci;
mod vendor;
pub mod repositories;
pub mod content;
pub mod replicate;
mod upkeep;

pub use service::{OpenError, Registry};
