//! Where a head ends.

/// Why there is no use in reading on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is longer than allowed.
    TooLong,
    /// A line does not end in CR LF.
    BareLineEnd,
}

/// The offset behind the empty line that ends a head; `None`: read on. `from` is how much of `bytes` was scanned
/// before without finding it.
///
/// A line that ends in a bare LF is a fault at once: waiting for an empty line that another parser would have seen
/// already is how two of them come to disagree.
pub fn end_of_head(bytes: &[u8], from: usize, most: usize) -> Result<Option<usize>, Fault> {
    let from = from.saturating_sub(3);
    let window = bytes.get(from..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', window).map(|at| from + at) {
        if at >= most {
            return Err(Fault::TooLong);
        }
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Fault::BareLineEnd);
        }
        if at >= 3 && bytes[at - 3..at] == *b"\r\n\r" {
            return Ok(Some(at + 1));
        }
    }
    if bytes.len() > most { Err(Fault::TooLong) } else { Ok(None) }
}
