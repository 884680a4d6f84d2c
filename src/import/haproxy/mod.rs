//! haproxy: `global`, `defaults`, `frontend`, `backend` and `listen`. Keywords and their meaning after its configuration
//! manual (docs.haproxy.org, 2.6 to 3.0).

mod parse;
pub(super) mod table;
mod settings;
mod checks;
mod servers;
mod acls;
mod binds;
mod limits;
mod fronts;

pub use parse::Env;

use self::{
    parse::{Line, Section},
    settings::Settings,
};
use super::{
    Files, ImportError, Imported, Report,
    plan::Plan,
    report::{Outcome, changed, kept, lost},
};

/// What the walk carries.
struct Walk<'a> {
    files: Files<'a>,
    plan: Plan,
    report: Report,
    /// `crt-base` and `ca-base`.
    crt_base: Option<String>,
    ca_base: Option<String>,
    /// Backends that something is sent to, as they are called there.
    used: Vec<String>,
    /// Backends, and what became of them.
    services: Vec<(String, String)>,
    /// Addresses that are listened at.
    bound: Vec<String>,
    /// Sections of name servers, and the first of each.
    resolvers: Vec<(String, Option<String>)>,
}

/// Translates a config. `name` is what it is called in the report, `files` finds lists of certificates, `env` has the
/// variables that it names.
pub fn import(name: &str, text: &str, files: Files<'_>, env: Env<'_>) -> Result<Imported, ImportError> {
    let sections = parse::parse(name, text, env)?;
    let mut walk = Walk {
        files,
        plan: Plan::default(),
        report: Report::default(),
        crt_base: None,
        ca_base: None,
        used: Vec::new(),
        services: Vec::new(),
        bound: Vec::new(),
        resolvers: Vec::new(),
    };
    for section in &sections {
        walk.report.expect(&section.head.at, &section.head.shown(), None);
        for line in &section.lines {
            walk.report.expect(&line.at, &line.shown(), Some(&section.head.at));
        }
    }
    for section in sections.iter().filter(|section| section.kind() == "global") {
        walk.global(section);
    }
    // Each section begins with the defaults before it, or with those that it names.
    let mut named: Vec<(String, Settings)> = Vec::new();
    let mut now = Settings::default();
    let mut placed: Vec<(&Section, Settings)> = Vec::new();
    for section in &sections {
        match section.kind() {
            "defaults" => {
                now = walk.defaults(section);
                named.push((section.name().to_owned(), now.clone()));
            }
            "frontend" | "backend" | "listen" => {
                let from = section.head.words.iter().position(|word| word == "from");
                let from = from.map(|place| section.head.word(place + 1));
                let defaults = from.and_then(|from| named.iter().find(|(name, _)| name == from));
                placed
                    .push((section, defaults.map_or_else(|| now.clone(), |(_, settings)| settings.clone())));
            }
            "global" => {}
            _ => walk.foreign(section),
        }
    }
    for (section, settings) in placed.iter().filter(|(section, _)| section.kind() != "frontend") {
        walk.backend(section, settings.clone());
    }
    for (section, settings) in placed.iter().filter(|(section, _)| section.kind() != "backend") {
        walk.frontend(section, settings.clone());
    }
    walk.finish(&placed);
    if walk.plan.listeners.is_empty() || walk.plan.services.is_empty() {
        let what = "`bind` with a backend that has servers";
        return Err(ImportError::Nothing { what, report: Box::new(walk.report) });
    }
    Ok(Imported { config: walk.plan.write(name), report: walk.report })
}

/// Keywords and options that mean the same wherever they stand.
pub fn known() -> impl Iterator<Item = &'static str> {
    table::ALWAYS.iter().chain(table::OPTIONS).chain(table::NEVER).map(|(name, _)| *name)
}

