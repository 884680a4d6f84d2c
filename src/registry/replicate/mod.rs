//! How a replica comes to hold what the writer holds.
//!
//! ```text
//!   plan      which chunk of which blob is asked for next, and from whom (pure)
//!   fetch     asks, verifies, writes: blobs that are needed, and blobs that were announced
//! ```
//!
//! What is here is always complete and verified: a chunk is checked against the chunk list before it is written, a
//! blob against its digest before it is one.

pub mod plan;
pub mod fetch;
