//! Switchyard: the high-availability front of a VM-image build cloud, and the whole cloud behind it.
//!
//! One binary, a role per subcommand. The house, in reading order:
//!
//! ```text
//!   cli            command line → one function per subcommand; the only room that prints
//!    │
//!    ├── proxy       DATA PLANE: accept → guard → identify → limit → classify → choose → hold
//!    │               → forward → retry → record; the only room that knows Pingora
//!    ├── controller  CONTROL PLANE: keeps nothing; all it knows is in the store
//!    ├── registry    one content-addressed store, two APIs over it (OCI and the vendor's)
//!    └── agent       on the VM host: join, heartbeat, take tasks, drive a hypervisor, report
//!         │
//!    roles never import each other: they meet over `wire`, through `client`
//!         │
//!    auth  client  discovery  health  balance  store  http  import  config  tls  supervise  telemetry
//!         │
//!    wire  model  clock      what everybody may import
//! ```
//!
//! The table of who may import whom, and why, is in `docs/architecture.md`; `tests/house.rs` checks it.

pub mod model;
pub mod clock;
pub mod wire;
pub mod tls;
pub mod config;
pub mod import;
pub mod telemetry;
pub mod supervise;
pub mod store;
pub mod http;
pub mod auth;
pub mod client;
pub mod balance;
pub mod health;
pub mod discovery;
pub mod proxy;
pub mod controller;
pub mod registry;
pub mod agent;
pub mod cli;
