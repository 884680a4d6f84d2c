//! Keeps the cache fed: lists, watches from there, goes on when the watch merely broke, and lists anew whenever it cannot be
//! trusted.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Cache, Effects, Lists};
use crate::{
    clock,
    controller::{Health, clocks::Clocks, numbers::Numbers},
    http::Readiness,
    store::{Consistency, Event, Range, Revision, StoreError, Txn, Watch, WatchItem},
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
    pub(in crate::controller) clocks: Clocks,
    pub(in crate::controller) tell: F,
}

/// What the feed tells: changes in order, or that everything may have changed.
pub(in crate::controller) enum Told {
    Changes(Effects),
    Everything,
}

/// Why a watch is over.
enum Ended {
    /// It broke. What is in the cache holds, and another one goes on from there.
    Broke(String),
    /// It, or the cache, is not to be trusted.
    Anew(String),
}

impl Ended {
    /// By an error of the store on the way back to it.
    fn by(error: &StoreError) -> Self {
        if error.may_pass() { Self::Broke(error.to_string()) } else { Self::Anew(error.to_string()) }
    }
}

/// What a watch begins with.
struct Begun {
    watch: Watch,
    /// What `head` held as the cache shows it: whether it is still the same history is known by that.
    head: Bytes,
    /// The cache counts as live when it has this `head`.
    live_at: Revision,
}

impl<F: FnMut(Told) + Send> Feed<F> {
    /// Runs until `stop`.
    pub(in crate::controller) async fn run(mut self, stop: Stop) {
        let mut pause = FIRST_PAUSE;
        // What `head` holds as the cache shows it, if the cache can be gone on with.
        let mut known: Option<Bytes> = None;
        while !stop.is_requested() {
            let began = clock::now();
            let begun = match known.take() {
                Some(head) => self.go_on(head, &mut known).await,
                None => self.list().await,
            };
            let ended = match begun {
                Ok(begun) => self.follow(begun, &mut known, &stop).await,
                Err(ended) => ended,
            };
            if stop.is_requested() {
                return;
            }
            let why = match ended {
                Ended::Broke(why) if known.is_some() => {
                    tracing::info!(error = %why, "watch of the store broke, and is begun again from there");
                    why
                }
                Ended::Broke(why) | Ended::Anew(why) => {
                    tracing::info!(error = %why, "cache is listed anew");
                    known = None;
                    why
                }
            };
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

    /// Lists everything, and watches from there.
    async fn list(&mut self) -> Result<Begun, Ended> {
        let anew = |error: StoreError| Ended::Anew(error.to_string());
        let (cache, head) = self.lists.load().await.map_err(anew)?;
        if let Some(why) = cache.forbidden() {
            return Err(Ended::Anew(self.forbidden(why.to_owned())));
        }
        let from = cache.applied() + 1;
        // The watch is open before the cache counts as live: nothing between the two is missed.
        let inner = &self.lists.inner;
        let watch = inner.store.watch(inner.keys.root(), from).await.map_err(anew)?;
        self.replace(cache);
        Ok(Begun { watch, head, live_at: 0 })
    }

    /// Watches again from where the cache is, if the store still has the history that the cache was made of: one that was
    /// restored from a backup has another, and may be as far by now.
    async fn go_on(&mut self, head: Bytes, known: &mut Option<Bytes>) -> Result<Begun, Ended> {
        let (shown, applied) = self.lists.peek(|cache| (cache.head(), cache.applied()));
        let inner = &self.lists.inner;
        let key = inner.keys.head();
        let then = Range { start: key.clone(), end: format!("{key}\0"), ..Range::prefix(&key) };
        let went_on = async {
            let watch = inner.store.watch(inner.keys.root(), applied + 1).await?;
            let then = inner.store.range(then.at(applied)).await?.kvs.pop();
            let now = inner.store.get(&key, Consistency::Linearizable).await?.kv;
            Ok((watch, then, now.map_or(0, |kv| kv.mod_revision)))
        };
        let (watch, then, now) = went_on.await.map_err(|error| {
            *known = Some(head.clone());
            Ended::by(&error)
        })?;
        if then.is_none_or(|kv| kv.mod_revision != shown || kv.value != head) {
            return Err(Ended::Anew("the store has another history than the cache".to_owned()));
        }
        Ok(Begun { watch, head, live_at: now })
    }

    /// Takes in what the watch tells until that is over; `known` is what the next one may go on with.
    async fn follow(&mut self, begun: Begun, known: &mut Option<Bytes>, stop: &Stop) -> Ended {
        let Begun { mut watch, mut head, live_at } = begun;
        let key = self.lists.inner.keys.head();
        let mut live = false;
        loop {
            if !live && self.lists.applied() >= live_at {
                live = true;
                self.health.set_cache(None);
            }
            let item = tokio::select! {
                () = stop.requested() => return Ended::Anew("stopped".into()),
                () = self.lists.inner.relist.notified() => {
                    return Ended::Anew("the watch cannot be trusted".into());
                }
                item = watch.next() => item,
            };
            let broke = match item {
                Some(Ok(WatchItem::Events { revision, events })) => {
                    let last = events.iter().rev().find_map(|event| match event {
                        Event::Put(kv) if kv.key == key => Some(kv.value.clone()),
                        _ => None,
                    });
                    // What comes while it catches up was written a while ago.
                    if let Some(last) = last.as_ref().filter(|_| live) {
                        self.clocks.heard(last);
                    }
                    head = last.unwrap_or(head);
                    let effects = self.lists.apply(revision, &events);
                    self.health.set_unreadable(self.lists.peek(Cache::unreadable));
                    if let Some(why) = self.lists.peek(|cache| cache.forbidden().map(str::to_owned)) {
                        return Ended::Anew(self.forbidden(why));
                    }
                    (self.tell)(Told::Changes(effects));
                    continue;
                }
                // Says that the watch lives, not that everything before was delivered to us.
                Some(Ok(WatchItem::Progress(_))) => continue,
                Some(Ok(WatchItem::Compacted { oldest })) => {
                    return Ended::Anew(format!("the watch was compacted up to {oldest}"));
                }
                Some(Err(error)) => Ended::by(&error),
                None => Ended::Broke("the watch ended".into()),
            };
            // Without a `head` nothing tells one history from another.
            *known = Some(head).filter(|head| !head.is_empty());
            return broke;
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
        if lists.inner.health.store_full() {
            // Nobody sends it writes any more, so somebody has to find out that it has room again.
            lists.inner.store.txn(Txn::new().put(&key, r#"{"v":1,"w":"room"}"#)).await.ok();
        }
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
