//! `tls` of a listener and of a service. The files that it names are read here as well, so that `check`, the start
//! and a reload all say the same about them.

use crate::{
    config::{
        raw::{Table, quoted},
        report::Place,
        suggest,
        value::{Given, Wrong, flag, one_of, path, text},
    },
    tls::{
        ClientAuth, Least, Pair, Part, Problem, Server, ServerSetting, Suite, Trust, Upstream,
        UpstreamSetting,
    },
};

const PAIR: &str = "{ cert = \"front.pem\", key = \"front.key\" }";

/// Whether clients show certificates, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    Off,
    Optional,
    Required,
}

/// Where each file is named, to say there what is wrong with it.
#[derive(Default)]
struct Places {
    certs: Vec<Place>,
    keys: Vec<Place>,
    /// Of the authorities.
    authorities: Option<Place>,
    lists: Option<Place>,
}

/// `listener.tls`, of a listener that speaks HTTP/2 or does not; `None` also when it has faults, which are noted.
pub(super) fn server(of: &Table<'_>, http2: bool) -> Option<Server> {
    server_of(&of.sub("tls"), http2)
}

/// The same in this table.
pub(super) fn server_of(table: &Table<'_>, http2: bool) -> Option<Server> {
    let given = table.is_given();
    let mut places = Places::default();
    let pairs = pairs(table, given, &mut places);
    let auth = table.or(
        "client_auth",
        Auth::Off,
        one_of(&[("off", Auth::Off), ("optional", Auth::Optional), ("required", Auth::Required)]),
    );
    let ca = table.opt("client_ca", path);
    let crl = table.opt("crl", path);
    (places.authorities, places.lists) = (Some(table.at("client_ca")), Some(table.at("crl")));
    let least =
        table.or("min_version", Least::Tls12, one_of(&[("1.2", Least::Tls12), ("1.3", Least::Tls13)]));
    let suites = suites(table, least);
    if !given {
        return None;
    }
    let client_auth = match (auth, ca) {
        (Auth::Off, _) => {
            for key in ["client_ca", "crl"] {
                if table.has(key) {
                    let right = "delete it, or add `client_auth = \"optional\"` or `\"required\"`";
                    table.fault(key, "means nothing without `client_auth`", right);
                }
            }
            Some(ClientAuth::Off)
        }
        (_, None) => {
            if !table.has("client_ca") {
                table.missing("client_ca", "client_ca = \"ca.pem\"");
            }
            None
        }
        (Auth::Optional, Some(ca)) => Some(ClientAuth::Optional(Trust { ca, crl })),
        (Auth::Required, Some(ca)) => Some(ClientAuth::Required(Trust { ca, crl })),
    };
    let setting = ServerSetting { pairs: pairs?, client_auth: client_auth?, least, suites: suites?, http2 };
    match Server::load(setting) {
        Ok(server) => Some(server),
        Err(problems) => {
            note(table, &places, &problems, "client_ca");
            None
        }
    }
}

/// `service.tls`; `None` also when it has faults, which are noted.
pub(super) fn upstream(of: &Table<'_>) -> Option<Upstream> {
    let table = of.sub("tls");
    upstream_of(&table, table.is_given())
}

/// The keys of [`upstream`] in the table itself, with nothing given too if `wanted`. They are asked for in any case, so
/// that they are known.
pub(super) fn upstream_of(table: &Table<'_>, wanted: bool) -> Option<Upstream> {
    let ca = table.opt("ca", path);
    let server_name = table.opt("server_name", name);
    let (cert, key) = (table.opt("cert", path), table.opt("key", path));
    let verify = table.or("verify", true, flag);
    if !wanted {
        return None;
    }
    if !verify {
        for key in ["ca", "server_name"] {
            if table.has(key) {
                table.fault(key, "means nothing with `verify = false`", "delete one of them");
            }
        }
    }
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(Pair { cert, key }),
        (cert, key) => {
            lonely(table, cert.is_some(), key.is_some());
            None
        }
    };
    // A name that is wrong must not become one that is missing.
    if table.has("server_name") && server_name.is_none() {
        return None;
    }
    let places = Places {
        certs: vec![table.at("cert")],
        keys: vec![table.at("key")],
        authorities: Some(table.at("ca")),
        lists: None,
    };
    match Upstream::load(UpstreamSetting { ca, server_name, identity, verify }) {
        Ok(upstream) => Some(upstream),
        Err(problems) => {
            note(table, &places, &problems, "ca");
            None
        }
    }
}

/// `tls` of a table that names other servers: read if one of them is asked by `https://`. The outer `None` is a fault, the
/// inner one that none is.
#[expect(clippy::option_option, reason = "wrong, and not there")]
pub(super) fn towards(of: &Table<'_>, section: &'static str, secured: bool) -> Option<Option<Upstream>> {
    let table = of.sub_with_variables("tls", section);
    let tls = upstream_of(&table, secured);
    if !secured && table.is_given() {
        let what = format!(
            "`{}` means nothing, for nobody who is named here is asked by `https://`",
            of.path_of("tls")
        );
        table.fault_at(table.place(), what, "write `https://`, or delete it");
        return None;
    }
    // Inside TLS: what is wrong is noted.
    if secured && tls.is_none() { None } else { Some(tls) }
}

