//! `[[listener]]`.

use std::path::Path;

use super::{
    bounds, path,
    tree::{Keys, Node},
};
use crate::{
    config::proxy::{Does, Listener, Rule},
    tls::{ClientAuth, Least, Pair, ServerSetting, Suite},
};

/// `service`: the name of the service of a place.
pub(super) fn written(listener: &Listener, from: &Path, service: &dyn Fn(usize) -> Option<String>) -> Keys {
    let texts = |all: &mut dyn Iterator<Item = String>| all.collect::<Node>();
    let keys = Keys::default()
        .with("name", listener.name.as_str())
        .with("bind", texts(&mut listener.bind.iter().map(ToString::to_string)))
        .with("http2", listener.http2)
        .with("trusted", texts(&mut listener.trusted.iter().map(ToString::to_string)))
        .with("proxy_protocol", texts(&mut listener.proxy_protocol.iter().map(ToString::to_string)))
        .with("expose", texts(&mut listener.expose.iter().cloned()));
    let keys = match &listener.rules[..] {
        [Rule { host: None, path: None, does: Does::Send(place) }] => keys.maybe("service", service(*place)),
        rules => keys.with("rules", rules.iter().map(|rule| self::rule(rule, service)).collect::<Node>()),
    };
    let limits = Keys::default().maybe("connections", listener.limits.connections);
    keys.maybe("tls", listener.tls.as_ref().map(|tls| self::tls(tls.setting(), from)))
        .with("limits", bounds(limits, &listener.limits.bounds))
}

fn rule(rule: &Rule, service: &dyn Fn(usize) -> Option<String>) -> Keys {
    let keys = Keys::default().maybe("host", rule.host.as_deref()).maybe("path", rule.path.as_deref());
    match rule.does {
        Does::Send(place) => keys.maybe("service", service(place)),
        Does::Forbid => keys.with("deny", 403_u32),
        Does::Hide => keys.with("deny", 404_u32),
    }
}

fn tls(setting: &ServerSetting, from: &Path) -> Keys {
    let least = match setting.least {
        Least::Tls12 => "1.2",
        Least::Tls13 => "1.3",
    };
    let auth = match &setting.client_auth {
        ClientAuth::Off => "off",
        ClientAuth::Optional(_) => "optional",
        ClientAuth::Required(_) => "required",
    };
    let (first, more) = match &setting.pairs[..] {
        [first, more @ ..] => (Some(first), more),
        [] => (None, &[][..]),
    };
    let trust = setting.client_auth.trust();
    first
        .map_or_else(Keys::default, |first| pair(Keys::default(), first, from))
        .with("client_auth", auth)
        .maybe("client_ca", trust.map(|trust| path(from, &trust.ca)))
        .maybe("crl", trust.and_then(|trust| trust.crl.as_deref()).map(|crl| path(from, crl)))
        .with("min_version", least)
        .unless_empty("suites", setting.suites.iter().copied().map(Suite::name).collect::<Node>())
        .unless_empty("certs", more.iter().map(|one| pair(Keys::default(), one, from)).collect::<Node>())
}

pub(super) fn pair(keys: Keys, pair: &Pair, from: &Path) -> Keys {
    keys.with("cert", path(from, &pair.cert)).with("key", path(from, &pair.key))
}
