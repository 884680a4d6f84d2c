//! `bind`: addresses, and the TLS that ends there.

use super::{Walk, parse::Line, servers::whole};
use crate::import::{
    plan::{Listener, Pair, Tls, quoted},
    report::{Outcome, changed, guessed, kept, lost, opens},
    words,
};

/// Options with a value that means nothing here, and whether that is said.
const WITH_VALUE: &[(&str, bool)] = &[
    ("interface", true),
    ("maxconn", true),
    ("ssl-max-ver", true),
    ("namespace", true),
    ("name", false),
    ("id", false),
    ("backlog", false),
    ("nice", false),
    ("process", false),
    ("thread", false),
    ("ciphers", false),
    ("ciphersuites", false),
    ("curves", false),
    ("ecdhe", false),
    ("mss", false),
    ("tcp-ut", false),
    ("user", false),
    ("group", false),
    ("uid", false),
    ("gid", false),
    ("mode", false),
    ("level", false),
    ("crt-ignore-err", true),
    ("ca-ignore-err", true),
    ("ca-sign-file", true),
    ("tls-ticket-keys", false),
    ("shards", false),
    ("severity-output", false),
];

/// Options without one that are always so, or not needed.
const ALONE: &[&str] = &[
    "v4v6",
    "v6only",
    "defer-accept",
    "tfo",
    "transparent",
    "no-sslv3",
    "no-tlsv10",
    "no-tlsv11",
    "strict-sni",
    "no-tls-tickets",
    "prefer-client-ciphers",
    "force-tlsv12",
    "allow-0rtt",
];

/// The two listeners of ours that a frontend can be: addresses without TLS, and with it.
#[derive(Debug, Default)]
pub(super) struct Binds {
    pub(super) plain: Listener,
    pub(super) secure: Listener,
}

impl Walk<'_> {
    pub(super) fn bind(&mut self, line: &Line, binds: &mut Binds) -> Outcome {
        let mut bound = Vec::new();
        for address in line.word(1).split(',') {
            match words::bind(address.trim_start_matches("ipv4@").trim_start_matches("ipv6@"), None) {
                Some(bind) if self.bound.contains(&bind) => {
                    return lost(format!("{bind} is taken by an earlier `bind`"));
                }
                Some(bind) => bound.push(bind),
                None => {
                    return lost("an IP address and a port are needed: no Unix sockets, no ranges, no names");
                }
            }
        }
        let mut tls = Tls::default();
        let (mut secure, mut http2, mut header, mut verify) = (false, None, false, "");
        let (mut left, mut failed): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        let mut options = line.from(2).iter().map(String::as_str);
        while let Some(option) = options.next() {
            let mut value = || options.next().unwrap_or_default();
            match option {
                "ssl" => secure = true,
                "crt" => self.certificate(value(), &mut tls, &mut failed),
                "crt-list" => self.certificate_list(value(), &mut tls, &mut failed),
                "ca-file" => tls.rows.set("client_ca", quoted(&whole(self.ca_base.as_deref(), value()))),
                "crl-file" => tls.rows.set("crl", quoted(&whole(self.ca_base.as_deref(), value()))),
                "verify" => verify = value(),
                "ssl-min-ver" => {
                    if value() == "TLSv1.3" {
                        tls.rows.set("min_version", quoted("1.3"));
                    }
                }
                "no-tlsv12" | "force-tlsv13" => tls.rows.set("min_version", quoted("1.3")),
                "alpn" | "npn" | "proto" => http2 = Some(value().contains("h2")),
                "accept-proxy" => header = true,
                known if ALONE.contains(&known) => {}
                other => match WITH_VALUE.iter().find(|(known, _)| *known == other) {
                    Some((_, said)) => {
                        value();
                        if *said {
                            left.push(other.to_owned());
                        }
                    }
                    None => left.push(other.to_owned()),
                },
            }
        }
        let here = bound.join(", ");
        let mut said = kept(format!("listens at {here}"));
        let listener = if secure { &mut binds.secure } else { &mut binds.plain };
        if secure {
            if tls.pairs.is_empty() {
                failed.push("it names no certificate (`crt`)".into());
                return lost(format!("left out: it listens with TLS, but {}", failed.join("; ")));
            }
            match verify {
                "required" | "optional" if tls.rows.get("client_ca").is_some() => {
                    tls.rows.set("client_auth", quoted(verify));
                }
                "required" | "optional" => {
                    return lost(
                        "left out: clients are asked for certificates, and no authority is named (`ca-file`)",
                    );
                }
                _ => {
                    tls.rows.remove("client_ca");
                    tls.rows.remove("crl");
                }
            }
            match &mut listener.tls {
                Some(known) => {
                    if known.rows != tls.rows {
                        said = opens(
                            "its TLS settings besides certificates are those of the first `bind` of this frontend",
                        );
                    }
                    for pair in tls.pairs {
                        if !known.pairs.contains(&pair) {
                            known.pairs.push(pair);
                        }
                    }
                }
                None => listener.tls = Some(tls),
            }
        }
        if http2 == Some(true) {
            listener.rows.set("http2", "true".into());
        }
        if header {
            listener.rows.set("proxy_protocol", "[\"0.0.0.0/0\", \"::/0\"]".into());
            said = guessed(
                "the PROXY header is required from everybody, at all addresses of this frontend: name the balancers in \
                 `proxy_protocol`",
            );
        }
        self.bound.extend(bound.iter().cloned());
        listener.bind.extend(bound);
        left.extend(failed);
        if left.is_empty() {
            said
        } else {
            (said.0.max(changed("").0), format!("{}; not {}", said.1, left.join("; ")))
        }
    }

    /// `crt FILE`, or the folder that it names.
    fn certificate(&mut self, name: &str, tls: &mut Tls, failed: &mut Vec<String>) {
        let file = whole(self.crt_base.as_deref(), name);
        if !file.ends_with('/') {
            // haproxy keeps both in one file.
            tls.pairs.push(Pair { cert: file.clone(), key: file });
            return;
        }
        match (self.files)(&format!("{file}*.pem")) {
            Ok(found) if !found.is_empty() => {
                tls.pairs.extend(found.into_iter().map(|(name, _)| Pair { cert: name.clone(), key: name }));
            }
            Ok(_) => failed.push(format!("`{file}` has no *.pem")),
            Err(why) => failed.push(format!("`{file}` was not read ({why})")),
        }
    }

    /// `crt-list FILE`: each of its lines names a certificate; its lines are spoken of like those of the config.
    fn certificate_list(&mut self, name: &str, tls: &mut Tls, failed: &mut Vec<String>) {
        let file = whole(self.crt_base.as_deref(), name);
        let found = match (self.files)(&file) {
            Ok(found) => found,
            Err(why) => return failed.push(format!("`{file}` was not read ({why})")),
        };
        for (name, text) in found {
            for line in super::parse::plain(&name, &text) {
                let pem = whole(self.crt_base.as_deref(), line.word(0));
                tls.pairs.push(Pair { cert: pem.clone(), key: pem });
                let more = line.words.len() > 1;
                let outcome = if more {
                    changed("one of `certs`, chosen by the names in it: options and filters are left out")
                } else {
                    kept("one of `certs`, chosen by the names in it")
                };
                self.note(&line, outcome);
            }
        }
    }
}
