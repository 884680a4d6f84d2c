//! Who may use the admin API: whoever has the token, and no page of another site that an operator happens to look at.
//!
//! What probes and Prometheus ask for stays open: it changes nothing, and a token that can drain the cloud belongs into
//! no scraper's config.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::{config::proxy::Entry, proxy::role::Handle, wire::headers};

/// Paths that ask for no token.
pub(super) const OPEN: [&str; 4] = ["/livez", "/healthz", "/readyz", "/metrics"];

/// Longest `Authorization` that is looked at.
const LONGEST: usize = 24 * 1024;

/// Why somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Without a token.
    NoToken,
    /// With another one.
    WrongToken,
    /// A page of another site asks, in the name of whoever looks at it.
    OtherSite,
}

impl Refusal {
    /// The label of metrics.
    fn label(self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::WrongToken => "wrong-token",
            Self::OtherSite => "other-site",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NoToken => {
                "this admin API needs a token: send `Authorization: Bearer TOKEN`; `[admin] token_file` in the proxy's \
                 config names the file that has it"
            }
            Self::WrongToken => {
                "this is not the token of this admin API: `[admin] token_file` in the proxy's config names the file that \
                 has it"
            }
            Self::OtherSite => {
                "a page of another site wants this, or one of a name that is not this machine's: nothing was changed"
            }
        }
    }
}

/// Lets in who may come; every answer says that this is an admin API.
pub(super) async fn check(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let config = handle.config();
    let allowed = may(&config.entry, request.method(), request.uri().path(), request.headers());
    let mut response = match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            handle.metrics.admin_refused(refusal.label());
            refused(refusal)
        }
    };
    response.headers_mut().insert(headers::ADMIN, HeaderValue::from_static("v1"));
    response
}

fn refused(refusal: Refusal) -> Response {
    let text = format!("{}\n", refusal.text());
    match refusal {
        Refusal::OtherSite => (StatusCode::FORBIDDEN, text).into_response(),
        Refusal::NoToken | Refusal::WrongToken => {
            // The second is for browsers, which then ask for it: any user, the token as password.
            let ways = [r#"Bearer realm="switchyard""#, r#"Basic realm="switchyard", charset="UTF-8""#];
            let mut response = (StatusCode::UNAUTHORIZED, text).into_response();
            for way in ways {
                response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
            }
            response
        }
    }
}

fn may(entry: &Entry, method: &Method, path: &str, fields: &HeaderMap) -> Result<(), Refusal> {
    if OPEN.contains(&path) {
        return Ok(());
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if changes && is_of_other_site(fields, *entry == Entry::Local) {
        return Err(Refusal::OtherSite);
    }
    let Entry::Token(token) = entry else { return Ok(()) };
    match fields.get(header::AUTHORIZATION) {
        None => Err(Refusal::NoToken),
        Some(given) => match token_of(given) {
            Some(given) if same(given.as_bytes(), token.expose().as_bytes()) => Ok(()),
            _ => Err(Refusal::WrongToken),
        },
    }
}

/// The token of `Bearer TOKEN`, or of `Basic`, whose password it is.
fn token_of(given: &HeaderValue) -> Option<String> {
    let (scheme, rest) = given.to_str().ok().filter(|text| text.len() <= LONGEST)?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest).ok()).flatten()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Takes as long whatever they are: hashes are compared, and all of them.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(b.iter()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Browsers name the page that asks. It must be of this very address; and where nothing else guards, of one that no
/// stranger's name leads to, for a site may have its name point at this machine.
fn is_of_other_site(fields: &HeaderMap, local: bool) -> bool {
    let Some(origin) = fields.get(header::ORIGIN) else { return false };
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, page)| page);
    !page.is_some_and(|page| page.eq_ignore_ascii_case(host)) || (local && !is_own(host))
}

/// `localhost` or an address.
fn is_own(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proxy::Secret;

    const TOKEN: &str = "0123456789abcdef";

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn asks(entry: &Entry, method: &Method, pairs: &[(&'static str, &str)]) -> Result<(), Refusal> {
        may(entry, method, "/admin/v1/reload", &fields(pairs))
    }

    #[test]
    fn the_token_comes_as_bearer_or_as_a_password_and_nothing_else_will_do() {
        let entry = Entry::Token(Secret::new(TOKEN));
        let with = |given: &str| asks(&entry, &Method::GET, &[("authorization", given)]);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for good in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}"), basic(&format!("x:{TOKEN}"))] {
            assert_eq!(with(&good), Ok(()), "{good}");
        }
        let bad = [
            "Bearer".into(),
            "Bearer ".into(),
            format!("Bearer {TOKEN}0"),
            format!("Bearer {}", &TOKEN[1..]),
            TOKEN.into(),
            format!("Token {TOKEN}"),
            format!("Basic {TOKEN}"),
            basic(TOKEN),
            basic(&format!("{TOKEN}:x")),
            format!("Bearer {}", "x".repeat(LONGEST)),
        ];
        for bad in bad {
            assert_eq!(with(&bad), Err(Refusal::WrongToken), "{bad}");
        }
        assert_eq!(asks(&entry, &Method::GET, &[]), Err(Refusal::NoToken));
        for path in OPEN {
            assert_eq!(may(&entry, &Method::GET, path, &HeaderMap::new()), Ok(()));
        }
        assert_eq!(may(&entry, &Method::GET, "/", &HeaderMap::new()), Err(Refusal::NoToken));
    }

    #[test]
    fn no_page_of_another_site_changes_anything() {
        let post = |entry: &Entry, host: &str, origin: &str| {
            asks(entry, &Method::POST, &[("host", host), ("origin", origin)])
        };
        for host in ["localhost:9090", "127.0.0.1:9090", "[::1]:9090"] {
            assert_eq!(post(&Entry::Local, host, &format!("http://{host}")), Ok(()), "{host}");
            for other in ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1"] {
                assert_eq!(post(&Entry::Local, host, other), Err(Refusal::OtherSite), "{other}");
            }
        }
        // A name of theirs that points here.
        let theirs = "http://evil.example:9090";
        assert_eq!(post(&Entry::Local, "evil.example:9090", theirs), Err(Refusal::OtherSite));
        assert_eq!(post(&Entry::Anybody, "admin.example", "https://admin.example"), Ok(()));
        assert_eq!(asks(&Entry::Local, &Method::POST, &[("host", "a")]), Ok(()), "no browser");
        assert_eq!(asks(&Entry::Local, &Method::GET, &[("origin", theirs)]), Ok(()), "it changes nothing");
    }
}
