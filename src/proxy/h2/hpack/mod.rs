//! HPACK, RFC 7541. What one block of fields makes of the tables counts for all that follow: a reader that fails, or a
//! writer whose block is not sent, is of no more use to its connection.

mod huffman;
mod table;
mod read;
mod write;

pub use read::Reader;
pub use table::Kind;
pub use write::Writer;

/// Bytes of a table, until something else is agreed on. Larger ones are not used.
pub const TABLE: usize = 4096;

/// What an entry of a table counts for beside its text, RFC 7541 §4.1.
const ENTRY: usize = 32;

/// A block is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

#[cfg(test)]
mod tests;
