//! What lies on the disk, and how it is read: one redb file with six tables.
//!
//! ```text
//!   meta      "revision" "compacted" "commits" "format"  → number
//!   current   key             → record     what is there now
//!   old       key, revision   → record     what was put then and is no longer current; empty: deleted then
//!   history   revision, n     → key        what each revision touched, in order
//!   leases    lease           → seconds
//!   leased    lease, key      → ()         which keys end with it
//! ```
//!
//! A value lies on the disk once: it moves from `current` to `old` when it is replaced.

use std::ops::Bound;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, TableDefinition};

use crate::store::{Event, KeyValue, LeaseId, Range, Ranged, Revision, StoreError, WatchItem};

pub(super) const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
pub(super) const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
pub(super) const OLD: TableDefinition<(&str, i64), &[u8]> = TableDefinition::new("old");
pub(super) const HISTORY: TableDefinition<(i64, u32), &str> = TableDefinition::new("history");
pub(super) const LEASES: TableDefinition<i64, u32> = TableDefinition::new("leases");
pub(super) const LEASED: TableDefinition<(i64, &str), ()> = TableDefinition::new("leased");

/// The newest revision.
pub(super) const REVISION: &str = "revision";
/// The oldest revision that can be read; 0 when nothing was compacted yet.
pub(super) const COMPACTED: &str = "compacted";
/// How many commits there were: tells whether one whose outcome is not known has happened.
pub(super) const COMMITS: &str = "commits";
/// The layout above.
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_NOW: i64 = 1;

/// Revision of an empty store, as in etcd.
pub(super) const FIRST_REVISION: Revision = 1;

/// A piece of a watch ends after so many changes or bytes, at the end of a revision.
const PIECE_CHANGES: usize = 1_000;
const PIECE_BYTES: usize = 1 << 20;

/// Four numbers stand before the value: creation, last change, version, lease.
const HEAD: usize = 32;

pub(super) type Bounds<'a> = (Bound<&'a str>, Bound<&'a str>);

/// From `start` to before `end`, an empty end being none. `None` if nothing can lie between.
pub(super) fn bounds<'a>(start: &'a str, end: &'a str) -> Option<Bounds<'a>> {
    match end {
        "" => Some((Bound::Included(start), Bound::Unbounded)),
        _ if start >= end => None,
        _ => Some((Bound::Included(start), Bound::Excluded(end))),
    }
}

/// A record as bytes.
pub(super) fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + kv.value.len());
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease.map_or(0, |lease| lease.0)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&kv.value);
    bytes
}

/// The record of a key. Shorter bytes than were ever written are the mark of a deletion.
pub(super) fn decode(key: &str, bytes: &[u8]) -> Option<KeyValue> {
    let (head, value) = bytes.split_at_checked(HEAD)?;
    let number = |n: usize| head[n * 8..][..8].try_into().map(i64::from_le_bytes).unwrap_or_default();
    Some(KeyValue {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        create_revision: number(0),
        mod_revision: number(1),
        version: number(2),
        lease: (number(3) != 0).then_some(LeaseId(number(3))),
    })
}

