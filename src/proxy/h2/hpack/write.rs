//! Writes the fields of answers. What comes again goes into the table, by a short list of what does not.

use super::{
    ENTRY, TABLE,
    table::{Entry, Kind, Table},
};

/// Writes the blocks of one client.
#[derive(Debug)]
pub struct Writer {
    table: Table,
    /// The smallest and the last size that the table was given and the client was not told of.
    untold: Option<(usize, usize)>,
}

/// How a field is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It will come again.
    Kept,
    /// It is another one each time.
    Once,
    /// §7.1.3: in the table it could be guessed at.
    Secret,
}

impl Default for Writer {
    fn default() -> Self {
        Self { table: Table::new(TABLE), untold: None }
    }
}

impl Writer {
    /// The client allows a table of so many bytes.
    pub fn allow(&mut self, most: usize) {
        let most = most.min(TABLE);
        if most != self.table.most() || self.untold.is_some() {
            let least = self.untold.map_or(most, |(least, _)| least.min(most));
            self.untold = Some((least, most));
            self.table.resize(most);
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        // §4.2: the smallest is said too, for it has emptied the table.
        if let Some((least, most)) = self.untold.take() {
            if least < most {
                number(out, 0x20, 5, least);
            }
            number(out, 0x20, 5, most);
        }
    }

    /// `:status`.
    pub fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let place = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = itoa::Buffer::new().format(status).to_owned();
                return self.say(b":status", digits.as_bytes(), 8, Way::Kept, out);
            }
        };
        out.push(0x80 | place);
    }

    /// A field, whose name is in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let (place, way) = of(name);
        self.say(name, value, place, way, out);
    }

    fn say(&mut self, name: &[u8], value: &[u8], place: usize, way: Way, out: &mut Vec<u8>) {
        // One that is large would push out too many others.
        let fits = 4 * (name.len() + value.len() + ENTRY) <= self.table.most();
        let flags = match way {
            Way::Kept if fits => {
                let hash = hash(name, value);
                let same = |entry: &Entry| {
                    let (of, at, _) = entry.get();
                    entry.hash == hash && of == name && at == value
                };
                if let Some((place, _)) = self.table.entries().find(|(_, entry)| same(entry)) {
                    return number(out, 0x80, 7, place);
                }
                self.table.insert(Entry::new(name, value, Kind::Plain, hash));
                0x40
            }
            Way::Kept | Way::Once => 0,
            Way::Secret => 0x10,
        };
        number(out, flags, if flags == 0x40 { 6 } else { 4 }, place);
        if place == 0 {
            string(out, name);
        }
        string(out, value);
    }
}

/// Where a name stands in the static table (0: nowhere), and how its fields are said.
fn of(name: &[u8]) -> (usize, Way) {
    use Way::{Kept, Once, Secret};
    match name.len() {
        3 if name == b"age" => (21, Once),
        3 if name == b"via" => (60, Kept),
        4 if name == b"date" => (33, Kept),
        4 if name == b"etag" => (34, Once),
        4 if name == b"link" => (45, Kept),
        4 if name == b"vary" => (59, Kept),
        5 if name == b"allow" => (22, Kept),
        5 if name == b"range" => (50, Once),
        6 if name == b"server" => (54, Kept),
        7 if name == b"expires" => (36, Kept),
        8 if name == b"location" => (46, Once),
        10 if name == b"set-cookie" => (55, Secret),
        11 if name == b"retry-after" => (53, Kept),
        12 if name == b"content-type" => (31, Kept),
        12 if name == crate::wire::headers::REQUEST_ID.as_bytes() => (0, Once),
        13 if name == b"cache-control" => (24, Kept),
        13 if name == b"last-modified" => (44, Once),
        13 if name == b"accept-ranges" => (18, Kept),
        13 if name == b"content-range" => (30, Once),
        13 if name == b"authorization" => (23, Secret),
        14 if name == b"content-length" => (28, Once),
        16 if name == b"www-authenticate" => (61, Kept),
        16 if name == b"content-encoding" => (26, Kept),
        19 if name == b"content-disposition" => (25, Once),
        21 if name == b"docker-content-digest" => (0, Once),
        25 if name == b"strict-transport-security" => (56, Kept),
        _ => (0, Kept),
    }
}

/// §5.1.
fn number(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(flags | low(value));
    }
    out.push(flags | low(most));
    let mut rest = value - most;
    while rest >= 128 {
        out.push(low(rest % 128) | 0x80);
        rest /= 128;
    }
    out.push(low(rest));
}

/// A number that fits in a byte.
fn low(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// §5.2, as it is.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// Tells fields apart, mostly; nobody gains by two that it does not.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (name.len() as u64) << 32 | value.len() as u64;
    for part in [name, value] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        let mut last = [0; 8];
        for (to, byte) in last.iter_mut().zip(rest) {
            *to = *byte;
        }
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    u32::try_from(hash >> 32).unwrap_or_default()
}
