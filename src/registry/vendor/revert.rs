//! `DELETE /registry/revert`: the target and every later version go; without a target, the newest alone.

use axum::{
    body::Body,
    extract::{RawQuery, State},
};

use super::{
    answer::{Answer, changed},
    templates::Asked,
};
use crate::registry::state::App;

/// Answers exactly 200 and `OK`: packer takes nothing else.
pub(super) async fn revert(State(app): State<App>, RawQuery(query): RawQuery, body: Body) -> Answer {
    let asked = Asked::read(&query, body).await?;
    changed(app.repositories.revert(&asked.id()?, &asked.which_beyond_doubt(&query)?).await?.0)
}
