//! Who may come and how much: `allow` and `deny`, `limit_req` and `limit_conn`. Ours are of a listener, so they can be
//! said for a whole server and for nothing smaller.

use super::{Walk, parse::Directive, scope::Scope};
use crate::import::{
    plan::{Rows, list, quoted},
    report::{Outcome, changed, kept, lost, opens},
    words,
};

/// `limits` of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    /// Nobody may come.
    pub(super) closed: bool,
    /// `rate` as it is written.
    rate: Option<String>,
    per_client: Option<u64>,
    connections: Option<u64>,
}

impl Bounds {
    /// As keys.
    pub(super) fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        for (key, networks) in [("allow", &self.allow), ("deny", &self.deny)] {
            if !networks.is_empty() {
                rows.set(key, list(networks.iter().map(String::as_str)));
            }
        }
        // More of one client than of all can never come, and `check` says so.
        let per_client = self.per_client.map(|one| self.connections.map_or(one, |all| one.min(all)));
        for (key, number) in [("per_client", per_client), ("connections", self.connections)] {
            if let Some(number) = number {
                rows.set(key, number.to_string());
            }
        }
        if let Some(rate) = &self.rate {
            rows.set("rate", rate.clone());
        }
        rows
    }
}

/// `limit_req_zone` or `limit_conn_zone`.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    name: String,
    /// Who is counted: a word of ours, or `server` for all together.
    by: Option<&'static str>,
    /// As `"10/s"`.
    rate: Option<String>,
}

/// What one of `allow` and `deny` names.
enum Who {
    All,
    Network(String),
    Unknown,
}

impl Walk {
    /// The lists of a level, in their order: of several that match the first counts. `wide` is whether the level is a
    /// whole server.
    pub(super) fn lists(&mut self, all: &[Directive], scope: &mut Scope, wide: bool) {
        let entries: Vec<(&Directive, bool, Who)> = all
            .iter()
            .filter(|directive| ["allow", "deny"].contains(&directive.name.as_str()))
            .map(|directive| {
                let who = match (directive.arg(0), words::network(directive.arg(0))) {
                    ("all", _) => Who::All,
                    (_, Some(network)) => Who::Network(network),
                    _ => Who::Unknown,
                };
                (directive, directive.name == "allow", who)
            })
            .collect();
        if entries.is_empty() {
            return;
        }
        // A level with lists of its own has nothing of those above it.
        (scope.bounds.allow, scope.bounds.deny, scope.bounds.closed) = (Vec::new(), Vec::new(), false);
        let ends = entries.iter().position(|(_, _, who)| matches!(who, Who::All));
        let shut = ends.is_some_and(|place| entries.get(place).is_some_and(|(_, allow, _)| !allow));
        let mut seen: Vec<(bool, &str)> = Vec::new();
        for (place, (directive, allow, who)) in entries.iter().enumerate() {
            let outcome = match who {
                _ if ends.is_some_and(|end| place > end) => kept("nothing comes so far"),
                _ if !wide => of_a_place(*allow),
                Who::Unknown if *allow => lost("an address or a network is needed"),
                Who::Unknown => opens("an address or a network is needed"),
                Who::All if *allow => kept("everybody else is let in"),
                Who::All if !seen.iter().any(|(allow, _)| *allow) => {
                    scope.bounds.closed = true;
                    kept("nothing of it is served")
                }
                Who::All => kept("`limits.allow` lets nobody else in"),
                Who::Network(network) => {
                    let earlier = |way: bool| seen.iter().filter(move |(known, _)| *known == way);
                    let taken = earlier(!allow).any(|(_, known)| words::contains(known, network));
                    let within = earlier(!allow).any(|(_, known)| words::contains(network, known));
                    let outcome = match (allow, shut) {
                        _ if taken => kept("has no effect: a line before it takes all of it"),
                        (true, true) => {
                            scope.bounds.allow.push(network.clone());
                            changed("limits.allow of the listener")
                        }
                        (true, false) => kept("it is let in, as everybody is who is not denied"),
                        (false, _) if within && !shut => opens(
                            "`deny` goes before `allow` here, so it would keep out whom a line before it lets in",
                        ),
                        (false, _) => {
                            scope.bounds.deny.push(network.clone());
                            changed("limits.deny of the listener")
                        }
                    };
                    seen.push((*allow, network));
                    outcome
                }
            };
            self.note(directive, outcome);
        }
        // `check` refuses what can never come.
        let Bounds { allow, deny, .. } = &mut scope.bounds;
        deny.retain(|deny| !allow.iter().any(|allow| words::contains(deny, allow)));
    }

