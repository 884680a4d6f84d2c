//! `[auth]`: who may use a controller or a registry.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{proxy::Network, vendor::Secret};
use crate::tls::{Callers, signed::SigningKey};

/// Who may come in. The default asks nobody for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether anybody is asked for a credential. If not, any that come are ignored.
    pub enabled: bool,
    /// Opens everything, and is shown to registries. Always there when [`Auth::enabled`].
    pub root_token: Option<RootToken>,
    /// Whether API keys and their sessions are good.
    pub api_keys: bool,
    /// How long a session of an API key lasts.
    pub session_ttl: Duration,
    /// Whose certificates are good, as proxies in front pass them on.
    pub certificates: Option<Certificates>,
    /// What callers may do. Registries know none but the first.
    pub authorization: Authorization,
}

/// What callers may do who have not the root token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authorization {
    /// Everything.
    #[default]
    Off,
    /// What the permissions of their groups say.
    Groups,
    /// That, with the nodes and templates that are resources of their groups.
    Resources,
}

/// Callers that are known by their certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Whose are good.
    pub callers: Callers,
    /// Proxies that may say so; empty: whoever signs.
    pub trusted: Vec<Network>,
    /// They must sign what they say, with this.
    pub signed: Option<Signing>,
}

/// A key with which proxies sign what they say of their clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    /// It.
    pub key: SigningKey,
    /// What it was read from.
    pub file: PathBuf,
}

impl Signing {
    /// Out of a file with one line. What is wrong with it does not show it.
    pub fn read(file: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot be read ({error})");
        let mut text = String::new();
        // Bounded also if it is no file that ends.
        let source = std::fs::File::open(file).map_err(failed)?;
        source.take(4096).read_to_string(&mut text).map_err(failed)?;
        Ok(Self { key: SigningKey::parse(&text)?, file: file.to_owned() })
    }
}

impl Default for Auth {
    fn default() -> Self {
        // The vendor's `ANKA_API_KEYS_SESSION_TTL`.
        Self {
            enabled: false,
            root_token: None,
            api_keys: false,
            session_ttl: Duration::from_secs(300),
            certificates: None,
            authorization: Authorization::Off,
        }
    }
}

/// The token that opens everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootToken(Secret);

impl RootToken {
    /// Fewer characters are refused (`reference/authentication.md` §2).
    pub const SHORTEST: usize = 10;
    /// More make headers that proxies in between refuse.
    pub const LONGEST: usize = 1024;

    /// What may be one. What is wrong with it does not show it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let count = text.chars().count();
        if count < Self::SHORTEST {
            return Err(format!("has {count} characters, and fewer than {} can be guessed", Self::SHORTEST));
        }
        if text.len() > Self::LONGEST {
            return Err(format!("has {} bytes, and the most is {}", text.len(), Self::LONGEST));
        }
        if text.chars().any(char::is_control) {
            return Err("has a control character in it".into());
        }
        Ok(Self(Secret::new(text)))
    }

    /// Out of a file with one line.
    pub fn read(file: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot be read ({error})");
        let mut text = String::new();
        // Bounded also if it is no file that ends.
        let source = std::fs::File::open(file).map_err(failed)?;
        source.take(Self::LONGEST as u64 + 2).read_to_string(&mut text).map_err(failed)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Self::parse(line.strip_suffix('\r').unwrap_or(line)).map_err(|why| format!("has a token that {why}"))
    }

    /// To be compared or derived from, and for nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The value of `Authorization` that shows it.
    pub fn authorization(&self) -> Secret {
        // The user's name does not matter; the vendor's servers want one.
        Secret::new(format!("Basic {}", STANDARD.encode(format!("root:{}", self.expose()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_token_has_ten_characters_and_is_never_shown() {
        for bad in ["", "short", "ninechars", "has\ncontrol\ncharacters", &"x".repeat(1025)] {
            let why = RootToken::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !why.contains(bad), "{why}");
        }
        let token = RootToken::parse("p@ss:w0rd \u{fc}").unwrap();
        assert!(!format!("{token:?} {:?}", token.authorization()).contains("w0rd"));
        assert_eq!(token.authorization().expose(), "Basic cm9vdDpwQHNzOncwcmQgw7w=");
    }
}
