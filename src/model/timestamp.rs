//! Wall-clock moments as the APIs write them: RFC 3339 in UTC with nanoseconds.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// The text is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time")]
pub struct TimestampError(String);

/// A moment on the wall clock. "Never" is [`Timestamp::NEVER`], as the vendor's Go services write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Go's zero time, `0001-01-01T00:00:00Z`.
    pub const NEVER: Self = Self(time::macros::datetime!(0001-01-01 00:00 UTC));

    /// From a date and time, brought to UTC.
    pub fn from_utc(at: OffsetDateTime) -> Self {
        Self(at.to_offset(UtcOffset::UTC))
    }

    /// Reads RFC 3339 with any offset.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self::from_utc)
            .map_err(|_| TimestampError(text.chars().take(64).collect()))
    }

    /// Seconds since 1970, as the registry's `last_pull` and `last_push` are written.
    pub fn unix_seconds(&self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Milliseconds since 1970: what orders a queue.
    pub fn unix_millis(&self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
    }

    /// Nanoseconds since 1970, as traces want them; 0 before that.
    pub fn unix_nanos(&self) -> u64 {
        u64::try_from(self.0.unix_timestamp_nanos()).unwrap_or(0)
    }

    /// From seconds since 1970; out-of-range numbers become [`Timestamp::NEVER`].
    pub fn from_unix_seconds(seconds: i64) -> Self {
        OffsetDateTime::from_unix_timestamp(seconds).map_or(Self::NEVER, Self)
    }

    /// How long ago `earlier` was; zero when the clock was set back in between.
    pub fn since(&self, earlier: Self) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or(Duration::ZERO)
    }

    /// As HTTP writes it: `Sun, 04 Jan 2026 09:25:42 GMT` (RFC 9110, 5.6.7).
    pub fn http_date(&self) -> String {
        let form = time::macros::format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        );
        // Every moment has these parts.
        self.0.format(&form).unwrap_or_default()
    }

    /// This moment less a while.
    pub fn minus(&self, while_: Duration) -> Self {
        Self(self.0.saturating_sub(time::Duration::try_from(while_).unwrap_or(time::Duration::MAX)))
    }

    /// This moment and a while.
    pub fn plus(&self, while_: Duration) -> Self {
        Self(self.0.saturating_add(time::Duration::try_from(while_).unwrap_or(time::Duration::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;
    fn try_from(text: String) -> Result<Self, TimestampError> {
        Self::parse(&text)
    }
}

impl From<Timestamp> for String {
    fn from(at: Timestamp) -> String {
        at.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_times_with_offsets_and_nanoseconds_are_read() {
        let at = Timestamp::parse("2026-01-04T09:25:42.100200-05:00").unwrap();
        assert_eq!(at.to_string(), "2026-01-04T14:25:42.1002Z");
        assert_eq!(Timestamp::parse("0001-01-01T00:00:00Z").unwrap(), Timestamp::NEVER);
        assert_eq!(Timestamp::NEVER.to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn http_has_its_own_way_to_write_a_date() {
        let at = Timestamp::parse("2026-01-04T09:25:42.1Z").unwrap();
        assert_eq!(at.http_date(), "Sun, 04 Jan 2026 09:25:42 GMT");
    }

    #[test]
    fn an_empty_text_is_no_time() {
        assert!(Timestamp::parse("").is_err());
    }

    #[test]
    fn a_clock_set_back_gives_zero_not_a_panic() {
        let now = Timestamp::from_unix_seconds(1000);
        assert_eq!(now.since(Timestamp::from_unix_seconds(2000)), Duration::ZERO);
        assert_eq!(now.since(Timestamp::from_unix_seconds(400)), Duration::from_secs(600));
    }
}
