//! `location` and `proxy_pass`: which paths go to which service.

use super::{
    Walk,
    access::Bounds,
    parse::Directive,
    scope::{Scope, with_vars},
    servers::answer,
};
use crate::import::{
    plan::{Does, Rows, Service, quoted},
    report::{Outcome, changed, guessed, kept, lost, opens},
    units, words,
};

/// What `proxy_pass` may have behind the server without changing the path.
const SAME_PATH: &[&str] = &["$request_uri", "$uri$is_args$args", "$uri", "/$request_uri"];

/// Alternatives of one pattern that become rules, at most.
const MOST_ALTERNATIVES: usize = 16;

impl Walk {
    /// Adds the rules of a place; gives who may come there, if `wide` says that it is all of its server.
    pub(super) fn location(
        &mut self,
        block: &Directive,
        above: &Scope,
        wide: bool,
        ports: &[u16],
        rules: &mut Vec<(Option<String>, Does)>,
    ) -> Option<Bounds> {
        let (way, path) = match block.args.as_slice() {
            [path] => ("", path.as_str()),
            [way, path] => (way.as_str(), path.as_str()),
            _ => ("?", ""),
        };
        let found = match (way, words::prefix(path)) {
            ("" | "^~" | "=", Some(prefix)) => Some(vec![prefix]),
            ("~" | "~*", _) => plain_prefixes(path),
            _ => None,
        };
        let all = block.block.as_deref().unwrap_or_default();
        let Some(prefixes) = found else {
            let says = match way {
                "~" | "~*" => "left out: there are no patterns, a rule takes everything below a path",
                _ => "left out: a rule takes everything below a plain path",
            };
            let closed = denial(all).is_some() || is_closed(all).unwrap_or(above.denied);
            self.note(block, if closed { opens(says) } else { lost(says) });
            return None;
        };
        let mut scope = above.clone();
        scope.denied = !wide && is_closed(all).unwrap_or(above.denied);
        let denied = if wide { None } else { denial(all).or(scope.denied.then_some(403)) };
        for directive in all {
            let outcome = match directive.name.as_str() {
                "location" | "proxy_pass" | "return" | "allow" | "deny" => continue,
                "limit_req" | "limit_conn" if !wide => {
                    lost("bounds are of a listener (`limits`): give this place a listener of its own")
                }
                _ => self.setting(directive, &mut scope),
            };
            self.note(directive, outcome);
        }
        match denied {
            Some(_) => self.nobody(all),
            None => self.lists(all, &mut scope, wide),
        }
        if let Some(status) = denied {
            for prefix in &prefixes {
                let path = Some(prefix.clone()).filter(|prefix| !prefix.is_empty());
                rules.push((path, Does::Deny(status)));
            }
        }
        for directive in all {
            match directive.name.as_str() {
                "proxy_pass" if denied.is_some() => self.note(directive, kept("nothing comes so far")),
                "proxy_pass" => {
                    for prefix in &prefixes {
                        let path = Some(prefix.as_str()).filter(|prefix| !prefix.is_empty());
                        let outcome = self.pass(directive, &scope, path, ports, rules);
                        self.note(directive, outcome);
                    }
                }
                "location" => {
                    self.location(directive, &scope, false, ports, rules);
                }
                "return" if denial(all).is_some() && !wide => self.note(directive, refusal(directive)),
                "return" => self.note(directive, answer(directive)),
                _ => {}
            }
        }
        let sent = denied.is_some() || sends(all);
        let shown = prefixes.join("`, `");
        let outcome = match (sent, way, shown.as_str()) {
            (false, ..) => lost("nothing of it is sent to a server: the next rule that fits takes it"),
            (_, "~" | "~*", _) => {
                changed(format!("rules: `{shown}` and everything below; the case of letters counts"))
            }
            (_, _, "") => kept("rule: everything else"),
            (_, "=", _) => changed(format!("rule: `{shown}` and everything below it")),
            _ if path.ends_with('/') => kept(format!("rule: everything below `{shown}`")),
            _ => changed(format!("rule: `{shown}` and everything below it, but not `{shown}x`")),
        };
        let (fate, says) = outcome;
        let says = denied.map_or(says.clone(), |status| format!("{says}; `deny = {status}`"));
        self.note(block, (fate, says));
        wide.then_some(scope.bounds)
    }

    /// The lists of a place that a rule refuses.
    fn nobody(&mut self, all: &[Directive]) {
        let mut all_denied = false;
        for directive in all.iter().filter(|directive| is_of_lists(directive)) {
            let outcome = match (directive.name.as_str(), directive.arg(0)) {
                _ if all_denied => kept("nothing comes so far"),
                ("deny", "all") => kept("a rule with `deny = 403`"),
                ("deny", _) => kept("it is not let in, as nobody is"),
                _ => lost("nobody is let in: nothing of this place is sent to a server"),
            };
            all_denied |= (directive.name.as_str(), directive.arg(0)) == ("deny", "all");
            self.note(directive, outcome);
        }
    }

