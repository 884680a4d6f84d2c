//! `agent.toml`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{server, tls};
use crate::{
    config::{
        agent::{Agent, ApiKey, Driver, ProcessDriver, Reserve, Update},
        raw::{Raw, Table},
        value::{
            Given, Wrong, base_url, bytes, duration, duration_in, flag, named, one_of, path, text, time,
            whole,
        },
    },
    tls::rsa::PrivateKey,
    wire::node::CapacityMode,
};

/// Where an agent keeps its things if nothing is said.
const DATA: &str = "/var/lib/switchyard-agent";
/// Apple's licence allows two macOS VMs on a Mac; the vendor's default as well.
const CAPACITY: u32 = 2;
/// The vendor's default interval; its advice for weak load balancers is above 20 s.
const HEARTBEAT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// A package is fetched and unpacked.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(600);
/// Below what a controller gives a command of which nothing is heard (`timeouts.command`).
const LONGEST_UPDATE: Duration = Duration::from_secs(3000);
/// Instance names begin with it; the vendor's word, so that operators' scripts keep finding them.
const VM_PREFIX: &str = "mgmtManaged";
/// Of the disk, kept free when pulling.
const RESERVE: Reserve = Reserve::Share(0.2);
/// A poll parks for 10 s; a shorter limit would cut every one of them.
const SHORTEST_REQUEST: Duration = Duration::from_secs(12);

/// What runs VMs in later versions.
const PLANNED_DRIVERS: [&str; 3] = ["anka", "tart", "qemu"];

pub(in crate::config) fn agent<'r>(raw: &'r Raw<'r>) -> Option<Agent> {
    let log = server::log(raw);
    let grace = server::grace(raw);
    let table = raw.section("agent");
    let controllers = table.need_list("controllers", "controllers = [\"http://front:8090\"]", base_url);
    let driver = driver(&table);
    let hour = Duration::from_secs(3600);
    let second = Duration::from_secs(1);
    let agent = Agent {
        controllers: Vec::new(),
        driver,
        data: table.or("data", PathBuf::from(DATA), path),
        node_id: table.opt("node_id", named),
        name: table.opt("name", plain).unwrap_or_else(server::host_name),
        host: table.opt("host", host).unwrap_or_else(crate::config::server::own_address),
        capacity: table.or("capacity", CAPACITY, whole(0..=10_000)),
        capacity_mode: table.or(
            "capacity_mode",
            CapacityMode::Number,
            one_of(&[("number", CapacityMode::Number), ("resource", CapacityMode::Resource)]),
        ),
        force_overrides: table.or("force_overrides", false, flag),
        groups: table.list("groups", plain).unwrap_or_default().into_iter().map(|(name, _)| name).collect(),
        drain_mode: table.or("drain_mode", false, flag),
        heartbeat: table.or("heartbeat", HEARTBEAT, duration_in(Duration::from_millis(100)..=second * 60)),
        request_timeout: table.or("request_timeout", REQUEST_TIMEOUT, duration_in(SHORTEST_REQUEST..=hour)),
        dial_timeout: table.or("dial_timeout", DIAL_TIMEOUT, duration_in(Duration::from_millis(10)..=hour)),
        reserve: table.or("reserve", RESERVE, reserve),
        vm_prefix: table.or("vm_prefix", VM_PREFIX.to_owned(), vm_prefix),
        start_timeout: table.or("start_timeout", START_TIMEOUT, time),
        authorization: table.opt("token_file", super::auth::shown),
        api_key: api_key(&table)?,
        update: update(&table),
        tls: tls::of_agent(
            &table,
            "agent_tls",
            controllers.iter().flatten().any(|(url, _)| url.is_secured()),
        )?,
        log,
        grace,
    };
    let controllers = controllers?;
    for (index, (url, place)) in controllers.iter().enumerate() {
        if controllers.iter().take(index).any(|(other, _)| other == url) {
            let what = format!("`agent.controllers` names `{url}` twice");
            table.fault_at(place.clone(), what, "name each one once");
        }
    }
    Some(Agent { controllers: controllers.into_iter().map(|(url, _)| url).collect(), ..agent })
}

