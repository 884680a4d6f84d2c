//! HTTP/2: many requests of one client at a time. Each stream becomes a client of its own with one request, served by
//! the same exchange as one of HTTP/1.1.
//!
//! ```text
//!   begin     does the client begin with HTTP/2
//!   serve     drives the connection and its streams, in one task; ends it
//!     io        the connection, as the library reads and writes it
//!     meter     what it costs beyond its requests; frames: what passes
//!     end       one stream: the request's body in, an answer of HTTP/1.1 out
//!     head      a request's head, as that of HTTP/1.1; answer: the other way round
//! ```
//!
//! Frames, HPACK, flow control and the states of streams are the library's.

mod begin;
mod serve;
mod io;
mod meter;
mod frames;
mod end;
mod head;
mod answer;

pub(super) use begin::{Begins, begins};
pub(super) use end::End;
pub(super) use serve::serve;
