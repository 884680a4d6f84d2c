//! What can go wrong with a call, and whether it may have happened.

use crate::tls::distrust;

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was sent: no server could be reached.
    #[error("`{url}` cannot be reached")]
    Unreachable {
        /// What was called.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing was asked: one of both sides did not take the other for whom it should be.
    #[error("`{url}` cannot be reached safely: {why}")]
    Untrusted {
        /// What was called.
        url: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Sent, but no answer, or only part of one.
    #[error("`{url}` did not answer")]
    Unanswered {
        /// What was called.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("`{url}` sent nothing within {within:?}")]
    Silent {
        /// What was called.
        url: String,
        /// For how long.
        within: std::time::Duration,
    },
    /// The server refused.
    #[error("`{url}` answered {status}: {message}")]
    Refused {
        /// What was called.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The answer is not what this API answers.
    #[error("`{url}` gave an answer that is not this API's: {why}")]
    Strange {
        /// What was called.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// Sorts a transport error by whether anything was sent.
    pub fn transport(url: &str, source: reqwest::Error) -> Self {
        let url = url.to_owned();
        if let Some(why) = distrust(&source) {
            return Self::Untrusted { url, why };
        }
        if source.is_connect() { Self::Unreachable { url, source } } else { Self::Unanswered { url, source } }
    }

    /// The server's status, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the server has heard nothing of it, for certain.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Untrusted { .. })
    }

    /// Whether asking again later can help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Unanswered { .. }
            | Self::Silent { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Strange { .. } => false,
        }
    }
}
