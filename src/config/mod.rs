//! Config files: from text to one checked type per role.
//!
//! The checked types in [`proxy`], [`controller`], [`registry`] and [`agent`] are what code receives: every
//! value in them is valid and every default is filled in. Only the readers in this room make them from a
//! file; `standalone` makes them in code. [`written`] goes the other way, for whoever wants to see what a proxy goes by.

mod address;
pub mod bounds;
mod etcd;
mod health;
pub mod agent;
pub mod auth;
pub mod controller;
pub mod events;
pub mod proxy;
pub mod registry;
mod server;
mod load;
mod env;
mod vendor;
mod vendor_env;
mod raw;
mod value;
mod planned;
mod choosing;
mod entry;
mod suggest;
mod upkeep;
mod timeouts;
mod read;
mod report;
mod write;

pub use address::{Address, AddressError, BaseUrl, BaseUrlError};
pub use env::{Env, EnvNote};
pub use etcd::{Etcd, Login};
pub use load::{
    Flag, Loaded, Role, check_proxy, load, load_agent, load_controller, load_proxy, load_registry,
};
pub use report::{Fault, Faults, Place};
pub use server::{DEFAULT_GRACE, Log, Server};
pub use write::{MASKED, Written, written};
