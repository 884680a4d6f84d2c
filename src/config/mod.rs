//! Config files: from text to one checked type per role.
//!
//! The checked types in [`proxy`], [`controller`], [`registry`] and [`agent`] are what code receives: every
//! value in them is valid and every default is filled in. Only the readers in this room make them from a
//! file; `standalone` makes them in code.

mod address;
pub mod agent;
pub mod controller;
pub mod proxy;
pub mod registry;
mod server;

pub use address::{Address, AddressError, BaseUrl, BaseUrlError};
pub use server::{DEFAULT_GRACE, Log, Server};
