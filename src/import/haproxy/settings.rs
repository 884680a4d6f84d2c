//! Keywords that `defaults` may have and the sections below inherit.

use std::time::Duration;

use super::{
    Walk, checks,
    parse::Line,
    table::{ALWAYS, LOGGED, NEVER},
};
use crate::import::{
    plan::{Rows, quoted},
    report::{Outcome, changed, guessed, kept, lost, opens},
    units, words,
};

/// What holds in a section.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) tcp: bool,
    pub(super) connect: Option<Duration>,
    /// The longest of server, client and tunnel.
    pub(super) idle: Option<Duration>,
    pub(super) check_timeout: Option<Duration>,
    /// Keys of the service.
    pub(super) rows: Rows,
    /// The line that hashes what is asked for, which only registries can.
    pub(super) hashed: Option<Line>,
    /// Checks ask for a page.
    pub(super) asks: bool,
    pub(super) health: Rows,
    /// Words of `default-server`.
    pub(super) server: Vec<String>,
}

impl Walk<'_> {
    /// A keyword that is not of a front or a server alone.
    pub(super) fn setting(&mut self, line: &Line, settings: &mut Settings) -> Outcome {
        let (word, value) = (line.word(0), line.word(1));
        if let Some((_, says)) = ALWAYS.iter().find(|(known, _)| *known == word) {
            return kept(*says);
        }
        if let Some((_, says)) = NEVER.iter().find(|(known, _)| *known == word) {
            return lost(*says);
        }
        match word {
            "mode" => {
                settings.tcp = value == "tcp";
                match value {
                    "http" => kept("HTTP is what is spoken"),
                    "tcp" => guessed("taken for HTTP: bytes of anything else are refused"),
                    _ => lost("HTTP is what is spoken"),
                }
            }
            "timeout" => self.timeout(line, settings),
            "option" => checks::option(line, settings),
            "http-check" => checks::http_check(line, settings),
            "balance" => balance(line, settings),
            "retries" => match value.parse::<u32>() {
                Ok(retries @ 0..=9) => {
                    settings.rows.set("attempts", (retries + 1).to_string());
                    kept(format!("attempts = {}", retries + 1))
                }
                _ => lost("`attempts` is 1 to 10"),
            },
            "retry-on" => retry_on(line, settings),
            "maxconn" => match value.parse::<u64>() {
                Ok(_) => kept(
                    "`limits.connections` is for all listeners together, and `limits.connections` of a listener for it",
                ),
                Err(_) => lost("it is no number"),
            },
            "default-server" => {
                settings.server.extend_from_slice(line.from(1));
                kept("for each server below")
            }
            "cookie" if words::is_token(value) => {
                settings.rows.set("sticky", format!("{{ by = \"cookie\", name = {} }}", quoted(value)));
                changed("sticky by a cookie of ours with this name, set when there is none")
            }
            "cookie" => lost("it is no name of a cookie"),
            "server-template" => lost("`discovery` follows one name"),
            "stick" | "stick-table" => stick(line, settings),
            "http-request" | "http-response" | "http-after-response" => rewrite(line),
            "tcp-request" | "tcp-response" => lost("see `limits` of a listener for what is refused"),
            "acl" => lost("an ACL that no rule is made of"),
            "declare" | "capture" => kept(LOGGED),
            _ => lost("not known here"),
        }
    }

    fn timeout(&mut self, line: &Line, settings: &mut Settings) -> Outcome {
        let Some(time) = units::haproxy_time(line.word(2)) else { return lost("it is no time") };
        let text = units::ours(time);
        match line.word(1) {
            "connect" | "contimeout" => {
                let bounded = time.clamp(Duration::from_millis(10), Duration::from_secs(60));
                settings.connect = Some(bounded);
                kept(format!("timeouts.connect = \"{}\"", units::ours(bounded)))
            }
            "server" | "client" | "tunnel" | "server-fin" | "client-fin"
                if line.word(1).ends_with("-fin") =>
            {
                kept("a half-closed connection ends by itself")
            }
            "server" | "client" | "tunnel" => {
                // A poll is parked for 10 s without a byte, and a day is the most.
                let bounded = time.clamp(Duration::from_secs(12), Duration::from_secs(24 * 3600));
                let longest = settings.idle.map_or(bounded, |idle| idle.max(bounded));
                settings.idle = Some(longest);
                let says = format!(
                    "timeouts.idle = \"{}\": no byte in either direction of a body",
                    units::ours(longest)
                );
                if longest == time { kept(says) } else { changed(says) }
            }
            "http-request" if (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&time) => {
                self.plan.limits.set("header_timeout", quoted(&text));
                kept(format!("limits.header_timeout = \"{text}\", for all listeners"))
            }
            "http-keep-alive" if time <= Duration::from_secs(24 * 3600) => {
                self.plan.limits.set("keep_alive", quoted(&text));
                kept(format!("limits.keep_alive = \"{text}\", for all listeners"))
            }
            "queue" => {
                changed("`hold` bounds how long a request waits for a server: 4 s for reads, 8 s for writes")
            }
            "check" => {
                settings.check_timeout = Some(time);
                kept(format!("health.timeout = \"{text}\""))
            }
            "tarpit" => lost("nobody is kept waiting to be refused"),
            _ => lost("not known here, or out of range"),
        }
    }
}