impl Walk<'_> {
    fn note(&mut self, line: &Line, outcome: Outcome) {
        let (fate, says) = outcome;
        let outcome = match line.unset.as_slice() {
            [] => (fate, says),
            unset => (
                fate.max(super::Fate::Guessed),
                format!("{says}; not set here, so empty: {}", unset.join(", ")),
            ),
        };
        self.report.note(&line.at, &line.shown(), outcome);
    }

    fn foreign(&mut self, section: &Section) {
        if section.kind() == "resolvers" {
            return self.name_servers(section);
        }
        let says = match section.kind() {
            "peers" => "nothing is shared between proxies: what they decide alike needs no messages",
            "userlist" => "users are known to the controllers, not to the proxy",
            "cache" => "nothing is cached: blobs go to registries that have them",
            _ => "there is no such thing",
        };
        for line in std::iter::once(&section.head).chain(&section.lines) {
            self.note(line, lost(says));
        }
    }

    /// `resolvers`: the first of its servers is asked, where `discovery` follows a name.
    fn name_servers(&mut self, section: &Section) {
        let mut first: Option<String> = None;
        for line in &section.lines {
            let outcome = match line.word(0) {
                "nameserver" => {
                    let address = line.word(2).trim_start_matches("udp@").trim_start_matches("tcp@");
                    match (super::words::bind(address, Some(53)), &first) {
                        (Some(address), None) => {
                            let says = kept(format!("`{address}` is asked where `discovery` follows a name"));
                            first = Some(address);
                            says
                        }
                        (Some(_), Some(_)) => {
                            lost("one name server is asked; without `resolver` the system's")
                        }
                        (None, _) => lost("an address and a port are needed"),
                    }
                }
                "parse-resolv-conf" => kept("without a `resolver` it is the system's"),
                "accepted_payload_size" | "resolve_retries" | "timeout" | "hold" => {
                    kept("answers are kept for as long as they say (docs/discovery.md)")
                }
                _ => lost("not known here"),
            };
            self.note(line, outcome);
        }
        self.note(&section.head, kept("for the servers that name it"));
        self.resolvers.push((section.name().to_owned(), first));
    }

    fn global(&mut self, section: &Section) {
        self.note(&section.head, kept("[proxy] and [limits]"));
        for line in &section.lines {
            let number = line.word(1).parse::<u64>();
            let outcome = match (line.word(0), number) {
                ("maxconn", Ok(most @ 1..=10_000_000)) => {
                    self.plan.limits.set("connections", most.to_string());
                    kept(format!("limits.connections = {most}"))
                }
                ("nbthread", Ok(threads @ 1..=1024)) => {
                    self.plan.proxy.set("threads", threads.to_string());
                    kept(format!("threads = {threads}"))
                }
                ("crt-base", _) => {
                    self.crt_base = Some(line.word(1).to_owned());
                    kept("names of certificates are made whole")
                }
                ("ca-base", _) => {
                    self.ca_base = Some(line.word(1).to_owned());
                    kept("names of authorities are made whole")
                }
                ("log", _) => {
                    changed("the log goes to standard error, one JSON line per request to standard output")
                }
                ("ssl-default-bind-options", _) => {
                    let old = [
                        "ssl-min-ver",
                        "no-sslv3",
                        "no-tlsv10",
                        "no-tlsv11",
                        "no-tls-tickets",
                        "TLSv1.2",
                        "prefer-client-ciphers",
                    ];
                    if line.from(1).iter().all(|word| old.contains(&word.as_str())) {
                        kept("1.2 and 1.3 are the default")
                    } else {
                        changed("TLS 1.2 and 1.3 are spoken; `min_version` of a listener narrows them")
                    }
                }
                (
                    "ssl-default-bind-ciphers"
                    | "ssl-default-bind-ciphersuites"
                    | "ssl-default-server-ciphers"
                    | "ssl-default-server-ciphersuites"
                    | "ssl-default-server-options"
                    | "ssl-default-bind-curves",
                    _,
                ) => {
                    changed("suites that are safe, our own order; `suites` narrows them by their IANA names")
                }
                (
                    "user" | "group" | "daemon" | "chroot" | "pidfile" | "uid" | "gid" | "ulimit-n"
                    | "nbproc" | "cpu-map" | "node" | "description" | "master-worker" | "set-dumpable"
                    | "hard-stop-after",
                    _,
                ) => kept("nothing to be said: it is for whoever starts the process (docs/operating.md)"),
                ("stats", _) => kept("the admin listener has /metrics and /admin/v1/upstreams"),
                ("spread-checks", _) => kept("probes are spread by chance"),
                ("ssl-dh-param-file" | "tune.ssl.default-dh-param", _) => kept("there is no DHE, only ECDHE"),
                (name, _) if name.starts_with("tune.") || name.starts_with("no") => kept("not needed"),
                ("lua-load" | "lua-load-per-thread", _) => lost("there are no scripts"),
                ("maxconnrate" | "maxsslconn" | "maxsslrate" | "maxsessrate", _) => {
                    lost("connections are bounded, their rate is not; `limits` of a listener bound requests")
                }
                (name, _) => match table::NEVER.iter().find(|(known, _)| *known == name) {
                    Some((_, says)) => lost(*says),
                    None => lost("not known here"),
                },
            };
            self.note(line, outcome);
        }
    }

    fn defaults(&mut self, section: &Section) -> Settings {
        self.note(&section.head, kept("what the sections below begin with"));
        let mut settings = Settings::default();
        for line in &section.lines {
            let outcome = self.setting(line, &mut settings);
            self.note(line, outcome);
        }
        settings
    }

    /// What only all of it together shows.
    fn finish(&mut self, placed: &[(&Section, Settings)]) {
        for (section, _) in placed.iter().filter(|(section, _)| section.kind() != "frontend") {
            let Some((_, name)) = self.services.iter().find(|(known, _)| known == section.name()) else {
                continue;
            };
            if self.used.iter().any(|used| used == section.name()) {
                continue;
            }
            self.plan.services.retain(|service| service.name != *name);
            if section.kind() == "backend" {
                self.note(&section.head, lost("nothing is sent to it"));
                self.report.lose(&section.head.at);
            }
        }
        self.plan.settle();
    }
}