    /// `proxy_pass`: the service that it names, made if it is the first to name it.
    pub(super) fn pass(
        &mut self,
        directive: &Directive,
        scope: &Scope,
        path: Option<&str>,
        ports: &[u16],
        rules: &mut Vec<(Option<String>, Does)>,
    ) -> Outcome {
        let target = with_vars(directive.arg(0), &scope.vars);
        let mut target = target.as_str();
        for same in SAME_PATH {
            target = target.strip_suffix(same).unwrap_or(target);
        }
        let (secure, rest) = match (target.strip_prefix("http://"), target.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ if scope.stream => (scope.upstream.get("on").is_some(), target),
            _ => return lost("a server is named by `http://` or `https://`"),
        };
        if rest.contains('$') {
            return lost("there are no variables: name the servers, or let `discovery` find them");
        }
        let (host, uri) = rest.split_once('/').map_or((rest, None), |(host, uri)| (host, Some(uri)));
        let changes_path =
            uri.is_some_and(|uri| format!("/{uri}").trim_end_matches('/') != path.unwrap_or(""));
        let name = match self.service_of(host, secure, scope, path, ports) {
            Ok(name) => name,
            Err(why) => return lost(why),
        };
        rules.push((path.map(str::to_owned), Does::Send(name.clone())));
        if changes_path {
            return lost(format!("to service `{name}`, but with the path as it is: paths are not rewritten"));
        }
        if scope.stream {
            guessed(format!("to service `{name}`, taken for HTTP"))
        } else {
            kept(format!("to service `{name}`"))
        }
    }

    fn service_of(
        &mut self,
        host: &str,
        secure: bool,
        scope: &Scope,
        path: Option<&str>,
        ports: &[u16],
    ) -> Result<String, String> {
        let key = (host.to_owned(), secure);
        if let Some((_, name)) = self.services.iter().find(|(known, _)| *known == key) {
            let name = name.clone();
            if let Some(service) = self.plan.service(&name) {
                scope.apply(service);
            }
            return Ok(name);
        }
        let mut service = Service { name: words::service_name(&self.plan, host), ..Service::default() };
        let (registry, why) = match self.groups.get_mut(host) {
            Some(group) => {
                group.used = true;
                service.rows = group.rows.clone();
                service.upstreams.clone_from(&group.servers);
                service.passive = group.passive.clone();
                service.health = group.health.clone();
                let names = std::iter::once(host).chain(group.hosts.iter().map(String::as_str));
                words::is_registry(names, path, group.ports.iter().chain(ports).copied())
            }
            None => {
                let address = words::server(host, Some(if secure { 443 } else { 80 }))?;
                let mut rows = Rows::default();
                rows.set("address", quoted(&address.to_string()));
                service.upstreams.push(rows);
                let ports = ports.iter().copied().chain([address.port]);
                words::is_registry([address.host.as_str()], path, ports)
            }
        };
        if service.upstreams.is_empty() {
            return Err(format!("`{host}` has no server that can be reached"));
        }
        self.hash_fits(host, registry, &mut service);
        if secure {
            let mut tls = scope.upstream.clone();
            tls.remove("on");
            if !scope.verify {
                tls.remove("ca");
                tls.remove("server_name");
                tls.set("verify", "false".into());
                service.remarks.push(
                    "As before nothing is verified: delete `verify` and name the authority in `ca`.".into(),
                );
            }
            service.tls = Some(tls);
        }
        words::settle(&mut service, registry, why.as_deref());
        scope.apply(&mut service);
        if service.health.is_empty() {
            service.remarks.push(words::NOT_CHECKED.into());
        }
        let name = service.name.clone();
        self.plan.services.push(service);
        self.services.push((key, name.clone()));
        Ok(name)
    }

    /// What is asked for is hashed for registries alone.
    fn hash_fits(&mut self, host: &str, registry: bool, service: &mut Service) {
        let by_content = service.rows.get("hash").is_some_and(|hash| hash.contains("content"));
        if registry || !by_content {
            return;
        }
        service.rows.set("balance", quoted("round-robin"));
        service.rows.remove("hash");
        if let Some((at, shown)) = self.groups.get(host).and_then(|group| group.hashed.clone()) {
            let says = lost("what is asked for is hashed for registries; controllers' requests go in turn");
            self.report.note(&at, &shown, says);
        }
    }
}

