//! `GET /admin/v1/listeners`.

use crate::{
    config::{
        bounds::{By, Rate},
        proxy::{self, Does, ListenerLimits},
    },
    proxy::{role::Handle, snapshot::Snapshot},
    tls::{self, ClientAuth, Least},
    wire::listeners as wire,
};

/// As they are now.
pub(super) fn view(handle: &Handle) -> wire::Listeners {
    let snapshot = handle.live.load();
    let bound = handle.running.listeners.addresses();
    let listeners = snapshot.listeners.iter().enumerate().map(|(place, listener)| {
        let addresses = bound.iter().filter(|(name, _)| *name == listener.name);
        let addresses = addresses.map(|(_, address)| address.to_string()).collect();
        let connections = snapshot.at_listener.get(place).map_or(0, |at| at.connections());
        of(&snapshot, listener, addresses, connections as u64)
    });
    wire::Listeners {
        listeners: listeners.collect(),
        connections: handle.running.connections.inside() as u64,
        max_connections: snapshot.limits.connections as u64,
    }
}

fn of(
    snapshot: &Snapshot,
    listener: &proxy::Listener,
    addresses: Vec<String>,
    connections: u64,
) -> wire::Listener {
    let service = |does: Does| match does {
        Does::Send(place) => snapshot.services.get(place).map(|service| service.name.to_string()),
        Does::Forbid | Does::Hide => None,
    };
    let (single, rules) = match &listener.rules[..] {
        [proxy::Rule { host: None, path: None, does: does @ Does::Send(_) }] => (service(*does), &[][..]),
        rules => (None, rules),
    };
    let rule = |rule: &proxy::Rule| wire::Rule {
        host: rule.host.clone(),
        path: rule.path.clone(),
        service: service(rule.does),
        deny: match rule.does {
            Does::Send(_) => None,
            Does::Forbid => Some(403),
            Does::Hide => Some(404),
        },
    };
    wire::Listener {
        name: listener.name.clone(),
        addresses,
        service: single,
        rules: rules.iter().map(rule).collect(),
        tls: listener.tls.as_ref().map(secured),
        http2: listener.http2,
        trusted: listener.trusted.iter().map(ToString::to_string).collect(),
        proxy_protocol: listener.proxy_protocol.iter().map(ToString::to_string).collect(),
        expose: listener.expose.clone(),
        connections,
        limits: limits(&listener.limits),
    }
}

fn secured(tls: &tls::Server) -> wire::Tls {
    let setting = tls.setting();
    let certificates = tls.certificates();
    let certificates = setting.pairs.iter().zip(certificates.iter()).map(|(pair, one)| wire::Certificate {
        file: pair.cert.display().to_string(),
        names: one.names.clone(),
        until: one.until,
    });
    wire::Tls {
        certificates: certificates.collect(),
        client_auth: match setting.client_auth {
            ClientAuth::Off => "off",
            ClientAuth::Optional(_) => "optional",
            ClientAuth::Required(_) => "required",
        }
        .into(),
        min_version: match setting.least {
            Least::Tls12 => "1.2",
            Least::Tls13 => "1.3",
        }
        .into(),
        lists_until: tls.facts().list_until,
        refused: tls::in_words(&tls.trouble()),
    }
}

fn limits(limits: &ListenerLimits) -> wire::Limits {
    let bounds = &limits.bounds;
    wire::Limits {
        connections: limits.connections.map(|most| most as u64),
        per_client: bounds.per_client.map(|most| most as u64),
        rate: bounds.rate.as_ref().map(rate),
        allow: bounds.allow.iter().map(ToString::to_string).collect(),
        deny: bounds.deny.iter().map(ToString::to_string).collect(),
    }
}

fn rate(rate: &Rate) -> wire::Rate {
    let by = match rate.by {
        By::Address => "address",
        By::Certificate => "certificate",
        By::Key => "key",
    };
    wire::Rate { requests: rate.to_string(), burst: rate.burst, by: by.into() }
}
