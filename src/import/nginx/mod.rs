//! nginx: `http` and `stream` with their upstreams, servers and locations. Directives and their meaning after the
//! documentation of nginx's modules (nginx.org/en/docs/dirindex.html).

mod parse;
mod files;
pub(super) mod table;
mod scope;
mod access;
mod checks;
mod groups;
mod servers;
mod places;
mod fronts;

use std::collections::BTreeMap;

pub use files::matches;

use self::{access::Zone, groups::Group, parse::Directive, scope::Scope};
use super::{
    At, Files, ImportError, Imported, Report,
    plan::{Plan, Rows},
    report::{Outcome, changed, kept, lost},
};

/// What the walk carries.
#[derive(Debug, Default)]
struct Walk {
    plan: Plan,
    report: Report,
    groups: BTreeMap<String, Group>,
    /// What is sent to, in plain or over TLS, and the service that this is.
    services: Vec<((String, bool), String)>,
    zones: Vec<Zone>,
    /// `match` blocks, as keys of `health`.
    matches: Vec<(String, Rows)>,
}

/// Translates a config: the file that nginx is started with, or what `nginx -T` prints. `name` is what it is called in
/// the report, `files` finds what it includes.
pub fn import(name: &str, text: &str, files: Files<'_>) -> Result<Imported, ImportError> {
    let all = files::read(name, text, files)?;
    let mut walk = Walk::default();
    walk.expect(&all, None);
    // A file that is included into `http` may be all there is.
    let bare = all.iter().any(|directive| ["server", "upstream"].contains(&directive.name.as_str()));
    if bare {
        walk.http(&all, false);
    } else {
        walk.main(&all);
        for stream in [false, true] {
            let name = if stream { "stream" } else { "http" };
            for block in all.iter().filter(|directive| directive.name == name) {
                walk.http(block.block.as_deref().unwrap_or_default(), stream);
                walk.note(block, kept("what is in it"));
            }
        }
    }
    walk.finish();
    if walk.plan.listeners.is_empty() {
        let what = "`server` with a `listen` and a `proxy_pass`";
        return Err(ImportError::Nothing { what, report: Box::new(walk.report) });
    }
    Ok(Imported { config: walk.plan.write(name), report: walk.report })
}

/// Names of directives that mean the same wherever they stand.
pub fn known() -> impl Iterator<Item = &'static str> {
    table::ALWAYS.iter().chain(table::NEVER).chain(table::OPENS).map(|(name, _)| *name)
}

impl Walk {
    fn expect(&mut self, all: &[Directive], within: Option<&At>) {
        for directive in all {
            self.report.expect(&directive.at, &directive.shown(), within);
            self.expect(directive.block.as_deref().unwrap_or_default(), Some(&directive.at));
        }
    }

    fn note(&mut self, directive: &Directive, outcome: Outcome) {
        // What an `include` became is known, wherever it stands.
        let outcome = directive.included.clone().unwrap_or(outcome);
        self.report.note(&directive.at, &directive.shown(), outcome);
    }

    /// The top of the file.
    fn main(&mut self, all: &[Directive]) {
        for directive in all {
            let outcome = match directive.name.as_str() {
                "http" | "stream" => continue,
                "events" => {
                    self.events(directive.block.as_deref().unwrap_or_default());
                    kept("what is in it")
                }
                "worker_processes" => match directive.arg(0).parse::<u32>() {
                    Ok(threads @ 1..=1024) => {
                        self.plan.proxy.set("threads", threads.to_string());
                        kept("threads of one process")
                    }
                    _ => kept("one thread per core is the default"),
                },
                "error_log" => changed("the log goes to standard error; `[log] filter` says how much"),
                "user"
                | "pid"
                | "daemon"
                | "master_process"
                | "worker_cpu_affinity"
                | "worker_priority"
                | "worker_rlimit_nofile"
                | "working_directory"
                | "pcre_jit" => {
                    kept("nothing to be said: it is for whoever starts the process (docs/operating.md)")
                }
                "load_module" => lost("there are no modules"),
                _ => lost("not known here"),
            };
            self.note(directive, outcome);
        }
    }

    fn events(&mut self, all: &[Directive]) {
        for directive in all {
            let outcome = match (directive.name.as_str(), directive.arg(0).parse::<u64>()) {
                // Each proxied connection of nginx counts twice, one of ours once.
                ("worker_connections", Ok(number)) if number / 2 > 0 => {
                    let threads =
                        self.plan.proxy.get("threads").and_then(|threads| threads.parse::<u64>().ok());
                    match threads {
                        Some(threads) => {
                            let all = (number / 2).saturating_mul(threads).min(10_000_000);
                            self.plan.limits.set("connections", all.to_string());
                            changed(format!(
                                "{all} connections of clients in all: half as many for each of {threads} workers, for \
                                 nginx counts the other side too"
                            ))
                        }
                        None => kept("`limits.connections` has a default of 20,000 for all threads together"),
                    }
                }
                ("use" | "multi_accept" | "accept_mutex" | "worker_aio_requests", _) => {
                    kept("nothing to be said: it is always so, or not needed")
                }
                _ => lost("not known here"),
            };
            self.note(directive, outcome);
        }
    }

    /// `http`, or `stream`, whose servers are taken for such that speak HTTP.
    fn http(&mut self, all: &[Directive], stream: bool) {
        let mut scope = Scope { stream, ..Scope::default() };
        for directive in all {
            match directive.name.as_str() {
                "upstream" => {
                    self.group(directive);
                    self.note(directive, kept("a service, if something is sent to it"));
                }
                "server" | "allow" | "deny" => {}
                _ => {
                    let outcome = self.setting(directive, &mut scope);
                    self.note(directive, outcome);
                }
            }
        }
        self.lists(all, &mut scope, true);
        let blocks = all.iter().filter(|directive| directive.name == "server");
        let servers: Vec<_> = blocks.map(|block| self.server(block, &scope)).collect();
        self.fronts(&servers);
    }

    /// What only all of it together shows.
    fn finish(&mut self) {
        for group in self.groups.values().filter(|group| !group.used) {
            self.report.note(&group.at, &format!("upstream {}", group.name), lost("nothing is sent to it"));
            self.report.lose(&group.at);
        }
        self.plan.settle();
    }
}
