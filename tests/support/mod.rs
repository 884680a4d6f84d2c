//! What several test binaries share. Included with `#[path = "../support/mod.rs"] mod support;`.

#![allow(dead_code, reason = "each test binary includes the whole module and uses its own part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what tests may use; a test binary has no outside")]
#![allow(clippy::print_stdout, reason = "a failed test prints the logs of its processes")]

pub mod api;
pub mod artifact;
pub mod cloud;
pub mod content;
pub mod dns;
pub mod etcd;
pub mod eventually;
pub mod history;
pub mod holder;
pub mod image;
pub mod lives;
pub mod load;
pub mod namespaces;
pub mod network;
pub mod not_run;
pub mod outside;
pub mod place;
pub mod process;
pub mod registries;
pub mod relay;
pub mod scale;
pub mod scrape;
pub mod seed;
pub mod shape;
pub mod vms;
