//! Who may use a controller or a registry (`reference/authentication.md`, `docs/authentication.md`).
//!
//! ```text
//!   credential   what a request's `Authorization` says                       pure
//!   gate         before every handler of both roles: in, 401 or 403          the only door
//! ```
//!
//! Knows neither role; both put the one gate before their routes. No secret is in a log, an error or a metric.

mod credential;
pub mod gate;

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};

use crate::config::auth::Auth as Config;
use credential::Given;

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody is asked.
    Anybody,
    /// Whoever has the root token.
    Root,
}

impl Who {
    /// The same for all requests of one caller, and different for different callers; nothing when nobody is asked.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Anybody => None,
            Self::Root => Some("root".into()),
        }
    }

    /// Whether it may do what only operators and our own servers do.
    fn is_operator(&self) -> bool {
        matches!(self, Self::Anybody | Self::Root)
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It brings no credential.
    Missing,
    /// It brings one that cannot be read.
    Unreadable,
    /// It brings a wrong one.
    Wrong,
    /// Its credential is good, and not for this.
    Forbidden,
}

impl Refusal {
    /// The label of metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Wrong => "wrong",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What credentials are good at one server. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    enabled: bool,
    /// Of the root token, so that what is compared is always as long.
    root: Option<[u8; 32]>,
}

impl Auth {
    /// As the config says.
    pub fn new(config: &Config) -> Self {
        let root = config.root_token.as_ref().map(|token| hash(token.expose()));
        Self(Arc::new(Inner { enabled: config.enabled, root }))
    }

    /// Whether anybody is asked for a credential.
    pub fn is_enabled(&self) -> bool {
        self.0.enabled
    }

    /// Who shows this `Authorization`. With authentication off, whatever comes is ignored.
    fn who(&self, given: Given) -> Result<Who, Refusal> {
        if !self.0.enabled {
            return Ok(Who::Anybody);
        }
        match given {
            Given::Nothing => Err(Refusal::Missing),
            Given::Unreadable => Err(Refusal::Unreadable),
            Given::Password(password) => match &self.0.root {
                Some(root) if same(root, &hash(&password)) => Ok(Who::Root),
                _ => Err(Refusal::Wrong),
            },
        }
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Takes as long whatever they are.
fn same(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::auth::RootToken;

    #[test]
    fn only_the_password_counts_and_only_when_anybody_is_asked() {
        let config = Config { root_token: RootToken::parse("0123456789").ok(), ..Config::default() };
        let password = |text: &str| Given::Password(text.into());
        for given in [Given::Nothing, Given::Unreadable, password("")] {
            assert_eq!(Auth::new(&config).who(given), Ok(Who::Anybody));
        }
        let auth = Auth::new(&Config { enabled: true, ..config });
        assert_eq!(auth.who(password("0123456789")), Ok(Who::Root));
        for wrong in ["", "012345678", "01234567890", "1123456789"] {
            assert_eq!(auth.who(password(wrong)), Err(Refusal::Wrong), "{wrong}");
        }
        assert_eq!(auth.who(Given::Nothing), Err(Refusal::Missing));
        assert_eq!(auth.who(Given::Unreadable), Err(Refusal::Unreadable));
        let none = Auth::new(&Config { enabled: true, ..Config::default() });
        assert_eq!(none.who(password("")), Err(Refusal::Wrong), "no token is not an empty token");
    }
}
