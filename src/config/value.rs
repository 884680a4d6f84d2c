//! From one written value to one checked value, or to what is wrong with it and what would be right.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use toml::de::DeValue;

use super::{Address, BaseUrl, suggest};

/// A value as given: in the file, or as the text of a variable.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'r> {
    /// In the file.
    File(&'r DeValue<'r>),
    /// In a variable.
    Text(&'r str),
}

/// What is wrong with a value (follows the key's name) and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) right: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, right: impl Into<String>) -> Self {
        Self { what: what.into(), right: right.into() }
    }
}

impl<'r> Given<'r> {
    /// With its article, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::File(DeValue::String(_)) => "text",
            Self::File(DeValue::Integer(_)) => "a number",
            Self::File(DeValue::Float(_)) => "a number with a fraction",
            Self::File(DeValue::Boolean(_)) => "true or false",
            Self::File(DeValue::Datetime(_)) => "a date",
            Self::File(DeValue::Array(_)) => "a list",
            Self::File(DeValue::Table(_)) => "a table",
        }
    }

    /// As it is written, for messages; long ones are cut.
    fn shown(&self) -> String {
        let text = match self {
            Self::Text(text) => (*text).to_owned(),
            Self::File(DeValue::String(text)) => text.to_string(),
            Self::File(DeValue::Integer(number)) => number.to_string(),
            Self::File(DeValue::Float(number)) => number.to_string(),
            Self::File(_) => self.kind().to_owned(),
        };
        text.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect()
    }

    fn as_number_text(&self) -> Option<String> {
        match self {
            Self::File(DeValue::Integer(number)) => Some(number.to_string()),
            Self::File(DeValue::Float(number)) => Some(number.to_string()),
            Self::Text(text) if text.parse::<f64>().is_ok() => Some((*text).to_owned()),
            _ => None,
        }
    }
}

/// Any text but an empty one.
pub(super) fn text<'r>(given: &Given<'r>) -> Result<&'r str, Wrong> {
    let text = match given {
        Given::Text(text) => {
            if text.contains(" #") || text.starts_with('#') {
                let right = "an environment file keeps what is behind `#` as part of the value: delete it";
                return Err(Wrong::new("has an inline `# comment` in it", right));
            }
            text
        }
        Given::File(DeValue::String(text)) => text.as_ref(),
        other => return Err(Wrong::new(format!("is {}, not text", other.kind()), "write it in quotes")),
    };
    if text.trim().is_empty() {
        return Err(Wrong::new("is empty", "give it a value or delete the key"));
    }
    if text.trim() != text {
        return Err(Wrong::new("has blanks around it", format!("write `{}`", text.trim())));
    }
    Ok(text)
}

/// A path of this machine.
pub(super) fn path(given: &Given<'_>) -> Result<PathBuf, Wrong> {
    text(given).map(PathBuf::from)
}

/// `true` or `false`.
pub(super) fn flag(given: &Given<'_>) -> Result<bool, Wrong> {
    match given {
        Given::File(DeValue::Boolean(value)) => Ok(*value),
        Given::Text("true") => Ok(true),
        Given::Text("false") => Ok(false),
        other => Err(Wrong::new(
            format!("is `{}`, not true or false", other.shown()),
            "write `true` or `false`, without quotes",
        )),
    }
}

/// A whole number within bounds.
pub(super) fn whole<T>(within: RangeInclusive<T>) -> impl Fn(&Given<'_>) -> Result<T, Wrong>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    move |given| {
        let range = format!("use a whole number from {} to {}", within.start(), within.end());
        let number: Option<i64> = match given {
            // `as_str` is without the radix sign; `Display` of a decimal number is the number.
            Given::File(DeValue::Integer(number)) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok()
            }
            Given::Text(text) => text.parse().ok(),
            other => return Err(Wrong::new(format!("is {}, not a whole number", other.kind()), range)),
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| within.contains(number))
            .ok_or_else(|| Wrong::new(format!("is `{}`", given.shown()), range))
    }
}

/// A number that may have a fraction, within bounds.
pub(super) fn fraction(within: RangeInclusive<f64>) -> impl Fn(&Given<'_>) -> Result<f64, Wrong> {
    move |given| {
        let range = format!("use a number from {} to {}", within.start(), within.end());
        let Some(text) = given.as_number_text() else {
            return Err(Wrong::new(format!("is {}, not a number", given.kind()), range));
        };
        text.parse()
            .ok()
            .filter(|number| within.contains(number))
            .ok_or_else(|| Wrong::new(format!("is `{}`", given.shown()), range))
    }
}

