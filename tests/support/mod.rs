//! What several test binaries share. Included with `#[path = "../support/mod.rs"] mod support;`.

#![allow(dead_code, reason = "each test binary includes the whole module and uses its own part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what tests may use; a test binary has no outside")]

pub mod etcd;
