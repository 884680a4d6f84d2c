//! Moves bytes and decides nothing. The only room that knows Pingora.
//!
//! [`service`] binds, accepts and drains; [`connection`] reads raw heads and hands each request to Pingora's
//! `HttpProxy`; [`stock`] is that proxy's hooks, each one call into the steps; [`client`] is the client's end
//! of a connection, with a deadline of ours on it; [`upstream`] connects.

mod client;
mod connection;
mod service;
mod stock;
mod upstream;

pub(super) use service::Engine;
