//! The registry: one content-addressed store, two APIs over it.
//!
//! ```text
//!   oci/      /v2/…             push and pull, OCI Distribution v1.1 ──┐
//!   vendor/   /registry/…       templates and versions, the vendor's ──┤
//!   feed/     /replication/v1/… what replicas and proxies follow       │
//!     ▲                                                                ▼
//!     │              repositories/   what may be done: put, find, delete, revert, list
//!     │                                                                │ at the writer
//!     │ log          journal/        into the log first, then into the catalogue
//!     └───────────── log/                                              ▲ at a replica
//!                    replicate/      follow a writer's log, fetch, apply
//!                    writer/         who must know of a change before it is acknowledged
//!                                                                      ▼
//!                    content/        blobs, sessions, fills, catalogues: the trait, and `disk`
//! ```
//!
//! A repository is a template, a tag is a version. What one API deletes, the other no longer shows.
//! Knows nothing of other roles; no handler touches a file.

mod service;
mod apikeys;
mod state;
mod standing;
pub mod notes;
pub mod quota;
mod counted;
mod query;
mod range;
mod position;
pub mod oci;
mod vendor;
mod feed;
pub mod repositories;
pub mod journal;
pub mod writer;
pub mod replicate;
pub mod content;
pub mod log;
pub mod upkeep;

pub use service::{OpenError, Registry};
