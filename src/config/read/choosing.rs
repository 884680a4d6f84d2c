//! The keys of `[service.NAME]` and of its upstreams that say how the next upstream is picked.

use std::time::Duration;

use crate::{
    config::{
        Address,
        proxy::{Balance, Bears, Key, Kind, Service, Sticky, Upstream},
        raw::Table,
        value::{Given, Wrong, duration_in, named, one_of, text, whole},
    },
    model::{ServiceName, UpstreamName, ZoneName},
};

/// More makes nothing finer, and sums stay far from any limit.
const MOST_WEIGHT: u32 = 1000;
/// One that needs longer has something else than cold caches.
const LONGEST_START: Duration = Duration::from_secs(3600);
const MOST_REQUESTS: u64 = 1_000_000;

const BALANCE: &[(&str, Balance)] = &[
    ("round-robin", Balance::RoundRobin),
    ("least-requests", Balance::LeastRequests),
    ("peak-ewma", Balance::PeakEwma),
    ("consistent-hash", Balance::ConsistentHash),
];

/// What `by` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Content,
    Address,
    Header,
    Cookie,
}

const HASH_BY: &[(&str, By)] =
    &[("content", By::Content), ("address", By::Address), ("header", By::Header), ("cookie", By::Cookie)];
const STICKY_BY: &[(&str, By)] = &[("address", By::Address), ("header", By::Header), ("cookie", By::Cookie)];

/// What a service says of it.
#[derive(Debug)]
pub(super) struct Choosing {
    pub(super) balance: Balance,
    pub(super) hash: Key,
    pub(super) sticky: Option<Sticky>,
    pub(super) slow_start: Duration,
    /// Of each upstream that says nothing else.
    pub(super) bears: Bears,
}

pub(super) fn read(table: &Table<'_>, kind: Option<Kind>, service: &ServiceName) -> Choosing {
    // Without a kind the file is refused anyway.
    let kind = kind.unwrap_or(Kind::Controller);
    let balance = table.or("balance", Balance::of(kind), one_of(BALANCE));
    Choosing {
        balance,
        hash: hash(table, kind, balance),
        sticky: sticky(table, service),
        slow_start: table.or("slow_start", Service::SLOW_START, duration_in(Duration::ZERO..=LONGEST_START)),
        bears: bears(table),
    }
}

/// The limits of an upstream, in its own table or for all of a service.
fn bears(table: &Table<'_>) -> Bears {
    let connections = table.sub("max_connections");
    let most = |table: &Table<'_>, key| table.opt(key, whole(1..=MOST_REQUESTS));
    Bears {
        requests: most(table, "max_requests"),
        control: most(&connections, "control"),
        bulk: most(&connections, "bulk"),
        pending: most(table, "max_pending"),
    }
}

fn hash(table: &Table<'_>, kind: Kind, balance: Balance) -> Key {
    let given = table.has("hash");
    if given && balance != Balance::ConsistentHash {
        let right = "delete it, or use `balance = \"consistent-hash\"`";
        table.fault("hash", format!("means nothing with `balance = \"{}\"`", balance.as_str()), right);
    }
    if !given && balance == Balance::ConsistentHash && kind == Kind::Controller {
        let right = "say what of a request is hashed: `hash = { by = \"address\" }`";
        table.fault("balance", "is `consistent-hash`, and there is no `hash`", right);
    }
    let own = table.sub("hash");
    if !given {
        return Key::Content;
    }
    let by = own.need("by", "by = \"address\"", one_of(HASH_BY));
    let by = by.unwrap_or(By::Address);
    if by == By::Content && kind == Kind::Controller {
        own.fault("by", "is `content`, which only registries have", "use `address`, `header` or `cookie`");
    }
    match by {
        By::Content => no_name(&own, by, Key::Content),
        By::Address => no_name(&own, by, Key::Address),
        By::Header => Key::Header(header(&own)),
        By::Cookie => {
            let name = own.need("name", "name = \"session\"", cookie_name);
            Key::Cookie(name.unwrap_or_default())
        }
    }
}

fn sticky(table: &Table<'_>, service: &ServiceName) -> Option<Sticky> {
    let given = table.has("sticky");
    let own = table.sub("sticky");
    if !given {
        return None;
    }
    match own.need("by", "by = \"address\"", one_of(STICKY_BY))? {
        By::Header => Some(Sticky::Header(header(&own))),
        // Of two services on one host each has its own, or they would overwrite each other's.
        By::Cookie => Some(Sticky::Cookie(own.or("name", format!("switchyard-{service}"), cookie_name))),
        by => Some(no_name(&own, by, Sticky::Address)),
    }
}

fn no_name<T>(own: &Table<'_>, by: By, value: T) -> T {
    if own.has("name") {
        let by = HASH_BY.iter().find(|(_, other)| *other == by).map_or("", |(word, _)| word);
        own.fault("name", format!("means nothing with `by = \"{by}\"`"), "delete it");
    }
    value
}

fn header(own: &Table<'_>) -> String {
    own.need("name", "name = \"x-client\"", header_name).unwrap_or_default()
}

fn header_name(given: &Given<'_>) -> Result<String, Wrong> {
    let name = text(given)?;
    if !is_token(name) {
        return Err(Wrong::new(format!("is `{name}`, no name of a header"), "use letters, digits and `-`"));
    }
    let name = name.to_ascii_lowercase();
    if name == "cookie" {
        return Err(Wrong::new("is `cookie`", "use `by = \"cookie\"` and the name of one"));
    }
    Ok(name)
}

fn cookie_name(given: &Given<'_>) -> Result<String, Wrong> {
    let name = text(given)?;
    if !is_token(name) {
        return Err(Wrong::new(
            format!("is `{name}`, no name of a cookie"),
            "use letters, digits, `-` and `_`",
        ));
    }
    Ok(name.to_owned())
}

/// RFC 9110 §5.6.2; cookies have the same (RFC 6265 §4.1.1).
fn is_token(text: &str) -> bool {
    text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What one of `upstreams` says of its part.
#[derive(Debug)]
pub(super) struct Part {
    weight: u32,
    zone: Option<ZoneName>,
    bears: Bears,
}

pub(super) fn part(entry: &Table<'_>) -> Part {
    Part {
        weight: entry.or("weight", 1, weight),
        zone: entry.opt("zone", named::<ZoneName>),
        bears: bears(entry),
    }
}

fn weight(given: &Given<'_>) -> Result<u32, Wrong> {
    match whole(0..=MOST_WEIGHT)(given) {
        Ok(0) => Err(Wrong::new("is `0`", "use 1 to 1000; to send it nothing, delete it here")),
        Err(Wrong { what, .. }) => Err(Wrong::new(what, "use a whole number from 1 to 1000")),
        good => good,
    }
}

impl Part {
    /// That upstream.
    pub(super) fn of(self, name: UpstreamName, address: Address) -> Upstream {
        let Self { weight, zone, bears } = self;
        Upstream { name, address, weight, zone, bears }
    }
}
