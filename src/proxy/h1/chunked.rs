//! The chunked coding, RFC 9112 §7.1, strictly: extensions are checked, bounded and dropped; trailers are checked and
//! bounded.

use std::ops::Range;

use super::fields::{is_forbidden, is_token};

/// A line with a chunk's size, extensions included, has so many bytes at most.
const LINE: u32 = 256;

/// So many bytes extensions may have beyond the data behind them, over a whole body: a flood of tiny chunks with long
/// extensions costs the reader more than the sender.
const EXCESS: u64 = 16 * 1024;

/// Bytes of all trailers together.
const TRAILERS: usize = 8 * 1024;

/// Trailer fields.
const TRAILER_FIELDS: u32 = 64;

/// Hex digits of a size: as many as 64 bits need.
const DIGITS: u32 = 16;

/// A larger size is negative to those who read it into a signed number.
const SIZE: u64 = i64::MAX as u64;

/// The bytes are no chunked body, or more of one than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size {
        size: u64,
        digits: u32,
    },
    /// Behind the digits, before the semicolon that must follow.
    Gap {
        size: u64,
    },
    /// In an extension.
    Extension {
        size: u64,
    },
    /// The CR of a size's line was seen.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a trailer's line, or of the empty one that ends the body.
    Line,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    LastEnd,
    Over,
}

/// Takes a chunked body apart.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    line: u32,
    excess: u64,
    fields: u32,
    trailers: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        let state = State::Size { size: 0, digits: 0 };
        Self { state, line: 0, excess: 0, fields: 0, trailers: Vec::new() }
    }
}

/// What the beginning of some bytes was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// So many bytes were used.
    pub used: usize,
    /// These of them are data.
    pub data: Range<usize>,
}

impl Decoder {
    /// Whether the body is over.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The trailers, each line with its end; complete once the body is over.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Goes on with `input` up to the end of the next piece of data, of the input, or of the body; what is behind the
    /// body is left alone.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, Bad> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Data { left } = self.state {
                let room = input.len() - at;
                let take = usize::try_from(left).map_or(room, |left| left.min(room));
                let left = left - take as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Step { used: at + take, data: at..at + take });
            }
            if self.state == State::Over {
                break;
            }
            self.state = self.byte(byte)?;
            at += 1;
        }
        Ok(Step { used: at, data: at..at })
    }

    fn byte(&mut self, byte: u8) -> Result<State, Bad> {
        match self.state {
            State::Size { size, digits } => {
                self.grow()?;
                match char::from(byte).to_digit(16) {
                    Some(digit) if digits < DIGITS => {
                        let size = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                        let size = size.filter(|size| *size <= SIZE).ok_or(Bad)?;
                        Ok(State::Size { size, digits: digits + 1 })
                    }
                    Some(_) => Err(Bad),
                    None if digits == 0 => Err(Bad),
                    None => behind_size(byte, size),
                }
            }
            State::Gap { size } => {
                self.grow()?;
                self.excess += 1;
                match byte {
                    b' ' | b'\t' => Ok(State::Gap { size }),
                    b';' => Ok(State::Extension { size }),
                    _ => Err(Bad),
                }
            }
            State::Extension { size } => {
                self.grow()?;
                self.excess += 1;
                match byte {
                    b'\r' => Ok(State::SizeEnd { size }),
                    byte if is_forbidden(byte) => Err(Bad),
                    _ => Ok(State::Extension { size }),
                }
            }
            State::SizeEnd { size } if byte == b'\n' => self.sized(size),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::Line => match byte {
                b'\r' => Ok(State::LastEnd),
                byte if is_token(byte) => {
                    self.fields += 1;
                    if self.fields > TRAILER_FIELDS {
                        return Err(Bad);
                    }
                    self.trailer(byte)?;
                    Ok(State::TrailerName)
                }
                _ => Err(Bad),
            },
            State::TrailerName => {
                self.trailer(byte)?;
                match byte {
                    b':' => Ok(State::TrailerValue),
                    byte if is_token(byte) => Ok(State::TrailerName),
                    _ => Err(Bad),
                }
            }
            State::TrailerValue => {
                self.trailer(byte)?;
                match byte {
                    b'\r' => Ok(State::TrailerEnd),
                    byte if is_forbidden(byte) => Err(Bad),
                    _ => Ok(State::TrailerValue),
                }
            }
            State::TrailerEnd if byte == b'\n' => {
                self.trailer(byte)?;
                Ok(State::Line)
            }
            State::LastEnd if byte == b'\n' => Ok(State::Over),
            State::SizeEnd { .. } | State::DataCr | State::DataLf | State::TrailerEnd | State::LastEnd => {
                Err(Bad)
            }
            // Both are met before a byte is looked at.
            State::Data { .. } | State::Over => Err(Bad),
        }
    }

    /// One byte more of a size's line.
    fn grow(&mut self) -> Result<(), Bad> {
        self.line += 1;
        if self.line > LINE { Err(Bad) } else { Ok(()) }
    }

    /// The line of a size is over.
    fn sized(&mut self, size: u64) -> Result<State, Bad> {
        self.line = 0;
        self.excess = self.excess.saturating_sub(size);
        if self.excess > EXCESS {
            return Err(Bad);
        }
        Ok(if size == 0 { State::Line } else { State::Data { left: size } })
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Bad> {
        if self.trailers.len() >= TRAILERS {
            return Err(Bad);
        }
        self.trailers.push(byte);
        Ok(())
    }
}

