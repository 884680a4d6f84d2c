//! TLS for every role: from the files that a config names to what a handshake needs, for both sides.
//!
//! Everything is read and checked here, and nowhere else: `check`, the start and a reload come to the same words
//! about the same fault. Opens files and listens nowhere: who shakes hands is whoever has the connection.
//!
//! ```text
//!   setting        what a config says
//!   files          PEM, bounded; a key that fits its certificate; what is wrong with it, and what would be right
//!   suites         cipher suites by their standard names
//!   kept           what was made of files, until they change
//!   names          which certificate for which name
//!   client         whether a client's certificate is good, and what is told of it
//!   pass           what servers behind a proxy are told of it
//!   signed         that nobody but such a proxy says it
//!   callers        the other end of that: a certificate out of a header, looked at again
//!   tickets        keys that a client's next connection goes on by
//!   server         all of it, for a listener: swapped whole
//!   shown          for servers that have the connection themselves: who its client is, again for each request
//!   told           what was said of files, once
//!   upstream       the other side: whom to trust, under which name
//!   http           clients of the other side that speak HTTP, and why one side did not take the other
//!   rsa            keys of callers that sign in by theirs
//! ```

mod setting;
mod files;
mod kept;
mod suites;
mod names;
mod client;
mod callers;
mod pass;
pub mod signed;
mod tickets;
mod server;
mod shown;
mod told;
mod upstream;
mod http;
pub mod rsa;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use callers::{Caller, Callers, Unknown};
pub use client::{Denied, Peer, Verify};
pub use files::{LOOK, LOOKS_A_DAY, Part, Problem, ends_soon, in_words};
pub use http::{Http, distrust};
pub use server::{Asks, Facts, Server};
pub use setting::{ClientAuth, Least, Pair, ServerSetting, Trust, UpstreamSetting};
pub use shown::{NotSecured, SecuredStream, Shown};
pub use suites::Suite;
pub use tickets::TicketKey;
pub use told::Told;
pub use upstream::{Upstream, untrusting};

/// What is spoken inside TLS, best first. The one list of both sides.
fn protocols(http2: bool) -> Vec<Vec<u8>> {
    let all: [&[u8]; 2] = [b"h2", b"http/1.1"];
    all.into_iter().filter(|name| http2 || *name != b"h2").map(<[u8]>::to_vec).collect()
}

/// The cryptography, with these suites in this order; all of them if none is named.
fn provider(suites: &[Suite]) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if !suites.is_empty() {
        provider.cipher_suites = suites.iter().map(|suite| suite.0).collect();
    }
    Arc::new(provider)
}

#[cfg(test)]
#[path = "../../tests/support/certificates.rs"]
pub(crate) mod made;
#[cfg(test)]
mod tests;
