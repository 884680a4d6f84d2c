//! What etcd's answers mean: from a gRPC status to the one thing a caller must know, whether it may have happened.
//!
//! Codes alone do not tell: `Unavailable` is both "no leader, not even tried" and "proposed, and no answer in
//! time". So the texts, which etcd treats as part of its API, decide; what is not listed is taken as unknown.

use super::{Revision, StoreError};

/// A failed call, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    /// gRPC's code.
    pub(super) code: i32,
    /// The text behind it.
    pub(super) message: &'a str,
    /// No connection could be made, so nothing was sent.
    pub(super) never_sent: bool,
}

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const DATA_LOSS: i32 = 15;
const UNAUTHENTICATED: i32 = 16;

/// Refused before anything was proposed to the cluster, for a reason that passes.
const NOT_TRIED: [&str; 5] = [
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: unhealthy cluster",
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
];

/// The error for a failed call; `asked` is the revision that a read was to be made at.
pub(super) fn meaning(failure: Failure<'_>, asked: Revision) -> StoreError {
    let why = failure.message.to_owned();
    if failure.never_sent || NOT_TRIED.iter().any(|text| failure.message.starts_with(text)) {
        return StoreError::Unavailable { why };
    }
    match failure.code {
        RESOURCE_EXHAUSTED if failure.message.ends_with("database space exceeded") => {
            StoreError::Full { why }
        }
        OUT_OF_RANGE if failure.message.ends_with("has been compacted") => {
            // At least the next one; the caller finds out how far the compaction went.
            StoreError::Compacted { oldest: asked + 1 }
        }
        NOT_FOUND if failure.message.ends_with("lease not found") => StoreError::LeaseGone,
        // Without the prefix it is our own side that could not decode an answer: the call was done.
        OUT_OF_RANGE if !failure.message.starts_with("etcdserver:") => StoreError::Unknown { why },
        INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | RESOURCE_EXHAUSTED | FAILED_PRECONDITION
        | OUT_OF_RANGE | UNIMPLEMENTED | DATA_LOSS | UNAUTHENTICATED => StoreError::Refused { why },
        _ => StoreError::Unknown { why },
    }
}

/// Whether a grant failed because the lease of that number is there already: our own, granted by an attempt
/// whose answer was lost.
pub(super) fn is_granted_already(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { why } if why == "etcdserver: lease already exists")
}

/// Whether a member refused a revision that it does not have yet.
pub(super) fn is_future(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { why } if why.ends_with("required revision is a future revision"))
}

/// Whether a call failed because the member does not know, or no longer knows, who asks. It was not done.
pub(super) fn asks_who(code: i32, message: &str) -> bool {
    const TEXTS: [&str; 3] = [
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
        // What it says to those who show nothing.
        "etcdserver: user name is empty",
    ];
    code == UNAUTHENTICATED || TEXTS.contains(&message)
}

/// Whether signing in failed because nobody has to.
pub(super) fn asks_nobody(message: &str) -> bool {
    message == "etcdserver: authentication is not enabled"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i32, message: &str, expected: &str) {
        let meaning = meaning(Failure { code, message, never_sent: false }, 7);
        let got = match meaning {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::Unknown { .. } => "unknown",
            StoreError::Compacted { oldest: 8 } => "compacted",
            StoreError::Compacted { .. } => "compacted elsewhere",
            StoreError::Refused { .. } => "refused",
            StoreError::Full { .. } => "full",
            StoreError::LeaseGone => "lease gone",
        };
        assert_eq!(got, expected, "{code} {message}");
    }

    #[test]
    fn each_answer_of_etcd_says_whether_it_may_have_happened() {
        check(14, "etcdserver: no leader", "unavailable");
        check(8, "etcdserver: too many requests", "unavailable");
        check(14, "etcdserver: request timed out", "unknown");
        check(14, "etcdserver: request timed out, possibly due to previous leader failure", "unknown");
        check(14, "etcdserver: request timed out, possibly due to connection lost", "unknown");
        check(14, "etcdserver: leader changed", "unknown");
        check(14, "etcdserver: server stopped", "unknown");
        check(14, "error trying to send", "unknown");
        check(1, "Timeout expired", "unknown");
        check(13, "h2 protocol error", "unknown");
        check(2, "transport error", "unknown");
        check(4, "context deadline exceeded", "unknown");
        check(11, "etcdserver: mvcc: required revision has been compacted", "compacted");
        check(11, "etcdserver: mvcc: required revision is a future revision", "refused");
        check(11, "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes", "unknown");
        check(3, "etcdserver: too many operations in txn request", "refused");
        check(3, "etcdserver: duplicate key given in txn request", "refused");
        check(3, "etcdserver: request is too large", "refused");
        check(8, "etcdserver: mvcc: database space exceeded", "full");
        check(7, "etcdserver: permission denied", "refused");
        check(5, "etcdserver: requested lease not found", "lease gone");
    }

    #[test]
    fn what_was_never_sent_was_certainly_not_done() {
        let failure = Failure { code: 14, message: "tcp connect error", never_sent: true };
        assert!(meaning(failure, 0).certainly_not_done());
    }

    #[test]
    fn a_revision_that_a_member_lacks_and_a_caller_that_it_does_not_know_are_told_from_the_rest() {
        let text = "etcdserver: mvcc: required revision is a future revision";
        let failure = Failure { code: 11, message: text, never_sent: false };
        assert!(is_future(&meaning(failure, 0)));
        assert!(!is_future(&meaning(
            Failure { message: "etcdserver: permission denied", code: 7, ..failure },
            0
        )));
        assert!(asks_who(16, "etcdserver: invalid auth token"));
        assert!(asks_who(3, "etcdserver: user name is empty"));
        assert!(asks_who(3, "etcdserver: revision of auth store is old"));
        let wrong = "etcdserver: authentication failed, invalid user ID or password";
        assert!(!asks_who(3, wrong) && !asks_nobody(wrong));
        assert!(!asks_who(7, "etcdserver: permission denied"));
        assert!(asks_nobody("etcdserver: authentication is not enabled"));
    }

    #[test]
    fn a_lease_that_is_there_already_is_our_own() {
        let failure = Failure { code: 9, message: "etcdserver: lease already exists", never_sent: false };
        assert!(is_granted_already(&meaning(failure, 0)));
    }
}
