//! How the command line asks a running proxy for an upgrade.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixStream, time::timeout};

use super::{frame, run_dir::RunDir, successor::ask, upgrade};
use crate::wire::handover::{Outcome, UPGRADE};

/// Longer than an upgrade can take.
const PATIENCE: Duration = upgrade::READY.saturating_add(Duration::from_secs(15));

/// Why a running proxy could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error("no proxy serves in `{path}`")]
    Nobody {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not answer.
    #[error("the proxy in `{path}` did not say what came of it; `/admin/v1/process` knows which one serves")]
    Unanswered {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Asks the proxy with this `run_dir` to be replaced by the binary on disk; what came of it.
pub async fn ask_upgrade(run_dir: &Path) -> Result<Outcome, AskError> {
    let path = run_dir.to_owned();
    let stream = UnixStream::connect(RunDir::socket_in(run_dir)).await;
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(source) => return Err(AskError::Nobody { path, source }),
    };
    let asked = async {
        frame::send(&mut stream, &ask(UPGRADE, String::new())).await?;
        frame::receive(&mut stream).await
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let answered = timeout(PATIENCE, asked).await.map_err(late).and_then(|answered| answered);
    answered.map_err(|source| AskError::Unanswered { path, source })
}
