//! The questions that are asked for ever: the writer's log, and each registry's state.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{Shared, Told};
use crate::{
    client::{
        ClientError,
        replication::{LogAnswer, Replication},
    },
    clock,
    proxy::freshness::{LEASE, Polled},
    telemetry::chain,
    wire::replication::{self as wire, Changed, LogHead, LogQuery, Role},
};

/// A poll of the log is parked for so long: a third of the lease, so that one lost answer costs no lease.
const PARK: Duration = Duration::from_millis(660);

/// A question for a state is parked for so long.
pub(super) const STATE_PARK: Duration = Duration::from_secs(10);

/// The writer's state is for people: it is not asked more often than this.
const WRITER_PAUSE: Duration = Duration::from_secs(1);

/// A registry without a position has nothing to wait for: it is asked again so much later.
const UNCLAIMED_PAUSE: Duration = Duration::from_millis(250);

/// An answer that should have been parked and brings nothing new is followed by the next question no sooner.
const LEAST: Duration = Duration::from_millis(100);

/// A registry that has told its position is asked again no sooner. One that catches up has another one each time, and
/// each wakes every request that waits.
const BREATH: Duration = Duration::from_millis(20);

/// One whose answers speak against what it has told is asked anew at once, but no more often than this.
const DOUBT: Duration = Duration::from_millis(250);

/// Pauses after failures: from the first, doubled up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

