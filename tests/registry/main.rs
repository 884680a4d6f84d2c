//! The registry over real sockets and a real directory.

#[path = "../support/mod.rs"]
mod support;

mod rig;
mod pushes;
