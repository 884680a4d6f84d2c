//! Moves bytes and decides nothing: our own HTTP/1.1 forwarding path. The only room that knows Pingora.
//!
//! ```text
//!   service      one single-threaded Pingora service per core; stops and drains
//!   listeners    which sockets are open, and how a reload changes that
//!   ending       that something ends, and until when what runs may go on
//!   worker       what one thread shares among its connections; accepts
//!   entry        who is let in, before anything is said
//!   opening      the PROXY header, in and out: before TLS, before the first head
//!   connection   one client: heads in, one exchange after the other
//!   http2        one client of HTTP/2: many exchanges at a time
//!   heads        a head that was let by is taken apart
//!   exchange     one request: calls the steps in order, attempt by attempt
//!     upstream     a connection to where the steps said, new or from the thread's pool
//!     ask          the request goes out, until the head of an answer is there
//!     answered     that head: passed on or not, and as what
//!     pass         the answer goes to the client
//!     resume       a blob that broke off goes on from another upstream
//!     tunnel       another protocol, both ways
//!     respond      an answer of ours
//!   splice       a body through a pipe, without copying it
//!   lanes        control traffic and transfers apart: pools of connections, turns of the thread
//!   pump, wire   bytes from one connection to the other, re-framed; a buffer exists only while bytes wait in it
//!   stream       what a connection is made of
//!     tls          records, if it is inside TLS
//!     secure       hands are shaken: who may go on, and who is turned away
//!   local        connections that stay within this machine
//!   timers       one deadline per connection, looked at a few times a second
//! ```

mod answered;
mod ask;
mod connection;
mod ending;
mod entry;
mod exchange;
mod heads;
mod http2;
mod lanes;
mod listeners;
mod local;
mod opening;
mod pass;
mod pool;
mod pump;
mod respond;
mod resume;
mod service;
mod secure;
mod splice;
mod stream;
mod timers;
mod tls;
mod tunnel;
mod upstream;
mod wire;
mod worker;

pub(super) use heads::parsed;
pub(super) use listeners::{Listeners, Spot, Taken};
pub(super) use service::{Engine, EngineEnded, Running, tell_if_short};
