//! Windows of what comes: every stream begins with a small one, and those of transfers grow.

use super::{super::streams::Place, CONNECTION_WINDOW, Mux};
use crate::proxy::{
    h2::frame::{self, LARGEST, WINDOW},
    lane::Lane,
};

/// Of that, so much is promised to transfers at most, beyond what every stream has: what moves for long must not leave
/// nothing to what is due at once.
const PROMISED: u32 = CONNECTION_WINDOW - 512 * 1024;

/// A transfer's window grows up to this.
const BULK_WINDOW: u32 = 512 * 1024;

/// But not by less than this.
const GROWS: u32 = LARGEST as u32;

impl Mux {
    /// The request of this stream is of that lane.
    pub(in crate::proxy::engine::http2) fn is_of(&mut self, place: Place, lane: Lane) {
        if lane == Lane::Bulk {
            self.grow(place);
        }
    }

    /// A transfer may send ahead more than others: half of what is left to be promised.
    fn grow(&mut self, place: Place) {
        let left = PROMISED - self.promised;
        let Some(stream) = self.streams.get(place).filter(|stream| !stream.ended && !stream.cut) else {
            return;
        };
        let by = (BULK_WINDOW.saturating_sub(stream.target)).min(left / 2);
        if by >= GROWS {
            self.promised += by;
            stream.target += by;
            stream.window += i64::from(by);
            frame::window(&mut self.out, stream.id, by);
        }
    }

    /// Takes what there is room for of a body.
    pub(in crate::proxy::engine::http2) fn take_body(&mut self, place: Place, room: &mut [u8]) -> usize {
        let taken = self.streams.get(place).map_or(0, |stream| stream.take(room));
        if taken > 0 {
            self.taken(place, u32::try_from(taken).unwrap_or(u32::MAX));
        }
        taken
    }

    /// So much of a stream was taken, and may be sent again.
    pub(super) fn taken(&mut self, place: Place, bytes: u32) {
        self.owe(bytes);
        let Some(stream) = self.streams.get(place).filter(|stream| !stream.ended && !stream.cut) else {
            return;
        };
        stream.owed += bytes;
        if stream.owed >= stream.target / 2 {
            frame::window(&mut self.out, stream.id, stream.owed);
            stream.window += i64::from(std::mem::take(&mut stream.owed));
        }
        // One whose window has grown gets what others have left.
        if stream.target > WINDOW && stream.target < BULK_WINDOW {
            self.grow(place);
        }
    }

    pub(super) fn owe(&mut self, bytes: u32) {
        self.owed += bytes;
        if self.owed >= CONNECTION_WINDOW / 2 {
            frame::window(&mut self.out, 0, self.owed);
            self.window += i64::from(std::mem::take(&mut self.owed));
        }
    }
}