fn balance(line: &Line, settings: &mut Settings) -> Outcome {
    let word = line.word(1);
    let mut set = |word: &str, hash: Option<&str>| {
        settings.rows.set("balance", quoted(word));
        settings.rows.remove("hash");
        if let Some(hash) = hash {
            settings.rows.set("hash", hash.to_owned());
        }
    };
    match word {
        "roundrobin" | "static-rr" => {
            set("round-robin", None);
            kept("balance = \"round-robin\"")
        }
        "leastconn" => {
            set("least-requests", None);
            kept("balance = \"least-requests\"")
        }
        "random" => {
            set("least-requests", None);
            changed("balance = \"least-requests\": of two picked by chance the one with fewer")
        }
        "first" => {
            set("least-requests", None);
            changed("balance = \"least-requests\"; `max_requests` of an upstream bounds it")
        }
        "source" => {
            set("consistent-hash", Some("{ by = \"address\" }"));
            kept("balance = \"consistent-hash\", hash = { by = \"address\" }")
        }
        "uri" => {
            set("consistent-hash", Some("{ by = \"content\" }"));
            settings.hashed = Some(line.clone());
            changed(
                "balance = \"consistent-hash\", hash = { by = \"content\" }: the blob or template, not the whole path",
            )
        }
        _ => {
            let inner = ["hdr(", "req.hdr(", "cookie(", "req.cook("]
                .iter()
                .find_map(|start| Some((*start, word.trim_start_matches("hash ").strip_prefix(start)?)));
            let sample = if word == "hash" { line.word(2) } else { word };
            let inner = inner.or_else(|| {
                ["req.hdr(", "req.cook("].iter().find_map(|start| Some((*start, sample.strip_prefix(start)?)))
            });
            let name = |inner: &str| inner.split(')').next().unwrap_or_default().to_owned();
            let by = match inner {
                Some((start, inner)) if words::is_token(&name(inner)) && name(inner) != "cookie" => {
                    let by = if start.contains("hdr") { "header" } else { "cookie" };
                    format!("{{ by = \"{by}\", name = {} }}", quoted(&name(inner)))
                }
                _ if sample == "src" => "{ by = \"address\" }".to_owned(),
                _ => return lost("there is no such balance: it stays as it was, by default in turn"),
            };
            set("consistent-hash", Some(&by));
            kept(format!("balance = \"consistent-hash\", hash = {by}"))
        }
    }
}

fn retry_on(line: &Line, settings: &mut Settings) -> Outcome {
    let mut codes = Vec::new();
    let mut left = Vec::new();
    for word in line.from(1) {
        match word.as_str() {
            "none" => {
                settings.rows.set("attempts", "1".into());
                return kept("attempts = 1");
            }
            "conn-failure" | "empty-response" | "response-timeout" | "0rtt-rejected" | "junk-response" => {}
            "all-retryable-errors" => codes.extend(["500", "502", "503", "504"].map(str::to_owned)),
            code if code.parse::<u16>().is_ok_and(|code| (500..600).contains(&code)) => {
                codes.push(code.to_owned())
            }
            other => left.push(other),
        }
    }
    codes.sort();
    codes.dedup();
    if !codes.is_empty() {
        settings.rows.set("retry_status", format!("[{}]", codes.join(", ")));
    }
    let says = format!(
        "retry_status = [{}]; what was not sent is always tried elsewhere, what may run twice never",
        codes.join(", ")
    );
    if left.is_empty() { kept(says) } else { changed(format!("{says}; not {}", left.join(", "))) }
}

