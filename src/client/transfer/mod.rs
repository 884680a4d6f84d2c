//! Whole templates on their way to and from a registry: several blobs at once, gone on with after any break, verified.
//!
//! ```text
//!   calls.rs      the requests of OCI Distribution that a push and a pull need
//!   push.rs       blobs that are not there, then the manifest     sessions.rs  what a later run goes on with
//!   pull.rs       chunks of blobs into a folder beside the goal   chunked.rs   which chunks are there, and sound
//!   tries.rs      when to try again, and when to give up
//! ```
//!
//! Nothing is printed and nothing is asked of the environment here: who calls says where state may lie, and is told of
//! every step.

mod calls;
mod chunked;
mod pull;
mod push;
mod sessions;
mod tries;

use std::{io, path::PathBuf, time::Duration};

pub use calls::Calls;
pub use pull::{Pull, Wanted, place};
pub use push::{Bytes, Push, Pushed, Source};
pub use sessions::{Sessions, hash_file};

use super::ClientError;
use crate::{
    clock,
    model::{Digest, RepositoryName, Tag},
    telemetry,
};
use tries::{Failed, Tries};

/// Blobs, or chunks of them, on their way at once.
pub const PARALLEL: usize = 4;

/// Why a template did not get there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A call.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The registry does not have it.
    #[error("the registry does not have `{what}`")]
    Missing {
        /// Repository with tag or digest.
        what: String,
    },
    /// The tag is taken, and nobody said that it may be moved.
    #[error("`{repository}:{tag}` is there already, and it is something else ({there})")]
    Exists {
        /// Where.
        repository: RepositoryName,
        /// The tag.
        tag: Tag,
        /// The manifest it has.
        there: Digest,
    },
    /// The bytes are not those that were asked for, also the second time.
    #[error("{expected} arrived as {got}, twice; the copy was thrown away")]
    Corrupt {
        /// Asked for.
        expected: Digest,
        /// Arrived.
        got: Digest,
    },
    /// It was tried again and again.
    #[error("nothing moved for {patience:?}, and it was tried {tries} times")]
    GaveUp {
        /// For how long.
        patience: Duration,
        /// How often.
        tries: u32,
        /// What happened the last time.
        #[source]
        last: Box<TransferError>,
    },
    /// This machine's disk.
    #[error("cannot {what} `{}`", .path.display())]
    Local {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not enough room here.
    #[error("`{}` has room for {free} bytes, and {needed} are to come", .path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes.
        free: u64,
        /// Bytes.
        needed: u64,
    },
    /// A file is not any more what it was hashed as.
    #[error("`{}` changed while it was pushed", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The manifest is not one of a template.
    #[error("`{what}` cannot be pulled as a template: {why}")]
    Manifest {
        /// Repository and tag.
        what: String,
        /// Why.
        why: String,
    },
    /// Somebody else is at it.
    #[error("another process is at it already (it holds `{}`)", .path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

impl TransferError {
    /// For `map_err`: names what was done to which file.
    fn local(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { what, path, source }
    }

    /// The server's status, if one is the reason.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Client(error) => error.status(),
            Self::GaveUp { last, .. } => last.status(),
            _ => None,
        }
    }

    /// Whether trying again can help. A full disk (507) does not become empty by asking.
    fn may_pass(&self) -> bool {
        match self {
            Self::Client(error) => error.may_pass() && !matches!(error.status(), Some(501 | 507)),
            _ => false,
        }
    }
}

/// Is told how it goes. Blobs are named by their place in what was given.
pub trait Watch {
    /// So many bytes of this blob are there.
    fn at(&self, blob: usize, done: u64);
    /// Something a person may want to know: what is tried again, and why.
    fn note(&self, blob: usize, text: &str);
}

/// Says what went wrong with this blob, and waits until it is time for the next try.
async fn pause(
    watch: &dyn Watch,
    blob: usize,
    tries: &mut Tries,
    failed: Failed,
) -> Result<(), TransferError> {
    let why = telemetry::chain(&*failed.error);
    let pause = tries.next(failed, clock::now(), rand::random())?;
    watch.note(blob, &format!("{why}; again in {:.1} s", pause.as_secs_f64()));
    tokio::time::sleep(pause).await;
    Ok(())
}
