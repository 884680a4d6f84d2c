//! Reads blocks of fields, one after the other.

use super::{
    Broken, TABLE, huffman,
    table::{Entry, Kind, Table},
};

/// A packed string takes this much room between two blocks at most.
const KEPT: usize = 1024;

/// Reads the blocks of one client.
#[derive(Debug)]
pub struct Reader {
    table: Table,
    /// Where packed strings are unpacked: of a name, and of a value.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { table: Table::new(TABLE), name: Vec::new(), value: Vec::new() }
    }
}

impl Reader {
    /// Reads a whole block; `each` is given every field in turn.
    pub fn read(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8], Kind)) -> Result<(), Broken> {
        let mut rest = Rest(block);
        // §4.2: the size of the table changes before the first field alone.
        while let Some(first) = rest.peek().filter(|first| first & 0xe0 == 0x20) {
            let most = rest.number(first, 5)?;
            if most > TABLE {
                return Err(Broken);
            }
            self.table.resize(most);
        }
        while let Some(first) = rest.peek() {
            match first {
                0x80.. => {
                    let (name, value, kind) = self.table.get(rest.number(first, 7)?).ok_or(Broken)?;
                    each(name, value, kind);
                }
                0x40.. => {
                    let entry = self.literal(&mut rest, first, 6, |name, value| {
                        Entry::new(name, value, Kind::of(name, value), 0)
                    })?;
                    let (name, value, kind) = entry.get();
                    each(name, value, kind);
                    self.table.insert(entry);
                }
                0x20.. => return Err(Broken),
                _ => self.literal(&mut rest, first, 4, |name, value| {
                    each(name, value, Kind::of(name, value));
                })?,
            }
        }
        if self.name.capacity().max(self.value.capacity()) > KEPT {
            (self.name, self.value) = (Vec::new(), Vec::new());
        }
        Ok(())
    }

    fn literal<T>(
        &mut self,
        rest: &mut Rest<'_>,
        first: u8,
        bits: u32,
        then: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Result<T, Broken> {
        let name = match rest.number(first, bits)? {
            0 => rest.string(&mut self.name)?,
            place => self.table.get(place).ok_or(Broken)?.0,
        };
        let value = rest.string(&mut self.value)?;
        Ok(then(name, value))
    }
}

/// What is left of a block.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    /// §5.1. Its first byte is known, and not yet taken; its low `bits` are the number's.
    fn number(&mut self, first: u8, bits: u32) -> Result<usize, Broken> {
        self.next()?;
        let most = (1usize << bits) - 1;
        let mut value = usize::from(first) & most;
        if value < most {
            return Ok(value);
        }
        // Nothing that a block may say needs more than 21 bits.
        for shift in [0, 7, 14] {
            let byte = self.next()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken)
    }

    /// §5.2. One that is packed is unpacked into `room`.
    fn string<'b>(&mut self, room: &'b mut Vec<u8>) -> Result<&'b [u8], Broken>
    where
        'a: 'b,
    {
        let first = self.peek().ok_or(Broken)?;
        let length = self.number(first, 7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = rest;
        if first & 0x80 == 0 {
            return Ok(bytes);
        }
        room.clear();
        huffman::unpack(bytes, room)?;
        Ok(room)
    }
}