fn stick(line: &Line, settings: &mut Settings) -> Outcome {
    let by_source = line.words.iter().any(|word| word == "src" || word == "ip" || word == "ipv6");
    match line.word(0) {
        "stick" if line.word(1) == "on" && line.words.iter().any(|word| word == "src") => {
            settings.rows.set("sticky", "{ by = \"address\" }".into());
            kept("sticky by the client's address, without a table: two proxies agree")
        }
        "stick-table" if by_source => kept("no table is needed: the client's address decides"),
        "stick-table" if !line.words.iter().any(|word| word == "store") => kept("no table is needed"),
        "stick-table" => lost("nothing is counted in tables; `limits` of a listener bound rates"),
        "stick" if line.word(1) == "on" => {
            let sample = line.word(2).split(',').next().unwrap_or_default();
            let inner = |start: &str| sample.strip_prefix(start).and_then(|rest| rest.strip_suffix(')'));
            let (by, name) =
                match (inner("req.hdr(").or(inner("hdr(")), inner("req.cook(").or(inner("cookie("))) {
                    (Some(name), _) => ("header", name),
                    (_, Some(name)) => {
                        settings.rows.set("balance", quoted("consistent-hash"));
                        settings.rows.set("hash", format!("{{ by = \"cookie\", name = {} }}", quoted(name)));
                        return changed(
                            "balance = \"consistent-hash\" by that cookie of the servers, without a table",
                        );
                    }
                    _ => return lost("sticky is by address, header or cookie"),
                };
            if !words::is_token(name) || name.eq_ignore_ascii_case("cookie") {
                return lost("it is no name of a header");
            }
            settings.rows.set("sticky", format!("{{ by = \"{by}\", name = {} }}", quoted(name)));
            kept(format!("sticky by the header `{name}`, without a table: two proxies agree"))
        }
        _ => lost("sticky is by address, header or cookie"),
    }
}

/// `http-request` and its kin.
fn rewrite(line: &Line) -> Outcome {
    let name = line.word(2).to_ascii_lowercase();
    match line.word(1) {
        "set-header" | "add-header" if name.starts_with("x-forwarded") || name == "forwarded" => {
            kept("X-Forwarded-For, -Proto and -Host are always set")
        }
        "set-header" | "add-header" if name.starts_with("x-ssl-") || name.starts_with("ssl-client") => {
            changed(
                "clients' certificates are passed on as Ssl-Client-Verify and Ssl-Client-Cert (docs/tls.md)",
            )
        }
        "set-header" if name == "x-request-id" => kept("each request has one"),
        "del-header"
            if name.starts_with("x-forwarded")
                || name.starts_with("ssl-client")
                || name.starts_with("x-ssl-") =>
        {
            kept("identity headers are removed unless `trusted` says otherwise")
        }
        "set-header" | "add-header" | "del-header" | "replace-header" | "replace-value" => {
            lost("no other field is touched")
        }
        "redirect" => lost("there are no redirects: clients are given the address with TLS"),
        "deny" | "reject" | "tarpit" => opens("who may come is said in `limits` of a listener"),
        track if track.starts_with("track-sc") => lost("see `limits` of a listener for rates"),
        "normalize-uri" => kept("a path is brought to its one form before it is routed"),
        "set-path" | "replace-path" | "set-uri" | "replace-uri" | "set-query" => {
            lost("paths are passed on as they are")
        }
        "auth" => opens("users are known to the controllers, not to the proxy"),
        "use-service" | "lua" | "return" => lost("there are no answers of its own"),
        "capture" | "set-log-level" | "set-var" => kept(LOGGED),
        _ => lost("not known here"),
    }
}
