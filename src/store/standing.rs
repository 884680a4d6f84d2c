//! How the members of a store stand, as they say it themselves: for alarms, people and upkeep.

/// One member of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub member: String,
    /// What it said, or why it said nothing.
    pub said: Result<Said, String>,
}

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Its number in the cluster.
    pub id: u64,
    /// The number of the one that it takes for the leader; none knows that it has none.
    pub leader: Option<u64>,
    /// It votes on nothing.
    pub learner: bool,
    /// Its version.
    pub version: String,
    /// Bytes of its file.
    pub size: u64,
    /// Bytes of that which are in use; the rest is free until the file is made anew.
    pub used: u64,
    /// The size at which it takes no more writes, if it tells; older ones do not.
    pub quota: Option<u64>,
    /// What is raised in the cluster, by the member that it is about.
    pub alarms: Vec<(u64, Alarm)>,
}

/// Why a cluster takes no writes, until somebody disarms it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A member's file has reached its quota.
    NoSpace,
    /// A member has other data than the others.
    Corrupt,
}

impl Alarm {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::NoSpace, Self::Corrupt];

    /// Its name in metrics and texts, which is etcd's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// The alarms among what etcd calls the errors of a member, like `memberID:9 alarm:NOSPACE `.
pub(super) fn alarms(errors: &[String]) -> Vec<(u64, Alarm)> {
    let read = |text: &String| {
        let alarm =
            Alarm::ALL.into_iter().find(|alarm| text.contains(&format!("alarm:{}", alarm.as_str())))?;
        let id = text.split_once("memberID:")?.1.split_whitespace().next()?.parse().ok()?;
        Some((id, alarm))
    };
    errors.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_found_among_the_errors_of_a_member() {
        let errors = [
            "etcdserver: no leader",
            "memberID:10276657743932975437 alarm:NOSPACE ",
            "memberID:7 alarm:CORRUPT",
            "memberID:x alarm:NOSPACE",
            "alarm:NOSPACE",
            "",
        ];
        let errors = errors.map(str::to_owned);
        assert_eq!(alarms(&errors), [(10276657743932975437, Alarm::NoSpace), (7, Alarm::Corrupt)]);
    }
}
