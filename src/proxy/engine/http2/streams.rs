//! The streams that are under way: what came of each and was not taken, its windows, and who waits for it.
//!
//! A stream stands here from its head until what serves it lets go of it, not only until it is over: what counts as under
//! way is the work.

use std::task::{Context, Waker};

use crate::proxy::h2::frame::{LARGEST_WINDOW, WINDOW};

/// Room for streams that is kept when there are none.
const KEPT: usize = 8;

/// A body's room that is kept when it is empty.
const KEPT_BODY: usize = 64 * 1024;

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

/// What its holder waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// For its end alone.
    End,
    /// For the next piece of the request's body.
    Body,
    /// For the client's window, or for room in what is to be written.
    Room,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Of the request's body, from `at` on: came, and was not taken.
    body: Vec<u8>,
    at: usize,
    /// Of that body there is so much more to come, if its head has said so.
    pub(super) length: Option<u64>,
    /// The client has ended it.
    pub(super) ended: bool,
    /// It was reset, by whomever, or its connection is gone.
    pub(super) cut: bool,
    /// What the client may still send, and how much that is when nothing of it lies here.
    pub(super) window: i64,
    pub(super) target: u32,
    /// Was taken, and the client was not told of it.
    pub(super) owed: u32,
    /// What the client allows.
    pub(super) room: i64,
    for_body: bool,
    for_room: bool,
    waker: Option<Waker>,
}

impl Stream {
    fn new(id: u32, room: i64, length: Option<u64>, ended: bool) -> Self {
        Self {
            id,
            body: Vec::new(),
            at: 0,
            length,
            ended,
            cut: false,
            window: i64::from(WINDOW),
            target: WINDOW,
            owed: 0,
            room,
            for_body: false,
            for_room: false,
            waker: None,
        }
    }

    /// Bytes of the body that wait.
    pub(super) fn there(&self) -> usize {
        self.body.len() - self.at
    }

    /// Those, and what its client may still send.
    pub(super) fn promised(&self) -> u64 {
        let window = u64::try_from(self.window).unwrap_or_default();
        let more =
            if self.ended || self.cut { 0 } else { self.length.map_or(window, |left| left.min(window)) };
        self.there() as u64 + more
    }

    /// A piece of the body came.
    pub(super) fn came(&mut self, piece: &[u8]) {
        if self.at > self.there() {
            self.body.drain(..self.at);
            self.at = 0;
        }
        self.body.extend_from_slice(piece);
    }

    /// Takes of the body what there is room for.
    pub(super) fn take(&mut self, room: &mut [u8]) -> usize {
        let taken = self.there().min(room.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..taken), self.body.get(self.at..self.at + taken)) {
            room.copy_from_slice(bytes);
        }
        self.at += taken;
        if self.there() == 0 {
            self.drop_body();
        }
        taken
    }

    /// Forgets what waits of the body; how much that was.
    pub(super) fn drop_body(&mut self) -> usize {
        let dropped = self.there();
        if self.body.capacity() > KEPT_BODY {
            self.body = Vec::new();
        }
        self.body.clear();
        self.at = 0;
        dropped
    }

    /// Notes that its holder waits.
    pub(super) fn wait(&mut self, cx: &Context<'_>, waits: Waits) {
        // It may wait for all of them at once.
        match waits {
            Waits::End => {}
            Waits::Body => self.for_body = true,
            Waits::Room => self.for_room = true,
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Tells its holder, if it waits for that. Of an end it is told in any case.
    pub(super) fn wake(&mut self, waits: Waits) {
        let waited = match waits {
            Waits::End => true,
            Waits::Body => std::mem::take(&mut self.for_body),
            Waits::Room => std::mem::take(&mut self.for_room),
        };
        if waited && let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The client allows so much more; `false`: it may not.
    pub(super) fn allow(&mut self, by: i64) -> bool {
        self.room += by;
        if self.room > 0 {
            self.wake(Waits::Room);
        }
        self.room <= LARGEST_WINDOW
    }
}

/// All of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Ids and places. Ids only ever grow.
    order: Vec<(u32, usize)>,
}

impl Streams {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Begins one, whose id is above all others.
    pub(super) fn open(&mut self, id: u32, room: i64, length: Option<u64>, ended: bool) -> Place {
        let stream = Some(Stream::new(id, room, length, ended));
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = stream;
        }
        debug_assert!(self.order.last().is_none_or(|(last, _)| *last < id));
        self.order.push((id, place));
        Place(place)
    }

    /// Where it stands.
    pub(super) fn find(&self, id: u32) -> Option<Place> {
        let at = self.order.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.order.get(at).map(|(_, place)| Place(*place))
    }

    /// The one that stands there.
    pub(super) fn get(&mut self, place: Place) -> Option<&mut Stream> {
        self.slots.get_mut(place.0)?.as_mut()
    }

    /// Each of them.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }

    /// Its holder lets go of it.
    pub(super) fn close(&mut self, place: Place) -> Option<Stream> {
        let closed = self.slots.get_mut(place.0)?.take()?;
        self.free.push(place.0);
        if let Ok(at) = self.order.binary_search_by_key(&closed.id, |(id, _)| *id) {
            self.order.remove(at);
        }
        if self.order.is_empty() && self.slots.len() > KEPT {
            *self = Self::default();
        }
        Some(closed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_is_found_while_it_is_under_way(ends in prop::collection::vec(any::<prop::sample::Index>(), 0..200)) {
            let (mut streams, mut open) = (Streams::default(), Vec::new());
            for (at, end) in ends.iter().enumerate() {
                let id = 2 * u32::try_from(at).unwrap() + 1;
                open.push((id, streams.open(id, 0, None, false)));
                if at % 3 > 0 {
                    let (id, place) = open.remove(end.index(open.len()));
                    prop_assert_eq!(streams.close(place).map(|stream| stream.id), Some(id));
                    prop_assert_eq!(streams.find(id), None);
                }
                prop_assert_eq!(streams.len(), open.len());
                for (id, place) in &open {
                    prop_assert_eq!(streams.find(*id), Some(*place));
                    prop_assert_eq!(streams.get(*place).map(|stream| stream.id), Some(*id));
                }
            }
        }

        #[test]
        fn a_body_is_taken_as_it_came(
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), 0usize..60), 0..50),
        ) {
            let mut stream = Stream::new(1, 0, None, false);
            let (mut came, mut taken) = (Vec::new(), Vec::new());
            for (piece, most) in steps {
                stream.came(&piece);
                came.extend_from_slice(&piece);
                let mut room = vec![0; most];
                let count = stream.take(&mut room);
                taken.extend_from_slice(&room[..count]);
                prop_assert_eq!(stream.there(), came.len() - taken.len());
            }
            prop_assert_eq!(&taken[..], &came[..taken.len()]);
        }
    }
}
