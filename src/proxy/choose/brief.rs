//! What one upstream was to one choice, in a byte: cheap enough to be kept of every attempt, and read when somebody asks.

use std::fmt;

use smallvec::SmallVec;

use super::{
    Candidate, Out, Reason, Tried,
    pick::Stand,
    rank::{Rank, Stale},
};
use crate::{health::State, proxy::room::Bound};

/// A [`Reason`] without what it is made of, or what one that could take the request was to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brief {
    /// It could take it.
    Able(Rank),
    /// Its probes fail.
    Down,
    /// Not probed yet.
    Unknown,
    /// Too many requests failed there lately.
    Ejected,
    /// An operator says that it takes nothing new.
    Drained,
    /// It says that it cannot serve this kind of request.
    Withheld,
    /// It is not the writer.
    NotWriter,
    /// It does not declare the ability that a repeat needs.
    Unable,
    /// It was tried for this request.
    Tried,
    /// As many requests are under way there as it takes.
    Full,
    /// As many connections are open as may be.
    Connections,
    /// As many are being made as may be.
    Pending,
    /// Others wait for room there.
    Queue,
    /// The upload session is at another one.
    Elsewhere,
    /// It has not come so far.
    Behind,
    /// It claims no position.
    Unclaimed,
    /// Its history is not the writer's.
    Foreign,
    /// By its list it does not have what the writer has.
    Differs,
    /// It was written lately.
    Written,
    /// Its list is not known.
    Unlisted,
    /// The writer's list is not known.
    NoList,
    /// It does not collect logs.
    NotLogs,
    /// What is needed is not known.
    NoLease,
    /// It is asked for no reads.
    WriteOnly,
    /// It answered that it does not have it.
    Absent,
    /// Its answer was older than what is needed.
    Older,
    /// It is of another version than agents are served from.
    Apart,
}

/// Of each candidate of a choice, in their order. Most services have no more upstreams than this has room for.
pub type Briefs = SmallVec<[Brief; 16]>;

impl Brief {
    /// What this candidate is to a choice; `rank` is what it is to the request, and `heeded`: ejections count.
    pub(super) fn of(
        place: usize,
        candidate: &Candidate<'_>,
        rank: &Result<Rank, Reason>,
        tried: &Tried,
        heeded: bool,
    ) -> Self {
        if tried.absent.contains(&place) {
            return Self::Absent;
        }
        let rank = match rank {
            Ok(rank) => *rank,
            Err(reason) => return reason.brief(),
        };
        match candidate.verdict.state {
            State::Down => Self::Down,
            State::Unknown => Self::Unknown,
            State::Up if tried.older.contains(&place) => Self::Older,
            State::Up if tried.spent(place) => Self::Tried,
            State::Up if heeded && candidate.out == Out::Ejected => Self::Ejected,
            State::Up if candidate.most.is_some_and(|most| candidate.outstanding >= most) => Self::Full,
            State::Up => candidate.bound.map_or(Self::Able(rank), Self::at),
        }
    }

    pub(super) fn at(bound: Bound) -> Self {
        match bound {
            Bound::Connections(..) => Self::Connections,
            Bound::Pending(_) => Self::Pending,
            Bound::Queue(_) => Self::Queue,
        }
    }

    /// What became of it in the filters.
    pub(super) fn stand(self) -> Stand {
        match self {
            Self::Able(_) => Stand::Open,
            Self::Full | Self::Connections | Self::Pending | Self::Queue => Stand::Full,
            _ => Stand::Out,
        }
    }

    /// Whether it could take the request.
    pub fn is_able(self) -> bool {
        matches!(self, Self::Able(_))
    }

    fn text(self) -> &'static str {
        match self {
            Self::Able(rank) => rank.text(),
            Self::Down => "down",
            Self::Unknown => "not probed yet",
            Self::Ejected => "ejected, too many requests failed there",
            Self::Drained => "drained by an operator",
            Self::Withheld => "it said that it could not serve this",
            Self::NotWriter => "not the writer",
            Self::Unable => "does not support repeats",
            Self::Tried => "tried already",
            Self::Full => "at its limit of requests",
            Self::Connections => "at its limit of connections",
            Self::Pending => "at its limit of connections that are being made",
            Self::Queue => "others wait for room there",
            Self::Elsewhere => "the upload session is not there",
            Self::Behind => "had not come as far as is needed",
            Self::Unclaimed => "claims no position",
            Self::Foreign => "its history is not the writer's, and it has not noticed yet",
            Self::Differs => "does not list what the writer lists",
            Self::Written => "may lack what was written lately: lists do not show that yet",
            Self::Unlisted => "its list is not known",
            Self::NoList => "not known to be fresh, the writer's list is not known",
            Self::NotLogs => "does not collect the logs",
            Self::NoLease => "not known to be fresh, there is no lease on the writer's log",
            Self::WriteOnly => "write-only",
            Self::Absent => "does not have it",
            Self::Older => "its answer was older than what is needed",
            Self::Apart => "not known to be of the version that agents are served from",
        }
    }
}

impl Rank {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::First => "a first choice",
            Self::Second => "asked when no replica will do",
            Self::Stale(Stale::Unknown) => "asked for want of a better one, marked `unknown`",
            Self::Stale(Stale::Behind) => "asked for want of a better one, marked `behind`",
        }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_byte() {
        assert_eq!(size_of::<Brief>(), 1);
    }
}
