//! How a body is framed: decided once, from the head, and matched on by everybody after that.

use super::fields::{Fields, text};

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, RFC 9112 §7.1.
    Chunked,
    /// Everything until the sender closes. Answers only.
    UntilClose,
    /// Another protocol, until either side closes.
    Upgraded,
}

/// The head of an answer frames its body in no way, or in several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// A length as RFC 9110 §8.6 writes it: digits alone, that fit.
pub fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    text(value).filter(|_| digits)?.parse().ok()
}

/// The framing of an answer, RFC 9112 §6.3; stricter where that forgives what two parsers could read differently.
///
/// `bodiless`: the request was a `HEAD`. `old`: the answer is of HTTP/1.0.
pub fn of_answer(bodiless: bool, status: u16, old: bool, fields: &Fields<'_>) -> Result<Framing, Ambiguous> {
    let (mut lengths, mut codings) = (fields.all("content-length"), fields.all("transfer-encoding"));
    let (given, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() || (given.is_some() && coding.is_some()) {
        return Err(Ambiguous);
    }
    let framing = match (given, coding) {
        (Some(value), _) => Framing::Length(length(value).ok_or(Ambiguous)?),
        (_, Some(value)) if !old && value.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (_, Some(_)) => return Err(Ambiguous),
        (None, None) => Framing::UntilClose,
    };
    Ok(match status {
        101 => Framing::Upgraded,
        100..=199 | 204 | 304 => Framing::None,
        _ if bodiless => Framing::None,
        _ => framing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, head: bool, lines: &[(&str, &str)]) -> Result<Framing, Ambiguous> {
        let parsed: Vec<_> =
            lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        of_answer(head, status, false, &Fields::new(&parsed))
    }

    #[test]
    fn an_answer_is_framed_in_one_way_or_not_at_all() {
        use Framing as F;
        assert_eq!(of(200, false, &[]), Ok(F::UntilClose));
        assert_eq!(of(200, false, &[("Content-Length", "12")]), Ok(F::Length(12)));
        assert_eq!(of(200, false, &[("Transfer-Encoding", "Chunked")]), Ok(F::Chunked));
        assert_eq!(of(200, true, &[("content-length", "12")]), Ok(F::None));
        assert_eq!(of(204, false, &[("content-length", "12")]), Ok(F::None));
        assert_eq!(of(304, false, &[("transfer-encoding", "chunked")]), Ok(F::None));
        assert_eq!(of(101, false, &[]), Ok(F::Upgraded));
        for lines in [
            &[("content-length", "1"), ("content-length", "1")][..],
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("content-length", "1, 1")],
            &[("content-length", "99999999999999999999")],
        ] {
            assert_eq!(of(200, false, lines), Err(Ambiguous), "{lines:?}");
            assert_eq!(of(200, true, lines), Err(Ambiguous), "{lines:?}");
        }
    }
}
