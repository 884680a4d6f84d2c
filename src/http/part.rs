//! Bodies that lie in files. A handler names the stretches; whoever sends them reads them, or has the system send them
//! without a copy.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::Semaphore;

/// One read, and so what a client that takes no more holds here.
const READ: usize = 256 * 1024;

/// A stretch of a file, ready to be sent.
#[derive(Debug, Clone)]
pub struct Part {
    /// Open for reading.
    pub file: Arc<File>,
    /// Which of its bytes.
    pub range: Range<u64>,
    /// One permit is held during each read or send: a slow disk must not take every blocking thread.
    pub turns: Arc<Semaphore>,
}

/// The parts of a body, in order. An error in between breaks the body off.
pub type Parts = BoxStream<'static, io::Result<Part>>;

/// What the parts hold, piece by piece; one piece of at most 256 KiB is in memory at a time.
pub fn read(parts: Parts) -> BoxStream<'static, io::Result<Bytes>> {
    parts.map_ok(Part::read).try_flatten().boxed()
}

impl Part {
    /// Reads on blocking threads.
    fn read(self) -> BoxStream<'static, io::Result<Bytes>> {
        stream::try_unfold(self, |part| async move {
            if part.range.is_empty() {
                return Ok(None);
            }
            let permit = part.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (file, from) = (part.file.clone(), part.range.start);
            let wanted = usize::try_from(part.range.end - from).unwrap_or(READ).min(READ);
            let read = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let mut piece = BytesMut::zeroed(wanted);
                // A file that is shorter than it was when opened ends the answer as broken, never as complete.
                file.read_exact_at(&mut piece, from).map(|()| piece.freeze())
            });
            let piece = read.await.map_err(io::Error::other)??;
            let range = from + piece.len() as u64..part.range.end;
            Ok(Some((piece, Part { range, ..part })))
        })
        .boxed()
    }
}

/// In the extensions of an answer whose body is made of parts: for a server that can send them from their files.
/// Body and extension are one thing: whoever takes the parts first has them.
#[derive(Clone)]
pub(super) struct FromFiles(Arc<Mutex<Option<Parts>>>);

impl FromFiles {
    pub(super) fn take(&self) -> Option<Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Gives an answer this body. Its head must say the length: the body cannot.
pub fn with_parts(mut answer: Response, parts: Parts) -> Response {
    let shared = FromFiles(Arc::new(Mutex::new(Some(parts))));
    let source = shared.clone();
    let read = stream::once(async move { source.take().ok_or_else(|| io::Error::other("was sent already")) })
        .map_ok(read)
        .try_flatten();
    *answer.body_mut() = Body::from_stream(read);
    answer.extensions_mut().insert(shared);
    answer
}
