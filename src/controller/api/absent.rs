//! Calls of the vendor's controllers that these have no answer to: said in words, so that whoever comes with them
//! learns what to do (`docs/instances.md`). Each is 404, which no proxy takes for a failure of this server.

use axum::http::StatusCode;

use super::answer::Fail;

/// The node queue of the vendor's agents, of which nothing public says what is in it (`reference/agent.md` §3.2).
pub(super) async fn queue() -> Fail {
    absent(
        "the vendor's agents cannot work for this controller: `switchyard agent join URL` makes this host a node of it",
    )
}

/// Groups of nodes, while groups of callers have nodes instead.
pub(super) async fn groups() -> Fail {
    let why = "there are no groups of nodes while resource management is on: nodes are resources of groups of callers";
    Fail::new(StatusCode::CONFLICT, why)
}

/// Where an identity provider sends browsers back to.
pub(super) async fn identity() -> Fail {
    absent("no identity provider is known here: callers show the root token, a certificate or an API key")
}

fn absent(why: &str) -> Fail {
    Fail::new(StatusCode::NOT_FOUND, why)
}
