//! The log's file: its tables, and how they are written and read.

use std::{fs, path::Path};

use redb::{Builder, Database, ReadableTable, Table, TableDefinition, backends::InMemoryBackend};

use super::{LogError, entry, failed, history::History};
use crate::{
    model::{Mark, Position},
    wire::replication::Epoch,
};

pub(super) const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
pub(super) const EPOCHS: TableDefinition<u64, &[u8]> = TableDefinition::new("epochs");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The layout above.
const FORMAT: &str = "format";
const FORMAT_NOW: u8 = 1;

/// Position and mark before the first entry that is kept.
const BASE: &str = "base";

/// Memory for pages of the file; followers read the newest ones.
const CACHE: usize = 16 << 20;

/// Bytes of a mark in front of a line.
const MARK: usize = 16;

/// Opens the database, and opens it anew after a fault.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, LogError> + Send + Sync>;

pub(super) fn on_disk(dir: &Path) -> Result<Opener, LogError> {
    let dir = dir.to_owned();
    let io = |source: std::io::Error| failed("make its directory")(redb::StorageError::Io(source));
    if !dir.is_dir() {
        fs::create_dir_all(&dir).map_err(io)?;
        if let Some(above) = dir.parent() {
            // Or a power cut takes the whole log with it.
            fs::File::open(above).and_then(|above| above.sync_all()).map_err(io)?;
        }
    }
    let file = dir.join("log.redb");
    Ok(Box::new(move || {
        let new = !file.exists();
        let database = Builder::new().set_cache_size(CACHE).create(&file).map_err(failed("open its file"))?;
        if new {
            // The entry in the directory must last as well.
            let synced = fs::File::open(&dir).and_then(|dir| dir.sync_all());
            synced.map_err(|source| failed("sync its directory")(redb::StorageError::Io(source)))?;
        }
        Ok(database)
    }))
}

pub(super) fn in_memory() -> Opener {
    Box::new(|| Builder::new().create_with_backend(InMemoryBackend::new()).map_err(failed("open its memory")))
}

/// Lays the tables out if there are none and reads where the log begins and ends.
pub(super) fn prepare(database: &Database) -> Result<History, LogError> {
    let write = database.begin_write().map_err(failed("begin a change"))?;
    let mut history = History::default();
    {
        let mut meta = write.open_table(META).map_err(failed("open its notes"))?;
        let format = meta.get(FORMAT).map_err(failed("read"))?.map(|found| found.value().to_vec());
        match format.as_deref() {
            None => {
                meta.insert(FORMAT, [FORMAT_NOW].as_slice()).map_err(failed("note its format"))?;
            }
            Some([FORMAT_NOW]) => {}
            Some(other) => {
                let why = format!(
                    "it has format {other:?}, and this version knows {FORMAT_NOW}; use the newer version"
                );
                return Err(LogError::Damaged(why));
            }
        }
        if let Some(base) = meta.get(BASE).map_err(failed("read"))? {
            (history.base, history.base_mark) = base_of(base.value())?;
        }
        (history.head, history.mark) = (history.base, history.base_mark);
        let entries = write.open_table(ENTRIES).map_err(failed("open its entries"))?;
        if let Some((at, row)) = entries.last().map_err(failed("read"))? {
            let (mark, line) = split(row.value())?;
            (history.head, history.mark) = (position(at.value()), mark);
            // The newest line is read whole: what cannot be read must be found now, not when a follower asks.
            entry(line)?;
        }
        let epochs = write.open_table(EPOCHS).map_err(failed("open its epochs"))?;
        for row in epochs.iter().map_err(failed("read"))? {
            let (_, row) = row.map_err(failed("read"))?;
            let epoch = serde_json::from_slice(row.value());
            history
                .epochs
                .push(epoch.map_err(|error| LogError::Damaged(format!("an epoch cannot be read: {error}")))?);
        }
    }
    write.commit().map_err(failed("lay its tables out"))?;
    if !history.holds() {
        return Err(LogError::Damaged(format!("its order is broken: {history:?}")));
    }
    Ok(history)
}

pub(super) fn put_epoch(table: &mut Table<'_, u64, &[u8]>, epoch: &Epoch) -> Result<(), LogError> {
    let text = serde_json::to_vec(epoch).map_err(|error| LogError::Damaged(error.to_string()))?;
    table.insert(epoch.epoch, text.as_slice()).map_err(failed("note an epoch"))?;
    Ok(())
}

pub(super) fn put_base(meta: &mut Meta<'_>, base: Position, mark: Mark) -> Result<(), LogError> {
    let bytes = [&position_bytes(base)[..], mark.as_bytes()].concat();
    meta.insert(BASE, bytes.as_slice()).map_err(failed("note its beginning"))?;
    Ok(())
}

pub(super) fn put_position(meta: &mut Meta<'_>, name: &str, position: Position) -> Result<(), LogError> {
    meta.insert(name, position_bytes(position).as_slice()).map_err(failed("note a position"))?;
    Ok(())
}

/// The notes' table.
type Meta<'t> = Table<'t, &'static str, &'static [u8]>;

fn position_bytes(position: Position) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&position.epoch.to_le_bytes());
    bytes[8..].copy_from_slice(&position.seq.to_le_bytes());
    bytes
}

fn base_of(bytes: &[u8]) -> Result<(Position, Mark), LogError> {
    let mark = bytes.get(16..).and_then(|mark| mark.try_into().ok()).map(Mark::from_bytes);
    let mark = mark.ok_or_else(|| LogError::Damaged("its beginning cannot be read".into()))?;
    Ok((position_of(&bytes[..16])?, mark))
}

/// Reads what [`put_position`] wrote.
pub(super) fn position_of(bytes: &[u8]) -> Result<Position, LogError> {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map(u64::from_le_bytes);
    let (Some(epoch), Some(seq)) = (number(0), number(8)) else {
        return Err(LogError::Damaged("a position in it cannot be read".into()));
    };
    Ok(Position { epoch, seq })
}

/// Mark and line of a row.
pub(super) fn split(row: &[u8]) -> Result<(Mark, &[u8]), LogError> {
    let (mark, line) = row
        .split_first_chunk::<MARK>()
        .ok_or_else(|| LogError::Damaged("an entry is too short to be one".into()))?;
    Ok((Mark::from_bytes(*mark), line))
}

pub(super) fn key(position: Position) -> (u64, u64) {
    (position.epoch, position.seq)
}

pub(super) fn position((epoch, seq): (u64, u64)) -> Position {
    Position { epoch, seq }
}
