//! What scripts have said: the end of it in a record, all of it outside the watched prefix, in chunks.

use bytes::Bytes;

use super::{Ops, OpsError};
use crate::{
    controller::records::{ImageRecord, OutputRef},
    model::{Digest, ImageId, InstanceId},
    store::{Compare, CompareOp, Range, StoreError, Txn},
    wire::{command::OUTPUT, vm::ScriptResult},
};

/// Longest text of a report that a record keeps: message, output of a script, each text of a VM's description.
pub(super) const TEXT: usize = 8 * 1024;

/// Errors of a script that are kept, at most.
const ERRORS: usize = 64;

/// Bytes of one chunk: under the largest value of a store.
const CHUNK: usize = 200 * 1024;

/// Chunks of all scripts' output together, those of savings too, 256 MiB: a store has a quota. More: the end of it is kept
/// alone.
const CHUNKS: usize = 256 * 1024 * 1024 / CHUNK;

impl Ops {
    /// Stores all that a startup script has said. Nothing, if its instance has no record any more, with which it would be
    /// deleted, or if there is too much already.
    pub(super) async fn store_output(
        &self,
        id: &InstanceId,
        result: &ScriptResult,
    ) -> Result<Option<OutputRef>, OpsError> {
        let whole = whole(result)?;
        let output = OutputRef { chunks: whole.len().div_ceil(CHUNK), digest: Digest::of(&whole) };
        if !self.has_room(output.chunks, id.as_str()) {
            return Ok(None);
        }
        for (n, chunk) in whole.chunks(CHUNK).enumerate() {
            let mut txn = Txn::new().put(self.inner.keys.output_chunk(id, n), Bytes::copy_from_slice(chunk));
            txn.compares.push(Compare::ModRevision(self.inner.keys.instance(id), CompareOp::Greater, 0));
            if !self.put_chunk(txn).await? {
                return Ok(None);
            }
        }
        Ok(Some(output))
    }

    /// All that a startup script has said. Nothing, if it is not there whole.
    pub(super) async fn read_output(
        &self,
        id: &InstanceId,
        output: &OutputRef,
    ) -> Result<Option<ScriptResult>, OpsError> {
        let keys = (0..output.chunks).map(|n| self.inner.keys.output_chunk(id, n));
        let whole = self.read_chunks(keys).await?;
        // Another report may just be writing it anew.
        Ok((Digest::of(&whole) == output.digest).then(|| serde_json::from_slice(&whole).ok()).flatten())
    }

    /// Stores all that the script of a saving has said. Answers how many chunks it has: none, if the saving has no record any
    /// more, with which they would be deleted, or if there is too much already.
    pub(super) async fn store_image_output(
        &self,
        id: &ImageId,
        result: &ScriptResult,
    ) -> Result<usize, OpsError> {
        let whole = whole(result)?;
        let chunks = whole.len().div_ceil(CHUNK);
        if !self.has_room(chunks, id.as_str()) {
            return Ok(0);
        }
        for (n, chunk) in whole.chunks(CHUNK).enumerate() {
            let key = self.inner.keys.image_output_chunk(id.as_str(), n);
            let mut txn = Txn::new().put(key, Bytes::copy_from_slice(chunk));
            txn.compares.push(Compare::ModRevision(self.inner.keys.image(id), CompareOp::Greater, 0));
            if !self.put_chunk(txn).await? {
                return Ok(0);
            }
        }
        Ok(chunks)
    }

    /// Whether so much more output may be kept whole.
    fn has_room(&self, chunks: usize, of: &str) -> bool {
        let kept = self.inner.lists.peek(|cache| cache.output_chunks() + cache.commands().output_chunks());
        let room = kept + chunks <= CHUNKS;
        if !room {
            tracing::warn!(
                of,
                chunks = kept,
                "output of a script is kept to its end alone: there is too much of others"
            );
        }
        room
    }

    /// All that the script of a saving has said.
    pub(super) async fn read_image_output(
        &self,
        record: &ImageRecord,
    ) -> Result<Option<ScriptResult>, OpsError> {
        let keys =
            (0..record.output_chunks).map(|n| self.inner.keys.image_output_chunk(record.id.as_str(), n));
        let whole = self.read_chunks(keys).await?;
        Ok(serde_json::from_slice(&whole).ok())
    }

    /// Whether it was put.
    async fn put_chunk(&self, txn: Txn) -> Result<bool, OpsError> {
        // A lost answer is no harm: the same bytes are put again.
        let answer = match self.inner.store.txn(txn.clone()).await {
            Err(StoreError::Unknown { .. }) => self.inner.store.txn(txn).await,
            answer => answer,
        };
        answer.map(|answer| answer.succeeded).map_err(|error| OpsError::unavailable(error.to_string()))
    }

