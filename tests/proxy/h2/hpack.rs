//! HPACK (RFC 7541): a writer that uses no compression at all, so that a test can say any bytes; and a reader of all of
//! it, written from the RFC alone.

/// Appendix B. The code is canonical: the lengths say all of it.
const LENGTHS: [u32; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

pub type Fields = Vec<(String, String)>;

/// A number behind `flags`, in the low `bits` of its first byte.
pub fn number(flags: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if value < most {
        out.push(flags | u8::try_from(value).unwrap());
        return;
    }
    out.push(flags | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// A string as it is.
pub fn string(bytes: &[u8], out: &mut Vec<u8>) {
    number(0, 7, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// One field, which goes into no table.
pub fn literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    string(name, out);
    string(value, out);
}

/// One field, which goes into the table.
pub fn indexed(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0x40);
    string(name, out);
    string(value, out);
}

/// A block of these.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        literal(name.as_ref(), value.as_ref(), &mut out);
    }
    out
}

/// Reads blocks, one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    table: std::collections::VecDeque<(String, String)>,
}

impl Reader {
    /// The fields of a block. Panics at what is none: the proxy wrote it.
    pub fn read(&mut self, mut block: &[u8]) -> Fields {
        let mut out = Fields::new();
        while let [first, ..] = *block {
            if first & 0x80 != 0 {
                let at = take_number(&mut block, 7);
                out.push(self.entry(at));
            } else if first & 0xe0 == 0x20 {
                let size = take_number(&mut block, 5);
                assert!(size <= 4096, "a table of {size} bytes was never agreed on");
                self.shrink(size);
            } else {
                let keep = first & 0x40 != 0;
                let at = take_number(&mut block, if keep { 6 } else { 4 });
                let name = if at == 0 { take_string(&mut block) } else { self.entry(at).0 };
                let field = (name, take_string(&mut block));
                if keep {
                    self.table.push_front(field.clone());
                    self.shrink(4096);
                }
                out.push(field);
            }
        }
        out
    }

    fn entry(&self, at: usize) -> (String, String) {
        assert!(at > 0, "there is no field 0");
        match STATIC.get(at - 1) {
            Some((name, value)) => ((*name).to_owned(), (*value).to_owned()),
            None => self.table[at - 1 - STATIC.len()].clone(),
        }
    }

    fn shrink(&mut self, most: usize) {
        let size = |table: &std::collections::VecDeque<(String, String)>| {
            table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        while size(&self.table) > most {
            self.table.pop_back();
        }
    }
}

fn take(block: &mut &[u8]) -> u8 {
    let (first, rest) = block.split_first().expect("the block goes on");
    *block = rest;
    *first
}

fn take_number(block: &mut &[u8], bits: u32) -> usize {
    let most = (1usize << bits) - 1;
    let mut value = usize::from(take(block)) & most;
    let mut shift = 0;
    while value >= most {
        let next = take(block);
        value += usize::from(next & 0x7f) << shift;
        shift += 7;
        if next & 0x80 == 0 {
            break;
        }
    }
    value
}

fn take_string(block: &mut &[u8]) -> String {
    let huffman = block[0] & 0x80 != 0;
    let length = take_number(block, 7);
    let (bytes, rest) = block.split_at(length);
    *block = rest;
    let bytes = if huffman { unpack(bytes) } else { bytes.to_vec() };
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// §5.2. Symbols of one length have codes in their own order, behind those of shorter ones.
fn unpack(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut code, mut bits) = (Vec::new(), 0u32, 0u32);
    let all = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
    for bit in all {
        (code, bits) = (code << 1 | bit, bits + 1);
        let mut first = 0u32;
        for shorter in 1..bits {
            let count = LENGTHS.iter().filter(|length| **length == shorter).count();
            first = (first + u32::try_from(count).unwrap()) << 1;
        }
        let mut same =
            LENGTHS.iter().enumerate().filter(|(_, length)| **length == bits).map(|(symbol, _)| symbol);
        let place = code.checked_sub(first).map(|place| place as usize);
        if let Some(symbol) = place.and_then(|place| same.nth(place)) {
            out.push(u8::try_from(symbol).expect("no end within a string"));
            (code, bits) = (0, 0);
        }
    }
    assert!(bits < 8 && code == (1 << bits) - 1, "padding is of ones");
    out
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // Appendix C.4.1, C.4.2, C.6.1.
    let hex = |text: &str| hex(text);
    let mut reader = Reader::default();
    let first = reader.read(&hex("828684418cf1e3c2e5f23a6ba0ab90f4ff"));
    assert_eq!(first[3], (":authority".to_owned(), "www.example.com".to_owned()));
    let second = reader.read(&hex("828684be5886a8eb10649cbf"));
    assert_eq!(
        second[3..],
        [
            (":authority".to_owned(), "www.example.com".to_owned()),
            ("cache-control".to_owned(), "no-cache".to_owned()),
        ]
    );
    let mut block = Vec::new();
    literal(b"x", &[b'y'; 300], &mut block);
    assert_eq!(Reader::default().read(&block), [("x".to_owned(), "y".repeat(300))]);
}

#[cfg(test)]
fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
