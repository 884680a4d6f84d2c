//! How a subcommand reaches the admin API of a proxy, and what it says when that does not work.

use std::path::PathBuf;

use super::{Failure, Printer, output::plain};
use crate::{
    client::{Admin, ClientError},
    config::{BaseUrl, proxy::Entry},
    telemetry,
};

/// Where a proxy is asked. Flattened into the arguments of whoever asks.
#[derive(clap::Args)]
pub(super) struct Reach {
    /// The admin address of the proxy
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", value_parser = BaseUrl::plain)]
    admin: BaseUrl,
    /// The token, if it asks for one; every user of this machine sees it among the arguments, so rather use the variable
    /// or a file
    #[arg(long, value_name = "TOKEN", env = "SWITCHYARD_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token in it; it goes before the variable
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Without the token.
impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl Reach {
    /// A client of it.
    pub(super) fn client(&self) -> Result<Admin, Failure> {
        Admin::new(self.admin.clone(), self.read_token()?)
            .map_err(|error| Failure::runtime("no client could be made", &error))
    }

    /// The file goes first: a variable may be set for another proxy.
    fn read_token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.token_file else {
            return Ok(self.token.clone().filter(|token| token != "off"));
        };
        let hint = || Some("name a file with the token on one line, the one of `[admin] token_file`".into());
        let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage {
            error: format!("`--token-file` `{}` cannot be read: {error}", file.display()),
            hint: hint(),
        })?;
        let token = Entry::token(text.trim()).map_err(|why| Failure::Usage {
            error: format!("`--token-file` `{}` has a token that {why}", file.display()),
            hint: hint(),
        })?;
        Ok(Some(token.expose().to_owned()))
    }

    /// What is said when it did not work.
    pub(super) fn failure(&self, error: &ClientError) -> Failure {
        let admin = &self.admin;
        let (error, hint) = match error {
            ClientError::Unreachable { .. } | ClientError::Untrusted { .. } => {
                let hint =
                    "is the proxy running, and is `--admin` its admin address? Its log names it at start";
                (telemetry::chain(error), Some(hint.to_owned()))
            }
            ClientError::Unanswered { .. } | ClientError::Silent { .. } => {
                let hint = "is `--admin` the admin address of a proxy, and not one of its listeners?";
                (telemetry::chain(error), Some(hint.to_owned()))
            }
            ClientError::Strange { .. } => {
                let hint = "`--admin` names the address of `[admin] listen`, not that of a listener or another server";
                (telemetry::chain(error), Some(hint.to_owned()))
            }
            ClientError::Refused { status: 401, message, .. } => {
                let hint = "set SWITCHYARD_ADMIN_TOKEN, or name the file by `--token-file FILE`";
                (format!("`{admin}` refused: {message}"), Some(hint.to_owned()))
            }
            ClientError::Refused { status: 404, message, .. } if message.is_empty() => {
                let hint = "is it of an earlier version? `switchyard status` shows which";
                (format!("the proxy at `{admin}` does not know what was asked for"), Some(hint.to_owned()))
            }
            ClientError::Refused { message, .. } => (format!("`{admin}` refused: {message}"), None),
        };
        Failure::Runtime { error, hint }
    }
}

/// What a subcommand prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// For programs, whole
    Json,
}

impl Output {
    /// Prints what was asked for.
    pub(super) fn print(
        self,
        printer: Printer,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        printer.data(match self {
            Self::Text => plain(&text()).into_owned(),
            Self::Json => serde_json::to_string_pretty(value)
                .map_err(|error| Failure::runtime("the answer could not be printed", &error))?,
        });
        Ok(())
    }
}
