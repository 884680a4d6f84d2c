//! `frontend`, and the half of `listen` that clients see.

use super::{
    Walk,
    acls::{self, Acl, Test},
    binds::Binds,
    limits,
    parse::{Line, Section},
    settings::Settings,
};
use crate::{
    config::proxy::covers,
    import::{
        Fate,
        plan::{Does, Listener, Rule},
        report::{Outcome, changed, guessed, kept, lost},
        words,
    },
};

/// Keywords of the half that clients see.
const OF_FRONT: &[&str] = &[
    "bind",
    "acl",
    "use_backend",
    "default_backend",
    "maxconn",
    "tcp-request",
    "rate-limit",
    "redirect",
    "stick-table",
];

/// Whether a line of `listen` is of its front.
pub(super) fn is_of_front(line: &Line) -> bool {
    OF_FRONT.contains(&line.word(0)) || (line.word(0) == "http-request" && limits::is_of_front(line.word(1)))
}

impl Walk<'_> {
    pub(super) fn frontend(&mut self, section: &Section, mut settings: Settings) {
        let mut binds = Binds::default();
        let both = section.kind() == "listen";
        let acls: Vec<Acl> =
            section.lines.iter().filter(|line| line.word(0) == "acl").map(acls::acl).collect();
        let has_servers =
            section.lines.iter().any(|line| ["server", "server-template"].contains(&line.word(0)));
        let mut default = (both && has_servers).then(|| section.name().to_owned());
        let mut backends: Vec<Rule> = Vec::new();
        // Looked at before any backend is chosen.
        let mut denied: Vec<Rule> = Vec::new();
        let mut used: Vec<String> = Vec::new();
        let mut bounds = limits::Limits::of(section);
        let mut https_only = false;
        for line in &section.lines {
            let outcome = match line.word(0) {
                "bind" => self.bind(line, &mut binds),
                "acl" => continue,
                "default_backend" => {
                    default = Some(line.word(1).to_owned());
                    if self.service(line.word(1)).is_some() {
                        kept(format!("everything else goes to service `{}`", words::name(line.word(1))))
                    } else {
                        lost("there is no such backend, or none of its servers can be reached")
                    }
                }
                "use_backend" => self.use_backend(line, &acls, &mut backends, &mut used),
                "redirect" | "http-request" if limits::sends_to_tls(line, &acls) => {
                    used.extend(line.words.iter().cloned());
                    https_only = true;
                    changed("there are no redirects: the addresses without TLS are left out")
                }
                "http-request" if let Some((rules, outcome)) = denials(line, &acls, &mut used) => {
                    denied.extend(rules);
                    outcome
                }
                _ if is_of_front(line) => bounds.line(line, &acls, &mut used),
                // The other half has spoken of it.
                _ if both => continue,
                _ => self.setting(line, &mut settings),
            };
            self.note(line, outcome);
        }
        for line in section.lines.iter().filter(|line| line.word(0) == "acl") {
            let acl = acls::acl(line);
            let outcome = match (&acl.test, used.contains(&acl.name)) {
                (Test::Method, _) => lost(
                    "rules do not look at methods: writes go to the `writer` of a registry service by themselves",
                ),
                (Test::Other(_), true) => kept("part of what names it"),
                (_, true) => kept("part of the rules that name it"),
                (_, false) => lost("nothing is made of it"),
            };
            self.note(line, outcome);
        }
        if let Some(name) = &default {
            backends.push(Rule { host: None, path: None, does: Does::Send(name.clone()) });
        }
        let mut rules: Vec<Rule> = Vec::new();
        for mut rule in denied.into_iter().chain(backends) {
            if let Does::Send(backend) = &mut rule.does {
                let Some(service) = self.service(backend) else { continue };
                let backend = std::mem::replace(backend, service);
                if !self.used.contains(&backend) {
                    self.used.push(backend);
                }
            }
            // One that nothing can reach any more would be an error.
            if !rules.iter().any(|earlier| covers(earlier.matched(), rule.matched())) {
                rules.push(rule);
            }
        }
        if rules.iter().all(|rule| rule.service().is_none()) {
            rules.clear();
        }
        if https_only && !binds.secure.bind.is_empty() {
            binds.plain.bind.clear();
        }
        let listens = !binds.plain.bind.is_empty() || !binds.secure.bind.is_empty();
        let outcome = match (listens, rules.is_empty()) {
            _ if rules.is_empty() && is_stats(section) => changed(
                "the admin listener has /metrics and the state of all servers: `[admin] listen`, on loopback",
            ),
            (false, _) => lost("left out: it listens at no address that we could"),
            (_, true) => lost("left out: nothing of it is sent to a server"),
            _ if https_only && binds.secure.bind.is_empty() => {
                lost("left out: it only sends everybody to where TLS is")
            }
            _ if settings.tcp => {
                guessed(format!("listener `{}`, taken for HTTP", words::name(section.name())))
            }
            _ => kept(format!("listener `{}`", words::name(section.name()))),
        };
        let left_out = outcome.0 == Fate::Lost;
        self.note(&section.head, outcome);
        if left_out {
            self.report.lose(&section.head.at);
        }
        if rules.is_empty() || (https_only && binds.secure.bind.is_empty()) {
            return;
        }
        for mut listener in [binds.plain, binds.secure] {
            if listener.bind.is_empty() {
                continue;
            }
            let names = self.plan.listeners.iter().map(|listener| listener.name.as_str());
            listener.name = words::name_apart(section.name(), names);
            listener.rules.clone_from(&rules);
            listener.limits = bounds.rows();
            self.better_kind(&listener);
            self.plan.listeners.push(listener);
        }
    }

    /// The name of the service that a backend became.
    fn service(&self, backend: &str) -> Option<String> {
        self.services.iter().find(|(known, _)| known == backend).map(|(_, name)| name.clone())
    }

    /// A service of which nothing said what it is may be known by what is routed to it.
    fn better_kind(&mut self, listener: &Listener) {
        for rule in &listener.rules {
            let Some(service) =
                self.plan.services.iter_mut().find(|service| rule.service() == Some(&service.name))
            else {
                continue;
            };
            let unsure = service.remarks.iter().any(|remark| remark.starts_with("Nothing says"));
            let ports = listener.bind.iter().filter_map(|bind| words::port(bind));
            let (registry, why) = words::is_registry([listener.name.as_str()], rule.path.as_deref(), ports);
            if unsure && let Some(why) = why {
                service.remarks.retain(|remark| !remark.starts_with("Nothing says"));
                words::settle(service, registry, Some(&why));
            }
        }
    }

    fn use_backend(
        &mut self,
        line: &Line,
        acls: &[Acl],
        backends: &mut Vec<Rule>,
        used: &mut Vec<String>,
    ) -> Outcome {
        let name = line.word(1);
        if name.contains("%[") {
            return lost("backends are named, not computed");
        }
        if self.service(name).is_none() {
            return lost("there is no such backend, or none of its servers can be reached");
        }
        let condition = match line.word(2) {
            "if" => line.from(3),
            "unless" => return lost("no rule takes what is not something: order the rules instead"),
            _ => &[],
        };
        match acls::rules(condition, acls) {
            Ok(pairs) => {
                used.extend(condition.iter().cloned());
                let many = pairs.len();
                backends.extend(pairs.into_iter().map(|(host, path)| Rule {
                    host,
                    path,
                    does: Does::Send(name.to_owned()),
                }));
                if condition.is_empty() {
                    kept("rule: everything")
                } else if acls::exact(condition, acls) {
                    changed(format!("rules: {many}; a path takes everything below it"))
                } else {
                    kept(format!("rules: {many}, paths on the borders of segments"))
                }
            }
            Err(why) => lost(why),
        }
    }
}

