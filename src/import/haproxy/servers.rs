//! `backend`, and the half of `listen` that has servers.

use std::time::Duration;

use super::{
    Walk,
    parse::{Line, Section},
    settings::Settings,
};
use crate::import::{
    plan::{Rows, Service, quoted},
    report::{Outcome, changed, guessed, kept, lost},
    units, words,
};

/// Words of a `server` line that have a value behind them.
const WITH_VALUE: &[&str] = &[
    "weight",
    "maxconn",
    "maxqueue",
    "minconn",
    "inter",
    "fastinter",
    "downinter",
    "rise",
    "fall",
    "cookie",
    "slowstart",
    "observe",
    "error-limit",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "init-addr",
    "resolvers",
    "resolve-prefer",
    "resolve-opts",
    "resolve-net",
    "track",
    "port",
    "addr",
    "check-sni",
    "sni",
    "verify",
    "verifyhost",
    "ca-file",
    "crt",
    "crl-file",
    "alpn",
    "check-alpn",
    "ciphers",
    "ciphersuites",
    "ssl-min-ver",
    "ssl-max-ver",
    "proto",
    "check-proto",
    "source",
    "id",
    "pool-max-conn",
    "pool-purge-delay",
    "pool-low-conn",
    "max-reuse",
    "namespace",
    "usesrc",
    "agent-check",
    "agent-port",
    "agent-inter",
    "agent-addr",
    "agent-send",
    "tcp-ut",
    "log-proto",
    "set-proxy-v2-tlv-fmt",
    "proxy-v2-options",
    "ws",
    "curves",
];

