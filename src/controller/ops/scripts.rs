//! Startup scripts: in chunks, outside the watched prefix.

use std::sync::atomic::Ordering;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{Ops, OpsError};
use crate::{
    controller::records::ScriptRef,
    model::Digest,
    store::{Range, StoreError, Txn},
};

/// Bytes of one chunk: under the largest value, with room for what a store adds.
const CHUNK: usize = 200 * 1024;

/// Chunks of one script, at most: 4 MiB of body hold fewer.
const MOST: usize = 64;

/// Scripts of all starts together, in MiB: a store has a quota. More: a start with a script is refused.
const ALL: usize = 256;

/// Decodes the script of a start request. White space is left out: `base64` wraps its lines.
pub(super) fn decode(text: &str) -> Result<Bytes, OpsError> {
    let dense: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = BASE64_STANDARD
        .decode(dense)
        .map_err(|error| OpsError::BadInput(format!("startup_script is not base64: {error}")))?;
    if bytes.len() > CHUNK * MOST {
        return Err(OpsError::BadInput(format!("startup_script has {} bytes, too many", bytes.len())));
    }
    Ok(bytes.into())
}

/// How many chunks a script of this length has.
pub(super) fn chunks(length: usize) -> usize {
    length.div_ceil(CHUNK)
}

/// Room for a script that is being stored; dropped, its start has a record that counts, or there is none.
pub(super) struct Room {
    ops: Ops,
    chunks: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.ops.inner.storing.fetch_sub(self.chunks, Ordering::Relaxed);
    }
}

impl Ops {
    /// Room for a script beside those of the starts that are kept, and of those that this controller is about to accept.
    pub(super) fn script_room(&self, chunks: usize) -> Result<Room, OpsError> {
        let storing = self.inner.storing.fetch_add(chunks, Ordering::Relaxed) + chunks;
        let room = Room { ops: self.clone(), chunks };
        let kept: usize = self.inner.lists.peek(|cache| {
            cache.starts().filter_map(|(_, item)| Some(item.record.spec.script.as_ref()?.chunks)).sum()
        });
        if kept + storing > ALL * 1024 * 1024 / CHUNK {
            return Err(OpsError::TooMany(format!(
                "startup_script: the scripts of all starts that are kept may have {ALL} MiB together, and there is no \
                 room for this one; a start is kept for 10 minutes, with an Idempotency-Key for `timeouts.start_memory`, \
                 and while its instances wait"
            )));
        }
        Ok(room)
    }

    /// Stores a script. Repeating it changes nothing: the folder is named by the content's start and body.
    pub(super) async fn store_script(&self, at: &ScriptRef, script: &Bytes) -> Result<(), OpsError> {
        for (n, chunk) in script.chunks(CHUNK).enumerate() {
            let key = self.inner.keys.script_chunk(&at.at, n);
            let txn = Txn::new().put(key, Bytes::copy_from_slice(chunk));
            // A lost answer is no harm: nothing points here yet, and the same bytes are put again.
            match self.inner.store.txn(txn.clone()).await {
                Err(StoreError::Unknown { .. }) => self.inner.store.txn(txn).await,
                answer => answer,
            }
            .map_err(|error| OpsError::unavailable(error.to_string()))?;
        }
        Ok(())
    }

    /// Reads a script back as base64, checked against its digest.
    pub(super) async fn read_script(&self, script: &ScriptRef) -> Result<String, OpsError> {
        let prefix = self.inner.keys.scripts(&script.at);
        let mut whole = Vec::new();
        for n in 0..script.chunks {
            // One by one: a range of all of them could pass the limit of one message.
            let key = self.inner.keys.script_chunk(&script.at, n);
            let range = Range { end: format!("{key}\0"), start: key, ..Range::prefix(&prefix) };
            let found = self.inner.store.range(range).await?;
            whole.extend(found.kvs.into_iter().next().map(|kv| kv.value).unwrap_or_default());
        }
        if Digest::of(&whole) != script.digest {
            return Err(OpsError::Conflict("its startup script is no longer whole".into()));
        }
        Ok(BASE64_STANDARD.encode(whole))
    }
}