/// `http-request deny [deny_status N] if CONDITION`, of hosts and paths: the rules that refuse them.
fn denials(line: &Line, acls: &[Acl], used: &mut Vec<String>) -> Option<(Vec<Rule>, Outcome)> {
    if !["deny", "reject", "tarpit", "silent-drop"].contains(&line.word(1)) {
        return None;
    }
    let place = line.words.iter().position(|word| word == "if")?;
    let condition = line.from(place + 1);
    let pairs = acls::rules(condition, acls).ok().filter(|_| !condition.is_empty())?;
    used.extend(condition.iter().cloned());
    let status = line.words.windows(2).find_map(|pair| match pair {
        [key, status] if key == "deny_status" => status.parse::<u16>().ok(),
        _ => None,
    });
    let ours = if matches!(status, Some(404 | 410)) { 404 } else { 403 };
    let does = Does::Deny(ours);
    let rules = pairs.into_iter().map(|(host, path)| Rule { host, path, does: does.clone() });
    let same = line.word(1) == "deny" && status.is_none_or(|status| status == ours);
    let outcome = match (same, acls::exact(condition, acls)) {
        (false, _) => changed(format!("rules with `deny = {ours}`: there is no other way to refuse a path")),
        (_, true) => changed(format!("rules with `deny = {ours}`; a path takes everything below it")),
        _ => kept(format!("rules with `deny = {ours}`, paths on the borders of segments")),
    };
    Some((rules.collect(), outcome))
}

fn is_stats(section: &Section) -> bool {
    section
        .lines
        .iter()
        .any(|line| line.word(0) == "stats" || line.words.iter().any(|word| word == "prometheus-exporter"))
}