impl Walk<'_> {
    pub(super) fn backend(&mut self, section: &Section, mut settings: Settings) {
        let mut service =
            Service { name: words::service_name(&self.plan, section.name()), ..Service::default() };
        // What the servers say holds for the service, so settings come first.
        let of_front = section.kind() == "listen";
        for line in &section.lines {
            if ["server", "server-template"].contains(&line.word(0))
                || (of_front && super::fronts::is_of_front(line))
            {
                continue;
            }
            let outcome = self.setting(line, &mut settings);
            self.note(line, outcome);
        }
        service.rows = settings.rows.clone();
        if service.rows.get("balance").is_none() {
            // haproxy's default.
            service.rows.set("balance", quoted("round-robin"));
        }
        let (mut hosts, mut ports, mut checked) = (vec![section.name().to_owned()], Vec::new(), false);
        for line in &section.lines {
            let known = (&mut hosts, &mut ports, &mut checked);
            let outcome = match line.word(0) {
                "server" => self.upstream(line, 1, &settings, &mut service, known),
                "server-template" => self.upstream(line, 2, &settings, &mut service, known),
                _ => continue,
            };
            self.note(line, outcome);
        }
        let sent_to = !service.upstreams.is_empty() || !service.discovery.is_empty();
        if section.kind() == "backend" {
            let outcome = if sent_to {
                kept(format!("[service.{}]", service.name))
            } else {
                lost("left out: it has no server that can be reached")
            };
            self.note(&section.head, outcome);
        }
        if !sent_to {
            return;
        }
        health(&settings, checked, &mut service);
        if let Some(connect) = settings.connect {
            service.timeouts.set("connect", quoted(&units::ours(connect)));
        }
        if let Some(idle) = settings.idle {
            service.timeouts.set("idle", quoted(&units::ours(idle)));
        }
        let (registry, why) = words::is_registry(hosts.iter().map(String::as_str), [], ports);
        words::settle(&mut service, registry, why.as_deref());
        self.hash_fits(&settings, registry, &mut service);
        self.services.push((section.name().to_owned(), service.name.clone()));
        self.plan.services.push(service);
    }

    /// What is asked for is hashed for registries alone.
    fn hash_fits(&mut self, settings: &Settings, registry: bool, service: &mut Service) {
        let by_content = service.rows.get("hash").is_some_and(|hash| hash.contains("content"));
        if registry || !by_content {
            return;
        }
        service.rows.set("balance", quoted("round-robin"));
        service.rows.remove("hash");
        if let Some(line) = &settings.hashed {
            self.note(
                line,
                lost("what is asked for is hashed for registries; controllers' requests go in turn"),
            );
        }
    }

    /// `server NAME ADDRESS …`, or with one word more `server-template NAME COUNT ADDRESS …`.
    fn upstream(
        &mut self,
        line: &Line,
        shift: usize,
        settings: &Settings,
        service: &mut Service,
        (hosts, ports, checked): (&mut Vec<String>, &mut Vec<u16>, &mut bool),
    ) -> Outcome {
        let options: Vec<&str> =
            settings.server.iter().chain(line.from(shift + 2)).map(String::as_str).collect();
        let has = |word: &str| options.contains(&word);
        let default_port = if has("ssl") { 443 } else { 80 };
        let template = shift == 2;
        let given = line.word(shift + 1);
        let services = template && given.starts_with('_');
        let address = match words::server(if services { "services:1" } else { given }, Some(default_port)) {
            Ok(address) => address,
            Err(why) => return lost(why),
        };
        let by_name = template && address.host.parse::<std::net::IpAddr>().is_err();
        if template && (!by_name || !service.discovery.is_empty()) {
            return lost("`discovery` follows one name");
        }
        if has("disabled") {
            return changed("left out: it is disabled");
        }
        let mut rows = Rows::default();
        let taken: Vec<String> = service
            .upstreams
            .iter()
            .filter_map(|other| other.get("name"))
            .map(|name| name.trim_matches('"').to_owned())
            .collect();
        let name = words::name_apart(line.word(1), taken.iter().map(String::as_str));
        rows.set("name", quoted(&name));
        rows.set("address", quoted(&address.to_string()));
        if service.upstreams.iter().any(|other| other.get("address") == rows.get("address")) {
            return changed("left out: another server has the same address");
        }
        let (mut said, mut left) = (kept(format!("upstream `{name}`")), Vec::new());
        let mut resolver = None;
        let mut tls = has("ssl").then(Rows::default);
        let mut words_left = options.iter().copied();
        while let Some(option) = words_left.next() {
            let value = if WITH_VALUE.contains(&option) { words_left.next().unwrap_or_default() } else { "" };
            let time = units::haproxy_time(value);
            match (option, time) {
                ("check", _) => *checked = true,
                ("no-check", _) => *checked = false,
                ("weight", _) => match value.parse::<u32>() {
                    Ok(0) => return changed("left out: its weight is 0"),
                    Ok(weight) => rows.set("weight", weight.min(1000).to_string()),
                    Err(_) => left.push(option),
                },
                ("maxconn", _) if value.parse::<u32>().is_ok_and(|most| most > 0) => {
                    let most = value.parse::<u32>().map_or(1_000_000, |most| most.min(1_000_000));
                    rows.set("max_requests", most.to_string());
                }
                ("slowstart", Some(time)) => {
                    service.rows.set("slow_start", quoted(&units::ours(time.min(Duration::from_secs(3600)))))
                }
                ("inter", Some(time)) => {
                    service.health.set("interval", quoted(&units::ours(units::interval(time))));
                }
                ("rise" | "fall", _)
                    if value.parse::<u32>().is_ok_and(|count| (1..=100).contains(&count)) =>
                {
                    service.health.set(if option == "rise" { "rise" } else { "fall" }, value.to_owned());
                }
                ("backup", _) => {
                    said = guessed(
                        "one of all: there are no backups, for a server that is up can as well be used",
                    )
                }
                ("send-proxy", _) => service.rows.set("proxy_protocol", quoted("v1")),
                ("send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn", _) => {
                    service.rows.set("proxy_protocol", quoted("v2"))
                }
                ("verify", _) if value == "none" => {
                    if let Some(tls) = &mut tls {
                        tls.set("verify", "false".into());
                    }
                }
                ("ca-file", _) if value != "@system-ca" => {
                    if let Some(tls) = &mut tls {
                        tls.set("ca", quoted(&whole(self.ca_base.as_deref(), value)));
                    }
                }
                ("crt", _) => {
                    if let Some(tls) = &mut tls {
                        let file = quoted(&whole(self.crt_base.as_deref(), value));
                        tls.set("cert", file.clone());
                        tls.set("key", file);
                    }
                }
                ("sni" | "check-sni" | "verifyhost", _) => {
                    let name =
                        value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(value);
                    match (&mut tls, words::host(name)) {
                        (Some(tls), Some(host)) => tls.set("server_name", quoted(&host)),
                        _ => left.push(option),
                    }
                }
                ("observe", _) => service
                    .remarks
                    .push("Failures of real requests count by themselves (passive health).".into()),
                ("resolvers", _) => {
                    resolver = self
                        .resolvers
                        .iter()
                        .find(|(name, _)| name == value)
                        .and_then(|(_, first)| first.clone());
                    said = changed(format!(
                        "upstream `{name}`: its name is resolved when a connection is opened; `discovery` follows names"
                    ));
                }
                ("resolve-prefer" | "resolve-opts" | "init-addr", _) => {}
                (
                    "ssl" | "check-ssl" | "check-send-proxy" | "cookie" | "fastinter" | "downinter"
                    | "on-error" | "error-limit" | "on-marked-down" | "on-marked-up" | "verify" | "ca-file"
                    | "alpn" | "check-alpn" | "pool-max-conn" | "pool-purge-delay" | "pool-low-conn"
                    | "max-reuse" | "tcp-ut" | "id" | "enabled" | "tfo" | "maxqueue" | "minconn"
                    | "ssl-min-ver" | "no-tlsv10" | "no-tlsv11" | "no-sslv3" | "ciphers" | "ciphersuites"
                    | "curves",
                    _,
                ) => {}
                _ => left.push(option),
            }
        }
        if template {
            let word = if services { "srv" } else { "dns" };
            let what = if services { given.trim_end_matches('.').to_owned() } else { address.to_string() };
            service.discovery.set(word, quoted(&what));
            if let Some(resolver) = resolver {
                service.discovery.set("resolver", quoted(&resolver));
            }
            let most = line.word(2).rsplit('-').next().and_then(|most| most.parse::<u32>().ok());
            if let Some(most) = most.filter(|most| (1..=1024).contains(most)) {
                service.discovery.set("most", most.to_string());
            }
            said = kept(format!("discovery = {{ {word} = \"{what}\" }}"));
            if rows.get("weight").is_some() || rows.get("max_requests").is_some() {
                left.push("weight or maxconn");
            }
        }
        if let Some(tls) = &mut tls {
            if tls.get("cert").is_none() {
                tls.remove("key");
            }
            if tls.get("verify").is_some() {
                tls.remove("ca");
                tls.remove("server_name");
                said = changed(format!(
                    "{}; as before nothing is verified: name the authority in `ca` of `tls`",
                    said.1
                ));
            }
            match &service.tls {
                Some(known) if known != tls => {
                    said = changed(
                        "TLS settings are those of the first server of the service: all have the same",
                    );
                    // One that is verified for one is verified for all.
                    if known.get("verify").is_some() && tls.get("verify").is_none() {
                        service.tls = Some(tls.clone());
                    }
                }
                Some(_) => {}
                None => service.tls = Some(tls.clone()),
            }
        }
        hosts.push(line.word(1).to_owned());
        hosts.push(address.host.clone());
        if !services {
            ports.push(address.port);
        }
        if !template {
            service.upstreams.push(rows);
        }
        if left.is_empty() { said } else { changed(format!("{}; not {}", said.1, left.join(" "))) }
    }
}

