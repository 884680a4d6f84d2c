//! The pool of MAC addresses: `/api/v1/macaddr` (`reference/controller-api.md` §8, which does not say how it looks).

use serde::{Deserialize, Serialize};

use crate::model::MacAddress;

/// The body of an answer: a number, or addresses in order. The last of them is the `last` of the next page.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MacPool {
    /// How many.
    Count(u64),
    /// Some.
    Addresses(Vec<MacAddress>),
}