/// The longest duration that makes sense in any key; longer ones overflow deadlines.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration with a unit, zero included: `"1m30s"`.
pub(super) fn duration(given: &Given<'_>) -> Result<Duration, Wrong> {
    if let Some(number) = given.as_number_text() {
        if matches!(given, Given::Text("0")) {
            return Ok(Duration::ZERO);
        }
        return Err(Wrong::new(format!("is `{number}` without a unit"), format!("write `\"{number}s\"`")));
    }
    let text = text(given)?;
    let parsed = humantime::parse_duration(text).map_err(|error| {
        Wrong::new(
            format!("is `{}`, not a duration ({error})", given.shown()),
            "write it like `\"4s\"` or `\"1m30s\"`",
        )
    })?;
    if parsed > LONGEST {
        return Err(Wrong::new(format!("is `{}`", given.shown()), "use at most `\"366d\"`"));
    }
    Ok(parsed)
}

/// A duration within bounds.
pub(super) fn duration_in(
    within: RangeInclusive<Duration>,
) -> impl Fn(&Given<'_>) -> Result<Duration, Wrong> {
    move |given| {
        let value = duration(given)?;
        if within.contains(&value) {
            return Ok(value);
        }
        let [from, to] = [*within.start(), *within.end()].map(|d| humantime::format_duration(d).to_string());
        Err(Wrong::new(format!("is `{}`", given.shown()), format!("use a duration from `{from}` to `{to}`")))
    }
}

/// A duration above zero.
pub(super) fn time(given: &Given<'_>) -> Result<Duration, Wrong> {
    duration_in(Duration::from_millis(1)..=LONGEST)(given)
}

/// Bytes with a unit: `"32KiB"`, `"45GB"`.
pub(super) fn bytes(given: &Given<'_>) -> Result<u64, Wrong> {
    if let Some(number) = given.as_number_text() {
        return Err(Wrong::new(
            format!("is `{number}` without a unit"),
            format!("write `\"{number}B\"`, `\"{number}KiB\"` or the like"),
        ));
    }
    let text = text(given)?;
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        Wrong::new(format!("is `{}`, not a size", given.shown()), "write it like `\"32KiB\"` or `\"45GB\"`")
    })
}

/// A size within bounds, as a length in memory.
pub(super) fn size(within: RangeInclusive<u64>) -> impl Fn(&Given<'_>) -> Result<usize, Wrong> {
    move |given| {
        let size = bytes(given)?;
        let shown = |bytes: u64| bytesize::ByteSize::b(bytes).display().iec().to_string();
        let range = format!("use a size from {} to {}", shown(*within.start()), shown(*within.end()));
        if !within.contains(&size) {
            return Err(Wrong::new(format!("is `{}`", given.shown()), range));
        }
        usize::try_from(size).map_err(|_| Wrong::new(format!("is `{}`", given.shown()), range))
    }
}

/// An IP address and port to listen on; port 0 lets the system pick.
pub(super) fn listen(given: &Given<'_>) -> Result<SocketAddr, Wrong> {
    let text = text(given)?;
    text.parse().map_err(|_| {
        let what = format!("is `{}`, not an address to listen on", given.shown());
        let right = match text.rsplit_once(':') {
            Some(("", port)) => format!("write `0.0.0.0:{port}` for every interface"),
            Some(("localhost", port)) => format!("write `127.0.0.1:{port}`"),
            Some((host, _)) if host.contains("//") => "write only `IP:PORT`, without a scheme".into(),
            Some((_, port)) if port.parse::<u16>().is_err() => format!("`{port}` is no port; use 0 to 65535"),
            Some(_) => "write an IP address before the port, like `0.0.0.0:8090`".into(),
            None => format!("add a port: `{text}:8090`"),
        };
        Wrong::new(what, right)
    })
}

/// `host:port` to connect to.
pub(super) fn address(given: &Given<'_>) -> Result<Address, Wrong> {
    let text = text(given)?;
    text.parse().map_err(|error: super::AddressError| {
        Wrong::new(format!("is `{}`", given.shown()), host_hint(text).unwrap_or_else(|| error.to_string()))
    })
}

/// `http://host:port` or `https://host:port`.
pub(super) fn base_url(given: &Given<'_>) -> Result<BaseUrl, Wrong> {
    url(given, str::parse)
}

/// `http://host:port`, of somebody who is never asked inside TLS.
pub(super) fn plain_url(given: &Given<'_>) -> Result<BaseUrl, Wrong> {
    url(given, BaseUrl::plain)
}

