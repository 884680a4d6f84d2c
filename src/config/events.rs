//! `[events]` of a controller.

use std::{fmt, str::FromStr, time::Duration};

use crate::tls::Upstream;

/// What is written down of what happens, and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Whether it is written down at all.
    pub log: bool,
    /// For how long, at most.
    pub keep: Duration,
    /// Who is told.
    pub url: Option<WebhookUrl>,
    /// Whom to trust and what to show there; there if and only if it is asked by `https://`.
    pub tls: Option<Upstream>,
}

impl Default for Events {
    fn default() -> Self {
        Self { log: true, keep: Duration::from_secs(7 * 24 * 3600), url: None, tls: None }
    }
}

/// An address that events are posted to, with its path. What is behind the host may be a secret: it is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    whole: String,
    host: String,
    port: u16,
    secure: bool,
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    /// Another scheme, or none.
    #[error("write `http://HOST[:PORT]/PATH` or `https://…`")]
    Scheme,
    /// It cannot be read.
    #[error("it has no host that can be read; write `http://HOST[:PORT]/PATH`")]
    Host,
    /// A name and a password in it.
    #[error("leave out what is before `@`: the receiver is told nothing but the event")]
    User,
}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, WebhookUrlError> {
        let uri: http::Uri = text.parse().map_err(|_| WebhookUrlError::Host)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(WebhookUrlError::Scheme),
        };
        let authority = uri.authority().ok_or(WebhookUrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError::User);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.port().is_some_and(|port| port.as_u16() == 0) {
            return Err(WebhookUrlError::Host);
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { whole: text.to_owned(), host, port, secure })
    }
}

impl WebhookUrl {
    /// All of it, to be asked.
    pub fn expose(&self) -> &str {
        &self.whole
    }

    /// Who it is.
    pub fn host(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether inside TLS.
    pub fn secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.port)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_what_is_behind_it_is_not_shown() {
        let url: WebhookUrl = "https://hooks.example/team?token=s3cret".parse().unwrap();
        assert_eq!((url.host(), url.secure()), (("hooks.example", 443), true));
        assert_eq!(
            format!("{url} {url:?}"),
            "https://hooks.example:443 WebhookUrl(https://hooks.example:443)"
        );
        assert_eq!(url.expose(), "https://hooks.example/team?token=s3cret");
        assert_eq!("http://[::1]:81/x".parse::<WebhookUrl>().unwrap().host(), ("::1", 81));
        for (bad, why) in [
            ("hooks.example", WebhookUrlError::Scheme),
            ("ftp://x/", WebhookUrlError::Scheme),
            ("http://", WebhookUrlError::Host),
            ("http://x:0/", WebhookUrlError::Host),
            ("http://a b/", WebhookUrlError::Host),
            ("http://me:pw@x/", WebhookUrlError::User),
        ] {
            assert_eq!(bad.parse::<WebhookUrl>().unwrap_err(), why, "{bad}");
        }
    }
}