/// How the servers are probed.
fn health(settings: &Settings, checked: bool, service: &mut Service) {
    if settings.asks {
        // haproxy takes any answer of 200 to 399 if nothing is expected.
        let mut rows = settings.health.clone();
        if rows.get("status").is_none() {
            rows.set("status", words::GOOD.into());
        }
        for key in ["interval", "rise", "fall"] {
            if let Some(value) = service.health.get(key) {
                rows.set(key, value.to_owned());
            }
        }
        service.health = rows;
    } else if checked {
        service.health.set("kind", quoted("tcp"));
    } else {
        service.remarks.push(words::NOT_CHECKED.into());
    }
    if let Some(timeout) = settings.check_timeout {
        let interval = service.health.get("interval").and_then(units::read_back);
        let most = interval.unwrap_or(Duration::from_secs(2)) * 10;
        service.health.set(
            "timeout",
            quoted(&units::ours(
                timeout.clamp(Duration::from_millis(10), most.min(Duration::from_secs(600))),
            )),
        );
    }
}

/// A file's name, below its base if it has one.
pub(super) fn whole(base: Option<&str>, file: &str) -> String {
    match base {
        Some(base) if !file.starts_with('/') => format!("{}/{file}", base.trim_end_matches('/')),
        _ => file.to_owned(),
    }
}
