//! The `traceparent` field of W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context/>).

use std::num::{NonZero, NonZeroU64, NonZeroU128};

/// Where a request stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace: all that one call from outside causes.
    pub trace: NonZeroU128,
    /// The caller's part of it.
    pub parent: NonZeroU64,
    /// Whether the caller records it.
    pub sampled: bool,
}

/// Bytes of version 00, which all later ones begin like.
const LENGTH: usize = 55;

impl TraceParent {
    /// The field's name.
    pub const NAME: &str = "traceparent";

    /// What belongs to it and means nothing without it.
    pub const STATE: &str = "tracestate";

    /// Reads a field's value; `None` of what is none, which is to be treated as if it were not there.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.as_bytes().split_at_checked(LENGTH)?;
        let [v1, v2, b'-', trace @ .., b'-', f1, f2] = known else { return None };
        let (trace, [b'-', parent @ ..]) = trace.split_at_checked(32)? else { return None };
        let version = hex(&[*v1, *v2])?;
        // A later version may say more behind a dash; `ff` is none.
        let fits = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.first() == Some(&b'-'),
        };
        if !fits {
            return None;
        }
        let parent = u64::try_from(hex(parent)?).ok()?;
        Some(Self {
            trace: NonZero::new(hex(trace)?)?,
            parent: NonZero::new(parent)?,
            // Of the flags only this one has a meaning.
            sampled: hex(&[*f1, *f2])? & 1 == 1,
        })
    }

    /// The field's value, in version 00.
    pub fn value(&self) -> [u8; LENGTH] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put(out.get_mut(3..35), self.trace.get());
        put(out.get_mut(36..52), self.parent.get().into());
        put(out.get_mut(53..), u128::from(self.sampled));
        out
    }
}

/// Lower-case digits only, as the specification wants.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(digit))
    })
}

fn put(digits: Option<&mut [u8]>, mut number: u128) {
    for place in digits.into_iter().flatten().rev() {
        let digit = (number & 0xf) as u8;
        *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read() {
        let read = TraceParent::parse(GOOD).unwrap();
        assert_eq!(read.trace.get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(read.parent.get(), 0x00f0_67aa_0ba9_02b7);
        assert!(read.sampled);
        assert_eq!(read.value(), *GOOD.as_bytes());
    }

    #[test]
    fn later_versions_and_unknown_flags_are_read() {
        let later = GOOD.replace("00-4", "cc-4");
        assert_eq!(TraceParent::parse(&format!("{later}-what-comes-later")), TraceParent::parse(GOOD));
        assert_eq!(TraceParent::parse(&later), TraceParent::parse(GOOD));
        assert!(!TraceParent::parse(&GOOD.replace("-01", "-fe")).unwrap().sampled);
    }

    #[test]
    fn what_is_none_is_not_read() {
        let bad = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            GOOD.replace("00-4", "ff-4"),
            GOOD.replace("4bf9", "4BF9"),
            GOOD.replace("4bf9", "4bg9"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            format!("cc{}x", &GOOD[2..]),
            format!(" {GOOD}"),
            "é".repeat(30),
        ];
        for text in bad {
            assert_eq!(TraceParent::parse(&text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., parent in 1u64.., sampled: bool) {
            let given = TraceParent {
                trace: NonZero::new(trace).unwrap(),
                parent: NonZero::new(parent).unwrap(),
                sampled,
            };
            let value = given.value();
            prop_assert_eq!(TraceParent::parse(std::str::from_utf8(&value).unwrap()), Some(given));
        }

        #[test]
        fn any_text_is_borne(text in ".{0,80}") {
            TraceParent::parse(&text);
        }
    }
}
