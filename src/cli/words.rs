//! Words that several commands print and read.

use std::time::Duration;

/// So many of these: `1 layer`, `2 layers`, `2 registries`.
pub(super) fn counted(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {what}s"),
    }
}

/// The longest time that makes sense, and that a clock can be moved on by.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A time, as it is given: `30s`, `1h 30m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err("it is at most 100 years; write it like `30s` or `1h30m`".into()),
        parsed => parsed.map_err(|error| format!("{error}; write it like `30s` or `1h30m`")),
    }
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,%=@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_counted() {
        assert_eq!(
            [counted(1, "layer"), counted(0, "layer"), counted(2, "registry")],
            ["1 layer", "0 layers", "2 registries"]
        );
    }

    #[test]
    fn a_time_that_is_none_is_answered_with_one_that_is() {
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["x", "", "5", "-1s"] {
            assert!(time(bad).unwrap_err().contains("like `30s`"), "{bad}");
        }
    }

    #[test]
    fn a_shell_reads_one_word() {
        for plain in ["/srv/vm", "http://front:8090,http://b:1", "20%"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
