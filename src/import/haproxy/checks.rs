//! `option` and `http-check`: how servers are asked how they are.

use super::{parse::Line, settings::Settings, table::OPTIONS};
use crate::import::{
    plan::quoted,
    report::{Outcome, changed, guessed, kept, lost},
    words,
};

pub(super) fn option(line: &Line, settings: &mut Settings) -> Outcome {
    let name = line.word(1);
    if let Some((_, says)) = OPTIONS.iter().find(|(known, _)| *known == name) {
        return kept(*says);
    }
    match name {
        "httpchk" => {
            settings.asks = true;
            let words = line.from(2);
            let path = words.iter().find(|word| word.starts_with('/'));
            let path = path.map_or("/", String::as_str);
            // As it was written before there was `http-check send`: fields behind the version.
            let host = words.iter().flat_map(|word| word.lines()).find_map(|field| {
                let (name, value) = field.split_once(':')?;
                name.trim().eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
            });
            if let Some(host) = host {
                settings.health.set("host", quoted(&host));
            }
            let method =
                words.iter().find(|word| word.bytes().all(|b| b.is_ascii_uppercase()) && !word.is_empty());
            // Without a word haproxy asks with OPTIONS.
            let method = method.map_or("OPTIONS", String::as_str);
            settings.health.set("path", quoted(if words::probe_path(path) { path } else { "/" }));
            match method {
                "GET" => settings.health.remove("method"),
                "HEAD" | "OPTIONS" => settings.health.set("method", quoted(method)),
                _ => return changed(format!("health.path = \"{path}\", asked with GET for {method}")),
            }
            kept(format!("health.path = \"{path}\", asked with {method}"))
        }
        "tcp-check" => {
            settings.asks = false;
            kept("health.kind = \"tcp\"")
        }
        "ssl-hello-chk" | "ldap-check" | "mysql-check" | "pgsql-check" | "redis-check" | "smtpchk"
        | "external-check" | "spop-check" => lost("probes are HTTP or TCP"),
        "persist" => lost("a server that is down gets nothing"),
        "http_proxy" | "http-use-proxy-header" | "originalto" | "transparent" | "nolinger" => {
            lost("there is no such thing")
        }
        "accept-invalid-http-request"
        | "accept-invalid-http-response"
        | "accept-unsafe-violations-in-http-request" => {
            lost("heads that are ambiguous are refused (docs/http.md)")
        }
        _ => lost("not known here"),
    }
}

pub(super) fn http_check(line: &Line, settings: &mut Settings) -> Outcome {
    match line.word(1) {
        "send" => {
            settings.asks = true;
            let mut given = line.from(2).iter().map(String::as_str);
            let (mut left, mut fields) = (Vec::new(), Vec::new());
            while let Some(word) = given.next() {
                match word {
                    "meth" => match given.next() {
                        Some("GET") => settings.health.remove("method"),
                        Some(method @ ("HEAD" | "OPTIONS")) => settings.health.set("method", quoted(method)),
                        other => left.extend(other),
                    },
                    "uri" => match given.next() {
                        Some(path) if words::probe_path(path) => settings.health.set("path", quoted(path)),
                        other => left.extend(other),
                    },
                    "ver" => drop(given.next()),
                    "hdr" => match (given.next(), given.next()) {
                        (Some(name), Some(value)) if name.eq_ignore_ascii_case("host") => {
                            settings.health.set("host", quoted(value));
                        }
                        (Some(name), Some(value)) if settable(name, value) => {
                            let pair = format!("{} = {}", quoted(name), quoted(value));
                            fields.push(pair);
                        }
                        // What the prober does by itself.
                        (Some(name), _) if name.eq_ignore_ascii_case("connection") => {}
                        (name, _) => left.extend(name),
                    },
                    other => left.push(other),
                }
            }
            if !fields.is_empty() {
                settings.health.set("headers", format!("{{ {} }}", fields.join(", ")));
            }
            if left.is_empty() {
                kept("method, path, host and headers of `health`")
            } else {
                changed(format!("method, path, host and headers of `health`, not {}", left.join(" ")))
            }
        }
        "expect" if line.word(2) == "status" => match words::statuses(line.from(3)) {
            Some((codes, whole)) => {
                settings.health.set("status", codes.clone());
                if whole {
                    kept(format!("health.status = {codes}"))
                } else {
                    changed(format!("health.status = {codes}: each is named"))
                }
            }
            None => lost("`health.status` is a list of statuses"),
        },
        "expect" if line.word(2) == "rstatus" => {
            settings.health.set("status", words::GOOD.into());
            guessed(format!("health.status = {}, for it is a list and no pattern", words::GOOD))
        }
        "expect" if line.word(2) == "string" => {
            if line.word(3).is_empty() || line.word(3).len() > 1024 {
                return lost("`health.text` has 1 to 1024 bytes");
            }
            settings.health.set("text", quoted(line.word(3)));
            if settings.health.get("method") != Some("\"GET\"") {
                // The answer to anything else may have no body.
                settings.health.remove("method");
            }
            kept("health.text: the answer has this text")
        }
        "expect" => lost("`health` knows `status`, `json` and a text in the body"),
        "connect" | "disable-on-404" | "send-state" | "comment" | "set-var" | "unset-var" => {
            lost("a probe asks once")
        }
        _ => lost("not known here"),
    }
}

/// Whether a probe can be given this field.
fn settable(name: &str, value: &str) -> bool {
    const OWN: &[&str] =
        &["host", "connection", "upgrade", "te", "expect", "content-length", "transfer-encoding", "trailer"];
    let visible = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    words::is_token(name) && visible && !OWN.contains(&name.to_ascii_lowercase().as_str())
}
