//! `/registry/status` and `/registry/disk`.

use axum::extract::State;

use super::answer::{Answer, done};
use crate::{
    model,
    registry::state::App,
    wire::template::{Disk, RegistryStatus},
};

/// `GET /registry/status`.
pub(super) async fn status() -> Answer {
    done(RegistryStatus { status: "Running".into(), version: model::full_version() })
}

/// `GET /registry/disk`.
pub(super) async fn disk(State(app): State<App>) -> Answer {
    let space = app.repositories.content().space().await?;
    done(Disk { free: space.free, total: space.total })
}
