//! Times and sizes, as they are written there and here.

use std::time::Duration;

/// A time of nginx: `1h 30m`, `60s`, `500ms`, or seconds without a unit.
/// (nginx documentation, "Configuration file measurement units".)
pub(super) fn nginx_time(text: &str) -> Option<Duration> {
    time(text, Duration::from_secs(1))
}

/// A time of haproxy: `5s`, `500ms`, `1m`, or milliseconds without a unit.
/// (haproxy configuration manual, "Time format".)
pub(super) fn haproxy_time(text: &str) -> Option<Duration> {
    time(text, Duration::from_millis(1))
}

fn time(text: &str, plain: Duration) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match rest.get(..letters)? {
            "" => plain,
            "us" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(24 * 3600),
            "w" => Duration::from_secs(7 * 24 * 3600),
            "M" => Duration::from_secs(30 * 24 * 3600),
            "y" => Duration::from_secs(365 * 24 * 3600),
            _ => return None,
        };
        sum = sum.checked_add(unit.checked_mul(number)?)?;
        rest = rest.get(letters..)?.trim_start();
    }
    Some(sum)
}

/// Bytes of `32k`, `8m`, `1g`, or without a unit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (number, text.as_bytes().last()?),
        None => (text.as_str(), &b'b'),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time between probes, within what can be configured.
pub(super) fn interval(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(10), Duration::from_secs(600))
}

/// A time as our configs have it.
pub(super) fn ours(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A time that was written by `ours`, in quotes.
pub(super) fn read_back(quoted: &str) -> Option<Duration> {
    humantime::parse_duration(quoted.trim_matches('"')).ok()
}

/// A size as our configs have it.
pub(super) fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_are_read() {
        assert_eq!(nginx_time("60"), Some(Duration::from_secs(60)));
        assert_eq!(nginx_time("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(nginx_time("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(haproxy_time("2000"), Some(Duration::from_secs(2)));
        assert_eq!(haproxy_time("10s"), Some(Duration::from_secs(10)));
        for bad in ["", "x", "5q", "5 s", "99999999999", "-1", "1y999999999999y"] {
            assert_eq!(nginx_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!((bytes("0"), bytes("32k"), bytes("20G")), (Some(0), Some(32 << 10), Some(20 << 30)));
        assert_eq!((bytes(""), bytes("k"), bytes("1t"), bytes("99999999999g")), (None, None, None, None));
        assert_eq!(
            (size(32 << 10), size(1 << 30), size(1500)),
            ("32KiB".into(), "1GiB".into(), "1500B".into())
        );
    }
}
