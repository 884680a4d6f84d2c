//! HTTP/2: many requests of one client at a time. Each stream becomes a client of its own with one request, served by
//! the same exchange as one of HTTP/1.1.
//!
//! ```text
//!   begin     does the client begin with HTTP/2
//!   serve     drives the connection and its streams, in one task; ends it
//!     mux       what is known of the connection: frames in (comes), windows, frames out (goes)
//!       streams   the streams that are under way: windows, bodies, who waits
//!       meter     what the connection costs beyond its requests
//!     end       one stream, as the engine sees it: the request's body in, an answer of HTTP/1.1 out
//! ```
//!
//! The bytes themselves (frames, compressed fields, heads) are those of `proxy::h2`. Nothing here is measured by what a
//! client says: what it may have under way, unread and unanswered has a bound each.

mod begin;
mod serve;
mod mux;
mod streams;
mod meter;
mod end;

pub(super) use begin::{Begins, begins};
pub(super) use end::End;
pub(super) use serve::serve;
