//! What makes one directory safe for several registries, each of which reads and writes.
//!
//! ```text
//! repositories/<name>/_catalogue/<generation>   each written once, by whoever was first
//! repositories/<name>/_pulls/<registry>.json    when each registry last gave a version away
//! ids/<template id>/<generation>                which repository has a template id
//! leases/<duty>/<generation>                    who collects garbage, and who reads all blobs
//! repositories/<name>/_taken/<hex>              what a repository was given and is about to lose; a trash of links
//! uploads/<registry>/ fills/<registry>/ tmp/<registry>/    one registry's own
//! .peers/<registry>/<run>.<number>              a new name every two seconds: who is alive, and how soon names are seen
//! ```
//!
//! No lock is held, and nothing that others read is replaced: what two registries may decide differently is decided by
//! `link(2)`, see [`ledger`]. Everything else has the place that it has in a directory of one process.

mod catalogues;
mod leases;
mod ledger;
mod names;
mod peers;

use std::time::Duration;

pub(super) use catalogues::Catalogues;
pub(super) use leases::{Leases, Term};
pub(super) use ledger::Ledger;
pub(super) use names::Names;
pub(super) use peers::Peers;

/// Generations that were followed by another one are kept for so long: somebody may be reading them.
const KEPT: Duration = Duration::from_secs(60);

/// What a registry's own folders are called: its name, as far as it can be one.
pub(super) fn folder(registry: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = registry.chars().map(fits).collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("-{rest}"),
        None => name,
    }
}

#[cfg(test)]
mod tests;
