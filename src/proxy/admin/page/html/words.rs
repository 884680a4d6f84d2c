//! Numbers and times as people read them.

use std::time::Duration;

use crate::model::Timestamp;

/// `1.5 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || value >= 100.0 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

/// `12 MiB/s`.
pub(super) fn speed(per_second: f64) -> String {
    format!("{}/s", bytes(per_second.max(0.0) as u64))
}

/// `12.3/s`; none while it is not known.
pub(super) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "–".into(),
        Some(0.0) => "0/s".into(),
        Some(rate) if rate < 0.1 => "<0.1/s".into(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}/s"),
        Some(rate) => format!("{rate:.0}/s"),
    }
}

/// `3 min`: one unit, for it is read at a glance.
pub(super) fn lasting(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// `12:30:05 UTC`, with the date when that is another than today's.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> String {
    let text = at.to_string();
    let Some((date, time)) = text.split_once('T') else { return text };
    let time = time.get(..8).unwrap_or(time);
    if now.to_string().starts_with(date) { format!("{time} UTC") } else { format!("{date} {time} UTC") }
}

/// `1 server`, `2 servers`.
pub(super) fn several(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_wrong_by_a_unit() {
        let of = [0, 1023, 1024, 1536, 102_400, 60 << 30, u64::MAX].map(bytes);
        assert_eq!(of, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "100 KiB", "60.0 GiB", "16384 PiB"]);
        let of = [None, Some(0.0), Some(0.01), Some(1.25), Some(99.94), Some(1234.5)].map(rate);
        assert_eq!(of, ["–", "0/s", "<0.1/s", "1.2/s", "99.9/s", "1234/s"]);
        let of = [0, 119, 120, 7199, 7200, 172_800].map(|seconds| lasting(Duration::from_secs(seconds)));
        assert_eq!(of, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let at = |text| Timestamp::parse(text).unwrap();
        let now = at("2026-03-02T00:00:09Z");
        assert_eq!(moment(at("2026-03-02T00:00:01.5Z"), now), "00:00:01 UTC");
        assert_eq!(moment(at("2026-03-01T23:59:59Z"), now), "2026-03-01 23:59:59 UTC");
    }
}
