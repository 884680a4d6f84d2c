//! Words about nodes.

use serde::{Deserialize, Serialize};

/// A machine architecture, in the two words that clients index maps by: any other one crashes some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64, Apple silicon included.
    Arm64,
}

impl Arch {
    /// The word of the APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The architecture this binary was built for.
    pub fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }
}

/// What the API says of a node (`reference/controller-api.md` §5.2). The strings are the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum NodeState {
    /// Healthy and checking in.
    Active,
    /// No check-in for the node timeout.
    Offline,
    /// The hypervisor's licence lapsed; takes no starts.
    #[serde(rename = "Inactive (Invalid License)")]
    InvalidLicense,
    /// The agent installs another version of itself.
    Updating,
    /// Full, and none of its VMs runs.
    Unhealthy,
    /// Takes no new starts; running VMs are untouched.
    #[serde(rename = "Drain Mode")]
    DrainMode,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Active, Self::Offline, Self::InvalidLicense, Self::Updating, Self::Unhealthy, Self::DrainMode];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Offline => "Offline",
            Self::InvalidLicense => "Inactive (Invalid License)",
            Self::Updating => "Updating",
            Self::Unhealthy => "Unhealthy",
            Self::DrainMode => "Drain Mode",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_and_written_by_its_word() {
        for state in NodeState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
