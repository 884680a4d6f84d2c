//! What was decided about the last requests of each thread, for whoever asks by the id of one.
//!
//! Nothing is written down or looked up until somebody asks. Each thread keeps its own, under a lock that only who asks wants
//! too. What is kept lies side by side: texts and the one attempt that nearly every request has are copied into it. Moved here
//! they would be all over the heap, and in no cache when their time is up, which cost a small request 2 % of its CPU.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Weak},
    time::Duration,
};

use ::http::Method;
use smallvec::{Array, SmallVec};
use tokio::time::Instant;

use super::numbers::Shared;
use crate::{
    model::{Position, RequestId, RouteClass},
    proxy::{
        answer::Answer,
        choose::Stale,
        ctx::{Ctx, End, Note},
        snapshot::Service,
    },
};

/// Bytes of a path that are kept; what follows is cut.
const PATH: usize = 512;

/// Attempts of a request that are kept; of one that was held long, and could not connect again and again, the last.
const ATTEMPTS: usize = 16;

/// Names that a thread keeps without looking whether anybody needs them.
const NAMES: usize = 64;

/// A text that is kept in place unless it is long.
#[derive(Debug, Clone)]
pub struct Text<A: Array<Item = u8>>(SmallVec<A>);

impl<A: Array<Item = u8>> Text<A> {
    fn none() -> Self {
        Self(SmallVec::new())
    }

    fn set(&mut self, text: &str) {
        self.0.clear();
        if self.0.spilled() {
            // What was long once is not kept for what is short.
            self.0 = SmallVec::new();
        }
        self.0.extend_from_slice(text.as_bytes());
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Those of all threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Decisions(Arc<Shared<Ring>>);

impl Default for Decisions {
    fn default() -> Self {
        Self(Arc::new(Shared::new()))
    }
}

/// Those of one thread.
#[derive(Debug, Default)]
struct Ring {
    /// In the order in which they ended, from `oldest` on and round.
    kept: Vec<Decision>,
    /// Place of the one that the next takes, once there is no more room.
    oldest: usize,
    known: Known,
}

/// What things are called, once for all decisions of a thread.
#[derive(Debug, Default)]
struct Known {
    /// A service that is gone must not live on for its name.
    services: Vec<(Weak<Service>, Arc<Names>)>,
    listeners: Vec<Arc<str>>,
}

/// What a service and its upstreams were called.
#[derive(Debug)]
pub struct Names {
    /// The service.
    pub service: String,
    /// Its upstreams, by place.
    pub upstreams: Vec<String>,
}

/// One request that is over.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Its id: of ours, a UUID.
    pub request: Text<[u8; 36]>,
    /// When it was over.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// The listener.
    pub listener: Option<Arc<str>>,
    /// The service, once routed.
    pub names: Option<Arc<Names>>,
    /// Who has sent it.
    pub client: IpAddr,
    /// Its method and path; none if it never became a request.
    pub target: Option<(Method, Text<[u8; 64]>)>,
    /// Its class, once routed.
    pub class: RouteClass,
    /// What the client was given.
    pub status: Option<u16>,
    /// The answer of ours, if we gave one.
    pub ours: Option<Box<Answer>>,
    /// How it ended; none if it never became a request.
    pub end: Option<End>,
    /// How long it was held.
    pub held: Duration,
    /// How long the last connect took.
    pub connect: Option<Duration>,
    /// When the head of the answer went out, after its own.
    pub first_byte: Option<Duration>,
    /// What the last answer said of positions.
    pub position: Option<Position>,
    /// The mark on it.
    pub stale: Option<Stale>,
    /// Attempts.
    pub attempts: SmallVec<[Note; 1]>,
}

impl Decisions {
    /// Keeps what was decided about a request that is over; what it is made of is taken from it. Each thread keeps `most`.
    pub fn keep(&self, ctx: Box<Ctx>, most: usize, now: Instant) {
        self.0.own(|ring| {
            if ring.has_room(most) {
                ring.next(most, now, |place, names| place.take(ctx, now, names));
            }
        });
    }

