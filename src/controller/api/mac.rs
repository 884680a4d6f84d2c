//! `/api/v1/macaddr` and `/api/v1/vlan` (`reference/controller-api.md` §8).

use axum::extract::State;

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::Asked,
};
use crate::{
    controller::{
        lists::Seen,
        ops::{MacAnswer, MacAsk},
    },
    model::excerpt,
    wire::mac::MacPool,
};

/// A count or a page of the pool.
pub(super) async fn read(State(api): State<Api>, asked: Asked) -> Result<Seen<Done<MacPool>>, Fail> {
    let number = |key: &str, text: &str| {
        text.parse::<usize>()
            .map_err(|_| Fail::bad(format!("{key} is `{}`, not a whole number", excerpt(text))))
    };
    let yes = |key: &str| match asked.get(key) {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(other) => Err(Fail::bad(format!("{key} is `{}`; it must be true or false", excerpt(other)))),
    };
    let (count, in_use, limit, last) = (yes("count")?, yes("in_use")?, asked.get("limit"), asked.get("last"));
    let ask = match (count, in_use, limit.is_some() || last.is_some()) {
        (Some(_), _, true) | (_, Some(_), true) => {
            return Err(Fail::bad("give `count` and `in_use`, or `limit` and `last`, not both"));
        }
        (_, Some(true), false) => MacAsk::InUse,
        (_, Some(false), false) => MacAsk::Free,
        (Some(true), None, false) => MacAsk::All,
        (None | Some(false), None, false) => {
            return Err(Fail::bad(
                "give `count` or `in_use` for a number, or `limit` or `last` for addresses",
            ));
        }
        (None, None, true) => {
            let last = last.map(|text| text.parse().map_err(|error| Fail::bad(format!("last: {error}"))));
            let limit = limit.map(|text| number("limit", text)).transpose()?;
            MacAsk::Page(last.transpose()?, limit.unwrap_or(usize::MAX))
        }
    };
    Ok(api.app.ops.macs(ask).await?.map(|answer| {
        Done(match answer {
            MacAnswer::Count(count) => MacPool::Count(count),
            MacAnswer::Page(page) => MacPool::Addresses(page),
        })
    }))
}

/// The pool is a range, so it is always full: what instances that are gone still have is taken back.
pub(super) async fn refill(State(api): State<Api>) -> Result<Empty, Fail> {
    api.app.ops.refill_macs().await?;
    Ok(Empty)
}

/// VLANs over all nodes.
pub(super) async fn vlans(State(api): State<Api>) -> Result<Seen<Done<Vec<String>>>, Fail> {
    Ok(api.app.ops.vlans().await?.map(Done))
}
