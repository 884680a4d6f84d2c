//! The change log: what was committed, in order, durably. Entries are kept as the lines they are sent as.
//!
//! One file of an embedded database beside the content:
//!
//! ```text
//!   entries   epoch, seq  → the log's mark there, then the line
//!   epochs    epoch       → JSON
//!   meta      "format" "base" "applied" "leased" "diverged" "role"
//! ```
//!
//! Its methods block: callers run them on blocking threads. Appending is for the journal alone, which lets one
//! change through at a time.

#[cfg(test)]
mod faulty;
mod file;
pub mod history;

use std::{
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::{
    model::{Mark, Position},
    wire::replication::{Entry, Epoch},
};
use file::{ENTRIES, EPOCHS, META, Opener, key};
use history::{History, Place};

/// A page of the log ends behind the entry that reaches this many…
pub const PAGE_LINES: usize = 1000;

/// …or this many bytes.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Entries that are deleted in one transaction while the log is compacted.
const COMPACTED_AT_ONCE: u64 = 10_000;

/// Note of the position up to which everything is known to be applied.
const APPLIED: &str = "applied";

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error("the change log failed to {what}")]
    File {
        /// The operation.
        what: &'static str,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// What is in it.
    #[error("the change log is damaged: {0}")]
    Damaged(String),
}

fn failed<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> LogError {
    move |source| LogError::File { what, source: Box::new(source.into()) }
}

/// What is behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next lines, in order; none when the position is the newest.
    Lines {
        /// As appended.
        lines: Vec<Bytes>,
        /// The last one's position; the asked one if there is none.
        upto: Position,
        /// The log's mark there.
        mark: Mark,
    },
    /// The position is older than what is kept.
    Compacted {
        /// Entries behind this are kept.
        oldest: Position,
    },
    /// It is of another history.
    Foreign {
        /// The last common one, if that can be told.
        common: Option<Position>,
    },
}

/// The log of one registry.
pub struct Log {
    opener: Opener,
    /// Let go after a fault: the database takes no calls after one, and is opened anew.
    database: Mutex<Option<Database>>,
    history: Mutex<History>,
}

