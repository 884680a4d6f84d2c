//! `[service.NAME.timeouts]`.

use std::time::Duration;

use crate::config::{
    raw::Table,
    timeouts::{Floor, UpstreamTimeouts},
    value::{Given, Wrong, bytes, duration_in, text},
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A transfer that is slower than this is not slow, but an operator who has forgotten what the key is for.
const FASTEST: u64 = 1024 * 1024 * 1024;

pub(super) fn timeouts(table: &Table<'_>) -> UpstreamTimeouts {
    let default = UpstreamTimeouts::default();
    UpstreamTimeouts {
        connect: table.or("connect", default.connect, duration_in(MILLI * 10..=MINUTE)),
        tls: table.or("tls", default.tls, duration_in(MILLI * 10..=MINUTE)),
        first_byte: table.opt("first_byte", duration_in(SECOND..=DAY)),
        // Parked for 10 s by controllers of ours that are told nothing else.
        poll: table.or("poll", default.poll, duration_in(SECOND * 12..=DAY)),
        commit: table.or("commit", default.commit, duration_in(SECOND * 10..=DAY)),
        // A poll is parked for 10 s without a byte: a shorter limit would cut every one of them.
        idle: table.or("idle", default.idle, duration_in(SECOND * 12..=DAY)),
        floor: floor(table),
        keep_alive: table.or("keep_alive", default.keep_alive, duration_in(Duration::ZERO..=DAY)),
    }
}

fn floor(table: &Table<'_>) -> Option<Floor> {
    let rate = table.or("floor_rate", Some(Floor::RATE), rate);
    // Machines buffer: over less than a few seconds nobody can tell how fast the other side is.
    let window = table.or("floor_window", Floor::WINDOW, duration_in(SECOND * 5..=DAY));
    if rate.is_none() && table.has("floor_window") {
        table.fault(
            "floor_window",
            "is given, but `floor_rate` is `off`",
            "delete it, or give a rate like `\"4KiB/s\"`",
        );
    }
    rate.map(|rate| Floor { rate, window })
}

/// `"4KiB/s"`, or `"off"`.
fn rate(given: &Given<'_>) -> Result<Option<u64>, Wrong> {
    const LIKE: &str = "write it like `\"4KiB/s\"`, or `\"off\"`";
    let text = match text(given) {
        Ok("off") => return Ok(None),
        Ok(text) => text,
        Err(wrong) => return Err(Wrong::new(wrong.what, LIKE)),
    };
    let wrong = |right: &str| Wrong::new(format!("is `{text}`"), right);
    let size = text.strip_suffix("/s").ok_or_else(|| wrong(LIKE))?;
    let rate = bytes(&Given::Text(size)).map_err(|_| wrong(LIKE))?;
    match rate {
        0 => Err(wrong("write `\"off\"` for none")),
        1..=FASTEST => Ok(Some(rate)),
        _ => Err(wrong("use a rate up to `1GiB/s`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_per_second() {
        let of = |text| rate(&Given::Text(text)).map_err(|wrong| wrong.right);
        assert_eq!(of("4KiB/s"), Ok(Some(4096)));
        assert_eq!(of("1B/s"), Ok(Some(1)));
        assert_eq!(of("off"), Ok(None));
        for text in ["4KiB", "4KiB/m", "4096/s", "/s", "-1B/s", "fast", "", "4096"] {
            assert_eq!(of(text), Err("write it like `\"4KiB/s\"`, or `\"off\"`".into()), "{text}");
        }
        assert_eq!(of("0B/s"), Err("write `\"off\"` for none".into()));
        assert_eq!(of("2GiB/s"), Err("use a rate up to `1GiB/s`".into()));
    }
}
