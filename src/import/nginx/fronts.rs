//! Addresses: which servers share one, which of them takes hosts that nobody names, and the listeners that this makes.

use super::{
    Walk,
    servers::{Listen, Server},
};
use crate::import::{
    Fate,
    plan::{Listener, Rule, list},
    report::{Outcome, changed, guessed, kept, lost, opens},
    words,
};

impl Walk {
    /// Makes a listener of each address.
    pub(super) fn fronts(&mut self, servers: &[Server<'_>]) {
        let mut outcomes: Vec<Vec<Outcome>> = servers.iter().map(|_| Vec::new()).collect();
        let mut binds: Vec<&str> = Vec::new();
        for listen in servers.iter().flat_map(|server| &server.listens) {
            if !binds.contains(&listen.bind.as_str()) {
                binds.push(&listen.bind);
            }
        }
        for bind in binds {
            let here: Vec<(usize, &Server<'_>, &Listen)> = servers
                .iter()
                .enumerate()
                .flat_map(|(place, server)| server.listens.iter().map(move |listen| (place, server, listen)))
                .filter(|(_, _, listen)| listen.bind == bind)
                .collect();
            if self.plan.listeners.iter().any(|listener| listener.bind.iter().any(|taken| taken == bind)) {
                for (place, ..) in here {
                    if let Some(of) = outcomes.get_mut(place) {
                        of.push(lost(format!(
                            "left out at {bind}: an earlier `http` or `stream` listens there"
                        )));
                    }
                }
                continue;
            }
            self.front(bind, &here, &mut outcomes);
        }
        for (server, outcomes) in servers.iter().zip(outcomes) {
            if !server.sends() {
                let says = lost("left out: nothing of it is sent to a server");
                self.note(server.block, says);
            }
            if server.listens.is_empty() {
                self.note(server.block, lost("left out: it listens at no address that we could"));
            }
            let served =
                outcomes.iter().any(|(fate, says)| *fate == Fate::Kept && says.starts_with("listener"));
            for outcome in outcomes {
                self.note(server.block, outcome);
            }
            if !served {
                self.report.lose(&server.block.at);
            }
        }
    }

    fn front(&mut self, bind: &str, here: &[(usize, &Server<'_>, &Listen)], outcomes: &mut [Vec<Outcome>]) {
        let mut say = |place: usize, outcome: Outcome| {
            if let Some(of) = outcomes.get_mut(place) {
                of.push(outcome);
            }
        };
        let secure = here.iter().any(|(_, server, listen)| listen.tls || server.scope.ssl);
        // The one that is marked, else the first: as nginx has it.
        let default =
            here.iter().find(|(_, _, listen)| listen.default).or(here.first()).map(|(place, _, _)| *place);
        let names = self.plan.listeners.iter().map(|listener| listener.name.as_str());
        let name = words::port(bind).map_or_else(|| "front".into(), |port| format!("port-{port}"));
        let mut listener = Listener {
            name: words::name_apart(&name, names),
            bind: vec![bind.to_owned()],
            ..Listener::default()
        };
        let mut first = true;
        for (place, server, listen) in here.iter().copied() {
            let scope = &server.scope;
            if !server.sends() {
                continue;
            }
            if scope.bounds.closed {
                say(place, kept("left out, as nobody may come"));
                continue;
            }
            if !secure && scope.https_only {
                say(place, changed(format!("without {bind}, which only sent everybody to TLS")));
                continue;
            }
            if secure {
                match scope.listener_tls() {
                    Err(why) => {
                        say(place, lost(format!("left out at {bind}: it listens with TLS, but {why}")));
                        continue;
                    }
                    Ok(tls) => match &mut listener.tls {
                        None => listener.tls = Some(tls),
                        Some(known) => {
                            if known.rows != tls.rows {
                                say(
                                    place,
                                    opens(
                                        "its TLS settings besides certificates are those of the first server at this address",
                                    ),
                                );
                            }
                            for pair in tls.pairs {
                                if !known.pairs.contains(&pair) {
                                    known.pairs.push(pair);
                                }
                            }
                        }
                    },
                }
            }
            if scope.http2 || listen.http2 {
                listener.rows.set("http2", "true".into());
            }
            let rows = scope.bounds.rows();
            if first {
                listener.limits = rows;
            } else if listener.limits != rows {
                say(place, opens(format!("the `limits` of {bind} are those of the first server there")));
            }
            first = false;
            if let Some(outcome) = believed(server, listen, &mut listener) {
                say(place, outcome);
            }
            say(place, kept(format!("listener `{}`", listener.name)));
            let is_default = default == Some(place);
            if server.vague && !is_default {
                say(
                    place,
                    lost(format!("at {bind} its hosts that no rule can name go to the default server")),
                );
            }
            let mut add = |host: Option<&String>| {
                for (path, does) in &server.rules {
                    let rule = Rule { host: host.cloned(), path: path.clone(), does: does.clone() };
                    listener.rules.push(rule);
                }
            };
            if is_default {
                add(None);
            } else {
                server.hosts.iter().for_each(|host| add(Some(host)));
            }
        }
        sort(&mut listener.rules);
        if listener.rules.iter().any(|rule| rule.service().is_some()) {
            self.plan.listeners.push(listener);
        }
    }
}

/// The longest path first, as nginx chooses; what names no host last. One that can never match would be an error.
fn sort(rules: &mut Vec<Rule>) {
    rules.sort_by_key(|rule| {
        (rule.host.is_none(), std::cmp::Reverse(rule.path.as_ref().map_or(0, String::len)))
    });
    let mut seen: Vec<(Option<String>, Option<String>)> = Vec::new();
    rules.retain(|rule| {
        let key = (rule.host.clone(), rule.path.clone());
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
}

/// Whose word counts about who the client is.
fn believed(server: &Server<'_>, listen: &Listen, listener: &mut Listener) -> Option<Outcome> {
    let trusted = &server.scope.trusted;
    let networks = list(trusted.iter().map(String::as_str));
    if listen.proxy_protocol {
        if trusted.is_empty() {
            listener.rows.set("proxy_protocol", "[\"0.0.0.0/0\", \"::/0\"]".into());
            return Some(guessed(
                "the PROXY header is required from everybody: name the balancers in `proxy_protocol`",
            ));
        }
        listener.rows.set("proxy_protocol", networks);
    } else if !trusted.is_empty() {
        listener.rows.set("trusted", networks);
    }
    None
}
