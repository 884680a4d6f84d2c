//! Keeps the event log within its bounds, and tells the receiver of `[events] url` of each event, in order.
//!
//! How far the receiver is stands in the store, so the next controller goes on from there. It is written after the
//! receiver has answered: an event may come twice, and has an id by which that is seen.

use std::{sync::atomic::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Pass;
use crate::{
    client::{ClientError, Webhook},
    clock,
    controller::{
        lists::EventPlace,
        ops::{Ops, OpsError, Pushed},
        records,
        writes::{Draft, Fence, Outcome, Patience},
    },
    store::{Consistency, Revision},
    wire::events::{Event, Placed},
};

/// Events that are kept at most, however young.
pub(super) const MOST: usize = 10_000;

/// Keys that one transaction deletes.
const AT_ONCE: usize = 90;

/// Events of one pass: after those how far it is is written down.
const PIECE: usize = 100;

/// How long the receiver may take for one. Longer: it has not taken it.
const ANSWER: Duration = Duration::from_secs(5);

/// How long one pass may tell: the log is trimmed in between.
const PASS: Duration = Duration::from_secs(8);

/// Between two tries, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far the receiver is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    revision: Revision,
}

#[derive(Default)]
pub(super) struct Events {
    hook: Option<Webhook>,
    /// It could not be made: said once.
    told: bool,
    /// Of which leadership, how far it is, and the revision of the key that says so.
    at: Option<(Fence, Position, Revision)>,
    /// The same revision, while the key is read anew.
    reached: Revision,
    failures: u32,
    not_before: Option<Instant>,
}

impl Pass for Events {
    const NAME: &'static str = "events";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let told = &ops.inner.config.events;
        if let (Some(url), None, false) = (told.url.clone(), &self.hook, self.told) {
            match Webhook::new(url, told.tls.clone(), ANSWER) {
                Ok(hook) => self.hook = Some(hook),
                Err(error) => {
                    tracing::error!(%error, "events cannot be told: no client of the receiver can be made");
                    self.told = true;
                }
            }
        }
        let told = self.push(ops, held).await;
        // Whatever is wrong with the receiver, or with how far it is: the log has its bounds.
        let trimmed = self.trim(ops, held).await?;
        Ok(told? + trimmed)
    }
}

impl Events {
    async fn push(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        if self.hook.is_none() {
            return Ok(0);
        }
        self.find_position(ops, held).await?;
        self.tell(ops, held).await
    }

    async fn find_position(&mut self, ops: &Ops, held: &Fence) -> Result<(), OpsError> {
        if self.at.as_ref().is_some_and(|(fence, ..)| fence == held) {
            return Ok(());
        }
        let got = ops.inner.store.get(&ops.inner.keys.event_position(), Consistency::Linearizable).await;
        let found = got.map_err(|error| OpsError::unavailable(error.to_string()))?.kv;
        let (position, revision) = match found {
            Some(kv) => (records::decode(&kv.value)?, kv.mod_revision),
            // Nobody was ever told anything: it begins with what there is.
            None => (Position::default(), 0),
        };
        self.reached = position.revision;
        self.at = Some((held.clone(), position, revision));
        Ok(())
    }