/// The key as it is now.
pub(super) fn get(
    current: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<KeyValue>, redb::Error> {
    Ok(current.get(key)?.and_then(|bytes| decode(key, bytes.value())))
}

/// A number of `meta`; 0 if it was never set.
pub(super) fn number(meta: &impl ReadableTable<&'static str, i64>, name: &str) -> Result<i64, redb::Error> {
    Ok(meta.get(name)?.map_or(0, |n| n.value()))
}

/// One key and the newest revision.
pub(super) fn read_key(
    read: &ReadTransaction,
    key: &str,
) -> Result<(Revision, Option<KeyValue>), redb::Error> {
    let revision = number(&read.open_table(META)?, REVISION)?;
    Ok((revision, get(&read.open_table(CURRENT)?, key)?))
}

/// A range, at the newest revision or an older one that is still kept.
pub(super) fn read_range(
    read: &ReadTransaction,
    range: &Range,
) -> Result<Result<Ranged, StoreError>, redb::Error> {
    let meta = read.open_table(META)?;
    let (revision, compacted) = (number(&meta, REVISION)?, number(&meta, COMPACTED)?);
    if range.revision > revision {
        let why = format!("revision {} is in the future; the newest is {revision}", range.revision);
        return Ok(Err(StoreError::Refused { why }));
    }
    if range.revision > 0 && range.revision < compacted {
        return Ok(Err(StoreError::Compacted { oldest: compacted }));
    }
    // One more than asked for tells whether there are more.
    let want = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
    let most = want.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut kvs = match bounds(&range.start, &range.end) {
        None => Vec::new(),
        Some(bounds) if range.revision <= 0 || range.revision == revision => newest(read, bounds, most)?,
        Some(_) => at_revision(read, range, most)?,
    };
    let more = want.is_some_and(|limit| kvs.len() > limit);
    kvs.truncate(want.unwrap_or(usize::MAX));
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(Ok(Ranged { revision, kvs, more }))
}

fn newest(read: &ReadTransaction, bounds: Bounds<'_>, most: usize) -> Result<Vec<KeyValue>, redb::Error> {
    let mut kvs = Vec::new();
    for entry in read.open_table(CURRENT)?.range::<&str>(bounds)?.take(most) {
        let (key, bytes) = entry?;
        kvs.extend(decode(key.value(), bytes.value()));
    }
    Ok(kvs)
}

/// Walks the keys of `current` and of `old` side by side and takes of each what was there at the revision.
fn at_revision(read: &ReadTransaction, range: &Range, most: usize) -> Result<Vec<KeyValue>, redb::Error> {
    let (current, old) = (read.open_table(CURRENT)?, read.open_table(OLD)?);
    let within = |key: &str| range.end.is_empty() || key < range.end.as_str();
    // Old versions of one key are skipped in one step: a key that every transaction puts has thousands.
    let old_key_from = |key: &str, revision: i64| -> Result<Option<String>, redb::Error> {
        let first = old.range((key, revision)..)?.next().transpose()?;
        Ok(first.map(|(entry, _)| entry.value().0.to_owned()).filter(|key| within(key)))
    };
    let Some(bounds) = bounds(&range.start, &range.end) else { return Ok(Vec::new()) };
    let mut now = current.range::<&str>(bounds)?;
    let mut next_now = now.next().transpose()?;
    let mut next_old = old_key_from(&range.start, i64::MIN)?;
    let mut kvs = Vec::new();
    while kvs.len() < most {
        let is_now = match (&next_now, &next_old) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((now, _)), Some(old)) => now.value() <= old.as_str(),
        };
        let mut found = None;
        let key = match (is_now, &next_now, &next_old) {
            (true, Some((key, bytes)), _) => {
                found = decode(key.value(), bytes.value()).filter(|kv| kv.mod_revision <= range.revision);
                key.value().to_owned()
            }
            (_, _, Some(key)) => key.clone(),
            _ => break,
        };
        if found.is_none() {
            let then = old.range((key.as_str(), i64::MIN)..=(key.as_str(), range.revision))?.next_back();
            found = then.transpose()?.and_then(|(_, bytes)| decode(&key, bytes.value()));
        }
        kvs.extend(found);
        if is_now {
            next_now = now.next().transpose()?;
        }
        if next_old.as_deref() == Some(key.as_str()) {
            next_old = old_key_from(&key, i64::MAX)?;
        }
    }
    Ok(kvs)
}

/// A piece of history for a watch.
pub(super) struct Piece {
    /// What to hand out, if anything of it is watched.
    pub(super) item: Option<WatchItem>,
    /// Where to go on.
    pub(super) next: Revision,
}

/// The changes of keys that begin with `prefix`, from the revision `from` on: whole revisions, a bounded piece.
pub(super) fn read_history(
    read: &ReadTransaction,
    prefix: &str,
    from: Revision,
) -> Result<Piece, redb::Error> {
    let meta = read.open_table(META)?;
    let (revision, compacted) = (number(&meta, REVISION)?, number(&meta, COMPACTED)?);
    if from < compacted {
        return Ok(Piece { item: Some(WatchItem::Compacted { oldest: compacted }), next: from });
    }
    let (current, old, history) =
        (read.open_table(CURRENT)?, read.open_table(OLD)?, read.open_table(HISTORY)?);
    let (mut events, mut seen, mut bytes, mut last) = (Vec::new(), 0_usize, 0_usize, from);
    let mut next = revision + 1;
    for entry in history.range((from, 0)..)? {
        let (at, key) = entry?;
        let ((at, _), key) = (at.value(), key.value());
        if at > last && (seen >= PIECE_CHANGES || bytes >= PIECE_BYTES) {
            next = at;
            break;
        }
        (last, seen) = (at, seen + 1);
        if !key.starts_with(prefix) {
            continue;
        }
        let put = match get(&current, key)?.filter(|kv| kv.mod_revision == at) {
            Some(kv) => Some(kv),
            None => old.get((key, at))?.and_then(|bytes| decode(key, bytes.value())),
        };
        bytes += key.len() + put.as_ref().map_or(0, |kv| kv.value.len());
        events.push(put.map_or_else(|| Event::Deleted { key: key.to_owned(), mod_revision: at }, Event::Put));
    }
    let item = events.last().map(Event::revision).map(|revision| WatchItem::Events { revision, events });
    Ok(Piece { item, next: next.max(from) })
}
