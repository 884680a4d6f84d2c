//! Looks at the files of certificates, keys and revocation lists again and again, so that renewed ones are taken
//! without anybody asking, and says in time what will end.
//!
//! They are read whole and compared by what is in them, every [`tls::LOOK`]: no notification of a file system reaches
//! through every mount, and tools renew files in every way there is. What is wrong leaves in use what was before.

use std::{collections::BTreeSet, sync::Arc};

use tracing::{error, warn};

use super::snapshot::{Live, Snapshot};
use crate::{
    clock,
    model::Timestamp,
    tls::{self, Facts, Told},
};

/// Looks until it is dropped.
pub(super) async fn watch(live: Arc<Live>) {
    let mut watcher = Watcher::default();
    loop {
        tokio::time::sleep(tls::LOOK).await;
        let snapshot = live.load();
        // Reading blocks, and may for long where files are far away.
        let looked = tokio::task::spawn_blocking(move || {
            watcher.look(&snapshot);
            watcher
        });
        match looked.await {
            Ok(back) => watcher = back,
            Err(failed) => {
                error!(error = %failed, "looking at certificates ended badly and is begun anew");
                watcher = Watcher::default();
            }
        }
    }
}

/// What was said already.
#[derive(Debug, Default)]
struct Watcher {
    told: Told,
    /// What ends, and the day on which it was said.
    ends: BTreeSet<(String, i64)>,
}

impl Watcher {
    fn look(&mut self, snapshot: &Snapshot) {
        for listener in &snapshot.listeners {
            if let Some(tls) = &listener.tls {
                let of = format!("listener `{}`", listener.name);
                self.told.say(&of, tls.refresh());
                self.warn(&of, tls.facts(), clock::wall());
            }
        }
        for service in &snapshot.services {
            if let Some(tls) = &service.tls {
                self.told.say(&format!("service `{}`", service.name), tls.refresh());
            }
        }
    }

    /// Says what ends soon.
    fn warn(&mut self, of: &str, facts: Facts, now: Timestamp) {
        let day = now.unix_seconds() / (24 * 3600);
        self.ends.retain(|(_, said)| *said == day);
        for (what, until) in ending(facts, now) {
            if self.ends.insert((format!("{of} {what}"), day)) {
                warn!(tls.of = of, tls.what = what, until = %until, "it ends soon or has ended: renew it");
            }
        }
    }
}

/// What of it ends soon, or has ended.
pub(super) fn ending(facts: Facts, now: Timestamp) -> impl Iterator<Item = (&'static str, Timestamp)> {
    let all = [("certificate", Some(facts.certificate_until)), ("revocation list", facts.list_until)];
    all.into_iter()
        .filter_map(move |(what, until)| Some((what, until?)))
        .filter(move |(_, u)| tls::ends_soon(*u, now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_ends_within_a_week_is_said_and_nothing_else() {
        let now = Timestamp::from_unix_seconds(1_000_000_000);
        let day = Duration::from_secs(24 * 3600);
        let of = |certificate_until, list_until| {
            ending(Facts { certificate_until, list_until }, now).map(|(what, _)| what).collect::<Vec<_>>()
        };
        assert!(of(now.plus(day * 8), None).is_empty());
        assert_eq!(of(now.plus(day * 6), Some(now.plus(day * 8))), ["certificate"]);
        assert_eq!(of(now.plus(day * 8), Some(Timestamp::NEVER)), ["revocation list"]);
    }
}
