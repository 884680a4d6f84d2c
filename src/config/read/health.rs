//! `[service.NAME.health]` and `[service.NAME.passive]`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use toml::de::DeValue;

use crate::config::{
    proxy::{Health, HttpProbe, Passive, ProbeKind, ProbeMethod},
    raw::Table,
    value::{Given, Wrong, duration_in, fraction, one_of, status, text, whole},
};

/// A probe that lasts longer than so many intervals makes the word `interval` a lie.
const MOST_INTERVALS: u32 = 10;
/// So much of a body must be enough to find a text in.
const LOOKED_AT: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);
const MILLI: Duration = Duration::from_millis(1);

/// `tls`: the upstreams speak it, and probes with them.
pub(super) fn health(table: &Table<'_>, tls: bool) -> Health {
    let default = Health::default();
    let tcp = table.or("kind", false, |given| match (text(given)?, tls) {
        ("https", false) => {
            let right = "add `tls = { ca = \"ca.pem\" }` to the service: probes go where requests go";
            Err(Wrong::new("is `https`, and the service has no `tls`", right))
        }
        ("http", true) => {
            let right = "write `https` or delete the key: probes go where requests go";
            Err(Wrong::new("is `http`, and the service has `tls`", right))
        }
        _ => one_of(&[("http", false), ("https", false), ("tcp", true)])(given),
    });
    let http = http(table);
    if tcp {
        for key in ["method", "path", "host", "headers", "status", "json", "text"] {
            if table.has(key) {
                table.fault(
                    key,
                    "means nothing with `kind = \"tcp\"`",
                    "delete it, or use `kind = \"http\"`",
                );
            }
        }
    }
    let kind = if tcp { ProbeKind::Tcp } else { ProbeKind::Http(http) };
    let health = Health {
        kind,
        interval: table.or("interval", default.interval, duration_in(MILLI * 10..=MINUTE * 60)),
        timeout: table.or("timeout", default.timeout, duration_in(MILLI * 10..=MINUTE * 10)),
        rise: table.or("rise", default.rise, whole(1..=100)),
        fall: table.or("fall", default.fall, whole(1..=100)),
    };
    if health.timeout > health.interval * MOST_INTERVALS {
        let [timeout, interval] = [health.timeout, health.interval].map(humantime::format_duration);
        let key = if table.has("timeout") { "timeout" } else { "interval" };
        let what = format!("lets a probe last {timeout} while one is due each {interval}");
        table.fault(key, what, format!("use at most {MOST_INTERVALS} intervals as `timeout`"));
    }
    health
}

fn http(table: &Table<'_>) -> HttpProbe {
    use ProbeMethod::{Get, Head, Options};
    let default = HttpProbe::default();
    let status = table.list("status", status);
    if status.as_ref().is_some_and(Vec::is_empty) {
        table.fault("status", "is empty", "no answer would be good: name at least one, like `[200]`");
    }
    let http = HttpProbe {
        method: table.or("method", Get, one_of(&[("GET", Get), ("HEAD", Head), ("OPTIONS", Options)])),
        path: table.or("path", default.path, probe_path),
        host: table.opt("host", |given| text(given).map(str::to_owned)),
        headers: headers(&table.sub("headers")),
        status: status.map_or(default.status, |all| all.into_iter().map(|(status, _)| status).collect()),
        json: json(&table.sub("json")),
        text: table.opt("text", wanted_text),
        // Of the service's, which knows it.
        sign: None,
    };
    if http.method == Head {
        for key in ["json", "text"] {
            if table.has(key) {
                let right = "delete it, or use `method = \"GET\"`";
                table.fault(key, "looks at a body, and the answer to `HEAD` has none", right);
            }
        }
    }
    http
}

fn wanted_text(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if text.len() > LOOKED_AT {
        let right = format!("use at most {LOOKED_AT} bytes that stand near the beginning of the body");
        return Err(Wrong::new("is too long", right));
    }
    Ok(text.to_owned())
}

