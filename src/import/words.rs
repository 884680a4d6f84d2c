//! What both have to say in the same words: names, kinds and addresses.

use std::net::IpAddr;

use super::plan::{Plan, Service};
use crate::config::Address;

/// A name of ours from one of theirs: what a name may not have becomes a dash.
pub(super) fn name(text: &str) -> String {
    let dashed: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' })
        .take(50)
        .collect();
    let name = dashed.trim_matches('-');
    if name.is_empty() { "unnamed".into() } else { name.to_owned() }
}

/// The same, and none of those taken already.
pub(super) fn name_apart<'a>(text: &str, taken: impl Iterator<Item = &'a str> + Clone) -> String {
    let first = name(text);
    let is_taken = |name: &str| taken.clone().any(|known| known == name);
    if !is_taken(&first) {
        return first;
    }
    let numbered = (2u32..).map(|number| format!("{first}-{number}"));
    numbered.into_iter().find(|name| !is_taken(name)).unwrap_or(first)
}

/// What kind of servers a group of theirs holds, and what gave it away; `None` if nothing does.
///
/// `names` are the group's own and those of its servers, `ports` theirs and those of what listens for them, `paths` what
/// is routed to them. The vendor's registry listens at 8089, its paths are `/registry` and, for OCI clients, `/v2`.
pub(super) fn is_registry<'a>(
    names: impl IntoIterator<Item = &'a str>,
    paths: impl IntoIterator<Item = &'a str>,
    ports: impl IntoIterator<Item = u16>,
) -> (bool, Option<String>) {
    for name in names {
        let low = name.to_ascii_lowercase();
        if ["registr", "reg-", "reg_", "templates"].iter().any(|part| low.contains(part)) {
            return (true, Some(format!("the name `{name}`")));
        }
        if ["control", "ctrl"].iter().any(|part| low.contains(part)) {
            return (false, Some(format!("the name `{name}`")));
        }
    }
    for path in paths {
        if ["/v2", "/registry"].iter().any(|known| path.starts_with(known)) {
            return (true, Some(format!("the path `{path}`")));
        }
        if ["/api", "/queue", "/ui"].iter().any(|known| path.starts_with(known)) {
            return (false, Some(format!("the path `{path}`")));
        }
    }
    for port in ports {
        match port {
            8089 => return (true, Some("port 8089".into())),
            8090 | 8091 => return (false, Some(format!("port {port}"))),
            _ => {}
        }
    }
    (false, None)
}

/// Says what kind it is, with a remark if that was a guess, and what registries need besides.
pub(super) fn settle(service: &mut Service, registry: bool, why: Option<&str>) {
    service.registry = registry;
    match why {
        Some(why) => service.remarks.push(format!("Taken for {} by {why}.", kind(registry))),
        None => service.remarks.push(format!(
            "Nothing says whether these are controllers or registries: taken for {}.",
            kind(registry)
        )),
    }
    if registry && (service.upstreams.len() > 1 || !service.discovery.is_empty()) {
        service.remarks.push(
            "Shared storage: any of them takes any request, as before. If they copy from one of them, delete `storage` \
             and"
                .into(),
        );
        service.remarks.push(
            "name that one: `writer = \"…\"`; for the vendor's own add `freshness = \"catalogue\"`.".into(),
        );
        service.rows.set("storage", "\"shared\"".into());
    }
}

/// The word for a kind.
pub(super) fn kind(registry: bool) -> &'static str {
    if registry { "registries" } else { "controllers" }
}

/// `host:port` of a server of theirs, with their port if it has none; the error says what is wrong with it.
pub(super) fn server(text: &str, port: Option<u16>) -> Result<Address, String> {
    if text.starts_with("unix") || text.starts_with('/') || text.contains('@') {
        return Err(
            "a server is reached by address and port; there are no Unix sockets, namespaces or families"
                .into(),
        );
    }
    let bare_six = text.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = !bare_six
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']'))
        });
    let whole = match (has_port, port) {
        (true, _) => text.to_owned(),
        (false, Some(port)) if bare_six => format!("[{text}]:{port}"),
        (false, Some(port)) => format!("{text}:{port}"),
        (false, None) => return Err("it has no port".into()),
    };
    whole.parse::<Address>().map_err(|error| error.to_string())
}

/// An address to listen at: `*:80`, `:80`, `80`, `10.0.0.1:80`, `[::]:80`, `10.0.0.1`.
pub(super) fn bind(text: &str, default_port: Option<u16>) -> Option<String> {
    if let Ok(port) = text.parse::<u16>() {
        return Some(format!("0.0.0.0:{port}"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, default_port?),
    };
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        other => other,
    };
    match host.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => Some(format!("{ip}:{port}")),
        IpAddr::V6(ip) => Some(format!("[{ip}]:{port}")),
    }
}