fn behind_size(byte: u8, size: u64) -> Result<State, Bad> {
    match byte {
        b'\r' => Ok(State::SizeEnd { size }),
        b';' => Ok(State::Extension { size }),
        b' ' | b'\t' => Ok(State::Gap { size }),
        _ => Err(Bad),
    }
}

/// Writes `data` as one chunk. None of no data, for that would be the end.
pub fn encode(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = data.len();
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left % 16];
        left /= 16;
    }
    out.reserve(data.len() + digits.len() + 4);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunked body. `trailers` are whole lines.
pub fn encode_end(trailers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data, trailers, and what is left of the input; the input comes in pieces of `piece` bytes.
    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize), Bad> {
        let mut decoder = Decoder::default();
        let (mut data, mut used) = (Vec::new(), 0);
        for part in input.chunks(piece.max(1)) {
            let mut rest = part;
            while !rest.is_empty() && !decoder.is_over() {
                let step = decoder.next(rest)?;
                data.extend_from_slice(&rest[step.data]);
                used += step.used;
                rest = &rest[step.used..];
            }
        }
        if decoder.is_over() { Ok((data, decoder.trailers().to_vec(), input.len() - used)) } else { Err(Bad) }
    }

    fn good(input: &str, data: &str, trailers: &str, left: usize) {
        for piece in [1, 2, 3, 7, input.len()] {
            let wanted = (data.as_bytes().to_vec(), trailers.as_bytes().to_vec(), left);
            assert_eq!(decode(input.as_bytes(), piece), Ok(wanted), "{input:?}, {piece} bytes at once");
        }
    }

    #[test]
    fn bodies_are_taken_apart_however_they_arrive() {
        good("0\r\n\r\n", "", "", 0);
        good("5\r\nhello\r\n0\r\n\r\n", "hello", "", 0);
        good("5\r\nhello\r\n000\r\n\r\nGET /", "hello", "", 5);
        good("A;x=y\r\n0123456789\r\n0;last\r\n\r\n", "0123456789", "", 0);
        good("1 ;x=\"a b\"\r\na\r\n0\r\n\r\n", "a", "", 0);
        good(&format!("{}0\r\n\r\n", "00000001\r\na\r\n".repeat(20_000)), &"a".repeat(20_000), "", 0);
        good("1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", "a", "X-Sum: 1\r\nY:\r\n", 0);
    }

    #[test]
    fn what_is_not_quite_chunked_is_refused() {
        let line = "x".repeat(300);
        let long = format!("1;{line}\r\na\r\n0\r\n\r\n");
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(65));
        let large = format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000));
        let flood = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100));
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1 \r\na\r\n0\r\n\r\n",
            "1\na\n0\n\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "2\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "1;a\nb\r\na\r\n0\r\n\r\n",
            "1;a\0b\r\na\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "8000000000000000\r\n",
            "00000000000000001\r\na\r\n0\r\n\r\n",
            "0\r\nA b: c\r\n\r\n",
            "0\r\n: c\r\n\r\n",
            "0\r\nA: c\r\n folded\r\n\r\n",
            "0\r\nA: c\u{1}\r\n\r\n",
            "0\r\nA\r\n\r\n",
            "0\r\n\n",
            "0\r\n\r\r\n",
            &long,
            &many,
            &large,
            &flood,
        ] {
            for piece in [1, 3, bad.len()] {
                assert_eq!(decode(bad.as_bytes(), piece), Err(Bad), "{bad:.40?}, {piece} bytes at once");
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), piece in 1usize..40) {
            let mut coded = Vec::new();
            for part in &parts {
                encode(part, &mut coded);
            }
            encode_end(b"A: b\r\n", &mut coded);
            coded.extend_from_slice(b"rest");
            prop_assert_eq!(decode(&coded, piece), Ok((parts.concat(), b"A: b\r\n".to_vec(), 4)));
        }

        #[test]
        fn no_bytes_make_it_panic_and_pieces_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..20) {
            prop_assert_eq!(decode(&bytes, piece), decode(&bytes, 200));
        }
    }
}
