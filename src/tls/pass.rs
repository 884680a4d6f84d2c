//! A certificate as servers behind a proxy are told of it: PEM, percent-encoded as nginx's `$ssl_client_escaped_cert`
//! is.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Characters of a line of PEM (RFC 7468 §2).
const LINE: usize = 64;

/// The value of `Ssl-Client-Cert`.
pub(super) fn escaped(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 8 + 128);
    push(&mut out, "-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every place is between two characters.
        let (line, behind) = rest.split_at(rest.len().min(LINE));
        push(&mut out, line);
        push(&mut out, "\n");
        rest = behind;
    }
    push(&mut out, "-----END CERTIFICATE-----\n");
    out
}

/// Undoes the encoding of [`escaped`], whoever has done it: PEM. Nothing if it is longer than any certificate, or not
/// percent-encoded.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    /// A certificate with an RSA key of 4096 bits has a tenth of it.
    const LONGEST: usize = 32 * 1024;
    if text.len() > LONGEST {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        out.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            other => other,
        });
    }
    Some(out)
}

/// RFC 3986 §2.3: all but unreserved characters are encoded.
fn push(out: &mut String, text: &str) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_what_nginx_writes() {
        let der: Vec<u8> = (0..=255).cycle().take(60).collect();
        let text = escaped(&der);
        assert!(text.starts_with("-----BEGIN%20CERTIFICATE-----%0AAAEC"), "{text}");
        assert!(text.ends_with("%0A-----END%20CERTIFICATE-----%0A"), "{text}");
        assert!(escaped(&[0xfb, 0xff]).contains("%0A%2B%2F8%3D%0A"));
    }

    proptest! {
        #[test]
        fn it_decodes_to_the_certificate_and_needs_no_quoting(der in proptest::collection::vec(any::<u8>(), 1..400)) {
            let text = escaped(&der);
            let plain = text.replace("%20", " ").replace("%0A", "\n").replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
            prop_assert!(!plain.contains('%'));
            prop_assert_eq!(unescaped(&text), Some(plain.clone().into_bytes()));
            prop_assert!(plain.lines().all(|line| line.len() <= LINE));
            let body: String = plain.lines().filter(|line| !line.starts_with("--")).collect();
            prop_assert_eq!(STANDARD.decode(body).unwrap(), der);
        }
    }
}
