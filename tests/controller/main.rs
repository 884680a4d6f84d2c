//! The controller over real sockets: its API as each public client uses it, its agents' protocol, several
//! controllers over one store, and what it does with input that nobody should send.

#![expect(clippy::unwrap_used, reason = "a test says what broke by breaking there")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/certificates.rs"]
mod certificates;

mod agents;
mod apikeys;
mod auth;
mod bad_input;
mod certified;
mod clients;
mod cloud;
mod commands;
mod events;
mod gate;
mod distribution;
mod groups;
mod images;
mod instances;
mod listing;
mod macs;
mod node;
mod nodes;
mod permissions;
mod protocol_page;
mod push;
mod secured;
mod store_down;
mod store_upkeep;
mod templates;
mod two_controllers;
mod watching;
mod usb;
mod web;
