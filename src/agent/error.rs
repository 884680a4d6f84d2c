//! What can keep an agent from working at all.

use std::{io, path::PathBuf};

use super::{driver::DriverError, join::Check};
use crate::client::ClientError;

/// Why an agent could not be opened, joined or taken away. Trouble while it runs is no error: it is logged,
/// waited out and tried again.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent works in the data directory.
    #[error("`{}` is in use by the agent with pid {holder}; stop it or choose another directory for `agent.data`", data.display())]
    InUse {
        /// The directory.
        data: PathBuf,
        /// The other agent's pid, or `unknown`.
        holder: String,
    },
    /// The data directory.
    #[error("cannot use `{}`", path.display())]
    Data {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of ours that is not as we write it.
    #[error("`{}` is damaged: {why}; restore it, or delete it to join as a new node", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up")]
    Http(#[source] reqwest::Error),
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// No controller could be used.
    #[error("no controller could be used")]
    Unconnected {
        /// What was tried.
        checks: Vec<Check>,
    },
    /// A call to the controllers.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The controllers said no.
    #[error("refused: {0}")]
    Refused(String),
    /// It never joined.
    #[error("this node has not joined: `{}` has no node", data.display())]
    NotJoined {
        /// The directory.
        data: PathBuf,
    },
}

impl AgentError {
    pub(super) fn data(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Data { path, source }
    }
}
