//! Watches the members of a cluster in etcd.

use std::{collections::BTreeSet, future::pending, time::Duration};

use super::{
    Teller,
    roster::{Refused, Roster},
};
use crate::{
    clock,
    config::Etcd,
    store::{Event, Range, Store, StoreError, WatchItem, etcd::EtcdStore, keys::Keys},
};

/// For one request to the store.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait before listing again after a failure; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Refusals that are remembered so that each is said once. Full: it begins anew.
const REMEMBERED: usize = 256;

/// Watches until it is dropped.
pub(super) async fn watch(etcd: &Etcd, cluster: &str, role: &str, most: usize, teller: &Teller) {
    let store = match EtcdStore::open(etcd, PATIENCE).await {
        Ok(store) => store,
        Err(error) => {
            // It opens nothing: this is for ever.
            teller.stands(Some(&error.to_string()));
            return pending().await;
        }
    };
    let mut watcher = Watcher {
        store,
        prefix: Keys::new(cluster).members(role),
        most,
        roster: Roster::new(most),
        teller,
        told: BTreeSet::new(),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = clock::now();
        let why = match watcher.follow().await {
            Ok(why) => why,
            Err(error) => {
                teller.stands(Some(&error.to_string()));
                error.to_string()
            }
        };
        tracing::debug!(error = %why, "members are listed anew");
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Watcher<'a, S> {
    store: S,
    prefix: String,
    most: usize,
    roster: Roster,
    teller: &'a Teller,
    told: BTreeSet<Refused>,
}

impl<S: Store> Watcher<'_, S> {
    /// Lists and watches until that breaks; says why it did.
    async fn follow(&mut self) -> Result<String, StoreError> {
        // One more than are taken, so that it is seen when there are more.
        let most = i64::try_from(self.most).unwrap_or(i64::MAX).saturating_add(1);
        let all = self.store.range(Range::prefix(&self.prefix).limit(most)).await?;
        // Open before the list counts: nothing between the two is missed.
        let mut watch = self.store.watch(&self.prefix, all.revision + 1).await?;
        let keys: Vec<(&str, &[u8])> = all
            .kvs
            .iter()
            .filter_map(|kv| Some((kv.key.strip_prefix(&self.prefix)?, kv.value.as_ref())))
            .collect();
        let refused = self.roster.listed(&keys, clock::now());
        self.say(refused);
        self.teller.stands(None);
        loop {
            let leaves = self.roster.expire(clock::now());
            self.teller.tell(self.roster.list());
            let item = tokio::select! {
                item = watch.next() => item,
                () = at(leaves) => continue,
            };
            match item {
                Some(Ok(WatchItem::Events { events, .. })) => {
                    for event in &events {
                        self.take(event);
                    }
                }
                Some(Ok(WatchItem::Progress(_))) => {}
                Some(Ok(WatchItem::Compacted { oldest })) => {
                    return Ok(format!("the watch was compacted up to {oldest}"));
                }
                Some(Err(error)) => return Err(error),
                None => return Ok("the watch ended".into()),
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let now = clock::now();
        let Some(name) = event.key().strip_prefix(&self.prefix) else { return };
        match event {
            Event::Put(kv) => {
                let refused = self.roster.put(name, &kv.value, now);
                self.say(refused);
            }
            Event::Deleted { .. } => self.roster.gone(name, now),
        }
    }

    fn say(&mut self, refused: impl IntoIterator<Item = Refused>) {
        for refused in refused {
            if self.told.len() >= REMEMBERED {
                self.told.clear();
            }
            if self.told.insert(refused.clone()) {
                let Refused { name, why } = refused;
                let service = &self.teller.service;
                tracing::warn!(service.name = %service, member.name = name, why, "a member is not believed");
            }
        }
    }
}

async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}
