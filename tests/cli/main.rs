//! The command line from outside: the binary itself, its exit codes and its texts.

#![allow(clippy::unwrap_used, reason = "what a test needs and does not get fails it")]
#![allow(clippy::disallowed_methods, reason = "a test that waits for a real process waits on the real clock")]

mod broken;
mod check;
mod commands;
mod program;
mod readers;
mod reference;
mod reloads;
mod role;
mod standalone;
mod tls;
mod written;

#[path = "../support/certificates.rs"]
mod certificates;
