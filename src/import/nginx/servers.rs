//! `server`: what listens, and for which hosts.

use super::{Walk, access::Bounds, parse::Directive, scope::Scope};
use crate::import::{
    plan::Does,
    report::{Outcome, changed, guessed, kept, lost, opens},
    words,
};

/// One address of a server.
#[derive(Debug, Clone)]
pub(super) struct Listen {
    pub(super) bind: String,
    pub(super) tls: bool,
    pub(super) http2: bool,
    pub(super) proxy_protocol: bool,
    pub(super) default: bool,
}

/// What a server says.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) block: &'a Directive,
    pub(super) scope: Scope,
    pub(super) listens: Vec<Listen>,
    pub(super) hosts: Vec<String>,
    /// It has names that no rule of ours can say.
    pub(super) vague: bool,
    /// Paths and what becomes of them; no path is everything.
    pub(super) rules: Vec<(Option<String>, Does)>,
}

impl Server<'_> {
    /// Whether anything of it is sent to a server.
    pub(super) fn sends(&self) -> bool {
        self.rules.iter().any(|(_, does)| matches!(does, Does::Send(_)))
    }
}

impl Walk {
    pub(super) fn server<'a>(&mut self, block: &'a Directive, above: &Scope) -> Server<'a> {
        let all = block.block.as_deref().unwrap_or_default();
        let mut server = Server {
            block,
            scope: above.clone(),
            listens: Vec::new(),
            hosts: Vec::new(),
            vague: false,
            rules: Vec::new(),
        };
        for directive in all {
            let outcome = match directive.name.as_str() {
                "listen" => listen(directive, above.stream, &mut server.listens),
                "server_name" => names(directive, &mut server),
                "location" | "proxy_pass" | "return" | "allow" | "deny" => continue,
                _ => self.setting(directive, &mut server.scope),
            };
            self.note(directive, outcome);
        }
        self.lists(all, &mut server.scope, true);
        if server.listens.is_empty() && !above.stream {
            // nginx's default for a server that says nothing.
            server.listens.push(Listen {
                bind: "0.0.0.0:80".into(),
                tls: false,
                http2: false,
                proxy_protocol: false,
                default: false,
            });
        }
        let ports: Vec<u16> = server.listens.iter().filter_map(|listen| words::port(&listen.bind)).collect();
        // Of a server with one place alone, what holds there holds for all of it.
        let places: Vec<&Directive> = all.iter().filter(|directive| directive.name == "location").collect();
        let wide = matches!(places.as_slice(), [only] if only.args == ["/"]);
        let mut inner: Option<Bounds> = None;
        for directive in all {
            match directive.name.as_str() {
                "location" => {
                    let bounds = self.location(directive, &server.scope, wide, &ports, &mut server.rules);
                    inner = bounds.filter(|_| wide);
                }
                "proxy_pass" => {
                    let outcome = self.pass(directive, &server.scope, None, &ports, &mut server.rules);
                    self.note(directive, outcome);
                }
                "return" => self.note(directive, answer(directive)),
                _ => {}
            }
        }
        if let Some(bounds) = inner {
            server.scope.bounds = bounds;
        }
        server
    }
}

fn listen(directive: &Directive, stream: bool, listens: &mut Vec<Listen>) -> Outcome {
    let has = |word: &str| directive.args.iter().any(|arg| arg == word);
    if has("udp") || has("quic") {
        return lost("there is no UDP");
    }
    let Some(bind) = words::bind(directive.arg(0), Some(80)) else {
        return lost("an IP address and a port are needed: no Unix sockets, no names");
    };
    let left: Vec<&str> = directive
        .args
        .iter()
        .skip(1)
        .map(String::as_str)
        .filter(|word| {
            let known = [
                "ssl",
                "http2",
                "proxy_protocol",
                "default_server",
                "default",
                "reuseport",
                "deferred",
                "bind",
                "spdy",
            ]
            .contains(word);
            let tuning = ["backlog=", "rcvbuf=", "sndbuf=", "so_keepalive=", "fastopen=", "ipv6only="];
            !known && !tuning.iter().any(|start| word.starts_with(start))
        })
        .collect();
    listens.push(Listen {
        bind: bind.clone(),
        tls: has("ssl"),
        http2: has("http2"),
        proxy_protocol: has("proxy_protocol"),
        default: has("default_server") || has("default"),
    });
    let says = format!("listens at {bind}");
    match (left.is_empty(), stream) {
        (false, _) => changed(format!("{says}; not {}", left.join(" "))),
        (true, true) if has("ssl") => guessed(format!("{says}, where TLS ends and HTTP is spoken")),
        (true, true) => guessed(format!(
            "{says}, and speaks HTTP there: bytes of anything else are refused, and TLS that the servers ended has to end \
             here (`tls`)"
        )),
        (true, false) => kept(says),
    }
}

fn names(directive: &Directive, server: &mut Server<'_>) -> Outcome {
    let mut left = Vec::new();
    for name in &directive.args {
        match words::host(name) {
            // Names that nobody asks for: such a server is meant as the default one.
            _ if name == "_" || name.is_empty() => {}
            Some(host) => server.hosts.push(host),
            None => left.push(name.as_str()),
        }
    }
    if left.is_empty() {
        return kept(
            "rules of these hosts; the first server of an address, or its default one, takes all others",
        );
    }
    server.vague = true;
    changed(format!("{}: a rule names a whole host, without patterns and variables", left.join(" ")))
}

/// `return`.
pub(super) fn answer(directive: &Directive) -> Outcome {
    let code = directive.arg(0);
    match code {
        "301" | "302" | "303" | "307" | "308" => {
            lost("there are no redirects: clients are given the address with TLS")
        }
        _ if code.starts_with('4') => opens("there are no answers of its own; what no rule takes is 404"),
        _ if code.starts_with("http") || code.starts_with("$scheme") => {
            lost("there are no redirects: clients are given the address with TLS")
        }
        _ => lost("there are no answers of its own; the admin listener has /livez and /readyz"),
    }
}
