//! Watches: whole revisions, signs of life, and an end that is noticed.

use std::time::Duration;

use etcd_client::{
    Client, WatchOptions, WatchRequestSender, WatchResponseStream,
    proto::{PbEvent, PbWatchResponse},
};
use futures_util::stream;
use tokio::time::{Interval, MissedTickBehavior};

use super::{
    EtcdStore, MAX_ANSWER,
    ask::{passing, round_pause},
    door::Door,
    translate::{end, event, start},
};
use crate::{
    clock,
    store::{Event, Revision, StoreError, Watch, WatchItem, prefix_end},
};

/// How often a watch asks its member for a sign of life.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A watch whose member has left so many of those unanswered is broken.
const UNANSWERED: u32 = 5;

type Item = Result<WatchItem, StoreError>;

/// A watch on one member. Everything happens while the reader waits for the next item: no task of its own.
struct State {
    url: String,
    // Its connection ends with it.
    _client: Client,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    tick: Interval,
    unanswered: u32,
    /// Events of a revision whose rest is still to come.
    held: Vec<Event>,
    over: bool,
}

impl EtcdStore {
    /// Opens a watch on the first member that can watch.
    pub(super) async fn open_watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let deadline = clock::now() + self.request_timeout;
        let each = self.request_timeout / u32::try_from(self.members.count()).unwrap_or(u32::MAX);
        loop {
            let mut last = self.late();
            for member in self.members.order() {
                let bound = (clock::now() + each).min(deadline);
                last = match tokio::time::timeout_at(bound, self.watch_at(member, prefix, from)).await {
                    Ok(Ok(state)) => {
                        self.members.answered();
                        return Ok(Watch::new(stream::unfold(state, State::next)));
                    }
                    Ok(Err(error)) => error,
                    Err(_) => StoreError::Unavailable { why: self.at(member, "no answer to a watch") },
                };
                if !last.may_pass() {
                    return Err(last);
                }
                self.members.avoid(member);
            }
            let again = clock::now() + round_pause();
            if !self.members.all_failed(clock::now(), self.request_timeout) || again >= deadline {
                return Err(passing(last));
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// Opens a watch on one member and waits for its word that it watches.
    ///
    /// Each watch has a connection of its own: one that nobody reads would fill the window that the requests
    /// on the same connection need too.
    async fn watch_at(&self, member: usize, prefix: &str, from: Revision) -> Result<State, StoreError> {
        let url = &self.endpoints[member].url;
        let door = Door::new(&self.etcd, url, self.request_timeout / 2, true).await?;
        door.enter().await.map_err(|error| self.meaning(member, &error, from))?;
        let client = door.client();
        let options = WatchOptions::new()
            .with_range(end(&prefix_end(prefix)))
            .with_start_revision(from.max(0))
            .with_fragment();
        let stream = client
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER)
            .watch(start(prefix), Some(options))
            .await
            .map_err(|error| self.meaning(member, &error, from))?;
        let (requests, mut answers) = stream.split();
        match answers.message().await {
            Ok(Some(answer)) if answer.created() && !answer.canceled() => {}
            Ok(Some(answer)) => {
                let why = format!("watch refused: {}", answer.cancel_reason());
                return Err(StoreError::Unavailable { why: self.at(member, &why) });
            }
            Ok(None) => {
                return Err(StoreError::Unavailable { why: self.at(member, "watch ended at once") });
            }
            Err(error) => return Err(self.meaning(member, &error, from)),
        }
        let mut tick = tokio::time::interval_at(clock::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(State {
            url: url.clone(),
            _client: client.clone(),
            requests,
            answers,
            tick,
            unanswered: 0,
            held: Vec::new(),
            over: false,
        })
    }
}

impl State {
    async fn next(mut self) -> Option<(Item, Self)> {
        if self.over {
            return None;
        }
        let item = loop {
            tokio::select! {
                // What has arrived counts before the clock: the reader may have been away for long.
                biased;
                answer = self.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        self.unanswered = 0;
                        if let Some(item) = self.take(answer.0) {
                            break item;
                        }
                    }
                    Ok(None) => break self.broken("the member ended it"),
                    Err(error) => break self.broken(&error.to_string()),
                },
                _ = self.tick.tick() => {
                    if self.unanswered >= UNANSWERED {
                        break self.broken("the member is silent");
                    }
                    self.unanswered += 1;
                    if self.requests.request_progress().await.is_err() {
                        break self.broken("the connection ended");
                    }
                }
            }
        };
        self.over = !matches!(item, Ok(WatchItem::Events { .. } | WatchItem::Progress(_)));
        Some((item, self))
    }

    fn broken(&self, why: &str) -> Item {
        Err(StoreError::Unavailable { why: format!("watch on etcd {} broke: {why}", self.url) })
    }

    /// What an answer adds, if it completes something.
    fn take(&mut self, answer: PbWatchResponse) -> Option<Item> {
        if answer.canceled {
            return Some(match answer.compact_revision {
                0 => self.broken(&answer.cancel_reason),
                oldest => Ok(WatchItem::Compacted { oldest }),
            });
        }
        if answer.created {
            return None;
        }
        if answer.events.is_empty() && self.held.is_empty() {
            let revision = answer.header.map_or(0, |header| header.revision);
            return Some(Ok(WatchItem::Progress(revision)));
        }
        let events = answer.events.into_iter().filter_map(|e: PbEvent| event(e));
        whole(&mut self.held, events, answer.fragment).map(Ok)
    }
}

/// Adds events to those held and gives out all whole revisions: all of them, unless more of the last one is to
/// come in the next fragment.
fn whole(held: &mut Vec<Event>, events: impl Iterator<Item = Event>, fragment: bool) -> Option<WatchItem> {
    held.extend(events);
    let last = held.last()?.revision();
    let cut = match fragment {
        true => held.iter().position(|event| event.revision() == last).unwrap_or(0),
        false => held.len(),
    };
    let rest = held.split_off(cut);
    let events = std::mem::replace(held, rest);
    let revision = events.last()?.revision();
    Some(WatchItem::Events { revision, events })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(key: &str, mod_revision: Revision) -> Event {
        Event::Deleted { key: key.to_owned(), mod_revision }
    }

    #[test]
    fn a_revision_in_fragments_comes_out_in_one_piece() {
        let mut held = Vec::new();
        let first = whole(&mut held, [gone("a", 4), gone("b", 5), gone("c", 5)].into_iter(), true);
        assert_eq!(first, Some(WatchItem::Events { revision: 4, events: vec![gone("a", 4)] }));
        assert_eq!(whole(&mut held, [gone("d", 5)].into_iter(), true), None);
        let last = whole(&mut held, [gone("e", 5), gone("f", 6)].into_iter(), false);
        let events = vec![gone("b", 5), gone("c", 5), gone("d", 5), gone("e", 5), gone("f", 6)];
        assert_eq!(last, Some(WatchItem::Events { revision: 6, events }));
        assert!(held.is_empty());
    }
}
