//! An etcd cluster, wherever one is named: its members, and what they want to see.

use super::{tls, vendor::secret};
use crate::config::{
    Address, BaseUrl, Etcd, Login,
    proxy::Secret,
    raw::Table,
    report::Place,
    value::{Given, Wrong, base_url, named, path, text},
};
use crate::model::ServiceName;

/// The keys of one, besides `cluster`.
pub(super) const KEYS: [&str; 9] =
    ["etcd", "ca", "cert", "key", "server_name", "verify", "username", "password", "password_file"];

/// Those of them that stand beside `etcd` alone.
const BESIDE: [&str; 8] =
    ["ca", "cert", "key", "server_name", "verify", "username", "password", "password_file"];

/// Those that are about TLS.
const TLS: [&str; 5] = ["ca", "cert", "key", "server_name", "verify"];

/// Longest name of a user and longest password: they go out with each new connection.
const LONGEST: usize = 256;

/// Notes every key that is given though no etcd is spoken to; asks for all, so that they are known.
pub(super) fn means_nothing(table: &Table<'_>, why: &str) {
    for key in BESIDE {
        if table.has(key) {
            table.fault(key, format_args!("means nothing {why}"), "delete it");
        }
    }
}

/// `etcd` and what stands beside it.
pub(super) fn etcd(table: &Table<'_>) -> Option<Etcd> {
    let urls = urls(table);
    let login = login(table);
    let inside = urls.as_ref().is_some_and(|urls| urls[0].is_secured());
    let tls = tls::upstream_of(table, inside);
    let urls = urls?;
    if !inside {
        for key in TLS {
            if table.has(key) {
                let what = "means nothing, for no URL of `etcd` begins with `https://`";
                table.fault(key, what, format!("write `https://`, as in `{}`", https(&urls[0])));
            }
        }
    } else if tls.is_none() {
        // What is wrong is noted.
        return None;
    }
    Some(Etcd { urls, tls, login: login? })
}

/// At least one URL, each once, all inside TLS or none.
fn urls(table: &Table<'_>) -> Option<Vec<BaseUrl>> {
    let members = table.need_list("etcd", "etcd = [\"http://10.0.1.4:2379\"]", member)?;
    for (index, (url, place)) in members.iter().enumerate() {
        let before = members.get(..index).unwrap_or_default();
        if before.iter().any(|(other, _)| other == url) {
            let what = format!("`{}` names `{url}` twice", table.path_of("etcd"));
            table.fault_at(place.clone(), what, "name each member once");
        }
        if before.first().is_some_and(|(first, _)| first.is_secured() != url.is_secured()) {
            let what = format!("`{}` names `{}` and `{url}`", table.path_of("etcd"), members[0].0);
            table.fault_at(place.clone(), what, "write `https://` for all members, or `http://` for all");
            return None;
        }
    }
    (!members.is_empty()).then(|| members.into_iter().map(|(url, _)| url).collect())
}

/// `http://HOST:PORT` or `https://HOST:PORT`.
fn member(given: &Given<'_>) -> Result<BaseUrl, Wrong> {
    let Some(rest) = text(given)?.strip_prefix("https://") else { return base_url(given) };
    match rest.parse::<Address>() {
        Ok(address) => Ok(BaseUrl::https(&address.host, address.port)),
        Err(error) => Err(Wrong::new(format!("is `https://{rest}`"), error.to_string())),
    }
}

fn https(url: &BaseUrl) -> String {
    url.as_str().replacen("http://", "https://", 1)
}

/// A user with a password. The outer `None` is a fault, the inner one that there is none.
#[expect(clippy::option_option, reason = "wrong, and not there")]
fn login(table: &Table<'_>) -> Option<Option<Login>> {
    let user = table.opt("username", |given| {
        let user = text(given)?;
        let good = user.len() <= LONGEST && !user.chars().any(char::is_control);
        good.then(|| user.to_owned()).ok_or_else(|| {
            Wrong::new(format!("is no name of at most {LONGEST} bytes"), "write the name of a user of etcd's")
        })
    });
    let said = table.opt("password", |given| match given {
        Given::Text(text) if text.len() <= LONGEST && !text.is_empty() => Ok(Some(Secret::new(*text))),
        Given::Text(_) => Err(Wrong::new(
            "is empty or too long",
            format!("give it the user's password, at most {LONGEST} bytes"),
        )),
        Given::File(_) => Ok(None),
    });
    let of_file = table.opt("password_file", |given| {
        let file = path(given)?;
        Ok(Secret::new(secret(&file)?).of_file("password_file", &file))
    });
    if let Some(None) = said {
        // In no line: a fault shows the line that it is in.
        let what =
            format!("`{}` is written in this file, for everybody who reads it", table.path_of("password"));
        table.fault_at(Place::File, what, "write it to a file of its own and name that in `password_file`");
        return None;
    }
    let password = said.flatten().or(of_file);
    match (user, password) {
        (Some(user), Some(password)) => Some(Some(Login { user, password })),
        (None, None) => match ["username", "password", "password_file"].iter().any(|key| table.has(key)) {
            // What is wrong with it is noted.
            true => None,
            false => Some(None),
        },
        (Some(_), None) => {
            if !table.has("password") && !table.has("password_file") {
                table.missing("password_file", "password_file = \"/etc/switchyard/etcd.password\"");
            }
            None
        }
        (None, Some(_)) => {
            if !table.has("username") {
                table.missing("username", "username = \"switchyard\"");
            }
            None
        }
    }
}

/// `cluster`: which cloud's keys.
pub(super) fn cluster(table: &Table<'_>) -> String {
    table.or("cluster", "main".to_owned(), |given| {
        named::<ServiceName>(given).map(|name| name.as_str().to_owned())
    })
}