    /// The same of what never became one.
    pub fn refused(
        &self,
        listener: &str,
        client: IpAddr,
        answer: &Answer,
        request: RequestId,
        (most, now): (usize, Instant),
    ) {
        self.0.own(|ring| {
            if !ring.has_room(most) {
                return;
            }
            ring.next(most, now, |place, names| {
                *place = Decision::none(now);
                place.request.set(request.as_str());
                names.of_listener(listener, &mut place.listener);
                place.client = client.to_canonical();
                place.status = Some(answer.status());
                place.ours = Some(Box::new(answer.clone()));
            });
        });
    }

    /// Up to so many that fit, the latest first. Each thread waits while its own are looked through.
    pub fn last(&self, fits: impl Fn(&Decision) -> bool, most: usize) -> Vec<Decision> {
        let mut found = Vec::new();
        self.0.each(|ring| found.extend(ring.latest().filter(|one| fits(one)).take(most).cloned()));
        found.sort_by_key(|one| std::cmp::Reverse(one.ended));
        found.truncate(most);
        found
    }
}

impl Ring {
    /// Whether one more is kept, of `most`.
    fn has_room(&mut self, most: usize) -> bool {
        if most == 0 && !self.kept.is_empty() {
            *self = Self::default();
        }
        if self.kept.len() > most {
            self.kept.rotate_left(self.oldest);
            self.kept.drain(..self.kept.len() - most);
            self.kept.shrink_to_fit();
            self.oldest = 0;
        }
        most > 0
    }

    /// Lets `fill` make the next one, in the place of the oldest if there are as many as are kept: moved there it would be
    /// written twice, and that place is in no cache any more.
    fn next(&mut self, most: usize, now: Instant, fill: impl FnOnce(&mut Decision, &mut Known)) {
        if self.kept.len() < most {
            // More are kept since a reload.
            self.kept.rotate_left(self.oldest);
            self.oldest = self.kept.len();
            self.kept.push(Decision::none(now));
        }
        if let Some(place) = self.kept.get_mut(self.oldest) {
            fill(place, &mut self.known);
            self.oldest = (self.oldest + 1) % self.kept.len();
        }
    }

    /// The latest first.
    fn latest(&self) -> impl Iterator<Item = &Decision> {
        let (latest, before) = self.kept.split_at(self.oldest.min(self.kept.len()));
        latest.iter().rev().chain(before.iter().rev())
    }
}

impl Decision {
    fn none(now: Instant) -> Self {
        Self {
            request: Text::none(),
            ended: now,
            took: Duration::ZERO,
            listener: None,
            names: None,
            client: Ipv4Addr::UNSPECIFIED.into(),
            target: None,
            class: RouteClass::ControllerApi,
            status: None,
            ours: None,
            end: None,
            held: Duration::ZERO,
            connect: None,
            first_byte: None,
            position: None,
            stale: None,
            attempts: SmallVec::new(),
        }
    }

