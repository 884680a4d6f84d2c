//! Checks: `health_check` with its `match`, and `check` of the module that many builds have.

use super::{Walk, groups::Group, parse::Directive, scope::Scope};
use crate::import::{
    plan::quoted,
    report::{Outcome, changed, kept, lost},
    units, words,
};

impl Walk {
    /// `health_check`: keys of `health`.
    pub(super) fn health_check(&mut self, directive: &Directive, scope: &mut Scope) -> Outcome {
        let mut left = Vec::new();
        // Its own defaults (ngx_http_upstream_hc_module).
        scope.health.set("path", quoted("/"));
        scope.health.set("interval", quoted("5s"));
        scope.health.set("rise", "1".into());
        scope.health.set("fall", "1".into());
        scope.health.set("status", words::GOOD.into());
        for arg in &directive.args {
            let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
            let count = || value.parse::<u32>().ok().filter(|count| (1..=100).contains(count));
            match key {
                "interval" => match units::nginx_time(value) {
                    Some(time) => scope.health.set("interval", quoted(&units::ours(units::interval(time)))),
                    None => left.push(arg.as_str()),
                },
                "uri" if words::probe_path(value) => scope.health.set("path", quoted(value)),
                "passes" | "fails" => match count() {
                    Some(count) => {
                        scope.health.set(if key == "passes" { "rise" } else { "fall" }, count.to_string())
                    }
                    None => left.push(arg.as_str()),
                },
                "match" => match self.matches.iter().find(|(name, _)| name == value) {
                    Some((_, rows)) => scope.health.extend(rows),
                    None => left.push(arg.as_str()),
                },
                "jitter" | "mandatory" | "persistent" | "keepalive_time" => {}
                _ => left.push(arg.as_str()),
            }
        }
        if left.is_empty() {
            kept("`health` of the service")
        } else {
            changed(format!("`health` of the service; not {}", left.join(" ")))
        }
    }

    /// `match NAME { status 200; body ~ "ok"; }`.
    pub(super) fn match_block(&mut self, directive: &Directive) -> Outcome {
        let mut rows = crate::import::plan::Rows::default();
        for inner in directive.block.as_deref().unwrap_or_default() {
            let outcome = match inner.name.as_str() {
                "status" => match words::statuses(&inner.args) {
                    Some((codes, whole)) => {
                        rows.set("status", codes.clone());
                        if whole {
                            kept(format!("status = {codes}"))
                        } else {
                            changed(format!("status = {codes}: each is named"))
                        }
                    }
                    None => lost("`health.status` is a list of statuses"),
                },
                "body" if inner.arg(0) == "~" && words::plain_text(inner.arg(1)) => {
                    rows.set("text", quoted(inner.arg(1)));
                    kept("health.text: the answer has this text")
                }
                _ => lost("`health` knows `status`, `json` and a text in the body"),
            };
            self.note(inner, outcome);
        }
        self.matches.push((directive.arg(0).to_owned(), rows));
        kept("for the `health_check` that names it")
    }
}

/// `check`, `check_http_send` and `check_http_expect_alive` within `upstream`.
pub(super) fn check(name: &str, directive: &Directive, group: &mut Group) -> Outcome {
    match name {
        "check" => {
            let mut left = Vec::new();
            let mut kind = "tcp";
            for arg in &directive.args {
                let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
                let time = || value.parse::<u64>().ok().map(std::time::Duration::from_millis);
                match (key, time()) {
                    ("interval", Some(time)) => {
                        group.health.set("interval", quoted(&units::ours(units::interval(time))))
                    }
                    ("timeout", Some(time)) => {
                        group.health.set("timeout", quoted(&units::ours(units::interval(time))))
                    }
                    ("rise" | "fall", _)
                        if value.parse::<u32>().is_ok_and(|count| (1..=100).contains(&count)) =>
                    {
                        group.health.set(if key == "rise" { "rise" } else { "fall" }, value.to_owned());
                    }
                    ("type", _) if ["http", "tcp"].contains(&value) => kind = value,
                    ("default_down", _) => {}
                    _ => left.push(arg.as_str()),
                }
            }
            if kind == "tcp" {
                group.health.set("kind", quoted("tcp"));
            } else {
                group.health.set("path", quoted("/"));
                group.health.set("status", words::GOOD.into());
            }
            if left.is_empty() {
                kept("`health` of the service")
            } else {
                changed(format!("`health` of the service; not {}", left.join(" ")))
            }
        }
        "check_http_send" => match directive.arg(0).split_whitespace().nth(1) {
            Some(path) if words::probe_path(path) && group.health.get("kind").is_none() => {
                group.health.set("path", quoted(path));
                changed(format!("health.path = \"{path}\", asked with GET"))
            }
            _ => lost("a probe asks for a path"),
        },
        "check_http_expect_alive" => changed(format!("health.status = {}", words::GOOD)),
        _ => kept("not needed"),
    }
}
