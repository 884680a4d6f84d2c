//! Which rule of a listener routes a request, and why those before it do not.

use crate::{
    config::proxy::{self, Does, Listener},
    proxy::{
        bare_host,
        classify::{self, Misfit},
        ctx::Ctx,
    },
    wire::explain::Rule,
};

/// Up to the one that matches.
pub(super) fn of(ctx: &Ctx, listener: &Listener, host: &str) -> Vec<Rule> {
    if classify::is_hidden(&ctx.path, &listener.expose) {
        return vec![Rule {
            rule: "paths of our own servers".into(),
            service: String::new(),
            matches: true,
            why: "a front keeps them to itself unless its `expose` lists them".into(),
        }];
    }
    let mut rules = Vec::new();
    for rule in &listener.rules {
        let service = rule.service().and_then(|place| ctx.snapshot.services.get(place));
        let fits = classify::fits(rule, bare_host(host), &ctx.path);
        rules.push(Rule {
            rule: written(rule),
            service: service.map(|service| service.name.to_string()).unwrap_or_default(),
            matches: fits.is_ok(),
            why: match fits {
                Ok(()) => match rule.does {
                    Does::Send(_) => "the first that matches".into(),
                    Does::Forbid => "the first that matches, and it denies with 403".into(),
                    Does::Hide => "the first that matches, and it denies with 404".into(),
                },
                Err(Misfit::Host) => format!("the host is `{}`", bare_host(host)),
                Err(Misfit::Path) => format!("the path is `{}`", ctx.path),
            },
        });
        if fits.is_ok() {
            break;
        }
    }
    rules
}

fn written(rule: &proxy::Rule) -> String {
    match (&rule.host, &rule.path) {
        (Some(host), Some(path)) => format!("host {host}, path {path}"),
        (Some(host), None) => format!("host {host}"),
        (None, Some(path)) => format!("path {path}"),
        (None, None) => "everything".into(),
    }
}
