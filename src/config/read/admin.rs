//! `[admin]`: where the admin API listens, the token that it asks for, and how much it remembers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::vendor::secret;
use crate::config::{
    proxy::{DECISIONS, Entry, Secret},
    raw::Table,
    report::Place,
    value::{Given, Wrong, listen, path, text, whole},
};

/// Loopback: the admin API can drain the cloud.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

const HOW: &str = "of at least 16 characters without blanks, like `openssl rand -hex 32` makes it";

pub(super) struct Admin {
    pub(super) listen: SocketAddr,
    /// Where that is written.
    pub(super) place: Place,
    pub(super) token: Option<Secret>,
    /// The file says that there is to be none.
    pub(super) tokenless: bool,
    pub(super) decisions: usize,
}

/// What `token` holds.
enum Said {
    Off,
    /// From a variable.
    Token(Secret),
    /// In the file: whoever reads a config would have it.
    Written,
}

pub(super) fn read(table: &Table<'_>) -> Admin {
    let listen = table.or("listen", LISTEN, listen);
    let place = table.at("listen");
    // More would make who asks hold up a thread for milliseconds.
    let decisions = table.or("decisions", DECISIONS, whole(0..=16_384));
    let said = table.opt("token", said);
    let of_file = table.opt("token_file", |given| {
        let file = path(given)?;
        let wrong = |why| {
            Wrong::new(
                format!("is `{}`, which {why}", file.display()),
                format!("name a file with one line {HOW}"),
            )
        };
        let token = Entry::token(&secret(&file)?).map_err(|why| wrong(format!("has a token that {why}")))?;
        Ok(token.of_file("token_file", &file))
    });
    let given = table.has("token") || table.has("token_file");
    let (tokenless, of_variable) = match said {
        Some(Said::Off) => (true, None),
        Some(Said::Token(token)) => (false, Some(token)),
        Some(Said::Written) => {
            // In no line: a fault shows the line that it is in.
            let what =
                format!("`{}` is written in this file, for everybody who reads it", table.path_of("token"));
            table.fault_at(
                Place::File,
                what,
                "write it to a file of its own and name that in `token_file`; `token` takes only \"off\"",
            );
            (false, None)
        }
        None => (false, None),
    };
    if tokenless && table.has("token_file") {
        table.fault("token", "is `off`, but `token_file` names one", "delete one of the two");
    }
    if !listen.ip().is_loopback() && !given {
        let what = format!(
            "`{}` is `{listen}`, which other machines reach, and nobody is asked for a token",
            table.path_of("listen")
        );
        let right = format!(
            "add `token_file = \"/etc/switchyard/admin.token\"` (one line {HOW}), listen on `127.0.0.1:{}`, or say \
             `token = \"off\"` if something else keeps strangers out",
            listen.port()
        );
        table.fault_at(place.clone(), what, right);
    }
    Admin { listen, place, token: of_variable.or(of_file), tokenless, decisions }
}

fn said(given: &Given<'_>) -> Result<Said, Wrong> {
    match (text(given)?, given) {
        ("off", _) => Ok(Said::Off),
        (written, Given::Text(_)) => match Entry::token(written) {
            Ok(token) => Ok(Said::Token(token)),
            Err(why) => Err(Wrong::new(why, format!("give it one {HOW}, or `off`"))),
        },
        (_, Given::File(_)) => Ok(Said::Written),
    }
}
