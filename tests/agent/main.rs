//! A real agent with real VM processes, over real sockets, against controllers and a registry that misbehave.

#![expect(clippy::unwrap_used, reason = "a test says what broke by breaking there")]

mod commands;
mod faults;
mod kill;
mod lifecycle;
mod real;
mod saving;
mod scripts;
mod standin;
#[path = "../support/mod.rs"]
mod support;
mod world;
