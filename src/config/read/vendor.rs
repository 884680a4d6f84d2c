//! `logs` and `[service.NAME.catalogue]`: what a proxy is told of the vendor's registries.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::replicas;
use crate::config::{
    proxy::{Freshness, Kind, Lists, Reads, Secret, Upstream, Vendor},
    raw::Table,
    report::Place,
    value::{Wrong, duration_in, path, text},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Longest secret that is taken out of a file.
const SECRET: u64 = 16 * 1024;

pub(super) fn read(
    table: &Table<'_>,
    kind: Option<Kind>,
    reads: Reads,
    upstreams: Option<&[(Upstream, Place)]>,
) -> Vendor {
    let logs = table.opt("logs", |given| text(given).map(str::to_owned));
    let catalogue = table.sub("catalogue");
    let lists = lists(&catalogue);
    let registries = kind != Some(Kind::Controller);
    if !registries && table.has("logs") {
        table.fault("logs", "is given for controllers", "only registries collect logs: delete it");
    }
    if reads.freshness != Freshness::Catalogue && catalogue.is_given() {
        let right = "delete it, or use `freshness = \"catalogue\"`";
        table.fault("catalogue", "means nothing: reads do not go by lists", right);
    }
    let place = logs.filter(|_| registries).and_then(|name| replicas::place(table, "logs", &name, upstreams));
    let logs = place.and_then(|place| upstreams?.get(place)).map(|(upstream, _)| upstream.name.clone());
    Vendor { logs, lists }
}

fn lists(table: &Table<'_>) -> Lists {
    let default = Lists::default();
    let token = table.opt("token_file", |given| {
        let file = path(given)?;
        // The user's name does not matter to the vendor's servers.
        let basic = format!("Basic {}", STANDARD.encode(format!("root:{}", secret(&file)?)));
        Ok(Secret::new(basic).of_file("token_file", &file))
    });
    let authorization = table.opt("authorization_file", |given| {
        let file = path(given)?;
        Ok(Secret::new(secret(&file)?).of_file("authorization_file", &file))
    });
    if table.has("token_file") && table.has("authorization_file") {
        let right = "give the root token, or the whole value of `Authorization`";
        table.fault("authorization_file", "is given beside `token_file`", right);
    }
    Lists {
        interval: table.or("interval", default.interval, duration_in(SECOND / 10..=MINUTE * 5)),
        timeout: table.or("timeout", default.timeout, duration_in(SECOND / 100..=MINUTE)),
        cache: table.or("cache", default.cache, duration_in(Duration::ZERO..=MINUTE * 10)),
        authorization: token.or(authorization),
    }
}

/// What is in a file of one line. No fault shows any of it.
pub(super) fn secret(file: &Path) -> Result<String, Wrong> {
    let shown = file.display();
    let wrong = |why: String| Wrong::new(format!("is `{shown}`, which {why}"), "name a file with one line");
    let size = std::fs::metadata(file).map_err(|error| wrong(format!("cannot be read ({error})")))?.len();
    if size > SECRET {
        return Err(wrong(format!("has {size} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(wrong("is empty".into()));
    }
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(wrong("has more than one line, or a character that no header may have".into()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_of_a_file_and_no_fault_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let with = |content: &str| {
            std::fs::write(&file, content).unwrap();
            secret(&file).map_err(|wrong| format!("{wrong:?}"))
        };
        assert_eq!(with("verySecret10\n"), Ok("verySecret10".into()));
        for bad in ["", " \n", "verySecret10\nverySecret11", "verySecr\u{e9}t", &"verySecret".repeat(2000)] {
            let fault = with(bad).unwrap_err();
            assert!(!fault.contains("verySec") && fault.contains("token"), "{fault}");
        }
        assert!(format!("{:?}", secret(Path::new("/nowhere/token"))).contains("cannot be read"));
    }
}
