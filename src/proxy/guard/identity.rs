//! Headers by which servers behind the proxy know who is calling. From outside they are forgeries.

/// Whether only a proxy may set this header. `name` in any case.
///
/// Underscores count as hyphens: CGI-like servers behind us cannot tell `Ssl_Client_Verify` from
/// `Ssl-Client-Verify`.
pub fn is_identity(name: &str) -> bool {
    const PREFIXES: [&[u8]; 3] = [b"x-forwarded-", b"ssl-client-", b"switchyard-"];
    const NAMES: [&[u8]; 3] = [b"forwarded", b"x-real-ip", b"x-client-ip"];
    let same = |name: &[u8], wanted: &[u8]| {
        name.len() == wanted.len()
            && name
                .iter()
                .zip(wanted)
                .all(|(n, w)| n.to_ascii_lowercase() == *w || (*n == b'_' && *w == b'-'))
    };
    let name = name.as_bytes();
    // All of them begin with one of these; most names do not.
    if !matches!(name.first().map(u8::to_ascii_lowercase), Some(b'x' | b's' | b'f')) {
        return false;
    }
    PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(start, prefix)))
        || NAMES.iter().any(|wanted| same(name, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_identity_is_seen_in_any_spelling() {
        for name in [
            "X-Forwarded-For",
            "x-forwarded-anything",
            "X_Forwarded_For",
            "Forwarded",
            "X-Real-IP",
            "Ssl-Client-Verify",
            "ssl_client_cert",
            "SSL-CLIENT_S-DN",
            "Switchyard-Deadline",
            "switchyard_position",
        ] {
            assert!(is_identity(name), "{name}");
        }
        for name in
            ["Host", "Authorization", "X-Forwarded", "X-Request-Id", "Forwarded-By", "Ssl-Client", "Accept"]
        {
            assert!(!is_identity(name), "{name}");
        }
    }
}
