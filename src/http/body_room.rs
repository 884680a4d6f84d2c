//! Room for request bodies: how long one may be, how long it may take, and how many bytes of them all may be
//! in memory at once. A limit per body alone would still let many of them fill the machine.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::{Request, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;

/// What room is counted in.
const UNIT: usize = 1024;

/// Why a body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// Longer than one body may be.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// The other bodies take all the room; later there will be some.
    #[error("too many long bodies at once")]
    Full,
    /// It did not come in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Slow(Duration),
    /// The client went away or sent a broken body.
    #[error("the body could not be read")]
    Broken,
}

/// The room of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyRoom {
    limit: usize,
    patience: Duration,
    units: Arc<Semaphore>,
}

/// A whole body. It takes its room until it is dropped.
#[derive(Debug)]
pub struct WholeBody {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl WholeBody {
    /// What was sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyRoom {
    /// For bodies of at most `limit` bytes that arrive within `patience`; of all together at most `total` bytes.
    pub fn new(limit: usize, total: usize, patience: Duration) -> Self {
        let units = (total.max(limit) / UNIT + 1).min(Semaphore::MAX_PERMITS);
        Self { limit, patience, units: Arc::new(Semaphore::new(units)) }
    }

    /// Reads a body whole. Room is taken as bytes arrive, so announcing a long body costs others nothing.
    ///
    /// What is refused is read on for a moment, so that its sender gets to the answer; see [`linger`].
    pub async fn read(&self, request: Request<Body>) -> Result<WholeBody, RoomError> {
        if request.body().size_hint().lower() > self.limit as u64 {
            linger(request).await;
            return Err(RoomError::TooLarge { limit: self.limit });
        }
        let mut body = request.into_body();
        let whole = self.collect(&mut body).await;
        if matches!(whole, Err(RoomError::TooLarge { .. } | RoomError::Full)) {
            drop_rest(body).await;
        }
        whole
    }

    async fn collect(&self, body: &mut Body) -> Result<WholeBody, RoomError> {
        let end = clock::now() + self.patience;
        let (mut bytes, mut room) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        loop {
            let frame = tokio::time::timeout_at(end, body.frame());
            let frame = match frame.await.map_err(|_| RoomError::Slow(self.patience))? {
                None => return Ok(WholeBody { bytes: bytes.freeze(), _room: room }),
                Some(frame) => frame.map_err(|_| RoomError::Broken)?,
            };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.limit {
                return Err(RoomError::TooLarge { limit: self.limit });
            }
            let needed = (bytes.len() + data.len()).div_ceil(UNIT);
            let more = needed - room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = u32::try_from(more).map_err(|_| RoomError::Full)?;
            let taken = self.units.clone().try_acquire_many_owned(more).map_err(|_| RoomError::Full)?;
            match &mut room {
                Some(room) => room.merge(taken),
                None => room = Some(taken),
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// How much of a refused body is read and dropped before its answer, and for how long.
const LINGER: (usize, Duration) = (16 * 1024 * 1024, Duration::from_secs(2));

/// Reads and drops the body of a request that is refused. A server that answers and closes while its client
/// still sends makes the client's system throw the answer away; the client then sees a dropped connection, and
/// some repeat a start after one. A client that waits for `100 Continue` sends nothing and is answered at once.
pub async fn linger(request: Request<Body>) {
    if !request.headers().contains_key(header::EXPECT) {
        drop_rest(request.into_body()).await;
    }
}

async fn drop_rest(mut body: Body) {
    let (most, longest) = LINGER;
    let reading = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > most {
                return;
            }
        }
    };
    // Late or not, the answer goes out now.
    tokio::time::timeout(longest, reading).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_not_a_byte_further() {
        let room = BodyRoom::new(10, 100, SECOND);
        assert_eq!(room.read(Request::new(Body::from("0123456789"))).await.unwrap().bytes(), b"0123456789");
        let refused = room.read(Request::new(Body::from("0123456789x"))).await.unwrap_err();
        assert_eq!(refused, RoomError::TooLarge { limit: 10 });
        assert_eq!(room.read(Request::new(Body::empty())).await.unwrap().bytes(), b"");
    }

    #[tokio::test]
    async fn bodies_share_one_room_and_give_it_back() {
        let room = BodyRoom::new(64 * UNIT, 100 * UNIT, SECOND);
        let long = || Body::from(vec![b' '; 64 * UNIT]);
        let first = room.read(Request::new(long())).await.unwrap();
        assert_eq!(room.read(Request::new(long())).await.unwrap_err(), RoomError::Full);
        assert!(room.read(Request::new(Body::from("{}"))).await.is_ok(), "a short one still fits");
        drop(first);
        assert!(room.read(Request::new(long())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let room = BodyRoom::new(10, 100, SECOND);
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(room.read(Request::new(never)).await.unwrap_err(), RoomError::Slow(SECOND));
    }
}
