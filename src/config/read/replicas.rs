//! The keys of `[service.NAME]` that say how registries store and which of them may answer a read.

use std::time::Duration;

use crate::{
    config::{
        proxy::{Freshness, Kind, Reads, StaleReads, Upstream},
        raw::{Table, quoted},
        report::Place,
        suggest,
        value::{duration_in, flag, one_of, text},
    },
    model::UpstreamName,
};

/// A read must be answered before its client gives up: the proxy waits for no longer than this, so that somebody can
/// still be asked.
const MOST_WAIT: Duration = Duration::from_millis(2500);

/// What `storage` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Shared,
    Replicated,
}

const STORAGE: &[(&str, Storage)] = &[("shared", Storage::Shared), ("replicated", Storage::Replicated)];

const FRESHNESS: &[(&str, Freshness)] =
    &[("position", Freshness::Position), ("catalogue", Freshness::Catalogue), ("none", Freshness::None)];

const STALE: &[(&str, StaleReads)] =
    &[("writer-lost", StaleReads::WriterLost), ("never", StaleReads::Never), ("allow", StaleReads::Allow)];

/// The place of the writer, and which registry may answer a read.
pub(super) fn read(
    table: &Table<'_>,
    kind: Option<Kind>,
    upstreams: Option<&[(Upstream, Place)]>,
) -> (Option<usize>, Reads) {
    let storage = table.opt("storage", one_of(STORAGE));
    let writer_name = table.opt("writer", |given| text(given).map(str::to_owned));
    let freshness = table.opt("freshness", one_of(FRESHNESS));
    let write_only = table.opt("write_only", flag);
    let stale = table.opt("stale_reads", one_of(STALE));
    let wait = table.opt("fresh_wait", duration_in(Duration::ZERO..=MOST_WAIT));
    let keys = ["storage", "freshness", "write_only", "stale_reads", "fresh_wait"];
    if kind == Some(Kind::Controller) {
        if table.has("writer") {
            table.fault("writer", "is given for controllers", "every controller takes writes: delete it");
        }
        for key in keys.into_iter().filter(|key| table.has(key)) {
            table.fault(key, "is given for controllers", "only registries have copies: delete it");
        }
        return (None, Reads::default());
    }
    let replicated = table.has("writer");
    match storage {
        Some(Storage::Replicated) if !replicated => {
            let right = "name the registry that takes writes: `writer = \"r1\"`";
            table.fault("storage", "is `replicated`, but there is no `writer`", right);
        }
        Some(Storage::Shared) if replicated => {
            let right = "delete it, or use `storage = \"replicated\"`";
            table.fault("writer", "is given, but on shared storage every registry takes writes", right);
        }
        _ => {}
    }
    let count = upstreams.map_or(1, <[_]>::len);
    if write_only == Some(true) && replicated && count == 1 && !table.has("discovery") {
        let right = "delete it, or name the replicas among the `upstreams`";
        table.fault("write_only", "leaves nobody to read from: the writer is the only upstream", right);
    }
    if !replicated && !table.has("storage") && count > 1 {
        let what = format!("has {count} registries, and neither `writer` nor `storage` says what they are");
        let right = "name the one that takes writes, `writer = \"r1\"`, or, if all of them serve one directory, say \
                     `storage = \"shared\"`";
        table.fault("upstreams", what, right);
    }
    if !replicated {
        if write_only == Some(true) {
            let right = "delete it, or name the registry that takes writes: `writer = \"r1\"`";
            table.fault("write_only", "is given without a `writer`", right);
        }
        let what = match freshness {
            Some(Freshness::Position) => "is `position`, but shared storage has no positions",
            Some(Freshness::Catalogue) => "is `catalogue`, but there is no `writer` to compare lists with",
            Some(Freshness::None) | None => "",
        };
        if !what.is_empty() {
            let right = "use `none`, or name the registry that takes writes: `writer = \"r1\"`";
            table.fault("freshness", what, right);
        }
    }
    let default = if replicated { Reads::REPLICATED } else { Reads::default() };
    let reads = Reads {
        freshness: freshness.unwrap_or(default.freshness),
        write_only: write_only.unwrap_or(false),
        stale: stale.unwrap_or(default.stale),
        fresh_wait: wait.unwrap_or(default.fresh_wait),
    };
    if reads.freshness == Freshness::None && freshness.is_none_or(|given| given == Freshness::None) {
        for key in ["stale_reads", "fresh_wait"].into_iter().filter(|key| table.has(key)) {
            let right = "delete it, or use `freshness = \"position\"` with a `writer`";
            table.fault(key, "means nothing without positions to go by", right);
        }
    }
    if reads.freshness == Freshness::Catalogue && table.has("fresh_wait") {
        let right = "delete it: a list that differs now differs for longer than a read can wait";
        table.fault("fresh_wait", "means nothing with `freshness = \"catalogue\"`", right);
    }
    (writer_name.and_then(|name| place(table, "writer", &name, upstreams)), reads)
}

/// Where the upstream that a key names stands among them.
pub(super) fn place(
    table: &Table<'_>,
    key: &'static str,
    name: &str,
    upstreams: Option<&[(Upstream, Place)]>,
) -> Option<usize> {
    let names: Vec<&UpstreamName> = upstreams?.iter().map(|(upstream, _)| &upstream.name).collect();
    let names: Vec<&str> = names.into_iter().map(UpstreamName::as_str).collect();
    let found = names.iter().position(|known| *known == name);
    if found.is_none() {
        let right = match suggest::nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            // One that is found could be anybody who may write there: it takes no writes.
            None if names.is_empty() => {
                "list it among the `upstreams`: one that `discovery` finds takes no writes".into()
            }
            None => format!("known: {}", quoted(&names)),
        };
        table.fault(key, format!("is `{name}`, which is no upstream of this service"), right);
    }
    found
}