impl Scope {
    /// What holds where something is sent to this service.
    fn apply(&self, service: &mut Service) {
        if let Some(connect) = self.connect {
            service.timeouts.set("connect", quoted(&units::ours(connect)));
        }
        if let Some(idle) = self.idle {
            // Of several places that send to it the most patient one counts.
            let known = service.timeouts.get("idle").and_then(units::read_back);
            if known.is_none_or(|known| idle > known) {
                service.timeouts.set("idle", quoted(&units::ours(idle)));
            }
        }
        if let Some(status) = &self.retry_status {
            let codes: Vec<String> = status.iter().map(ToString::to_string).collect();
            service.rows.set("retry_status", format!("[{}]", codes.join(", ")));
        }
        if let Some(attempts) = self.attempts {
            service.rows.set("attempts", attempts.to_string());
        }
        if !self.health.is_empty() {
            service.remarks.retain(|remark| remark != words::NOT_CHECKED);
            service.health = self.health.clone();
        }
    }
}

fn is_of_lists(directive: &Directive) -> bool {
    ["allow", "deny"].contains(&directive.name.as_str())
}

/// Whether anything within a place goes to a server.
fn sends(all: &[Directive]) -> bool {
    all.iter().any(|inner| ["proxy_pass", "location"].contains(&inner.name.as_str()))
}

/// Whether the lists of a place let nobody come, or nobody to anything that is here; `None` without lists.
fn is_closed(all: &[Directive]) -> Option<bool> {
    let mut lists = all.iter().filter(|directive| is_of_lists(directive)).peekable();
    let is_end = |directive: &Directive| directive.name == "deny" && directive.arg(0) == "all";
    let first = is_end(lists.peek()?);
    Some(first || (!sends(all) && lists.any(is_end)))
}

/// The status with which a place refuses everybody by `return`, as a rule of ours would.
fn denial(all: &[Directive]) -> Option<u16> {
    let first = all.iter().find(|directive| directive.name == "return")?;
    first.arg(0).starts_with('4').then(|| ours(first.arg(0)))
}

/// What is not there stays so; everything else that is refused is forbidden.
fn ours(status: &str) -> u16 {
    if ["404", "410"].contains(&status) { 404 } else { 403 }
}

/// What becomes of the `return` that refuses a place.
fn refusal(directive: &Directive) -> Outcome {
    let status = ours(directive.arg(0));
    let says = format!("a rule with `deny = {status}`");
    if directive.arg(0) == status.to_string() && directive.args.len() == 1 {
        kept(says)
    } else {
        changed(says)
    }
}

/// The paths of a pattern that takes everything below some plain paths: `^/v2/`, `^/(api|queue)/.*$`.
fn plain_prefixes(pattern: &str) -> Option<Vec<String>> {
    let mut rest = pattern.strip_prefix('^')?;
    for end in ["$", ".*", "(.*)", "(/|$)", "/?", "(?:/|$)"] {
        rest = rest.strip_suffix(end).unwrap_or(rest);
    }
    let rest = rest.replace("\\.", ".").replace("\\-", "-").replace("\\/", "/");
    let all = match (rest.split_once('('), rest.matches('(').count()) {
        (None, _) => vec![rest.clone()],
        (Some((before, inner)), 1) => {
            let (inner, after) = inner.split_once(')')?;
            let inner = inner.strip_prefix("?:").unwrap_or(inner);
            inner.split('|').take(MOST_ALTERNATIVES + 1).map(|one| format!("{before}{one}{after}")).collect()
        }
        _ => return None,
    };
    if all.len() > MOST_ALTERNATIVES {
        return None;
    }
    let plain =
        |text: &String| !text.contains(['\\', '^', '$', '|', '?', '*', '+', '(', ')', '[', ']', '{', '}']);
    // A dot that is not escaped stands for any character.
    let dots = pattern.replace("\\.", "").replace(".*", "").contains('.');
    if dots || !all.iter().all(plain) {
        return None;
    }
    all.iter().map(|text| words::prefix(text).filter(|prefix| !prefix.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_takes_all_below_a_path_is_that_path() {
        let are = |pattern: &str| plain_prefixes(pattern).map(|all| all.join(" "));
        assert_eq!(are("^/v2/").as_deref(), Some("/v2"));
        assert_eq!(are("^/(api|queue)/.*$").as_deref(), Some("/api /queue"));
        assert_eq!(are("^/registry(/|$)").as_deref(), Some("/registry"));
        for none in ["\\.php$", "/v2", "^/a.b/", "^/(a|b)(c|d)", "^/[a-z]+", "^/", "^/a*"] {
            assert_eq!(are(none), None, "{none}");
        }
    }
}
