//! The registry over real sockets and a real directory.

#[path = "../support/mod.rs"]
mod support;

mod rig;
mod pushes;
mod pulls;
mod errors;
mod templates;
mod restarts;
mod crashes;
mod full;
mod skopeo;