    /// Becomes the decision about a request that is over. Whatever it was made of before is used again.
    fn take(&mut self, ctx: Box<Ctx>, now: Instant, known: &mut Known) {
        self.request.set(ctx.request.as_str());
        self.ended = now;
        self.took = now.saturating_duration_since(ctx.started);
        known.of_listener(ctx.listener_name(), &mut self.listener);
        match ctx.service() {
            Some(service) => known.of_service(service, &mut self.names),
            None => self.names = None,
        }
        self.client = ctx.client.ip;
        let path: &str = &ctx.path;
        let cut = if path.len() > PATH { path.char_indices().nth(PATH) } else { None };
        let path = cut.and_then(|(end, _)| path.get(..end)).unwrap_or(path);
        let (method, text) = self.target.get_or_insert_with(|| (Method::GET, Text::none()));
        text.set(path);
        self.class = ctx.route.class;
        self.status = ctx.status();
        self.position = ctx.said.position.filter(|_| ctx.ours.is_none());
        self.end = Some(ctx.end);
        self.held = ctx.held;
        self.connect = ctx.connect;
        self.first_byte = ctx.first_byte.map(|first| first.saturating_duration_since(ctx.started));
        self.stale = ctx.stale;
        self.attempts = ctx.attempts;
        if self.attempts.len() > ATTEMPTS {
            let before = self.attempts.len() - ATTEMPTS;
            self.attempts.drain(..before);
            self.attempts.shrink_to_fit();
        }
        *method = ctx.method;
        self.ours = ctx.ours.map(Box::new);
    }
}

impl Known {
    /// Makes `is` the name of this listener. It nearly always is already, and then nothing is counted.
    fn of_listener(&mut self, name: &str, is: &mut Option<Arc<str>>) {
        if let Some(known) = self.listeners.iter().find(|known| known.as_ref() == name) {
            if !is.as_ref().is_some_and(|is| Arc::ptr_eq(is, known)) {
                *is = Some(known.clone());
            }
            return;
        }
        if self.listeners.len() >= NAMES {
            self.listeners.retain(|known| Arc::strong_count(known) > 1);
        }
        let new: Arc<str> = name.into();
        self.listeners.push(new.clone());
        *is = Some(new);
    }

    /// Makes `are` the names of this service and its upstreams, in the same way.
    fn of_service(&mut self, service: &Arc<Service>, are: &mut Option<Arc<Names>>) {
        let known =
            |(known, _): &&(Weak<Service>, Arc<Names>)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(service));
        if let Some((_, names)) = self.services.iter().find(known) {
            if !are.as_ref().is_some_and(|are| Arc::ptr_eq(are, names)) {
                *are = Some(names.clone());
            }
            return;
        }
        if self.services.len() >= NAMES {
            self.services.retain(|(service, _)| service.strong_count() > 0);
        }
        let upstreams = service.upstreams.iter().map(|upstream| upstream.name.to_string()).collect();
        let names = Arc::new(Names { service: service.name.to_string(), upstreams });
        self.services.push((Arc::downgrade(service), names.clone()));
        *are = Some(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(decisions: &Decisions, id: u32, most: usize) {
        let (client, answer) = (IpAddr::from([127, 0, 0, 1]), Answer::NoRoute);
        let request = RequestId::parse(id.to_string()).unwrap();
        decisions.refused("l", client, &answer, request, (most, crate::clock::now()));
    }

    fn ids(decisions: &Decisions) -> Vec<String> {
        let mut kept = Vec::new();
        decisions.0.each(|ring| kept.extend(ring.latest().map(|one| one.request.as_str().to_owned())));
        kept
    }

    #[test]
    fn the_last_are_kept_in_their_order_also_when_another_number_is_from_then_on() {
        let decisions = Decisions::default();
        let mut model = std::collections::VecDeque::new();
        let mosts = [3, 3, 3, 3, 3, 2, 2, 2, 5, 5, 5, 5, 5, 5, 5, 5, 1, 4, 4, 4, 4, 4, 0, 2, 2, 2, 2];
        for (id, most) in (0..).zip(mosts) {
            refused(&decisions, id, most);
            model.push_front(id.to_string());
            model.truncate(most);
            assert_eq!(ids(&decisions), Vec::from(model.clone()), "after {id}");
        }
    }

    #[test]
    fn a_text_is_the_same_whether_it_has_room_in_its_place_or_not() {
        for text in ["", "ab", "abcd", "abcde", "a client's own id that is longer than a UUID"] {
            let mut kept: Text<[u8; 4]> = Text::none();
            for before in ["", "xyz", "longer than it has room for"] {
                kept.set(before);
                kept.set(text);
                assert_eq!(kept.as_str(), text, "after {before:?}");
            }
        }
    }
}
