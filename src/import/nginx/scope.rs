//! Directives that are inherited: of `http` by its servers, of servers by their locations.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Walk,
    access::Bounds,
    parse::Directive,
    table::{ALWAYS, NEVER, OPENS},
};
use crate::import::{
    plan::{Pair, Rows, Tls, quoted},
    report::{Outcome, changed, guessed, kept, lost, opens},
    units, words,
};

/// What holds at one place of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// Within `stream`.
    pub(super) stream: bool,
    /// Nobody may come here.
    pub(super) denied: bool,
    pub(super) connect: Option<Duration>,
    /// The longest of read and send.
    pub(super) idle: Option<Duration>,
    pub(super) retry_status: Option<Vec<u16>>,
    pub(super) attempts: Option<u32>,
    /// TLS towards upstreams.
    pub(super) upstream: Rows,
    pub(super) verify: bool,
    /// TLS towards clients.
    pub(super) tls: Tls,
    pub(super) client_auth: Option<&'static str>,
    pub(super) http2: bool,
    pub(super) trusted: Vec<String>,
    /// The real address is in the PROXY header.
    pub(super) proxy_protocol: bool,
    /// Who may come, and how much.
    pub(super) bounds: Bounds,
    /// Variables that were `set` to plain text, with their `$`.
    pub(super) vars: BTreeMap<String, String>,
    /// All addresses of the server speak TLS (the old `ssl on`).
    pub(super) ssl: bool,
    /// Requests without TLS are only sent to where it is.
    pub(super) https_only: bool,
    /// Keys of `health`.
    pub(super) health: Rows,
}

impl Walk {
    /// A directive that is no block of ours: what it means for what is below it.
    pub(super) fn setting(&mut self, directive: &Directive, scope: &mut Scope) -> Outcome {
        let name = directive.name.as_str();
        if let Some((_, says)) = ALWAYS.iter().find(|(known, _)| *known == name) {
            return kept(*says);
        }
        if let Some((_, says)) = NEVER.iter().find(|(known, _)| *known == name) {
            return lost(*says);
        }
        if let Some((_, says)) = OPENS.iter().find(|(known, _)| *known == name) {
            return if directive.arg(0) == "off" { kept("nobody is asked") } else { opens(says) };
        }
        match name {
            "map" if directive.arg(0) == "$http_upgrade" => kept("upgrades pass through"),
            "map" => lost("there are no variables"),
            "set" => set(directive, scope),
            "if" => condition(directive, scope),
            "ssl" => {
                scope.ssl = directive.arg(0) == "on";
                kept("addresses of this server speak TLS or not")
            }
            "access_log" => self.access_log(directive),
            "limit_req_zone" | "limit_conn_zone" | "limit_req" | "limit_conn" => self.limit(directive, scope),
            "health_check" => self.health_check(directive, scope),
            "match" => self.match_block(directive),
            "proxy_connect_timeout" | "proxy_read_timeout" | "proxy_send_timeout" | "proxy_timeout" => {
                timeout(directive, scope)
            }
            "keepalive_timeout" | "client_header_timeout" => self.client_timeout(directive),
            "large_client_header_buffers" => self.header_size(directive),
            "client_max_body_size" => body_size(directive),
            "proxy_next_upstream" => next_upstream(directive, scope),
            "proxy_next_upstream_tries" => match directive.arg(0).parse() {
                Ok(0) => kept("`attempts` bounds them"),
                Ok(tries @ 1..=10) => {
                    scope.attempts = Some(tries);
                    kept(format!("attempts = {tries}"))
                }
                _ => lost("`attempts` is 1 to 10"),
            },
            "proxy_set_header" => header(directive),
            "set_real_ip_from" => match words::network(directive.arg(0)) {
                Some(network) => {
                    let says = kept(format!("`{network}` is believed"));
                    scope.trusted.push(network);
                    says
                }
                None => lost("an address or a network is needed"),
            },
            "real_ip_header" if directive.arg(0).eq_ignore_ascii_case("proxy_protocol") => {
                scope.proxy_protocol = true;
                kept("the PROXY header is required from those addresses")
            }
            "real_ip_header" if directive.arg(0).eq_ignore_ascii_case("x-forwarded-for") => {
                kept("X-Forwarded-For is read from `trusted`")
            }
            "real_ip_header" => lost("X-Forwarded-For alone is read, and the PROXY header"),
            "http2" => {
                scope.http2 = directive.arg(0) == "on";
                kept(format!("http2 = {}", scope.http2))
            }
            name if name.starts_with("proxy_ssl_") => upstream_tls(directive, scope),
            name if name.starts_with("ssl_") => client_tls(directive, scope),
            name if name.starts_with("gzip") || name.starts_with("brotli") => {
                kept("answers are passed as they are")
            }
            name if name.starts_with("proxy_cache") => {
                lost("nothing is cached: blobs go to registries that have them")
            }
            name if name.contains("_by_lua") || name.starts_with("js_") => lost("there are no scripts"),
            _ => lost("not known here"),
        }
    }

