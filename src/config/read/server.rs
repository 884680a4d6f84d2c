//! Tables that several roles have.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::tls;
use crate::{
    config::{
        Address, DEFAULT_GRACE, Log, Server,
        raw::{Raw, Table},
        value::{Given, Wrong, address, duration_in, listen, one_of, path, text},
    },
    telemetry::{Access, LogFormat},
};

/// `[server]`; `example` is a whole line for `listen`.
pub(super) fn server<'r>(raw: &'r Raw<'r>, example: &str) -> Option<Server> {
    let grace = grace(raw);
    let table = raw.section("server");
    let listen = table.need("listen", example, listen);
    let name = table.opt("name", name_of);
    let address_file = table.opt("address_file", path);
    let advertise = table.opt("advertise", reachable);
    let zone = table.opt("zone", name_of);
    let secured = table.sub_with_variables("tls", "server_tls");
    let given = secured.is_given();
    let tls = tls::server_of(&secured, false);
    let listen = listen?;
    let name = name.unwrap_or_else(|| default_name(listen));
    // One that was told to speak TLS must not speak plainly.
    (tls.is_some() || !given).then_some(Server { listen, name, grace, address_file, advertise, zone, tls })
}

/// An address that others can connect to.
fn reachable(given: &Given<'_>) -> Result<Address, Wrong> {
    let address = address(given)?;
    match address.host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            let right = "name one of this machine's addresses, like `10.0.1.4:8090`";
            Err(Wrong::new(format!("is `{address}`, to which nobody can connect"), right))
        }
        _ => Ok(address),
    }
}

fn name_of(given: &Given<'_>) -> Result<String, Wrong> {
    crate::config::value::named::<crate::model::RegistryName>(given).map(|name| name.as_str().to_owned())
}

/// The host's name and the port: different for each server of a usual cloud. A port that is not chosen yet
/// says nothing, the process does.
pub(super) fn default_name(listen: SocketAddr) -> String {
    match listen.port() {
        0 => format!("{}-pid-{}", host_name(), std::process::id()),
        port => format!("{}-{port}", host_name()),
    }
}

/// This machine's name, brought to the letters a name may have.
pub(super) fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().map(|c| if ok(c) { c } else { '-' }).take(48).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// `[shutdown]`.
pub(super) fn grace<'r>(raw: &'r Raw<'r>) -> Duration {
    grace_of(&raw.section("shutdown"))
}

/// What every `[shutdown]` has.
pub(super) fn grace_of(table: &Table<'_>) -> Duration {
    table.or("grace", DEFAULT_GRACE, duration_in(Duration::ZERO..=DAY))
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[log]`, of a role without an access log.
pub(super) fn log<'r>(raw: &'r Raw<'r>) -> Log {
    log_of(&raw.section("log"))
}

/// What every `[log]` has.
pub(super) fn log_of(table: &Table<'_>) -> Log {
    let default = Log::default();
    let format = one_of(&[("json", LogFormat::Json), ("human", LogFormat::Human)]);
    Log {
        format: table.or("format", default.format, format),
        filter: table.or("filter", default.filter, filter),
    }
}

/// `access` of a `[log]` that has it.
pub(super) fn access(given: &Given<'_>) -> Result<Access, Wrong> {
    match text(given)? {
        "off" => Ok(Access::Off),
        "stdout" => Ok(Access::Stdout),
        file if file.contains('/') => Ok(Access::File(file.into())),
        other => Err(Wrong::new(
            format!("is `{other}`"),
            format!("use `off`, `stdout`, or a file with a slash in it: `./{other}`"),
        )),
    }
}

fn filter(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    match crate::telemetry::check_filter(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(
            format!("cannot be read: {error}"),
            "write it like `info` or `info,switchyard::proxy=debug`",
        )),
    }
}