/// Fields that are the prober's own, and what would be right.
const OWN: [(&str, &str); 8] = [
    ("host", "write it as `host`, beside `path`"),
    ("connection", "delete it: each probe has a connection of its own"),
    ("upgrade", "delete it: a probe speaks HTTP/1.1"),
    ("te", "delete it: trailers are not looked at"),
    ("expect", "delete it: a probe has no body"),
    ("content-length", "delete it: a probe has no body"),
    ("transfer-encoding", "delete it: a probe has no body"),
    ("trailer", "delete it: a probe has no body"),
];

fn headers(table: &Table<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut found: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, place, value) in table.entries() {
        let path = table.path_of(name);
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            let right = "use letters, digits and `-`";
            table.fault_at(place, format!("`{path}` is no name of a header"), right);
            continue;
        };
        if let Some((_, right)) = OWN.iter().find(|(own, _)| header == *own) {
            table.fault_at(place, format!("`{path}` is set by the prober"), *right);
            continue;
        }
        if found.iter().any(|(other, _)| *other == header) {
            table.fault_at(place, format!("`{path}` is given twice"), "write it once: case does not count");
            continue;
        }
        let DeValue::String(text) = value else {
            let what = format!("`{path}` is {}, not text", Given::File(value).kind());
            table.fault_at(place, what, "write it in quotes");
            continue;
        };
        match HeaderValue::from_str(text) {
            Ok(mut value) => {
                // It may be a password.
                value.set_sensitive(true);
                found.push((header, value));
            }
            Err(_) => {
                let right = "use visible ASCII characters and blanks";
                table.fault_at(place, format!("`{path}` has a character that no header may have"), right);
            }
        }
    }
    found
}

/// `[service.NAME.passive]`, and the bounds beside it.
pub(super) fn passive(service: &Table<'_>) -> Passive {
    let (default, table) = (Passive::default(), service.sub("passive"));
    let second = Duration::from_secs(1);
    let passive = Passive {
        failures: table.or("failures", default.failures, whole(1..=10_000)),
        ratio: table.or("ratio", default.ratio, fraction(0.01..=1.0)),
        requests: table.or("requests", default.requests, whole(1..=1_000_000)),
        window: table.or("window", default.window, duration_in(second..=MINUTE * 10)),
        ejection: table.or("ejection", default.ejection, duration_in(MILLI * 100..=MINUTE * 60)),
        longest: table.or("longest", default.longest, duration_in(MILLI * 100..=MINUTE * 60 * 24)),
        max_ejected: service.or("max_ejected", default.max_ejected, fraction(0.0..=1.0)),
        panic_threshold: service.or("panic_threshold", default.panic_threshold, fraction(0.0..=1.0)),
    };
    if passive.longest < passive.ejection {
        let key = if table.has("longest") { "longest" } else { "ejection" };
        let [longest, first] = [passive.longest, passive.ejection].map(humantime::format_duration);
        let what = format!("makes the longest ejection ({longest}) shorter than the first ({first})");
        table.fault(key, what, "use a `longest` of at least `ejection`");
    }
    passive
}

fn probe_path(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if !text.starts_with('/') {
        return Err(Wrong::new(format!("is `{text}`"), format!("begin it with a slash: `/{text}`")));
    }
    if text.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
        return Err(Wrong::new("has a character that no path has", "write blanks and the like as `%20`"));
    }
    Ok(text.to_owned())
}

fn json(table: &Table<'_>) -> Vec<(String, serde_json::Value)> {
    let entries = table.entries();
    let mut wanted = Vec::with_capacity(entries.len());
    for (pointer, place, value) in entries {
        // RFC 6901, section 3: a pointer is empty or begins with a slash.
        if !pointer.is_empty() && !pointer.starts_with('/') {
            let what = format!("`{}` is no JSON pointer", table.path_of(pointer));
            table.fault_at(
                place,
                what,
                format!("begin it with a slash: `\"/{}\"`", pointer.replace('.', "/")),
            );
            continue;
        }
        match scalar(value) {
            Some(value) => wanted.push((pointer.to_owned(), value)),
            None => {
                let what = format!("`{}` is {}", table.path_of(pointer), Given::File(value).kind());
                table.fault_at(place, what, "compare with text, a number, true or false");
            }
        }
    }
    wanted
}

fn scalar(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Boolean(flag) => Some((*flag).into()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Into::into),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok().map(Into::into),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
