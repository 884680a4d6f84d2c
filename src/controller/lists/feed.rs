//! Keeps the cache fed: lists, watches from there, and lists anew whenever the watch cannot be trusted.

use std::time::Duration;

use tokio::time::Instant;

use super::{Cache, Effects, Lists};
use crate::{
    clock,
    controller::{Health, numbers::Numbers},
    http::Readiness,
    store::{Consistency, Revision, WatchItem},
    supervise::Stop,
};

/// Keys of one page of a listing: small enough that a page of large records stays under gRPC's message limit.
pub(super) const PAGE: i64 = 500;

/// How often `head` is read to learn whether the store answers and the watch tells everything.
const PROBE: Duration = Duration::from_secs(1);

/// A `head` that the watch did not tell of for so long: it is silent, and everything is listed anew.
const SILENT: Duration = Duration::from_secs(3);

/// How long to wait before listing again after a failure; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Feeds [`Lists`], and hands on what changed.
pub(in crate::controller) struct Feed<F> {
    pub(in crate::controller) lists: Lists,
    pub(in crate::controller) health: Health,
    pub(in crate::controller) tell: F,
}

/// What the feed tells: changes in order, or that everything may have changed.
pub(in crate::controller) enum Told {
    Changes(Effects),
    Everything,
}

impl<F: FnMut(Told) + Send> Feed<F> {
    /// Runs until `stop`.
    pub(in crate::controller) async fn run(mut self, stop: Stop) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_requested() {
            let began = clock::now();
            let why = self.follow(&stop).await;
            if stop.is_requested() {
                return;
            }
            tracing::info!(error = %why, "cache is listed anew");
            self.health.set_cache(Some(why));
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let jitter = pause.mul_f64(rand::random_range(0.5..1.5));
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(jitter) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Lists and watches until that breaks; answers why it did.
    async fn follow(&mut self, stop: &Stop) -> String {
        let cache = match self.lists.load().await {
            Ok(cache) => cache,
            Err(error) => return error.to_string(),
        };
        if let Some(why) = cache.forbidden() {
            return self.forbidden(why.to_owned());
        }
        let from = cache.applied() + 1;
        // The watch is open before the cache counts as live: nothing between the two is missed.
        let mut watch = match self.lists.inner.store.watch(self.lists.inner.keys.root(), from).await {
            Ok(watch) => watch,
            Err(error) => return error.to_string(),
        };
        self.replace(cache);
        loop {
            let item = tokio::select! {
                () = stop.requested() => return "stopped".into(),
                () = self.lists.inner.relist.notified() => return "the watch cannot be trusted".into(),
                item = watch.next() => item,
            };
            match item {
                Some(Ok(WatchItem::Events { revision, events })) => {
                    let effects = self.lists.apply(revision, &events);
                    self.health.set_unreadable(self.lists.peek(Cache::unreadable));
                    if let Some(why) = self.lists.peek(|cache| cache.forbidden().map(str::to_owned)) {
                        return self.forbidden(why);
                    }
                    (self.tell)(Told::Changes(effects));
                }
                // Says that the watch lives, not that everything before was delivered to us.
                Some(Ok(WatchItem::Progress(_))) => {}
                Some(Ok(WatchItem::Compacted { oldest })) => {
                    return format!("the watch was compacted up to {oldest}");
                }
                Some(Err(error)) => return error.to_string(),
                None => return "the watch ended".into(),
            }
        }
    }

    /// Serves nothing more, until the store says otherwise.
    fn forbidden(&self, why: String) -> String {
        if self.health.loaded() || self.health.ready().why.iter().all(|said| !said.contains(&why)) {
            tracing::error!(why, "store must be left alone");
        }
        self.health.set_unloaded();
        why
    }

    fn replace(&mut self, cache: Cache) {
        self.lists.replace(cache);
        self.health.set_unreadable(self.lists.peek(Cache::unreadable));
        self.health.set_cache(None);
        self.health.set_loaded();
        (self.tell)(Told::Everything);
    }
}

/// Reads `head` again and again: keeps [`Health`] right while nobody calls, and finds out a silent watch.
pub(in crate::controller) async fn probe(lists: Lists, numbers: Numbers, stop: Stop) {
    let mut behind: Option<(Revision, Instant)> = None;
    loop {
        tokio::select! {
            () = stop.requested() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
        let key = lists.inner.keys.head();
        let before = lists.applied();
        let Ok(got) = lists.inner.store.get(&key, Consistency::Linearizable).await else {
            behind = None;
            continue;
        };
        let head = got.kv.map_or(0, |kv| kv.mod_revision);
        let applied = lists.applied();
        if head < before {
            // It says why, and has all listed anew.
            lists.caught_up(before, head).await;
            behind = None;
            continue;
        }
        behind = match behind {
            _ if applied >= head || !lists.inner.health.cache_live() => None,
            Some((missing, since)) if applied < missing => {
                if since.elapsed() >= SILENT {
                    tracing::warn!(store.revision = missing, "watch did not tell of a write that was made");
                    lists.inner.relist.notify_one();
                    None
                } else {
                    Some((missing, since))
                }
            }
            _ => Some((head, clock::now())),
        };
        numbers.behind(behind.map_or(Duration::ZERO, |(_, since)| since.elapsed()));
    }
}
