//! What clients may take: the keys that `[limits]` and `limits` of a listener have in common, and `limits.body`.

use std::time::Duration;

use super::rules::{contains, network};
use crate::{
    config::{
        bounds::{BodyCaps, Bounds, By, Rate},
        proxy::Network,
        raw::Table,
        report::Place,
        value::{Given, Wrong, bytes, one_of, text, whole},
    },
    model::RouteClass,
};

/// More of one caller is no limit.
const REQUESTS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
/// As for `limits.connections`.
pub(super) const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=10_000_000;

/// The common keys; `connections` is what the same table allows in all.
pub(super) fn bounds(table: &Table<'_>, connections: Option<usize>) -> Bounds {
    let per_client = table.opt("per_client", whole(CONNECTIONS));
    if let (Some(of_one), Some(of_all)) = (per_client, connections)
        && of_one > of_all
        && table.has("per_client")
    {
        let right = format!("write at most {of_all}, what `{}` allows to all", table.path_of("connections"));
        table.fault("per_client", format!("is `{of_one}`, which can never be reached"), right);
    }
    let rate = rate(table);
    let allow = table.list("allow", network).unwrap_or_default();
    let deny = table.list("deny", network).unwrap_or_default();
    for (allowed, place) in &allow {
        if let Some((denied, _)) = deny.iter().find(|(denied, _)| contains(denied, allowed)) {
            let what = format!("`{}` has `{}`, which can never come", table.path_of("allow"), allowed);
            let right =
                format!("`{}` takes all of it (`{denied}`): delete one of them", table.path_of("deny"));
            table.fault_at(place.clone(), what, right);
        }
    }
    let bare = |list: Vec<(Network, Place)>| list.into_iter().map(|(network, _)| network).collect();
    Bounds { per_client, rate, allow: bare(allow), deny: bare(deny) }
}

fn rate(of: &Table<'_>) -> Option<Rate> {
    let table = of.sub("rate");
    let by = table.or(
        "by",
        By::Address,
        one_of(&[("address", By::Address), ("certificate", By::Certificate), ("key", By::Key)]),
    );
    let requests =
        if table.is_given() { table.need("requests", "requests = \"100/s\"", requests) } else { None };
    let burst = table.opt("burst", whole(REQUESTS));
    let (requests, per) = requests?;
    Some(Rate { by, requests, per, burst: burst.unwrap_or(requests) })
}

/// `"100/s"`.
fn requests(given: &Given<'_>) -> Result<(u32, Duration), Wrong> {
    let text = text(given)?;
    let wrong = |right: &str| Wrong::new(format!("is `{text}`"), right);
    const LIKE: &str = "write it like `\"100/s\"`, with `/s`, `/m` or `/h`";
    let (number, unit) = text.split_once('/').ok_or_else(|| wrong(LIKE))?;
    let per = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong(LIKE)),
    };
    let number: u32 = number.parse().map_err(|_| wrong(LIKE))?;
    if !REQUESTS.contains(&number) {
        return Err(wrong("use a number from 1 to 1000000 before the slash"));
    }
    Ok((number, Duration::from_secs(per)))
}

/// `limits.body`.
pub(super) fn body(limits: &Table<'_>) -> BodyCaps {
    let table = limits.sub("body");
    RouteClass::ALL.into_iter().fold(BodyCaps::default(), |caps, class| {
        match table.opt(class.as_str(), cap) {
            Some(most) => caps.with(class, most),
            None => caps,
        }
    })
}

/// A size, or `"none"` for any.
fn cap(given: &Given<'_>) -> Result<Option<u64>, Wrong> {
    if matches!(text(given), Ok("none")) {
        return Ok(None);
    }
    bytes(given)
        .map(Some)
        .map_err(|wrong| Wrong { right: format!("{}, or `\"none\"`", wrong.right), ..wrong })
}
