//! The log: JSON lines or lines for people, always on standard error, so that standard output is data.

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a terminal.
    Human,
}

/// Where access lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file; reopened on `SIGUSR1`.
    File(std::path::PathBuf),
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// A tracing filter such as `info,switchyard::proxy=debug`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

/// Colours for a terminal, unless `NO_COLOR` (no-color.org: any value but an empty one) is set.
fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Whether a filter can be read; the text says what is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

/// Pingora tells of its own start and end as if it were the program (`SIGINT received, exiting`, of a stop that came
/// from elsewhere). A filter that names this target shows it again.
const QUIET: &str = "pingora_core=warn";

/// Sets the process's log up. The first call wins: a process has one log.
///
/// Errors when the filter cannot be read; the text says where.
pub fn set_up(settings: &LogSettings) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(format!("{QUIET},{}", settings.filter)).map_err(|error| error.to_string())?;
    let layers = tracing_subscriber::registry().with(filter);
    let first = match settings.format {
        LogFormat::Json => {
            layers.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Human => {
            let layer = fmt::layer().with_target(false).with_ansi(colour()).with_writer(std::io::stderr);
            layers.with(layer).try_init()
        }
    };
    // A second role in the same process (standalone) finds the log set up: that is what it wanted.
    drop(first);
    Ok(())
}
