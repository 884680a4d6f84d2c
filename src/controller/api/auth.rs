//! `/config/v1/auth`: how clients may log in beside by what they know already.

use serde::Serialize;

use super::answer::Done;

/// Nothing: there is no login by an identity provider, and `oidc` is left out then.
#[derive(Serialize)]
pub(super) struct Ways {}

/// Needs no credential: it is how clients learn where to get one.
pub(super) async fn ways() -> Done<Ways> {
    Done(Ways {})
}
