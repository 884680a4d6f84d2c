//! Between steps 5 and 6: what ties a request to one upstream, as far as the request itself says.
//!
//! A handshake always goes by the client's address, for a vendor's server keeps its secret to itself. Everything else goes
//! by what the service says: its `sticky`, else the key of its `consistent-hash`.

use std::net::IpAddr;

use super::{
    choose::{Affinity, By},
    classify::Route,
    ctx::Ctx,
    h1::{Fields, fields::text},
    snapshot::Service,
};
use crate::{
    balance::hash,
    config::proxy::{Balance, Key, Sticky},
    model::RouteClass,
};

/// Notes it on the request.
pub(super) fn of(ctx: &mut Ctx, query: &str, fields: &Fields<'_>) {
    let Some(service) = ctx.service() else { return };
    let about = About {
        route: ctx.route,
        client: ctx.client.ip,
        path: &ctx.path,
        query,
        repository: ctx.repository.as_ref().map(|repository| repository.as_str()),
        fields,
    };
    ctx.affinity = found(service, &about).into();
}

/// What of a request may tie it.
struct About<'a> {
    route: Route,
    client: IpAddr,
    path: &'a str,
    query: &'a str,
    repository: Option<&'a str>,
    fields: &'a Fields<'a>,
}

fn found(service: &Service, about: &About<'_>) -> Affinity {
    if about.route.class == RouteClass::AuthHandshake {
        return Affinity::Stick(By::Address, address(about.client));
    }
    match &service.sticky {
        Some(Sticky::Address) => return Affinity::Stick(By::Address, address(about.client)),
        Some(Sticky::Header(name)) => {
            if let Some(value) = header(about.fields, name) {
                return Affinity::Stick(By::Header, hash(value));
            }
        }
        Some(Sticky::Cookie(name)) => {
            let tag = cookie(about.fields, name).and_then(parse_tag);
            return tag.map_or(Affinity::Untagged, Affinity::Tagged);
        }
        None => {}
    }
    if service.balance != Balance::ConsistentHash {
        return Affinity::Free;
    }
    let key = match &service.hash {
        Key::Content => content(about).map(|content| hash(content.as_bytes())),
        Key::Address => Some(address(about.client)),
        Key::Header(name) => header(about.fields, name).map(hash),
        Key::Cookie(name) => cookie(about.fields, name).map(|value| hash(value.as_bytes())),
    };
    key.map_or(Affinity::Free, Affinity::Key)
}

/// An IPv4 address and the same one mapped into IPv6 are one client.
fn address(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

fn header<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a [u8]> {
    fields.all(name).map(<[u8]>::trim_ascii).find(|value| !value.is_empty())
}

/// The value of the first cookie of this name.
fn cookie<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    let pairs = fields.all("cookie").filter_map(text).flat_map(|line| line.split(';'));
    let values = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(given, _)| *given == name);
    values.map(|(_, value)| value.trim_matches('"')).find(|value| !value.is_empty())
}

/// What a registry's request is about: a blob by its digest, else the repository or the template's id.
fn content<'a>(about: &About<'a>) -> Option<&'a str> {
    let last = about.path.rsplit('/').next().unwrap_or_default();
    if about.path.contains("/blobs/") && last.contains(':') {
        return Some(last);
    }
    about.repository.or_else(|| {
        let query = about.query.strip_prefix('?').unwrap_or(about.query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == "id").map(|(_, id)| id).find(|id| !id.is_empty())
    })
}

/// Digits of a tag: as many as its 64 bits have.
const TAG: usize = 16;

fn parse_tag(text: &str) -> Option<u64> {
    // The parser would take a sign.
    let digits = text.len() == TAG && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok())?
}

/// The cookie that the client is given with the answer of the upstream of this place: `Set-Cookie`'s value. `None` when it
/// has one that names an upstream of this service, even one that is down: it will be back.
pub(super) fn cookie_for(ctx: &Ctx, status: u16) -> Option<String> {
    let service = ctx.service()?;
    let Some(Sticky::Cookie(name)) = &service.sticky else { return None };
    let known = |tag: u64| service.shares.iter().any(|share| share.tag() == tag);
    match ctx.affinity.into() {
        Affinity::Untagged => {}
        Affinity::Tagged(tag) if !known(tag) => {}
        _ => return None,
    }
    // Whoever has just failed is nobody to come back to.
    let share = service.shares.get(ctx.current.as_ref()?.place).filter(|_| status < 500)?;
    let secure = if ctx.secured.is_some() { "; Secure" } else { "" };
    Some(format!("{name}={:016x}; Path=/; HttpOnly; SameSite=Lax{secure}", share.tag()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)], name: &str) -> Option<String> {
        let parsed: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        cookie(&Fields::new(&parsed), name).map(str::to_owned)
    }

    #[test]
    fn a_cookie_is_found_among_others_and_in_any_of_several_lines() {
        let line = ("Cookie", "a=1; session=\"x y\" ; b=");
        assert_eq!(of(&[line], "session").as_deref(), Some("x y"));
        assert_eq!(of(&[line, ("cookie", "c=2")], "c").as_deref(), Some("2"));
        assert_eq!(of(&[line], "b"), None);
        assert_eq!(of(&[line], "Session"), None);
        assert_eq!(of(&[("Cookie", "session; =x; ==")], "session"), None);
    }

    #[test]
    fn a_tag_is_sixteen_digits_and_nothing_else() {
        assert_eq!(parse_tag("00000000000000ff"), Some(255));
        for text in ["ff", "", "+0000000000000ff", "00000000000000fg", "000000000000000ff"] {
            assert_eq!(parse_tag(text), None, "{text}");
        }
    }

    #[test]
    fn a_request_is_about_a_blob_a_repository_or_a_template() {
        let about = |path, query, repository| {
            let route = super::super::classify::UNROUTED;
            let fields = Fields::new(&[]);
            let about =
                About { route, client: [127, 0, 0, 1].into(), path, query, repository, fields: &fields };
            content(&about).map(str::to_owned)
        };
        assert_eq!(about("/v2/a/b/blobs/sha256:1f", "", Some("a/b")).unwrap(), "sha256:1f");
        assert_eq!(about("/v2/a/b/blobs/uploads/r1.u", "", Some("a/b")).unwrap(), "a/b");
        assert_eq!(about("/v2/a/b/manifests/sha256:1f", "", Some("a/b")).unwrap(), "a/b");
        assert_eq!(about("/registry/v2/vm", "?x=1&id=c0ffee", None).unwrap(), "c0ffee");
        assert_eq!(about("/registry/v2/vm", "?id=", None), None);
        assert_eq!(about("/v2/", "", None), None);
    }

    #[test]
    fn one_client_is_one_address_however_it_is_written() {
        assert_eq!(address("10.0.0.7".parse().unwrap()), address("::ffff:10.0.0.7".parse().unwrap()));
        assert_ne!(address("10.0.0.7".parse().unwrap()), address("10.0.0.8".parse().unwrap()));
    }
}
