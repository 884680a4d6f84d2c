//! Configs of nginx and haproxy as people write them: what they become, line by line, and that what they become is a config.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]
#![allow(unreachable_pub, reason = "`pub` marks what the modules share; a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "a test that waits for a real process waits on the real clock")]

mod any;
mod beside;
mod golden;
mod line;
mod pages;

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/mod.rs"]
mod support;
