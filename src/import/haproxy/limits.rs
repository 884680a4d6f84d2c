//! What a front refuses: lists of addresses, rates that are counted in a table, connections; and what it only sends on to
//! where TLS is.

use super::{
    acls::{Acl, Test},
    parse::{Line, Section},
};
use crate::import::{
    Fate,
    plan::{Rows, list},
    report::{Outcome, changed, kept, lost, opens},
    units, words,
};

/// Actions of `http-request` that refuse or count.
pub(super) fn is_of_front(action: &str) -> bool {
    ["deny", "reject", "tarpit", "silent-drop"].contains(&action)
        || action.starts_with("track-sc")
        || action == "redirect"
}

/// `limits` of a listener.
#[derive(Debug, Default)]
pub(super) struct Limits {
    rows: Rows,
    /// Milliseconds over which the table counts requests, and connections.
    counted: Option<u64>,
    /// Whom it counts.
    by: &'static str,
}

impl Limits {
    /// What the section's table counts, wherever in it that stands.
    pub(super) fn of(section: &Section) -> Self {
        let mut found = Self { by: "address", ..Self::default() };
        for line in &section.lines {
            if line.word(0) == "stick-table" {
                let all = line.words.join(" ");
                let period = all.split_once("http_req_rate(").and_then(|(_, rest)| rest.split(')').next());
                found.counted = period
                    .and_then(units::haproxy_time)
                    .and_then(|time| u64::try_from(time.as_millis()).ok());
            }
            let tracks = line.word(1).starts_with("track-sc");
            if tracks
                && line
                    .words
                    .iter()
                    .any(|word| word.contains("hdr(authorization)") || word.contains("hdr(Authorization)"))
            {
                found.by = "key";
            }
        }
        found
    }

    pub(super) fn rows(&self) -> Rows {
        self.rows.clone()
    }

    pub(super) fn line(&mut self, line: &Line, acls: &[Acl], used: &mut Vec<String>) -> Outcome {
        match line.word(0) {
            "maxconn" => match line.word(1).parse::<u64>() {
                Ok(most @ 1..=10_000_000) => {
                    self.rows.set("connections", most.to_string());
                    if let Some(Ok(one)) = self.rows.get("per_client").map(str::parse::<u64>) {
                        self.rows.set("per_client", one.min(most).to_string());
                    }
                    kept(format!("limits.connections = {most} of the listener"))
                }
                _ => lost("it is no number, or out of range"),
            },
            "stick-table" if self.counted.is_some() => {
                kept("no table is needed: `limits.rate` of the listener counts")
            }
            "stick-table" => kept("no table is needed: what is counted is in `limits`"),
            "redirect" => lost("there are no redirects: clients are given the address with TLS"),
            "rate-limit" => lost("see `limits` of a listener for rates"),
            _ if line.word(1) == "redirect" => {
                lost("there are no redirects: clients are given the address with TLS")
            }
            _ if line.words.iter().any(|word| word.starts_with("track-sc")) => {
                let whom = line.words.iter().any(|word| word == "src" || word == "ipv6") || self.by == "key";
                if whom {
                    kept("`limits` of the listener count")
                } else {
                    lost("callers are told apart by address, key or certificate")
                }
            }
            _ if line
                .words
                .iter()
                .any(|word| ["deny", "reject", "tarpit", "silent-drop"].contains(&word.as_str())) =>
            {
                let before = used.len();
                let outcome = self.refuse(line, acls, used);
                if outcome.0 == Fate::Lost {
                    used.truncate(before);
                }
                outcome
            }
            _ if line.word(1) == "connection"
                || line.word(1) == "content"
                || line.word(1) == "inspect-delay" =>
            {
                kept("a connection is looked at once its head is there")
            }
            _ => lost("see `limits` of a listener for what is refused"),
        }
    }