fn update(table: &Table<'_>) -> Option<Update> {
    let table = table.sub("update");
    let command = table.has("command").then(|| {
        let example = "command = [\"/usr/local/sbin/update-agent\"]";
        let word = |given: &Given<'_>| match text(given)? {
            "" => Err(Wrong::new("is empty", "delete it, or write what it was to be")),
            word => Ok(word.to_owned()),
        };
        table.need_list("command", example, word)
    });
    let timeout = table.or("timeout", UPDATE_TIMEOUT, duration_in(Duration::from_secs(1)..=LONGEST_UPDATE));
    let command = command.flatten()?.into_iter().map(|(word, _)| word).collect();
    Some(Update { command, timeout })
}

/// The outer `None` is a fault, the inner one that there is none.
#[expect(clippy::option_option, reason = "wrong, and not there")]
fn api_key(table: &Table<'_>) -> Option<Option<ApiKey>> {
    let id = table.opt("api_key_id", named);
    let file = table.opt("api_key_file", |given| {
        let file = path(given)?;
        let right = "name a file with the private half of the key, as the server gave it away or `openssl genrsa` made it";
        PrivateKey::read_file(&file)
            .map_err(|why| Wrong::new(format!("is `{}`, which {why}", file.display()), right))?;
        Ok(file)
    });
    match (table.has("api_key_id"), table.has("api_key_file")) {
        (false, false) => return Some(None),
        (true, false) => table.missing("api_key_file", "api_key_file = \"/etc/switchyard/node.key\""),
        (false, true) => table.missing("api_key_id", "api_key_id = \"node\""),
        (true, true) if table.has("token_file") => {
            table.fault("token_file", "is given beside an API key", "delete one of them: it signs in by one");
            return None;
        }
        (true, true) => {}
    }
    Some(Some(ApiKey { id: id?, file: file? }))
}

fn driver(table: &Table<'_>) -> Driver {
    table.opt("driver", |given| {
        let word = text(given)?;
        if PLANNED_DRIVERS.contains(&word) {
            return Err(Wrong::new(format!("`{word}` is not supported by this version"), "use `process`"));
        }
        one_of(&[("process", ())])(given)
    });
    let process = table.sub("process");
    let default = ProcessDriver::default();
    Driver::Process(ProcessDriver {
        start_delay: process.or("start_delay", default.start_delay, duration),
        pull_delay: process.or("pull_delay", default.pull_delay, duration),
        fail_starts: process.or("fail_starts", default.fail_starts, flag),
        vanish_after: process.or("vanish_after", default.vanish_after, duration),
        usb_devices: process
            .list("usb_devices", plain)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        program: None,
    })
}

/// A name that people give: no control characters, no commas (the flag's separator), and short.
fn plain(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if text.len() > 128 || text.chars().any(|c| c.is_control() || c == ',') {
        return Err(Wrong::new("is no name", "use at most 128 characters, without commas"));
    }
    Ok(text.to_owned())
}

fn host(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    // The rule for host names is that of `host:port`.
    match format!("{text}:1").parse::<crate::config::Address>() {
        Ok(address) => Ok(address.host),
        Err(error) => Err(Wrong::new(format!("is `{text}`"), format!("{error}; write it without a port"))),
    }
}

fn vm_prefix(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err(Wrong::new(format!("is `{text}`"), "use letters, digits, `.`, `_`, `-`; no blanks"));
    }
    Ok(text.to_owned())
}

fn reserve(given: &Given<'_>) -> Result<Reserve, Wrong> {
    if let Given::Text(_) | Given::File(toml::de::DeValue::String(_)) = given
        && let Some(share) = text(given)?.strip_suffix('%')
    {
        return match share.trim().parse::<f64>() {
            Ok(share) if (0.0..=90.0).contains(&share) => Ok(Reserve::Share(share / 100.0)),
            _ => Err(Wrong::new(format!("is `{share}%`"), "use `0%` to `90%`, or a size like `45GB`")),
        };
    }
    bytes(given)
        .map(Reserve::Bytes)
        .map_err(|wrong| Wrong { right: "write it like `20%` or `45GB`".into(), ..wrong })
}