/// The port of an address to listen at.
pub(super) fn port(bind: &str) -> Option<u16> {
    bind.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// An address or network as our configs have it: with the bits behind the address left out.
pub(super) fn network(text: &str) -> Option<String> {
    let Some((address, bits)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(|ip| ip.to_string());
    };
    let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
    let start = match address {
        IpAddr::V4(ip) if bits <= 32 => {
            IpAddr::from((u32::from(ip) & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).to_be_bytes())
        }
        IpAddr::V6(ip) if bits <= 128 => {
            IpAddr::from((u128::from(ip) & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).to_be_bytes())
        }
        _ => return None,
    };
    Some(format!("{start}/{bits}"))
}

/// Whether all of `inner` is in `outer`; both are as `network` has them.
pub(super) fn contains(outer: &str, inner: &str) -> bool {
    let parts = |text: &str| -> Option<(IpAddr, u32)> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        Some((address, bits.map_or(Some(most), |bits| bits.parse().ok())?))
    };
    let (Some((outer, bits)), Some((inner, inner_bits))) = (parts(outer), parts(inner)) else { return false };
    outer.is_ipv4() == inner.is_ipv4()
        && bits <= inner_bits
        && network(&format!("{inner}/{bits}")) == Some(format!("{outer}/{bits}"))
}

/// A host that a rule of ours can name.
pub(super) fn host(text: &str) -> Option<String> {
    let plain =
        format!("{text}:1").parse::<Address>().is_ok() && !text.starts_with('[') && !text.contains('_');
    plain.then(|| text.to_ascii_lowercase())
}

/// A path that a rule of ours can name; the empty one is everything.
pub(super) fn prefix(text: &str) -> Option<String> {
    let wrong = !text.starts_with('/')
        || text.contains(['*', '?', '#', '%', '$'])
        || text.contains("//")
        || text.split('/').any(|part| part == "." || part == "..");
    (!wrong).then(|| text.trim_end_matches('/').to_owned())
}

/// Before a service whose servers nobody asked how they are.
pub(super) const NOT_CHECKED: &str = "They were not checked before. Ours asks for /readyz, which the vendor's servers have since 1.41; for others: \
                                      `kind = \"tcp\"` in a table [service.NAME.health].";

/// Statuses that are good for those who take any of 200 to 399: `health.status` names each.
pub(super) const GOOD: &str = "[200, 204, 301, 302, 303, 307, 308]";

/// Statuses as `health.status` has them, and whether all are named. Of a range those are named that servers answer with.
pub(super) fn statuses<'a>(given: impl IntoIterator<Item = &'a String>) -> Option<(String, bool)> {
    const USUAL: &[u16] = &[
        200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 429, 500, 502, 503,
        504,
    ];
    let (mut codes, mut whole): (Vec<u16>, bool) = (Vec::new(), true);
    for part in given.into_iter().flat_map(|word| word.split(',')).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if !(100..600).contains(&first) || !(100..600).contains(&last) || last < first {
            return None;
        }
        if first == last {
            codes.push(first);
        } else {
            whole = false;
            codes.extend(USUAL.iter().filter(|code| (first..=last).contains(code)));
        }
    }
    codes.sort_unstable();
    codes.dedup();
    let text: Vec<String> = codes.iter().map(ToString::to_string).collect();
    (!text.is_empty()).then(|| (format!("[{}]", text.join(", ")), whole))
}

/// Whether it can be the name of a header or a cookie (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(known)
}

/// A path that a probe can ask for.
pub(super) fn probe_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// A text that means the same as a pattern.
pub(super) fn plain_text(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 1024
        && !text.contains(['\\', '^', '$', '.', '|', '?', '*', '+', '(', ')', '[', '{'])
}

/// Names of services and listeners are taken once.
pub(super) fn service_name(plan: &Plan, text: &str) -> String {
    name_apart(text, plan.services.iter().map(|service| service.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_spellings_are_found() {
        assert_eq!(bind("80", None).as_deref(), Some("0.0.0.0:80"));
        assert_eq!(bind("*:8090", None).as_deref(), Some("0.0.0.0:8090"));
        assert_eq!(bind(":8090", None).as_deref(), Some("0.0.0.0:8090"));
        assert_eq!(bind("[::]:443", None).as_deref(), Some("[::]:443"));
        assert_eq!(bind("10.0.0.1", Some(80)).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(
            (bind("ci.example:80", None), bind("unix:/run/x", None), bind("", None)),
            (None, None, None)
        );
        assert_eq!(server("10.0.0.1", Some(80)).unwrap().to_string(), "10.0.0.1:80");
        assert_eq!(server("::1", Some(80)).unwrap().to_string(), "[::1]:80");
        assert_eq!(server("c1.lan:8090", None).unwrap().to_string(), "c1.lan:8090");
        assert!(server("unix:/run/x.sock", None).is_err());
        assert!(server("c1.lan", None).is_err());
    }

    #[test]
    fn networks_lose_the_bits_that_do_not_count() {
        assert_eq!(network("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(network("fd00::1/64").as_deref(), Some("fd00::/64"));
        assert_eq!((network("10.0.0.0/33"), network("all"), network("unix:")), (None, None, None));
    }

    #[test]
    fn a_group_is_known_by_its_name_first() {
        assert!(is_registry(["anka_registry"], [], [8090]).0);
        assert!(is_registry(["backend"], ["/v2/"], []).0);
        assert!(is_registry(["backend"], [], [8089]).0);
        assert_eq!(is_registry(["backend"], ["/"], [80]), (false, None));
    }

    #[test]
    fn names_are_ours_and_each_is_taken_once() {
        assert_eq!(name("bk anka/1"), "bk-anka-1");
        assert_eq!(name("***"), "unnamed");
        assert_eq!(name_apart("a", ["a", "a-2"].into_iter()), "a-3");
    }
}
