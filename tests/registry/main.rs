//! The registry over real sockets and a real directory.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]

#[path = "../support/mod.rs"]
mod support;

mod rig;
mod pushes;
mod conformance;
mod limits;
mod sha512;
mod pulls;
mod errors;
mod hostile;
mod templates;
mod contract;
mod apikeys;
mod auth;
mod both;
mod command;
mod restarts;
mod crashes;
mod full;
mod garbage;
mod damage;
mod soak;
mod quotas;
mod scrub;
mod skopeo;
mod library;
mod curl;
mod large;
mod replication;
mod histories;
mod following;
mod shared;
mod faults;
mod members;