    fn client_timeout(&mut self, directive: &Directive) -> Outcome {
        let Some(time) = units::nginx_time(directive.arg(0)) else { return lost("it is no time") };
        let (key, most) = match directive.name.as_str() {
            "keepalive_timeout" => ("keep_alive", Duration::from_secs(24 * 3600)),
            _ => ("header_timeout", Duration::from_secs(600)),
        };
        if time > most || (key == "header_timeout" && time.is_zero()) {
            return lost(format!("`limits.{key}` is at most {}", units::ours(most)));
        }
        let text = units::ours(time);
        self.plan.limits.set(key, quoted(&text));
        kept(format!("limits.{key} = \"{text}\", for all listeners"))
    }

    fn access_log(&mut self, directive: &Directive) -> Outcome {
        if directive.arg(0) == "off" {
            if self.plan.log.get("access").is_none() {
                self.plan.log.set("access", quoted("off"));
            }
            return kept("access = \"off\", unless a log is named elsewhere");
        }
        self.plan.log.set("access", quoted("stdout"));
        changed("one JSON line per request goes to standard output; `[log] access` may name a file")
    }

    fn header_size(&mut self, directive: &Directive) -> Outcome {
        let size = directive.args.last().and_then(|text| units::bytes(text));
        let Some(size) = size else { return lost("it is no size") };
        // Below it the heads of real clients do not fit, and nginx takes several such buffers for one head.
        if size <= 32 * 1024 {
            return kept("`limits.header_bytes` has a default of 32 KiB for a whole head");
        }
        let text = units::size(size.min(1024 * 1024));
        self.plan.limits.set("header_bytes", quoted(&text));
        changed(format!("limits.header_bytes = \"{text}\", for a whole head"))
    }
}

fn timeout(directive: &Directive, scope: &mut Scope) -> Outcome {
    let Some(time) = units::nginx_time(directive.arg(0)) else { return lost("it is no time") };
    if directive.name == "proxy_connect_timeout" {
        let bounded = time.clamp(Duration::from_millis(10), Duration::from_secs(60));
        scope.connect = Some(bounded);
        return kept(format!("timeouts.connect = \"{}\"", units::ours(bounded)));
    }
    // A poll is parked for 10 s without a byte, and a day is the most.
    let bounded = time.clamp(Duration::from_secs(12), Duration::from_secs(24 * 3600));
    let longest = scope.idle.map_or(bounded, |idle| idle.max(bounded));
    scope.idle = Some(longest);
    let says = format!("timeouts.idle = \"{}\": no byte in either direction of a body", units::ours(longest));
    if longest == time { kept(says) } else { changed(says) }
}

/// `set $name text`.
fn set(directive: &Directive, scope: &mut Scope) -> Outcome {
    let (name, value) = (directive.arg(0), with_vars(directive.arg(1), &scope.vars));
    if value.contains('$') || !name.starts_with('$') {
        scope.vars.remove(name);
        return lost("there are no variables");
    }
    scope.vars.insert(name.to_owned(), value);
    kept("its text is put in where a `proxy_pass` names it")
}