fn url(
    given: &Given<'_>,
    read: impl FnOnce(&str) -> Result<BaseUrl, super::BaseUrlError>,
) -> Result<BaseUrl, Wrong> {
    let text = text(given)?;
    read(text).map_err(|error: super::BaseUrlError| {
        let right = match error {
            super::BaseUrlError::Scheme if !text.contains("://") => format!("write `http://{text}`"),
            super::BaseUrlError::Path if text.trim_end_matches('/').parse::<BaseUrl>().is_ok() => {
                format!("write it without the slash at its end: `{}`", text.trim_end_matches('/'))
            }
            other => host_hint(text).unwrap_or_else(|| other.to_string()),
        };
        Wrong::new(format!("is `{}`", given.shown()), right)
    })
}

/// An address that events are posted to. What is behind its host may be a secret and is not shown.
pub(super) fn webhook(given: &Given<'_>) -> Result<super::events::WebhookUrl, Wrong> {
    let text = text(given)?;
    text.parse().map_err(|error: super::events::WebhookUrlError| {
        Wrong::new("is no address to post to".to_owned(), error.to_string())
    })
}

fn host_hint(text: &str) -> Option<String> {
    text.contains('_').then(|| "a host name has no underscore; use `-`, or the IP address".to_owned())
}

/// An HTTP status.
pub(super) fn status(given: &Given<'_>) -> Result<u16, Wrong> {
    whole::<u16>(100..=599)(given)
}

/// A name or id with a rule of its own.
pub(super) fn named<T>(given: &Given<'_>) -> Result<T, Wrong>
where
    T: FromStr<Err = crate::model::IdError>,
{
    text(given)?.parse().map_err(|error: crate::model::IdError| {
        Wrong::new(format!("is `{}`", given.shown()), error.to_string())
    })
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Given<'_>) -> Result<T, Wrong> {
    move |given| {
        let text = text(given)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let right = match suggest::nearest(text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use {}", either(&known)),
        };
        Err(Wrong::new(format!("is `{}`", given.shown()), right))
    }
}

/// `` `a`, `b` or `c` ``.
pub(super) fn either(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right<T: std::fmt::Debug>(result: Result<T, Wrong>) -> String {
        result.unwrap_err().right
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(duration(&Given::Text("1m30s")).unwrap(), Duration::from_secs(90));
        assert_eq!(duration(&Given::Text("4h0m0s")).unwrap(), Duration::from_secs(4 * 3600));
        assert_eq!(right(duration(&Given::Text("4"))), "write `\"4s\"`");
        assert_eq!(right(duration(&Given::Text("soon"))), "write it like `\"4s\"` or `\"1m30s\"`");
        assert!(time(&Given::Text("0s")).is_err());
    }

    #[test]
    fn no_duration_is_so_long_that_adding_it_to_now_overflows() {
        assert!(duration(&Given::Text("99999999999999y")).is_err());
        assert!(duration(&Given::Text("400d")).is_err());
    }

    #[test]
    fn a_size_needs_its_unit() {
        assert_eq!(bytes(&Given::Text("32KiB")).unwrap(), 32 * 1024);
        assert_eq!(bytes(&Given::Text("45GB")).unwrap(), 45_000_000_000);
        assert!(right(bytes(&Given::Text("4096"))).contains("\"4096B\""));
        assert!(right(bytes(&Given::Text("-1GB"))).contains("45GB"));
    }

    #[test]
    fn an_inline_comment_of_an_environment_file_is_refused() {
        let wrong = base_url(&Given::Text("http://front:8089 # the front")).unwrap_err();
        assert!(wrong.what.contains("inline `# comment`"), "{wrong:?}");
    }

    #[test]
    fn urls_say_what_would_be_right() {
        assert_eq!(right(base_url(&Given::Text("front:8089"))), "write `http://front:8089`");
        assert!(right(base_url(&Given::Text("http://front:8089/"))).ends_with("`http://front:8089`"));
        assert!(right(base_url(&Given::Text("http://my_front:8089"))).contains("underscore"));
    }

    #[test]
    fn addresses_to_listen_on_say_what_would_be_right() {
        assert_eq!(right(listen(&Given::Text(":80"))), "write `0.0.0.0:80` for every interface");
        assert_eq!(right(listen(&Given::Text("localhost:80"))), "write `127.0.0.1:80`");
        assert_eq!(right(listen(&Given::Text("0.0.0.0:99999"))), "`99999` is no port; use 0 to 65535");
        assert_eq!(listen(&Given::Text("[::]:0")).unwrap().port(), 0);
    }
}
