//! What a request's `Authorization` says. Pure; nothing here knows what is good.

use axum::http::{HeaderMap, header};

use crate::{tls::rsa::decode, wire::apikey::Session};

/// Longest `Authorization` that is looked at. Longer: unreadable.
const LONGEST: usize = 24 * 1024;

/// What was shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// Nothing.
    Nothing,
    /// `Basic`: the password. Clients disagree about the user's name, and one sends none.
    Password(String),
    /// `Bearer`: a session of an API key.
    Session(Session),
    /// Something else, or something broken. It never counts as nothing: another credential beside it is not looked at.
    Unreadable,
}

/// Reads the header.
pub(super) fn read(fields: &HeaderMap) -> Given {
    let mut all = fields.get_all(header::AUTHORIZATION).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Given::Nothing,
        (Some(value), None) if value.len() <= LONGEST => value,
        _ => return Given::Unreadable,
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')) else {
        return Given::Unreadable;
    };
    let read = match scheme {
        scheme if scheme.eq_ignore_ascii_case("basic") => password(rest),
        scheme if scheme.eq_ignore_ascii_case("bearer") => session(rest),
        _ => None,
    };
    read.unwrap_or(Given::Unreadable)
}

fn password(text: &str) -> Option<Given> {
    let decoded = String::from_utf8(decode(text)?).ok()?;
    decoded.split_once(':').map(|(_, password)| Given::Password(password.to_owned()))
}

/// As clients put it together from what the handshake gave: with blanks, and its keys in any order.
fn session(text: &str) -> Option<Given> {
    serde_json::from_slice(&decode(text)?).ok().map(Given::Session)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn given(lines: &[&str]) -> Given {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(header::AUTHORIZATION, line.parse().unwrap());
        }
        read(&fields)
    }

    fn check(line: &str, password: Option<&str>) {
        let expected = password.map_or(Given::Unreadable, |text| Given::Password(text.into()));
        assert!(given(&[line]) == expected, "{line}");
    }

    #[test]
    fn a_password_is_what_stands_behind_the_first_colon() {
        check("Basic cm9vdDpwQHNzOncwcmQ=", Some("p@ss:w0rd"));
        check("basic  OnBAc3M6dzByZA", Some("p@ss:w0rd"));
        check("Basic cm9vdDo=", Some(""));
        check("Basic cm9vdDr_-w==", None);
        check("Basic cm9vdDrDvw==", Some("\u{ff}"));
        for bad in
            ["Basic", "Basic ", "Basic cm9vdA==", "Basic !", "Token x", "cm9vdDpwQHNz", "", "Digest a=b"]
        {
            check(bad, None);
        }
        check(&format!("Basic {}", "a".repeat(LONGEST)), None);
    }

    #[test]
    fn a_session_is_read_as_every_client_writes_it() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let session = Session { user_name: "ci-bot".into(), token: "uP3".into(), session_id: "2e-5".into() };
        for text in [
            r#"{"userName":"ci-bot","token":"uP3","sessionId":"2e-5"}"#,
            r#"{"sessionId":"2e-5","token":"uP3","userName":"ci-bot"}"#,
            "{\n  \"token\": \"uP3\",\n  \"userName\": \"ci-bot\",\n  \"more\": 1,\n  \"sessionId\": \"2e-5\"\n}\n",
        ] {
            for line in
                [STANDARD.encode(text), URL_SAFE_NO_PAD.encode(text), STANDARD.encode(text).replace('=', "")]
            {
                assert!(given(&[&format!("Bearer {line}")]) == Given::Session(session.clone()), "{text}");
                let (a, b) = line.split_at(20);
                assert!(given(&[&format!("bearer {a} {b}")]) == Given::Session(session.clone()), "{text}");
            }
        }
        for bad in [
            "{}",
            "[]",
            "x",
            r#"{"userName":"a","token":"b"}"#,
            r#"{"userName":"a","token":1,"sessionId":"c"}"#,
        ] {
            assert!(given(&[&format!("Bearer {}", STANDARD.encode(bad))]) == Given::Unreadable, "{bad}");
        }
        check("Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", None);
    }

    #[test]
    fn two_of_them_are_none_that_can_be_read_and_none_is_nothing() {
        assert!(given(&[]) == Given::Nothing);
        assert!(given(&["Basic cm9vdDp4", "Basic cm9vdDp4"]) == Given::Unreadable);
    }
}
