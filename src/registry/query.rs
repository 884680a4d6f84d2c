//! Query strings and path segments, decoded our way: a `+` is a plus (`reference/registry-api.md` §2.1).

/// The pairs of a query string, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what is behind the `?`. Never fails: what makes no sense is kept as it is.
    pub(super) fn parse(text: &str) -> Self {
        let pair = |part: &str| match part.split_once('=') {
            Some((key, value)) => (decode(key), decode(value)),
            None => (decode(part), String::new()),
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a key; an empty one counts as not given.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// A key that is there with nothing: whatever it was to say, it says it not.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.0.iter().find(|(k, _)| k == key).is_some_and(|(_, value)| value.is_empty())
    }
}

/// Decodes `%XX`; what is not UTF-8 or not hexadecimal stays as it is.
pub(super) fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Encodes what may not stand in a query value as it is.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plus_is_a_plus_raw_and_escaped() {
        let query = Query::parse("id=a%2Fb&tag=v3+ssh&x&empty=");
        assert_eq!(query.get("tag"), Some("v3+ssh"));
        assert_eq!(Query::parse("tag=v3%2Bssh").get("tag"), Some("v3+ssh"));
        assert_eq!((query.get("id"), query.get("empty"), query.get("x")), (Some("a/b"), None, None));
        assert!(
            query.is_empty("empty")
                && query.is_empty("x")
                && !query.is_empty("id")
                && !query.is_empty("other")
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in ".*") {
            prop_assert_eq!(decode(&encode(&text)), text);
        }

        #[test]
        fn anything_is_decoded_without_panic(text in ".*") {
            decode(&text);
            Query::parse(&text);
        }
    }
}