impl Log {
    /// Opens or makes the log in this directory.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::with(file::on_disk(dir)?)
    }

    /// A log that ends with the process: for tests and simulations.
    pub fn in_memory() -> Result<Self, LogError> {
        Self::with(file::in_memory())
    }

    fn with(opener: Opener) -> Result<Self, LogError> {
        let log = Self { opener, database: Mutex::new(None), history: Mutex::default() };
        log.on(|_| Ok(()))?;
        Ok(log)
    }

    /// Runs one piece of work on the database; after a fault the next one opens it anew, and what the file says
    /// then is what counts. The history is read and changed by such work alone, so that it fits the file.
    fn on<T>(&self, work: impl FnOnce(&Database) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut held = lock(&self.database);
        if held.is_none() {
            let database = (self.opener)()?;
            self.set_history(file::prepare(&database)?);
            *held = Some(database);
        }
        let Some(database) = held.as_ref() else {
            return Err(LogError::Damaged("it was closed while it was opened".into()));
        };
        let done = work(database);
        if matches!(done, Err(LogError::File { .. })) {
            *held = None;
        }
        done
    }

    fn set_history(&self, history: History) {
        *lock(&self.history) = history;
    }

    /// Where it begins and ends.
    pub fn history(&self) -> History {
        lock(&self.history).clone()
    }

    /// The newest position and the mark there.
    pub fn head(&self) -> (Position, Mark) {
        let history = lock(&self.history);
        (history.head, history.mark)
    }

    /// Appends entries, durably, all or none; each is the line it is sent as.
    pub fn append(&self, entries: &[(Entry, Bytes)]) -> Result<(), LogError> {
        self.on(|database| {
            let mut next = self.history();
            let before = next.head;
            let rows = rows(&mut next, entries)?;
            let write = database.begin_write().map_err(failed("begin a change"))?;
            {
                let mut table = write.open_table(ENTRIES).map_err(failed("open its entries"))?;
                for (position, row) in &rows {
                    table.insert(key(*position), row.as_slice()).map_err(failed("append"))?;
                }
                // One append is applied before the next: all before this one is.
                let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
                file::put_position(&mut meta, APPLIED, before)?;
                let mut epochs = write.open_table(EPOCHS).map_err(failed("open its epochs"))?;
                for opened in entries.iter().filter_map(|(entry, _)| entry.opened.as_ref()) {
                    file::put_epoch(&mut epochs, opened)?;
                }
            }
            write.commit().map_err(failed("append"))?;
            self.set_history(next);
            Ok(())
        })
    }

    /// Takes the newest entries back, all of these that are there at all: their changes could not be made, and nobody has
    /// seen them.
    pub fn take_back(&self, entries: RangeInclusive<Position>) -> Result<(), LogError> {
        self.on(|database| {
            let write = database.begin_write().map_err(failed("begin a change"))?;
            {
                let mut table = write.open_table(ENTRIES).map_err(failed("open its entries"))?;
                table
                    .retain_in(key(*entries.start())..=key(*entries.end()), |_, _| false)
                    .map_err(failed("take an entry back"))?;
            }
            write.commit().map_err(failed("take an entry back"))?;
            self.set_history(file::prepare(database)?);
            Ok(())
        })
    }

    /// The entries behind `after` up to `until`, a page of them. With `mark`, the asker's history is compared.
    pub fn read(&self, after: Position, mark: Option<Mark>, until: Position) -> Result<Read, LogError> {
        self.on(|database| {
            let history = self.history();
            match history.place(after) {
                Place::Foreign { common } => return Ok(Read::Foreign { common }),
                Place::Compacted => return Ok(Read::Compacted { oldest: history.base }),
                Place::Within => {}
            }
            let read = database.begin_read().map_err(failed("read"))?;
            let table = read.open_table(ENTRIES).map_err(failed("read"))?;
            let here = if after == history.base {
                Some(history.base_mark)
            } else {
                let row = table.get(key(after)).map_err(failed("read"))?;
                row.map(|row| file::split(row.value()).map(|(mark, _)| mark)).transpose()?
            };
            // A position between two reigns, or one whose history differs although its number does not.
            let Some(here) = here.filter(|here| mark.is_none_or(|mark| mark == *here)) else {
                return Ok(Read::Foreign { common: None });
            };
            let (mut lines, mut upto, mut mark, mut bytes) = (Vec::new(), after, here, 0);
            let behind = (std::ops::Bound::Excluded(key(after)), std::ops::Bound::Unbounded);
            for row in table.range::<(u64, u64)>(behind).map_err(failed("read"))? {
                let (at, row) = row.map_err(failed("read"))?;
                let at = file::position(at.value());
                if at > until {
                    break;
                }
                let (there, line) = file::split(row.value())?;
                (upto, mark) = (at, there);
                bytes += line.len();
                lines.push(Bytes::copy_from_slice(line));
                if lines.len() >= PAGE_LINES || bytes >= PAGE_BYTES {
                    break;
                }
            }
            Ok(Read::Lines { lines, upto, mark })
        })
    }

    /// The entries of the last append, unless it is known to be applied; oldest first.
    pub fn unapplied(&self) -> Result<Vec<Entry>, LogError> {
        self.on(|database| {
            let read = database.begin_read().map_err(failed("read"))?;
            let meta = read.open_table(META).map_err(failed("read"))?;
            let applied = meta.get(APPLIED).map_err(failed("read"))?;
            let Some(applied) = applied.map(|applied| file::position_of(applied.value())).transpose()? else {
                return Ok(Vec::new());
            };
            let table = read.open_table(ENTRIES).map_err(failed("read"))?;
            let mut newest = Vec::new();
            let behind = (std::ops::Bound::Excluded(key(applied)), std::ops::Bound::Unbounded);
            for row in table.range::<(u64, u64)>(behind).map_err(failed("read"))? {
                let (_, row) = row.map_err(failed("read"))?;
                newest.push(entry(file::split(row.value())?.1)?);
            }
            Ok(newest)
        })
    }

    /// Everything is applied: notes it, so that the next start need not look.
    pub fn all_applied(&self) -> Result<(), LogError> {
        let head = self.head().0;
        self.on(|database| {
            let write = database.begin_write().map_err(failed("begin a change"))?;
            {
                let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
                file::put_position(&mut meta, APPLIED, head)?;
            }
            write.commit().map_err(failed("note what is applied"))
        })
    }

    /// Begins anew behind a snapshot: what was kept is forgotten, whatever was noted under `forget` too.
    pub fn reset(&self, base: Position, mark: Mark, epochs: &[Epoch], forget: &str) -> Result<(), LogError> {
        self.on(|database| {
            let write = database.begin_write().map_err(failed("begin a change"))?;
            {
                let mut table = write.open_table(ENTRIES).map_err(failed("open its entries"))?;
                table.retain(|_, _| false).map_err(failed("forget its entries"))?;
                let mut kept = write.open_table(EPOCHS).map_err(failed("open its epochs"))?;
                kept.retain(|_, _| false).map_err(failed("forget its epochs"))?;
                for epoch in epochs {
                    file::put_epoch(&mut kept, epoch)?;
                }
                let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
                file::put_base(&mut meta, base, mark)?;
                file::put_position(&mut meta, APPLIED, base)?;
                meta.remove(forget).map_err(failed("forget a note"))?;
            }
            write.commit().map_err(failed("begin anew"))?;
            self.set_history(file::prepare(database)?);
            Ok(())
        })
    }

    /// Forgets the oldest entries: keeps the newest `keep`, and none behind `needed` is forgotten while there are
    /// not twice as many; one that may not be applied yet never is. Tells how many went.
    pub fn compact(&self, keep: u64, needed: Position) -> Result<u64, LogError> {
        let mut gone = 0;
        loop {
            match self.on(|database| self.compact_some(database, keep, needed))? {
                0 => return Ok(gone),
                count => gone += count,
            }
        }
    }

    fn compact_some(&self, database: &Database, keep: u64, needed: Position) -> Result<u64, LogError> {
        let write = database.begin_write().map_err(failed("begin a change"))?;
        let mut keys = Vec::new();
        {
            let mut table = write.open_table(ENTRIES).map_err(failed("open its entries"))?;
            let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
            let applied = meta.get(APPLIED).map_err(failed("read"))?;
            let applied = applied.map(|applied| file::position_of(applied.value())).transpose()?;
            let there = table.len().map_err(failed("count its entries"))?;
            let (extra, past) = (there.saturating_sub(keep), there.saturating_sub(keep.saturating_mul(2)));
            let most = usize::try_from(extra.min(COMPACTED_AT_ONCE)).unwrap_or(usize::MAX);
            for row in table.iter().map_err(failed("read"))?.take(most) {
                let (at, row) = row.map_err(failed("read"))?;
                let at = file::position(at.value());
                if Some(at) > applied || (at > needed && keys.len() as u64 >= past) {
                    break;
                }
                keys.push((at, file::split(row.value())?.0));
            }
            for (at, _) in &keys {
                table.remove(key(*at)).map_err(failed("forget an entry"))?;
            }
            if let Some((at, mark)) = keys.last() {
                file::put_base(&mut meta, *at, *mark)?;
            }
        }
        write.commit().map_err(failed("compact"))?;
        if let Some((at, mark)) = keys.last() {
            let mut history = lock(&self.history);
            (history.base, history.base_mark) = (*at, *mark);
        }
        Ok(keys.len() as u64)
    }

    /// How many entries are kept.
    pub fn len(&self) -> Result<u64, LogError> {
        self.on(|database| {
            let read = database.begin_read().map_err(failed("read"))?;
            let table = read.open_table(ENTRIES).map_err(failed("read"))?;
            table.len().map_err(failed("count its entries"))
        })
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> Result<bool, LogError> {
        Ok(self.len()? == 0)
    }

    /// What was noted under this name.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        self.on(|database| {
            let read = database.begin_read().map_err(failed("read"))?;
            let table = read.open_table(META).map_err(failed("read"))?;
            let found = table.get(name).map_err(failed("read"))?;
            Ok(found.map(|found| found.value().to_vec()))
        })
    }

    /// Notes something beside the entries, durably; `None` forgets it.
    pub fn put_note(&self, name: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        self.on(|database| {
            let write = database.begin_write().map_err(failed("begin a change"))?;
            {
                let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
                match value {
                    Some(value) => drop(meta.insert(name, value).map_err(failed("note something"))?),
                    None => drop(meta.remove(name).map_err(failed("forget a note"))?),
                }
            }
            write.commit().map_err(failed("note something"))
        })
    }
}

/// What is stored for these entries, which must follow on `next`; moves it on.
fn rows(next: &mut History, entries: &[(Entry, Bytes)]) -> Result<Vec<(Position, Vec<u8>)>, LogError> {
    let row = |(entry, line): &(Entry, Bytes)| {
        if entry.prev != next.head || entry.position <= next.head {
            let why =
                format!("{} was to follow {}, and {} is its end", entry.position, entry.prev, next.head);
            return Err(LogError::Damaged(why));
        }
        next.push(entry.position, line, entry.opened.as_ref());
        Ok((entry.position, [next.mark.as_bytes().as_slice(), line].concat()))
    };
    entries.iter().map(row).collect()
}

/// Reads an entry's line.
pub fn entry(line: &[u8]) -> Result<Entry, LogError> {
    serde_json::from_slice(line)
        .map_err(|error| LogError::Damaged(format!("an entry cannot be read: {error}")))
}

/// What a panicking holder left is whole: each is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