/// A text with the variables in it that are known.
pub(super) fn with_vars(text: &str, vars: &BTreeMap<String, String>) -> String {
    // `$ab` before `$a`: longer names are later.
    vars.iter().rev().fold(text.to_owned(), |text, (name, value)| {
        let braced = format!("${{{}}}", name.trim_start_matches('$'));
        text.replace(&braced, value).replace(name.as_str(), value)
    })
}

/// `if`: only one of them is known, that which sends everybody to TLS.
fn condition(directive: &Directive, scope: &mut Scope) -> Outcome {
    let asked = directive.args.join(" ");
    let inner = directive.block.as_deref().unwrap_or_default();
    let returns =
        |code: fn(&str) -> bool| inner.iter().any(|inner| inner.name == "return" && code(inner.arg(0)));
    let plain = asked.contains("$scheme") && asked.contains("http") && !asked.contains("https")
        || asked.contains("$https") && !asked.contains("on");
    if plain && returns(|code| code.starts_with('3')) {
        scope.https_only = true;
        return changed("there are no redirects: the addresses without TLS are left out");
    }
    if returns(|code| code.starts_with('4') || code.starts_with('5')) {
        return opens("there are no conditions; rules match by host and path");
    }
    lost("there are no conditions; rules match by host and path")
}

fn body_size(directive: &Directive) -> Outcome {
    match units::bytes(directive.arg(0)) {
        Some(0) => kept("bodies of registries have no limit"),
        Some(_) => {
            changed("uploads to registries have no limit; `limits.body` bounds others, by default to 64 MiB")
        }
        None => lost("it is no size"),
    }
}

fn next_upstream(directive: &Directive, scope: &mut Scope) -> Outcome {
    if directive.arg(0) == "off" {
        scope.attempts = Some(1);
        return kept("attempts = 1");
    }
    let mut status = Vec::new();
    let mut left = Vec::new();
    for word in &directive.args {
        match word.strip_prefix("http_").and_then(|code| code.parse::<u16>().ok()) {
            Some(code @ 500..=599) => status.push(code),
            Some(_) => left.push(word.as_str()),
            None if ["error", "timeout", "invalid_header"].contains(&word.as_str()) => {}
            None => left.push(word.as_str()),
        }
    }
    let codes: Vec<String> = status.iter().map(ToString::to_string).collect();
    scope.retry_status = Some(status);
    let says = format!("retry_status = [{}]; connect errors are always tried elsewhere", codes.join(", "));
    if left.is_empty() {
        return kept(says);
    }
    changed(format!("{says}; not {}: what may run twice is never sent twice (docs/http.md)", left.join(", ")))
}

/// `proxy_set_header`.
fn header(directive: &Directive) -> Outcome {
    let (field, value) = (directive.arg(0).to_ascii_lowercase(), directive.arg(1));
    match field.as_str() {
        "host" if ["$host", "$http_host", "$host:$server_port"].contains(&value) => {
            kept("the client's Host is passed on")
        }
        "host" => lost("the client's Host is passed on as it is"),
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" | "forwarded" => {
            kept("X-Forwarded-For, -Proto and -Host are always set")
        }
        "x-real-ip" => changed("X-Forwarded-For names the client"),
        "upgrade" | "connection" => kept("upgrades pass through, and connections are kept"),
        "x-request-id" => kept("each request has one"),
        "ssl-client-cert" | "ssl-client-verify" => {
            kept("they are set, and removed from everybody else's requests")
        }
        name if name.starts_with("x-ssl-") || name.starts_with("ssl-client") => changed(
            "clients' certificates are passed on as Ssl-Client-Verify and Ssl-Client-Cert (docs/tls.md)",
        ),
        "accept-encoding" => lost("it is passed on as the client says it"),
        _ => lost("no other field is set"),
    }
}

