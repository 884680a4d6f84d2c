//! The two range headers: `Range` of a download and `Content-Range` of an upload's chunk.

use std::ops::Range;

/// What a `Range` header asks of content of known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskedRange {
    /// All of it: no header, or one we need not follow (several ranges, another unit, not well formed).
    Whole,
    /// This part; never empty.
    Part(Range<u64>),
    /// Nothing that exists: 416.
    Unsatisfiable,
}

/// Reads `Range` (RFC 9110, 14.2).
pub(super) fn asked_range(header: Option<&str>, size: u64) -> AskedRange {
    let Some(set) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return AskedRange::Whole;
    };
    let Some((first, last)) = set.split_once('-').filter(|_| !set.contains(',')) else {
        return AskedRange::Whole;
    };
    let range = match (first.trim(), last.trim()) {
        // The last so many bytes.
        ("", suffix) => match number(suffix) {
            Some(0) => return AskedRange::Unsatisfiable,
            Some(length) => size.saturating_sub(length)..size,
            None => return AskedRange::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), None) if last.is_empty() => first..size,
            (Some(first), Some(last)) if last >= first => first..size.min(last.saturating_add(1)),
            _ => return AskedRange::Whole,
        },
    };
    if range.start >= size { AskedRange::Unsatisfiable } else { AskedRange::Part(range) }
}

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// Offset of its first byte.
    pub(super) start: u64,
    /// Bytes.
    pub(super) length: u64,
}

/// Reads `Content-Range` of a chunk: the specification's `<start>-<end>`, and HTTP's
/// `bytes <start>-<end>/<size>`, which some clients send.
pub(super) fn content_range(header: &str) -> Option<ContentRange> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, str::trim_start);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (start, end) = text.split_once('-')?;
    let (start, end) = (number(start.trim())?, number(end.trim())?);
    let length = end.checked_sub(start)?.checked_add(1)?;
    Some(ContentRange { start, length })
}

/// Digits alone: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let check = |header: &str, wanted| assert_eq!(asked_range(Some(header), 100), wanted, "{header}");
        check("bytes=0-9", AskedRange::Part(0..10));
        check("bytes=90-", AskedRange::Part(90..100));
        check("bytes=90-900", AskedRange::Part(90..100));
        check("bytes=-7", AskedRange::Part(93..100));
        check("bytes=-700", AskedRange::Part(0..100));
        for past in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            check(past, AskedRange::Unsatisfiable);
        }
        let not_followed =
            ["", "bytes=", "bytes=5", "bytes=9-3", "bytes=0-1,4-5", "lines=1-2", "bytes=+1-2", "bytes=a-b"];
        for other in not_followed {
            check(other, AskedRange::Whole);
        }
        assert_eq!(asked_range(None, 0), AskedRange::Whole);
        assert_eq!(asked_range(Some("bytes=0-"), 0), AskedRange::Unsatisfiable);
    }

    #[test]
    fn chunks_are_read_in_both_forms() {
        let wanted = Some(ContentRange { start: 5, length: 10 });
        for header in ["5-14", "bytes 5-14/*", "bytes 5-14/100", " 5-14 "] {
            assert_eq!(content_range(header), wanted, "{header}");
        }
        let bad =
            ["", "-", "5-", "-5", "9-3", "a-b", "0-18446744073709551615", "+1-2", "99999999999999999999-1"];
        for bad in bad {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_nor_past_the_end(
            header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()
        ) {
            if let AskedRange::Part(range) = asked_range(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn any_header_is_read_without_panic(header in ".*") {
            asked_range(Some(&header), 10);
            content_range(&header);
        }

        #[test]
        fn a_chunk_reads_back_as_written(start in 0..u64::MAX / 2, length in 1..u64::MAX / 2) {
            let header = format!("{start}-{}", start + length - 1);
            prop_assert_eq!(content_range(&header), Some(ContentRange { start, length }));
        }
    }
}