    async fn read_chunks(&self, keys: impl Iterator<Item = String>) -> Result<Vec<u8>, OpsError> {
        let mut whole = Vec::new();
        for key in keys {
            // One by one: a range of all of them could pass the limit of one message.
            let range = Range { end: format!("{key}\0"), start: key, ..Range::prefix("") };
            let found = self.inner.store.range(range).await?;
            whole.extend(found.kvs.into_iter().next().map(|kv| kv.value).unwrap_or_default());
        }
        Ok(whole)
    }
}

/// A script's result that fits a record: the end of each output.
pub(super) fn brief(script: &ScriptResult) -> ScriptResult {
    let mut script = ScriptResult { errors: errors(script), ..script.clone() };
    for text in [&mut script.stdout, &mut script.stderr] {
        keep_end(text, TEXT);
    }
    script
}

/// All of a result as JSON, the end of each output if that is more than [`OUTPUT`]: what one needs less the other may have.
fn whole(script: &ScriptResult) -> Result<Vec<u8>, OpsError> {
    let bare = ScriptResult { stdout: String::new(), stderr: String::new(), ..script.clone() };
    let bare = ScriptResult { errors: errors(script), ..bare };
    let json = |result: &ScriptResult| {
        serde_json::to_vec(result).map_err(|error| OpsError::BadInput(error.to_string()))
    };
    let room = OUTPUT.saturating_sub(json(&bare)?.len());
    let (out, err) = (written(&script.stdout), written(&script.stderr));
    let mut fitting = ScriptResult { stdout: script.stdout.clone(), stderr: script.stderr.clone(), ..bare };
    if out + err > room {
        keep_end(&mut fitting.stdout, room - err.min(room / 2));
        keep_end(&mut fitting.stderr, room - out.min(room / 2));
    }
    json(&fitting)
}

/// The errors that are kept.
fn errors(script: &ScriptResult) -> Vec<String> {
    let mut left = 4 * TEXT;
    let mut kept = Vec::new();
    for error in script.errors.iter().take(ERRORS) {
        let mut error = error.clone();
        keep_end(&mut error, TEXT);
        left = left.saturating_sub(error.len());
        if left == 0 {
            break;
        }
        kept.push(error);
    }
    kept
}

/// Bytes of a character as JSON writes it.
fn width(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

fn written(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// The last part of a text, at most so many bytes as JSON writes them: of an output the end says what went wrong.
fn keep_end(text: &mut String, most: usize) {
    let mut bytes = 0;
    let cut = text.char_indices().rev().find(|(_, c)| {
        bytes += width(*c);
        bytes > most
    });
    if let Some((at, c)) = cut {
        text.drain(..at + c.len_utf8());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(stdout: &str, stderr: &str) -> ScriptResult {
        ScriptResult { stdout: stdout.into(), stderr: stderr.into(), ..ScriptResult::default() }
    }

    fn read(json: &[u8]) -> ScriptResult {
        serde_json::from_slice(json).unwrap()
    }

    #[test]
    fn all_of_an_output_is_its_last_mebibyte_and_what_one_stream_leaves_the_other_has() {
        let line = "line\n";
        let short = said(&line.repeat(5000), "warning");
        assert_eq!(read(&whole(&short).unwrap()), short);
        assert!(brief(&short).stdout.len() < 9 * 1024 && brief(&short).stderr == "warning");

        let long = said(&(line.repeat(OUTPUT / 3) + "the end"), "warning");
        let json = whole(&long).unwrap();
        assert!((OUTPUT - 8..=OUTPUT).contains(&json.len()), "{}", json.len());
        let kept = read(&json);
        assert!(kept.stdout.ends_with("line\nthe end") && kept.stderr == "warning");

        let both = said(&"o".repeat(2 * OUTPUT), &"e".repeat(2 * OUTPUT));
        let kept = read(&whole(&both).unwrap());
        assert!(kept.stdout.len().abs_diff(kept.stderr.len()) < 2 && kept.stdout.len() > OUTPUT / 2 - 100);
    }

    #[test]
    fn errors_are_bounded_in_number_and_length() {
        let many = ScriptResult { errors: vec!["x".repeat(20_000); 100], ..ScriptResult::default() };
        let kept = brief(&many).errors;
        assert!(!kept.is_empty() && kept.len() <= 4 && kept[0].len() == TEXT);
    }

    proptest! {
        #[test]
        fn an_end_is_a_suffix_and_as_long_as_it_may_be(text in "\\PC{0,40}[\u{0}-\u{7f}]{0,40}", most in 0..200_usize) {
            let mut end = text.clone();
            keep_end(&mut end, most);
            prop_assert!(text.ends_with(&end));
            // Without its quotes.
            let json = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
            prop_assert!(json(&end) <= most);
            let dropped = text.len() - end.len();
            if let Some(next) = text[..dropped].chars().next_back() {
                prop_assert!(json(&end) + json(&next.to_string()) > most);
            }
        }
    }
}