    /// Tells what was not told yet, until one is not taken.
    async fn tell(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let (Some(hook), Some((_, position, at))) = (&self.hook, &self.at) else { return Ok(0) };
        let waiting = ops.inner.lists.peek(|cache| cache.events().after_revision(position.revision).count());
        ops.pushed().waiting.store(i64::try_from(waiting).unwrap_or(i64::MAX), Ordering::Relaxed);
        if waiting == 0 || self.not_before.is_some_and(|then| clock::now() < then) {
            return Ok(0);
        }
        let batch = ops.inner.lists.peek(|cache| piece(cache.events().after_revision(position.revision)));
        let until = clock::now() + PASS;
        let (mut told, mut upto) = (0, position.revision);
        for placed in &batch {
            match hook.post(placed).await {
                Ok(()) => Pushed::add(&ops.pushed().sent, 1),
                Err(ClientError::Refused { status, message, .. }) if for_good(status) => {
                    Pushed::add(&ops.pushed().lost, 1);
                    tracing::warn!(
                        event.id = %placed.event.id, receiver = %hook.shown(), status, error = %message,
                        "the receiver of events refuses one for good; it is passed over"
                    );
                }
                Err(error) => {
                    Pushed::add(&ops.pushed().failed, 1);
                    let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
                    if self.failures == 0 {
                        let error = crate::telemetry::chain(&error);
                        tracing::warn!(receiver = %hook.shown(), %error, waiting, "events are not taken; they wait");
                    }
                    self.failures = self.failures.saturating_add(1);
                    self.not_before = Some(clock::now() + pause.mul_f64(rand::random_range(0.5..1.0)));
                    break;
                }
            }
            if self.failures > 0 {
                tracing::info!(receiver = %hook.shown(), "events are taken again");
                (self.failures, self.not_before) = (0, None);
            }
            told += 1;
            // In the middle of a revision nobody may go on.
            if batch.get(told).is_none_or(|next| next.revision != placed.revision) {
                upto = placed.revision;
            }
            if clock::now() >= until {
                break;
            }
        }
        if upto > position.revision {
            let next = Position { revision: upto };
            let key = ops.inner.keys.event_position();
            let draft = Draft::new(&key).at(&key, *at).fenced(Some(held)).put(&key, &next)?;
            // Lost, or not known: it is read anew, and what was told since is told once more.
            self.at = None;
            if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
                self.reached = upto;
                ops.pushed().waiting.fetch_sub(i64::try_from(told).unwrap_or(0), Ordering::Relaxed);
            }
        }
        Ok(told)
    }

    /// Forgets what is too old, and the oldest of what is too much.
    async fn trim(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let (keep, now) = (ops.inner.config.events.keep, ops.inner.clocks.believed());
        let old = |event: &Event| now.is_some_and(|now| now.since(event.time) > keep);
        let over: Vec<EventPlace> = ops.inner.lists.peek(|cache| {
            let excess = cache.events().count().saturating_sub(MOST);
            let all = cache.events().after(None).enumerate();
            let over = all.take_while(|(at, (_, event))| *at < excess || old(event));
            over.map(|(_, (place, _))| place.clone()).take(AT_ONCE * 10).collect()
        });
        let mut done = 0;
        for some in over.chunks(AT_ONCE) {
            let Some((_, first)) = some.first() else { break };
            let mut draft = Draft::new(ops.inner.keys.event(first)).fenced(Some(held));
            for (_, id) in some {
                draft = draft.delete(ops.inner.keys.event(id));
            }
            let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? else { break };
            done += some.len();
            let lost = some.iter().filter(|(revision, _)| *revision > self.reached).count();
            if lost > 0 && self.hook.is_some() {
                Pushed::add(&ops.pushed().lost, lost as u64);
                tracing::warn!(lost, "events were forgotten before their receiver took them");
            }
        }
        Ok(done)
    }
}

/// The first of them, whole revisions.
fn piece<'a>(all: impl Iterator<Item = (&'a EventPlace, &'a std::sync::Arc<Event>)>) -> Vec<Placed> {
    let mut batch: Vec<Placed> = Vec::new();
    for ((revision, _), event) in all {
        if batch.len() >= PIECE && batch.last().is_some_and(|last| last.revision != *revision) {
            break;
        }
        batch.push(Placed { revision: *revision, event: Event::clone(event) });
    }
    batch
}

/// Whether a receiver that answers so will never take it. What may be a matter of time or of its settings is not.
fn for_good(status: u16) -> bool {
    matches!(status, 400 | 406 | 409 | 410 | 411 | 413 | 414 | 415 | 422)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{model::Timestamp, wire::events::Action};

    #[test]
    fn a_piece_never_ends_within_a_revision() {
        let event = Arc::new(Event::new(Action::StartVM, Timestamp::NEVER));
        let places: Vec<EventPlace> = (0..300).map(|n| (n / 7, n.to_string())).collect();
        let batch = piece(places.iter().map(|place| (place, &event)));
        assert_eq!(batch.len(), 105);
        assert_eq!(batch.last().unwrap().revision, 14);
        assert!(piece(std::iter::empty()).is_empty());
    }

    #[test]
    fn what_may_be_a_matter_of_time_is_tried_again() {
        for status in [401, 403, 404, 408, 429, 500, 502, 503] {
            assert!(!for_good(status), "{status}");
        }
        assert!(for_good(400) && for_good(422));
    }
}
