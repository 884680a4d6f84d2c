//! The code of strings, RFC 7541 §5.2 and appendix B. Only read: what is written here goes as it is, for a few bytes of
//! an answer are worth less than the time.

use super::Broken;

/// Appendix B. The code is canonical, so the lengths say all of it: of symbols with the same length, the codes are one
/// after the other.
const LENGTHS: [u8; 257] = [
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

/// The end of a string, which may not be in one.
const END: usize = 256;

/// The longest code.
const LONGEST: usize = 30;

/// Codes of up to so many bits are looked up at once; all that URLs and fields are made of.
const SHORT: u32 = 10;

/// The code, by length.
struct Canon {
    /// All symbols in the order of their codes.
    order: [u16; 257],
    /// The first code of each length.
    first: [u32; LONGEST + 1],
    /// Where its symbol stands in the order.
    from: [u32; LONGEST + 1],
    /// How many there are.
    count: [u32; LONGEST + 1],
}

static CANON: Canon = canon();

/// By the next [`SHORT`] bits: a symbol and the length of its code; 0, 0 if that is longer.
static QUICK: [(u8, u8); 1 << SHORT] = quick(&canon());

const fn canon() -> Canon {
    let mut out =
        Canon { order: [0; 257], first: [0; LONGEST + 1], from: [0; LONGEST + 1], count: [0; LONGEST + 1] };
    let (mut length, mut code, mut place) = (1, 0, 0);
    while length <= LONGEST {
        code <<= 1;
        out.first[length] = code;
        out.from[length] = place;
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol] as usize == length {
                out.order[place as usize] = symbol as u16;
                out.count[length] += 1;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    out
}

const fn quick(canon: &Canon) -> [(u8, u8); 1 << SHORT] {
    let mut out = [(0, 0); 1 << SHORT];
    let mut length = 1;
    while length <= SHORT {
        let mut place = 0;
        while place < canon.count[length as usize] {
            let symbol = canon.order[(canon.from[length as usize] + place) as usize];
            let code = (canon.first[length as usize] + place) << (SHORT - length);
            let mut rest = 0;
            while rest < 1 << (SHORT - length) {
                out[(code + rest) as usize] = (symbol as u8, length as u8);
                rest += 1;
            }
            place += 1;
        }
        length += 1;
    }
    out
}

/// Adds what these bytes stand for.
pub(super) fn unpack(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    // The shortest code has five bits.
    out.reserve(bytes.len() * 8 / 5);
    let (mut held, mut bits) = (0u64, 0u32);
    let mut rest = bytes.iter();
    loop {
        while bits <= 56
            && let Some(byte) = rest.next()
        {
            held = held << 8 | u64::from(*byte);
            bits += 8;
        }
        if bits == 0 {
            return Ok(());
        }
        // Behind the end there are ones, as in the padding.
        let next = if bits >= SHORT {
            held >> (bits - SHORT)
        } else {
            (held << (SHORT - bits)) | ((1 << (SHORT - bits)) - 1)
        };
        let (symbol, length) = QUICK[(next & ((1 << SHORT) - 1)) as usize];
        if length > 0 && u32::from(length) <= bits {
            out.push(symbol);
            bits -= u32::from(length);
            continue;
        }
        match long(held, bits) {
            Some((symbol, length)) => {
                out.push(u8::try_from(symbol).map_err(|_| Broken)?);
                bits -= length;
            }
            // Padding: fewer bits than a byte has, all of them ones.
            None if bits < 8 && held & ((1 << bits) - 1) == (1 << bits) - 1 => return Ok(()),
            None => return Err(Broken),
        }
    }
}

/// The symbol whose long code comes next, and the code's length.
fn long(held: u64, bits: u32) -> Option<(u16, u32)> {
    for length in SHORT + 1..=(LONGEST as u32).min(bits) {
        let code = u32::try_from(held >> (bits - length) & ((1 << length) - 1)).ok()?;
        let at = length as usize;
        let place = code.checked_sub(CANON.first[at])?;
        if place < CANON.count[at] {
            return Some((CANON.order[(CANON.from[at] + place) as usize], length));
        }
    }
    None
}

#[cfg(test)]
pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0u64, 0u32);
    for byte in bytes {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let place = CANON.order.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
        let code = CANON.first[length] + u32::try_from(place).unwrap() - CANON.from[length];
        held = held << length | u64::from(code);
        bits += u32::try_from(length).unwrap();
        while bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).unwrap());
        }
    }
    if bits > 0 {
        out.push(u8::try_from((held << (8 - bits) | ((1 << (8 - bits)) - 1)) & 0xff).unwrap());
    }
    out
}