    /// `… deny|reject|tarpit if CONDITION`.
    fn refuse(&mut self, line: &Line, acls: &[Acl], used: &mut Vec<String>) -> Outcome {
        const LISTS: &str = "`limits` of a listener has lists of addresses, rates and numbers of connections, and nothing else";
        let Some(place) = line.words.iter().position(|word| word == "if" || word == "unless") else {
            return opens("nothing refuses everybody");
        };
        let unless = line.word(place) == "unless";
        let condition = line.from(place + 1);
        // `{ src 10.0.0.0/8 }` and `!{ … }`, or the name of one.
        let (negated, test) = match condition {
            [open, inner @ .., close] if ["{", "!{"].contains(&open.as_str()) && close == "}" => {
                (open == "!{", super::acls::test(inner))
            }
            [bang, open, inner @ .., close] if bang == "!" && open == "{" && close == "}" => {
                (true, super::acls::test(inner))
            }
            [name] => {
                let (negated, name) =
                    name.strip_prefix('!').map_or((false, name.as_str()), |name| (true, name));
                let all: Vec<Test> =
                    acls.iter().filter(|acl| acl.name == name).map(|acl| acl.test.clone()).collect();
                let Some(test) = all.into_iter().reduce(super::acls::either) else {
                    return opens(format!("the condition `{name}` is not known"));
                };
                used.push(name.to_owned());
                (negated, test)
            }
            _ => return opens(LISTS),
        };
        match test {
            Test::Source(given) => {
                let found: Option<Vec<String>> = given.iter().map(|text| words::network(text)).collect();
                let Some(found) = found.filter(|found| !found.is_empty()) else {
                    return opens("the addresses are in a file, or are no networks");
                };
                let key = if negated != unless { "allow" } else { "deny" };
                if self.rows.get(key).is_some() {
                    return opens(format!(
                        "there is one `limits.{key}`, and it has the addresses of another line"
                    ));
                }
                let other = self.rows.get(if key == "allow" { "deny" } else { "allow" }).unwrap_or_default();
                let reached = |one: &str| other.contains(&format!("\"{one}\""));
                if found.iter().any(|one| reached(one)) {
                    return opens("the same address is in both lists");
                }
                self.rows.set(key, list(found.iter().map(String::as_str)));
                kept(format!("limits.{key} of the listener"))
            }
            Test::Other(what) if !negated && !unless => self.rate(&what).unwrap_or_else(|| opens(LISTS)),
            _ => opens(LISTS),
        }
    }

    /// `sc_http_req_rate(0) gt 100` and its like.
    fn rate(&mut self, what: &str) -> Option<Outcome> {
        let mut words = what.split_whitespace();
        let (sample, way, number) = (words.next()?, words.next()?, words.next()?);
        let number: u64 = number.parse().ok()?;
        let most = match way {
            "gt" => number,
            "ge" => number.checked_sub(1)?,
            _ => return None,
        };
        let most = most.clamp(1, 1_000_000);
        if sample.contains("http_req_rate") {
            let millis = self.counted?.max(1);
            // As many in the period, and as many at once.
            let (requests, unit) = [(1000, "s"), (60_000, "m"), (3_600_000, "h")]
                .into_iter()
                .map(|(unit, word)| (most.saturating_mul(unit) / millis, word))
                .find(|(requests, _)| *requests >= 1)?;
            let requests = requests.min(1_000_000);
            let rate =
                format!("{{ by = \"{}\", requests = \"{requests}/{unit}\", burst = {most} }}", self.by);
            self.rows.set("rate", rate.clone());
            return Some(changed(format!("limits.rate = {rate} of the listener, answered with 429")));
        }
        if sample.contains("conn_cur") {
            let most = match self.rows.get("connections").map(str::parse::<u64>) {
                Some(Ok(all)) => most.min(all),
                _ => most,
            };
            self.rows.set("per_client", most.to_string());
            return Some(kept(format!("limits.per_client = {most} of the listener")));
        }
        None
    }
}

/// Whether a line sends every request without TLS to where it is.
pub(super) fn sends_to_tls(line: &Line, acls: &[Acl]) -> bool {
    let redirect = line.words.iter().position(|word| word == "redirect");
    let Some(place) = redirect.filter(|place| *place < 2) else { return false };
    let scheme = line.from(place + 1);
    let to_tls = scheme.windows(2).any(
        |pair| matches!(pair, [way, to] if (way == "scheme" && to == "https") || to.starts_with("https://")),
    );
    let condition = scheme.iter().position(|word| word == "if" || word == "unless");
    let Some(at) = condition else { return to_tls };
    let unless = scheme.get(at).is_some_and(|word| word == "unless");
    let rest: String = scheme.get(at + 1..).unwrap_or_default().concat();
    let plain =
        |rest: &str| matches!((unless, rest), (false, "!{ssl_fc}" | "{ssl_fc,not}") | (true, "{ssl_fc}"));
    let named = |name: &str| {
        acls.iter().any(|acl| acl.name == name && matches!(&acl.test, Test::Other(what) if what == "ssl_fc"))
    };
    let by_name = match (unless, rest.strip_prefix('!')) {
        (false, Some(name)) => named(name),
        (true, None) => named(&rest),
        _ => false,
    };
    to_tls && (plain(&rest) || by_name)
}
