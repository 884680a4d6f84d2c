//! Where something listens or is reached.

use std::{fmt, net::IpAddr, str::FromStr};

/// `host:port` of something we connect to: an IP address or a host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// An IP address (without brackets) or a host name.
    pub host: String,
    /// Never 0: nothing can be reached there.
    pub port: u16,
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No colon, or nothing behind it.
    #[error("the port is missing; write `host:port`, like `10.0.1.4:8090`")]
    NoPort,
    /// Not a port.
    #[error("`{0}` is not a port; use 1 to 65535")]
    BadPort(String),
    /// Not a host.
    #[error("`{0}` is not an IP address or host name")]
    BadHost(String),
    /// A URL where an address belongs.
    #[error("this is a URL; write only `host:port`")]
    Url,
}

fn host_name(text: &str) -> bool {
    // Underscores are no host names and break TLS; the vendor's docs say so too.
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains("://") {
            return Err(AddressError::Url);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        if port.is_empty() {
            return Err(AddressError::NoPort);
        }
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(AddressError::BadPort(port.into())),
            Ok(port) => port,
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = match bare {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || host_name(host),
        };
        if !good {
            return Err(AddressError::BadHost(host.into()));
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `http://host[:port]` or `https://host[:port]` without path, query or trailing slash: where another server of the cloud is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(String);

/// What is wrong with a base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// No scheme, or one that is not spoken.
    #[error("it must begin with `http://` or `https://`; for example `http://10.0.1.4:8089`")]
    Scheme,
    /// Inside TLS, where that is not spoken.
    #[error("TLS is not spoken there; write `http://`")]
    Secured,
    /// Something behind the address.
    #[error("it must end after the port: no path, no query, no trailing slash")]
    Path,
    /// The address itself.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl BaseUrl {
    /// Of this host, inside TLS.
    pub fn https(host: &str, port: u16) -> Self {
        Self(format!("https://{}", Address { host: host.to_owned(), port }))
    }

    /// One that is asked plainly: for those who speak no TLS.
    pub fn plain(text: &str) -> Result<Self, BaseUrlError> {
        let url: Self = text.parse()?;
        if url.is_secured() { Err(BaseUrlError::Secured) } else { Ok(url) }
    }

    /// Whether it is asked inside TLS.
    pub fn is_secured(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The text, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text with a path behind it; `path` begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let rest = rest.ok_or(BaseUrlError::Scheme)?;
        if rest.contains(['/', '?', '#', '@']) {
            return Err(BaseUrlError::Path);
        }
        // Without a port it is that of its scheme.
        let with_port = rest.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        if with_port {
            rest.parse::<Address>()?
        } else {
            format!("{rest}:80").parse::<Address>()?
        };
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["10.0.1.4:8090", "front.example:80", "[::1]:9090"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        let wrong = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(wrong("10.0.1.4"), AddressError::NoPort);
        assert_eq!(wrong("10.0.1.4:"), AddressError::NoPort);
        assert_eq!(wrong("10.0.1.4:0"), AddressError::BadPort("0".into()));
        assert_eq!(wrong("10.0.1.4:99999"), AddressError::BadPort("99999".into()));
        assert_eq!(wrong("a_b:80"), AddressError::BadHost("a_b".into()));
        assert_eq!(wrong("::1:80"), AddressError::BadHost("::1".into()));
        assert_eq!(wrong("http://a:80"), AddressError::Url);
    }

    #[test]
    fn base_urls_have_nothing_behind_the_port() {
        for good in [
            "http://a:80",
            "http://a",
            "http://[::1]:80",
            "http://10.0.0.1:8089",
            "https://a",
            "https://[::1]:8",
        ] {
            assert!(good.parse::<BaseUrl>().is_ok(), "{good}");
        }
        for bad in [
            "a:80",
            "ftp://a",
            "http://a/",
            "http://a?b",
            "http://a:x",
            "http://",
            "http://a_b",
            "https://",
            "https://a/",
        ] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
        assert!("https://a:1".parse::<BaseUrl>().unwrap().is_secured());
        assert_eq!(BaseUrl::plain("https://a:1"), Err(BaseUrlError::Secured));
        assert!(BaseUrl::plain("http://a:1").is_ok());
    }
}