impl Shared {
    /// Completes when an answer of this registry has spoken against what it told.
    async fn doubt(&self, place: usize) {
        match self.doubts.get(place) {
            Some(doubts) => doubts.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Takes an answer of the log in. Says whether it was one that the next poll can go on from.
    fn polled(
        &self,
        place: usize,
        answer: Result<LogAnswer, ClientError>,
        sent: Duration,
    ) -> Result<Progress, String> {
        if let Ok(LogAnswer::Lines(head, _)) = &answer {
            let epoch = head.epochs.iter().map(|epoch| epoch.epoch).fold(head.head.epoch, u64::max);
            self.told_role(place, head.role, epoch);
        }
        match answer {
            Ok(LogAnswer::Lines(head, _)) if head.role != Role::Writer => {
                Err(self.reign().deposed().unwrap_or_else(|| "it says that it is a replica".into()))
            }
            Ok(LogAnswer::Lines(head, lines)) => {
                let mut changes = Vec::with_capacity(lines.len());
                for line in lines {
                    let changed: Changed = serde_json::from_slice(&line)
                        .map_err(|error| format!("the writer's log has a line that is no change: {error}"))?;
                    if changed.position > head.upto {
                        return Err(format!(
                            "the writer's log tells a change at {}, beyond what it covers: {}",
                            changed.position, head.upto
                        ));
                    }
                    changes.push((changed.position, changed.repository));
                }
                let LogHead { head, upto, mark, lease, epochs, .. } = head;
                let reigns = epochs.iter().map(|reign| (reign.epoch, reign.after)).collect();
                let deposed = self.reign().deposed();
                // One that another has succeeded knows nothing of what that one acknowledges.
                let lease = if deposed.is_some() { Duration::ZERO } else { Duration::from_millis(lease) };
                let mut core = self.core_mut();
                let moved = core.after().is_none_or(|(after, _)| upto > after);
                let now = clock::boot();
                let known = core.polled(Polled { head, upto, mark, changes, reigns, lease }, sent, now);
                let live = core.lease_live(now);
                drop(core);
                if !known {
                    return Err(
                        "the writer's log went back behind what it had told: its history is another".into()
                    );
                }
                if let Some(why) = deposed {
                    self.set_trouble(why);
                } else if lease.is_zero() {
                    self.set_trouble("the writer has given none");
                } else if live {
                    // Nothing is wrong; should it run out, this is why.
                    self.set_trouble("the writer has not answered for longer than a lease lasts");
                } else if now >= sent + lease.min(LEASE) {
                    self.set_trouble("the writer answers so late that its lease has run out by then");
                } else {
                    self.set_trouble("the changes of the meantime are still being read");
                }
                Ok(if moved { Progress::Moved } else { Progress::None })
            }
            Ok(LogAnswer::Diverged(diverged)) => {
                self.core_mut().diverged(diverged.common);
                Err(format!("the writer's history is another: {}", diverged.error))
            }
            Ok(LogAnswer::Compacted(compacted)) => {
                self.core_mut().compacted();
                Err(format!("the writer's log does not go back so far: {}", compacted.error))
            }
            Err(error) => Err(chain(&error)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Moved,
    None,
}

/// Polls for ever. What an answer brought is noted before the poll that confirms it is sent, and the lease is counted
/// from when its poll was sent.
pub(super) async fn log(shared: &Shared, place: usize, client: &Replication) {
    let mut pause = PAUSE[0];
    // The first poll, and one after a failure, is answered at once: without a lease every read waits for it.
    let mut at_once = true;
    loop {
        let after = shared.core().after();
        let query = match after {
            None => LogQuery::default(),
            Some((after, mark)) => LogQuery {
                after: Some(after),
                mark: Some(mark),
                proxy: Some(shared.proxy.clone()),
                wait: Some(if at_once { 0 } else { millis(PARK) }),
                ..LogQuery::default()
            },
        };
        let sent = clock::boot();
        let answer = if at_once {
            client.log(&query).await
        } else {
            // One that comes later gives no lease any more.
            let late = |_| ClientError::Silent { url: client.base().join(wire::LOG), within: LEASE };
            tokio::time::timeout(LEASE, client.log(&query)).await.unwrap_or_else(|e| Err(late(e)))
        };
        match shared.polled(place, answer, sent) {
            Ok(progress) => {
                pause = PAUSE[0];
                let parked = !at_once && after.is_some();
                at_once = after.is_none();
                shared.tell();
                shared.say_lease();
                if parked && progress == Progress::None && clock::boot().saturating_sub(sent) < LEAST {
                    tokio::time::sleep(LEAST).await;
                }
            }
            Err(why) => {
                shared.set_trouble(why);
                shared.tell();
                shared.say_lease();
                at_once = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE[1]);
            }
        }
    }
}

/// Asks for ever. A registry that does not answer keeps the position it told last: it may be slow, and it never goes
/// back without saying so.
pub(super) async fn state(shared: &Shared, place: usize, client: &Replication, is_writer: bool) {
    let mut pause = PAUSE[0];
    let mut after = None;
    let mut doubted = Duration::ZERO;
    loop {
        let begun = clock::boot();
        let wait = if after.is_some() { STATE_PARK } else { Duration::ZERO };
        let answer = tokio::select! {
            answer = client.state(after, wait) => answer,
            () = shared.doubt(place) => {
                tokio::time::sleep((doubted + DOUBT).saturating_sub(clock::boot())).await;
                (after, doubted) = (None, clock::boot());
                continue;
            }
        };
        match answer {
            Ok(state) => {
                pause = PAUSE[0];
                let (position, at) = (state.position, clock::boot());
                shared.told_role(place, state.role, state.epoch);
                if shared.core_mut().reported(place, position, at) {
                    shared.tell();
                }
                let told = Told { state: Arc::new(state), at };
                if let Some(slot) =
                    shared.states.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place)
                {
                    *slot = Some(told);
                }
                let idle = after.is_some() && position == after && at.saturating_sub(begun) < LEAST;
                after = position;
                match position {
                    None => tokio::time::sleep(UNCLAIMED_PAUSE).await,
                    Some(_) if is_writer => tokio::time::sleep(WRITER_PAUSE).await,
                    Some(_) if idle => tokio::time::sleep(LEAST).await,
                    Some(_) => tokio::time::sleep(BREATH).await,
                }
            }
            Err(_) => {
                // Asked anew, not for a change: what it told last may be older than it thinks.
                after = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE[1]);
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
