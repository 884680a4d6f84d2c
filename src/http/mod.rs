//! What the HTTP servers of controller, registry and admin share: opening a port, serving until told to
//! stop, bodies from files, request ids, bounded bodies, live and ready. No word of any role.

mod access;
mod bind;
mod body;
mod body_room;
#[cfg(target_os = "linux")]
mod direct;
mod guarded;
mod health_routes;
mod part;
mod request_id;
mod secured;
mod serve;

pub use access::{AccessLog, AccessWriter};
pub use bind::{Beside, BindError, adopt, bind, bind_for_threads, more, not_bound, write_address_file};
pub use body::{BodyError, read_bounded};
pub use body_room::{BodyRoom, RoomError, WholeBody, linger};
pub use health_routes::{Readiness, health_routes};
pub use part::{Part, Parts, read, with_parts};
pub use request_id::{RequestIdLayerState, request_id};
pub use secured::Secure;
pub use serve::{Peer, serve, serve_files};
