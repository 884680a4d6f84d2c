//! Headers by which servers behind the proxy know who is calling. From outside they are forgeries.

/// Whether only a proxy may set this header. `name` in any case.
///
/// Whatever is neither letter nor digit counts as a hyphen: servers behind us that make variables of fields, as CGI does,
/// cannot tell `Ssl_Client_Verify`, and some of them `Ssl.Client.Verify`, from `Ssl-Client-Verify`.
pub fn is_identity(name: &str) -> bool {
    const PREFIXES: [&[u8]; 2] = [b"x-forwarded-", b"switchyard-"];
    const NAMES: [&[u8]; 3] = [b"forwarded", b"x-real-ip", b"x-client-ip"];
    // All of them begin with one of these; most names do not.
    if !matches!(name.bytes().next().map(|first| first.to_ascii_lowercase()), Some(b'x' | b's' | b'f')) {
        return false;
    }
    is_of_certificate(name)
        || PREFIXES.iter().any(|prefix| begins(name, prefix))
        || NAMES.iter().any(|wanted| same(name.as_bytes(), wanted))
}

/// Whether this header is about a client's certificate.
pub fn is_of_certificate(name: &str) -> bool {
    begins(name, b"ssl-client-")
}

fn begins(name: &str, prefix: &[u8]) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| same(start, prefix))
}

fn same(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len()
        && name
            .iter()
            .zip(wanted)
            .all(|(n, w)| n.to_ascii_lowercase() == *w || (!n.is_ascii_alphanumeric() && *w == b'-'))
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
            "Ssl.Client.Verify",
            "x~forwarded!for",
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
