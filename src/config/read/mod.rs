//! One reader per role: asks the tables for their keys, checks them one by one and against each other.
//!
//! A reader goes on after a fault, so that all of them come in one run; it gives nothing when a key that it
//! cannot do without is missing or wrong.

mod admin;
mod agent;
mod auth;
mod bounds;
mod cohorts;
mod controller;
mod discovery;
mod etcd;
mod proxy;
mod registry;
mod rules;
mod server;
mod service;
mod timeouts;
mod upkeep;
mod health;
mod choosing;
mod replicas;
mod tls;
mod trace;
mod vendor;

pub(super) use agent::agent;
pub(super) use controller::controller;
pub(super) use proxy::proxy;
pub(super) use registry::registry;
