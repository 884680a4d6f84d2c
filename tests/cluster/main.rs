//! The whole cloud as real processes, and what its users see when a part of it dies: one test per promise, by
//! causing what the promise is about.

#[path = "../support/mod.rs"]
mod support;

mod tools;
