//! `[auth]` of a controller or a registry.

use std::{path::Path, time::Duration};

use super::rules::network;
use crate::config::{
    auth::{Auth, Authorization, Certificates, RootToken, Signing},
    proxy::Secret,
    raw::{Raw, Table},
    report::Place,
    value::{Given, Wrong, duration_in, flag, path},
};
use crate::tls::{Callers, Part, Trust};

const HOW: &str = "`openssl rand -hex 32` makes one";

/// Shorter, and clients would do little but log in.
const SHORTEST_SESSION: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A registry's: whoever comes in there may do everything.
pub(super) fn of_registry<'r>(raw: &'r Raw<'r>) -> Option<Auth> {
    auth(&raw.section("auth"))
}

/// A controller's, where groups of callers may have permissions.
pub(super) fn of_controller<'r>(raw: &'r Raw<'r>) -> Option<Auth> {
    let table = raw.section("auth");
    let given = |key: &'static str| {
        let flag = table.opt(key, flag);
        if table.has(key) { flag } else { Some(false) }
    };
    let (groups, resources) = (given("authorization"), given("resource_management"));
    let auth = auth(&table)?;
    let (groups, resources) = (groups?, resources?);
    if groups && !auth.enabled {
        let right =
            "add `enabled = true` and a root token, or delete it: nobody has groups without a credential";
        table.fault("authorization", "is true, and nobody is asked for a credential", right);
        return None;
    }
    if resources && !groups {
        let right = "add `authorization = true`, or delete it: resources are those of groups";
        table.fault("resource_management", "is true without `authorization`", right);
        return None;
    }
    let authorization = match (groups, resources) {
        (_, true) => Authorization::Resources,
        (true, false) => Authorization::Groups,
        (false, false) => Authorization::Off,
    };
    Some(Auth { authorization, ..auth })
}

/// `None` when it is wrong: a server must not start with less than it was told to ask for.
fn auth(table: &Table<'_>) -> Option<Auth> {
    let default = Auth::default();
    let given = table.has("enabled");
    if !given && matches!(table.place(), Place::Span(_)) {
        table.missing("enabled", "enabled = true");
    }
    let enabled = table.opt("enabled", flag);
    let wanted = table.has("root_token") || table.has("root_token_file");
    let root_token = root_token(table);
    let api_keys = table.opt("api_keys", flag);
    let session_ttl = table.or("session_ttl", default.session_ttl, duration_in(SHORTEST_SESSION..=DAY));
    let enabled = if given { enabled? } else { false };
    let certificates = certificates(table)?;
    if wanted && root_token.is_none() {
        return None;
    }
    if enabled && root_token.is_none() {
        let right = format!("add `root_token_file = \"/etc/switchyard/root.token\"`; one line, {HOW}");
        table.fault("enabled", "is true, and there is no root token", right);
        return None;
    }
    Some(Auth {
        enabled,
        root_token,
        api_keys: api_keys.unwrap_or(default.api_keys),
        session_ttl,
        certificates,
        authorization: Authorization::Off,
    })
}

/// The outer `None` is a fault, the inner one that none are asked for.
fn certificates(table: &Table<'_>) -> Option<Option<Certificates>> {
    let (ca, crl) = (table.opt("client_ca", path), table.opt("crl", path));
    let trusted = table.list("trusted", network).unwrap_or_default();
    let trusted: Vec<_> = trusted.into_iter().map(|(network, _)| network).collect();
    let signed = table.opt("proxy_key_file", signing);
    if !table.has("client_ca") {
        for key in ["crl", "trusted", "proxy_key_file"] {
            if table.has(key) {
                table.fault(
                    key,
                    "means nothing without `client_ca`",
                    "add `client_ca = \"ca.pem\"`, or delete it",
                );
                return None;
            }
        }
        return Some(None);
    }
    let ca = ca?;
    if table.has("crl") && crl.is_none() {
        return None;
    }
    if table.has("proxy_key_file") && signed.is_none() {
        return None;
    }
    if trusted.is_empty() && signed.is_none() {
        let right = "add `trusted = [\"10.0.1.9\"]` with the proxies that pass certificates on in `Ssl-Client-Cert`, or \
                     `proxy_key_file`, the key with which they sign them";
        table.fault("client_ca", "is given, and no proxy is trusted", right);
        return None;
    }
    match Callers::load(Trust { ca, crl }) {
        Ok(callers) => Some(Some(Certificates { callers, trusted, signed })),
        Err(problems) => {
            for problem in problems {
                let key = if problem.part == Part::Lists { "crl" } else { "client_ca" };
                let what = format!("`{}` is `{}`, which {}", table.path_of(key), problem.name, problem.what);
                table.fault_at(table.at(key), what, problem.right);
            }
            None
        }
    }
}

fn root_token(table: &Table<'_>) -> Option<RootToken> {
    let of_file = table.opt("root_token_file", |given| of_file(&path(given)?));
    let of_variable = table.opt("root_token", |given| match given {
        Given::File(_) => Err(Wrong::new(
            "stands in the file, where everybody who sees the config sees it",
            "write it into a file of its own and name that by `root_token_file`, or set \
             SWITCHYARD_AUTH_ROOT_TOKEN",
        )),
        Given::Text(written) => RootToken::parse(written).map_err(|why| Wrong::new(why, HOW)),
    });
    if table.has("root_token") && table.has("root_token_file") {
        table.fault("root_token", "is given beside `root_token_file`", "give one of them");
        return None;
    }
    of_variable.or(of_file)
}

/// No fault shows any of it.
fn of_file(file: &Path) -> Result<RootToken, Wrong> {
    RootToken::read(file).map_err(|why| {
        let right = format!("name a file with one line; {HOW}");
        Wrong::new(format!("is `{}`, which {why}", file.display()), right)
    })
}

/// A file with the key by which proxies sign. No fault shows any of it.
pub(super) fn signing(given: &Given<'_>) -> Result<Signing, Wrong> {
    let file = path(given)?;
    Signing::read(&file).map_err(|why| {
        let right = format!("name a file with one line, the same at proxies and servers; {HOW}");
        Wrong::new(format!("is `{}`, which {why}", file.display()), right)
    })
}

/// `token_file` of those who call: the value of `Authorization` that shows the root token in it.
pub(super) fn shown(given: &Given<'_>) -> Result<Secret, Wrong> {
    let file = path(given)?;
    Ok(of_file(&file)?.authorization().of_file("token_file", &file))
}