fn upstream_tls(directive: &Directive, scope: &mut Scope) -> Outcome {
    let value = directive.arg(0);
    let key = match directive.name.as_str() {
        "proxy_ssl_trusted_certificate" => "ca",
        "proxy_ssl_name" if value.starts_with('$') => return kept("the host of the address is the name"),
        "proxy_ssl_name" => "server_name",
        "proxy_ssl_certificate" => "cert",
        "proxy_ssl_certificate_key" => "key",
        "proxy_ssl_verify" => {
            scope.verify = value == "on";
            return kept(format!("verify = {}", scope.verify));
        }
        "proxy_ssl_protocols" | "proxy_ssl_ciphers" => {
            return changed("TLS 1.2 and 1.3 with our own suites are spoken");
        }
        "proxy_ssl_verify_depth" => return kept("chains of any sensible depth are followed"),
        _ => return lost("not known here"),
    };
    scope.upstream.set(key, quoted(value));
    kept(format!("tls of the service: {key}"))
}

fn client_tls(directive: &Directive, scope: &mut Scope) -> Outcome {
    let value = directive.arg(0);
    match directive.name.as_str() {
        "ssl_certificate" | "ssl_certificate_key" if value.contains('$') => {
            lost("there are no variables: name each certificate; they are chosen by name")
        }
        "ssl_certificate" => {
            scope.tls.pairs.push(Pair { cert: value.to_owned(), key: String::new() });
            kept("cert of `tls`: the server's first, then the chain")
        }
        "ssl_certificate_key" => {
            // The keys stand in the order of the certificates, wherever between them.
            match scope.tls.pairs.iter_mut().find(|pair| pair.key.is_empty()) {
                Some(pair) => pair.key = value.to_owned(),
                None => scope.tls.pairs.push(Pair { cert: String::new(), key: value.to_owned() }),
            }
            kept("key of `tls`")
        }
        "ssl_protocols" => {
            let only_13 = directive.args.iter().all(|version| version == "TLSv1.3");
            if only_13 {
                scope.tls.rows.set("min_version", quoted("1.3"));
                return kept("min_version = \"1.3\"");
            }
            let old = directive
                .args
                .iter()
                .any(|version| ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1"].contains(&version.as_str()));
            if old { changed("1.2 is the least version") } else { kept("1.2 and 1.3 are the default") }
        }
        "ssl_ciphers" => {
            changed("suites that are safe, our own order; `suites` narrows them by their IANA names")
        }
        "ssl_client_certificate" => {
            scope.tls.rows.set("client_ca", quoted(value));
            kept("client_ca")
        }
        "ssl_crl" => {
            scope.tls.rows.set("crl", quoted(value));
            kept("crl: looked at again every 5 s, an expired one fails logins alone")
        }
        "ssl_verify_client" => {
            let (auth, outcome) = match value {
                "on" => (Some("required"), kept("client_auth = \"required\"")),
                "optional" => (Some("optional"), kept("client_auth = \"optional\"")),
                "optional_no_ca" => {
                    let says = "client_auth = \"optional\": a certificate of another authority is passed on as FAILED";
                    (Some("optional"), changed(says))
                }
                _ => (None, kept("client_auth = \"off\"")),
            };
            scope.client_auth = auth;
            outcome
        }
        "ssl_preread" | "ssl_handshake_timeout" => {
            guessed("TLS ends at this proxy, or is not looked into at all")
        }
        _ => lost("not known here"),
    }
}

impl Scope {
    /// `tls` of a listener under these settings; the error says what is missing.
    pub(super) fn listener_tls(&self) -> Result<Tls, &'static str> {
        let whole = |pair: &&Pair| !pair.cert.is_empty() && !pair.key.is_empty();
        let mut tls = Tls {
            pairs: self.tls.pairs.iter().filter(whole).cloned().collect(),
            rows: self.tls.rows.clone(),
        };
        if tls.pairs.is_empty() {
            return Err("no certificate and key are named");
        }
        match self.client_auth {
            Some(_) if tls.rows.get("client_ca").is_none() => {
                return Err("clients are asked for certificates, and no authority is named");
            }
            Some(auth) => tls.rows.set("client_auth", quoted(auth)),
            None => {
                tls.rows.remove("client_ca");
                tls.rows.remove("crl");
            }
        }
        Ok(tls)
    }
}