/// `agent.tls`, which is for registries as well: the controllers name them, and whether they are asked by `https://` is
/// known only then.
#[expect(clippy::option_option, reason = "wrong, and not there")]
pub(super) fn of_agent(of: &Table<'_>, section: &'static str, secured: bool) -> Option<Option<Upstream>> {
    let table = of.sub_with_variables("tls", section);
    let wanted = secured || table.is_given();
    match upstream_of(&table, wanted) {
        None if wanted => None,
        // A system that trusts nobody is enough for plain HTTP.
        None => Some(Upstream::load(UpstreamSetting::default()).ok()),
        read => Some(read),
    }
}

/// `cert` and `key`, and those of `certs`.
fn pairs(table: &Table<'_>, given: bool, places: &mut Places) -> Option<Vec<Pair>> {
    let (cert, key) = (table.opt("cert", path), table.opt("key", path));
    let more = table.tables("certs", PAIR);
    let (has, mut whole) = (table.has("cert") || table.has("key"), true);
    let mut pairs = Vec::with_capacity(1 + more.len());
    match (cert, key) {
        (Some(cert), Some(key)) => {
            places.certs.push(table.at("cert"));
            places.keys.push(table.at("key"));
            pairs.push(Pair { cert, key });
        }
        (cert, key) if has => {
            whole = false;
            lonely(table, cert.is_some(), key.is_some());
        }
        _ => {}
    }
    for entry in &more {
        let cert = entry.need("cert", "cert = \"other.pem\"", path);
        let key = entry.need("key", "key = \"other.key\"", path);
        match (cert, key) {
            (Some(cert), Some(key)) => {
                places.certs.push(entry.at("cert"));
                places.keys.push(entry.at("key"));
                pairs.push(Pair { cert, key });
            }
            _ => whole = false,
        }
    }
    if given && !has && more.is_empty() {
        if !table.is_empty_list("certs") && table.has("certs") {
            // What is wrong with the list is noted.
            return None;
        }
        table.missing("cert", "cert = \"front.pem\", key = \"front.key\"");
    }
    (whole && !pairs.is_empty()).then_some(pairs)
}

/// A certificate needs its key and a key its certificate.
fn lonely(table: &Table<'_>, cert: bool, key: bool) {
    if cert && !table.has("key") {
        table.missing("key", "key = \"front.key\"");
    }
    if key && !table.has("cert") {
        table.missing("cert", "cert = \"front.pem\"");
    }
}

fn suites(table: &Table<'_>, least: Least) -> Option<Vec<Suite>> {
    let found = table.list("suites", suite);
    if table.is_empty_list("suites") {
        table.fault("suites", "is empty", "name at least one, or delete the key");
        return None;
    }
    let found: Vec<Suite> = found.unwrap_or_default().into_iter().map(|(suite, _)| suite).collect();
    if least == Least::Tls13 && !found.is_empty() && !found.iter().any(|suite| suite.is_of_13()) {
        let right = format!("add one of TLS 1.3: {}", names(|suite| suite.is_of_13()));
        table.fault("suites", "has none that `min_version = \"1.3\"` leaves", right);
        return None;
    }
    Some(found)
}

fn suite(given: &Given<'_>) -> Result<Suite, Wrong> {
    let name = text(given)?;
    Suite::named(name).ok_or_else(|| {
        let known: Vec<String> = Suite::all().map(Suite::name).collect();
        let right = match suggest::nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? known: {}", names(|_| true)),
            None => format!("known: {}", names(|_| true)),
        };
        Wrong::new(format!("has `{name}`, which is none that is safe and known here"), right)
    })
}

fn names(which: impl Fn(Suite) -> bool) -> String {
    let names: Vec<String> = Suite::all().filter(|suite| which(*suite)).map(Suite::name).collect();
    quoted(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A host name; an address is its own name.
fn name(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given).map_err(|wrong| match wrong.what.as_str() {
        "is empty" => Wrong::new(
            "is empty",
            "write the name in the upstreams' certificates, or delete the key: then it is that of the address",
        ),
        _ => wrong,
    })?;
    if text.parse::<std::net::IpAddr>().is_ok() {
        let right =
            "delete it and write the address in `upstreams`: certificates for addresses are checked by that";
        return Err(Wrong::new(format!("is `{text}`, an address"), right));
    }
    match format!("{text}:1").parse::<crate::config::Address>() {
        Ok(address) => Ok(address.host.to_ascii_lowercase()),
        Err(_) => {
            let right = "write the host name in the upstreams' certificates, without scheme and port";
            Err(Wrong::new(format!("is `{text}`"), right))
        }
    }
}

/// Notes what is wrong with files, each where it is named.
fn note(table: &Table<'_>, places: &Places, problems: &[Problem], authorities: &str) {
    for problem in problems {
        let (key, place) = match problem.part {
            Part::Cert(at) => ("cert", places.certs.get(at).cloned()),
            Part::Key(at) => ("key", places.keys.get(at).cloned()),
            Part::Authorities => (authorities, places.authorities.clone()),
            Part::Lists => ("crl", places.lists.clone()),
            Part::Whole => {
                let what = format!("`{}` {}", table.path_of(&problem.name), problem.what);
                let what = if problem.name == "tls" { what.replacen(".tls.tls`", ".tls`", 1) } else { what };
                // Where the keys stand without a table of their own.
                let whole = format!("`{}` ", table.path_of("tls"));
                let what = match what.strip_prefix(&whole) {
                    Some(rest) => format!("`{}` {rest}", table.path_of("").trim_end_matches('.')),
                    None => what,
                };
                table.fault_at(table.place(), what, problem.right.clone());
                continue;
            }
        };
        let what = format!("`{}` names `{}`, which {}", table.path_of(key), problem.name, problem.what);
        table.fault_at(place.unwrap_or_else(|| table.place()), what, problem.right.clone());
    }
}
