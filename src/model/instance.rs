//! Words about instances.

use serde::{Deserialize, Serialize};

/// How often an instance was offered. Each offer has its own number, so a late claim of an older one is seen.
pub type Attempt = u32;

/// What the API says of an instance (`reference/controller-api.md` §4.5). The strings are the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum InstanceState {
    /// Queued, offered, claimed or booting.
    Scheduling,
    /// Its node pulls the template.
    Pulling,
    /// Up, and its script, if monitored, has succeeded.
    Started,
    /// On the way down without being deleted.
    Stopping,
    /// Down, still there.
    Stopped,
    /// To be deleted; its node has not confirmed yet.
    Terminating,
    /// Deleted; shown for a while, then gone.
    Terminated,
    /// Failed; the message says why.
    Error,
    /// Its image is being saved.
    Pushing,
}

impl InstanceState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Scheduling,
        Self::Pulling,
        Self::Started,
        Self::Stopping,
        Self::Stopped,
        Self::Terminating,
        Self::Terminated,
        Self::Error,
        Self::Pushing,
    ];

    /// The word of the APIs, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "Scheduling",
            Self::Pulling => "Pulling",
            Self::Started => "Started",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Terminating => "Terminating",
            Self::Terminated => "Terminated",
            Self::Error => "Error",
            Self::Pushing => "Pushing",
        }
    }

    /// Whether the documented graph has this edge. Staying where one is, is no edge and always allowed.
    pub fn may_become(self, next: Self) -> bool {
        use InstanceState::{
            Error, Pulling, Pushing, Scheduling, Started, Stopped, Stopping, Terminated, Terminating,
        };
        match (self, next) {
            (from, to) if from == to => true,
            (Scheduling, Pulling | Started | Stopped | Pushing | Error) => true,
            (Pulling, Scheduling | Started | Error) => true,
            (Started, Stopping | Pushing | Error) => true,
            (Stopping, Stopped | Error) => true,
            (Stopped, Pushing | Error) => true,
            // A saving that was given up before its VM was touched.
            (Pushing, Started | Stopped | Error) => true,
            (Scheduling | Pulling | Started | Stopping | Stopped | Pushing | Error, Terminating) => true,
            (Terminating, Terminated) => true,
            _ => false,
        }
    }
}

/// A share of something done, 0 to 1. Whole values print without a fraction: one client reads them as integers.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default, Deserialize)]
#[serde(from = "f64")]
pub struct Progress(f64);

impl Progress {
    /// Nothing done.
    pub const NONE: Self = Self(0.0);
    /// All done.
    pub const ALL: Self = Self(1.0);

    /// The share, between 0 and 1; anything outside is brought to the nearer end, no number to 0.
    pub fn of(share: f64) -> Self {
        Self(if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) })
    }

    /// `done` of `total`; of nothing, all is done.
    pub fn part(done: u64, total: u64) -> Self {
        if total == 0 { Self::ALL } else { Self::of(done as f64 / total as f64) }
    }
}

impl From<f64> for Progress {
    fn from(share: f64) -> Self {
        Self::of(share)
    }
}

impl From<Progress> for f64 {
    fn from(progress: Progress) -> Self {
        progress.0
    }
}

impl Serialize for Progress {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0.0 {
            to.serialize_u8(0)
        } else if self.0 == 1.0 {
            to.serialize_u8(1)
        } else {
            to.serialize_f64(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminated_is_the_end() {
        use InstanceState::*;
        for next in [Scheduling, Pulling, Started, Stopping, Stopped, Terminating, Error, Pushing] {
            assert!(!Terminated.may_become(next), "{next:?}");
        }
        assert!(!Terminating.may_become(Started), "a terminate wins over a start that arrives late");
        assert!(!Started.may_become(Scheduling));
        assert!(Started.may_become(Pushing) && Pushing.may_become(Started));
        assert!(Pulling.may_become(Scheduling));
    }

    #[test]
    fn whole_progress_prints_as_an_integer() {
        let print = |share| serde_json::to_string(&Progress::of(share)).unwrap();
        assert_eq!(print(0.0), "0");
        assert_eq!(print(7.0), "1");
        assert_eq!(print(0.25), "0.25");
        assert_eq!(print(f64::NAN), "0");
    }
}
