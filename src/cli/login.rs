//! What is shown to controllers and registries that ask for a credential.

use std::path::PathBuf;

use super::Failure;
use crate::{client::Login, config::auth::RootToken};

/// Flattened into the arguments of whoever calls them.
#[derive(clap::Args)]
pub(super) struct Credential {
    /// The root token, if one is asked for; every user of this machine sees it among the arguments, so rather use the
    /// variable or a file
    #[arg(long, value_name = "TOKEN", env = "SWITCHYARD_ROOT_TOKEN", hide_env_values = true)]
    root_token: Option<String>,
    /// A file with the root token in it; it goes before the variable
    #[arg(long, value_name = "FILE")]
    root_token_file: Option<PathBuf>,
}

/// Without the token.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("root_token_file", &self.root_token_file).finish_non_exhaustive()
    }
}

impl Credential {
    /// The token, or nothing if none is given.
    pub(super) fn token(&self) -> Result<Option<RootToken>, Failure> {
        let (from, token) = match (&self.root_token_file, self.root_token.as_deref()) {
            (Some(file), _) => (format!("`--root-token-file` `{}`", file.display()), RootToken::read(file)),
            (None, Some(text)) if !text.is_empty() => ("the root token".into(), RootToken::parse(text)),
            (None, _) => return Ok(None),
        };
        token.map(Some).map_err(|why| Failure::Usage {
            error: format!("{from} {why}"),
            hint: Some("it is the one of `root_token_file` in `[auth]` of the server's config".into()),
        })
    }

    /// What a client shows.
    pub(super) fn login(&self) -> Result<Login, Failure> {
        Ok(Login::root(self.token()?.as_ref()))
    }
}