    /// The zones, and what uses them.
    pub(super) fn limit(&mut self, directive: &Directive, scope: &mut Scope) -> Outcome {
        let option = |name: &str| directive.args.iter().find_map(|arg| arg.strip_prefix(name));
        let zone = option("zone=").map(|zone| zone.split(':').next().unwrap_or_default());
        match directive.name.as_str() {
            "limit_req_zone" | "limit_conn_zone" => {
                let by = match directive.arg(0) {
                    "$binary_remote_addr" | "$remote_addr" => Some("address"),
                    "$http_authorization" => Some("key"),
                    key if key.starts_with("$ssl_client_") => Some("certificate"),
                    "$server_name" | "$host" => Some("server"),
                    _ => None,
                };
                let rate = option("rate=").and_then(|rate| {
                    let (number, unit) = rate.split_once("r/")?;
                    let number: u32 =
                        number.parse().ok().filter(|number| (1..=1_000_000).contains(number))?;
                    ["s", "m"].contains(&unit).then(|| format!("{number}/{unit}"))
                });
                let name = zone.unwrap_or_default().to_owned();
                self.zones.push(Zone { name, by, rate });
                match by {
                    Some(_) => kept("where it is used"),
                    None => lost("callers are told apart by address, key or certificate"),
                }
            }
            "limit_req" => {
                let known = self.zones.iter().rev().find(|known| Some(known.name.as_str()) == zone);
                let Some(Zone { by: Some(by), rate: Some(rate), .. }) = known else {
                    return lost("its zone is not known, or counts by what cannot be told apart here");
                };
                if *by == "server" {
                    return lost("a rate is of one caller, not of all together");
                }
                let burst = option("burst=").and_then(|burst| burst.parse::<u32>().ok()).unwrap_or(0);
                let burst = burst.saturating_add(1).min(1_000_000);
                let rate = format!("{{ by = {}, requests = {}, burst = {burst} }}", quoted(by), quoted(rate));
                if scope.bounds.rate.replace(rate.clone()).is_some_and(|before| before != rate) {
                    return changed(format!(
                        "limits.rate = {rate} of the listener, instead of the one before it"
                    ));
                }
                let delays = !directive.args.iter().any(|arg| arg == "nodelay");
                let says = format!("limits.rate = {rate} of the listener");
                if delays {
                    changed(format!("{says}; what is beyond is refused, not delayed"))
                } else {
                    kept(says)
                }
            }
            _ => {
                let known = self.zones.iter().rev().find(|known| known.name == directive.arg(0));
                let most =
                    directive.arg(1).parse::<u64>().ok().filter(|most| (1..=10_000_000).contains(most));
                match (known.and_then(|zone| zone.by), most) {
                    (Some("address"), Some(most)) => {
                        scope.bounds.per_client = Some(most);
                        changed(format!(
                            "limits.per_client = {most} of the listener: connections, also those without a request"
                        ))
                    }
                    (Some("server"), Some(most)) => {
                        scope.bounds.connections = Some(most);
                        changed(format!("limits.connections = {most} of the listener"))
                    }
                    _ => lost("connections are counted by address alone, or for a whole listener"),
                }
            }
        }
    }
}

/// Lists of a place within a server.
fn of_a_place(allow: bool) -> Outcome {
    let says = "lists are of a listener (`limits`): give this place a listener of its own";
    if allow { lost(says) } else { opens(says) }
}
