//! Why an upstream was picked, and why others were not: what log, error answer and admin API say alike.

use std::{fmt, time::Duration};

use super::{
    affinity::By,
    brief::Brief,
    rank::{Rank, Stale},
};
use crate::{
    config::proxy::Balance,
    model::Position,
    proxy::{lane::Lane, room::Bound},
};

/// Where an upstream stands to the zone of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Zones play no part.
    Anywhere,
    /// It is in the same one.
    Zone,
    /// It is in another one, for the own has not enough left.
    Beyond,
}

/// What tied a request to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tie {
    /// What of the request.
    pub by: By,
    /// It is the one; if not, that one could not take it, and this one stands in.
    pub own: bool,
}

/// Why an upstream was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// By balance, among so many.
    Balanced {
        /// How.
        by: Balance,
        /// How many were eligible.
        among: usize,
        /// Where they were.
        within: Within,
        /// The one that its key belongs to has more than its part under way.
        spilled: bool,
    },
    /// It is tied to it.
    Tied(Tie),
    /// It is the writer.
    Writer,
    /// It is the writer, and no replica is fresh enough.
    NoneFresh,
    /// It is the writer, and without a lease on its log nobody else can be known to be fresh.
    NoLease,
    /// It is the writer, and without its list nobody else can be known to have what it has.
    NoList,
    /// It is the writer, which is asked last.
    WriterLast,
    /// It collects the logs.
    Logs,
    /// The handshake, session or push of this client is there.
    Belongs,
    /// The writer cannot be asked.
    WriterLost,
    /// The upload session is there.
    Session,
    /// It has come furthest, and may miss the last pushes.
    Stale(Stale),
    /// Nothing else was eligible.
    Only,
    /// It was asked before without an answer and there is no other.
    Again,
    /// Its probes fail, but so do all others' and the hold is over.
    Desperate,
    /// It is ejected, and too few others are left.
    Panic,
    /// Its ejection is over, and this shows whether it is well again.
    Trial,
}

/// Which rule had to be departed from: the label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// The first of a key's line has more than its part under way.
    Load,
    /// The proxy's own zone has not enough left.
    Zone,
    /// The one that a client is tied to cannot take its request.
    Tie,
}

impl Past {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Load, Self::Zone, Self::Tie];

    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Zone => "zone",
            Self::Tie => "sticky",
        }
    }
}

impl Why {
    /// Which rule had to be departed from, if any.
    pub fn past(&self) -> Option<Past> {
        match self {
            Self::Balanced { within: Within::Beyond, .. } => Some(Past::Zone),
            Self::Balanced { spilled: true, .. } => Some(Past::Load),
            Self::Tied(Tie { own: false, .. }) => Some(Past::Tie),
            _ => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced { by, among, within, spilled } => {
                write!(f, "{} among {among}", by.as_str())?;
                f.write_str(match within {
                    Within::Anywhere => "",
                    Within::Zone => " in the same zone",
                    Within::Beyond => " in other zones, its own has not enough left",
                })?;
                f.write_str(if *spilled { ", the first is overloaded" } else { "" })
            }
            Self::Tied(Tie { by, own: true }) => write!(f, "sticky by {}", by.as_str()),
            Self::Tied(Tie { by, own: false }) => {
                write!(f, "sticky by {}, instead of one that cannot take it", by.as_str())
            }
            Self::Writer => f.write_str("the writer"),
            Self::NoneFresh => f.write_str("the writer, no replica is fresh enough"),
            Self::NoLease => {
                f.write_str("the writer, without a lease on its log no replica is known to be fresh")
            }
            Self::NoList => {
                f.write_str("the writer, whose list is not known, so no replica can be compared with it")
            }
            Self::WriterLast => f.write_str("the writer, asked last"),
            Self::Belongs => f.write_str("this client's handshake, session or push is there"),
            Self::Logs => f.write_str("it collects the logs"),
            Self::WriterLost => f.write_str("the writer cannot be asked"),
            Self::Session => f.write_str("the upload session is there"),
            Self::Stale(stale) => write!(f, "it has come furthest; stale: {}", stale.as_str()),
            Self::Only => f.write_str("the only eligible one"),
            Self::Again => f.write_str("asked again, there is no other"),
            Self::Desperate => f.write_str("tried although its probes fail, all others' do too"),
            Self::Panic => f.write_str("tried although it is ejected, too few others are left"),
            Self::Trial => f.write_str("the trial after its ejection"),
        }
    }
}

/// Why one was not eligible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its probes fail.
    Down(String),
    /// Not probed yet.
    Unknown,
    /// Too many requests failed there lately.
    Ejected,
    /// An operator says that it takes nothing new.
    Drained,
    /// It says that it cannot serve this kind of request.
    Withheld(String),
    /// It is not the writer.
    NotWriter,
    /// It does not declare the ability that a repeat needs.
    Unable,
    /// It was tried for this request.
    Tried,
    /// As many requests are under way there as it takes.
    Full {
        /// So many.
        most: u64,
    },
    /// It is at another bound.
    Bound(Bound),
    /// The upload session is at another one.
    Elsewhere,
    /// It has not come so far.
    Behind {
        /// What is needed.
        needed: Position,
        /// What it has.
        has: Position,
    },
    /// It claims no position.
    Unclaimed,
    /// Its history is not the writer's.
    Foreign,
    /// By its list it does not have what the writer has.
    Differs,
    /// It was written lately, and lists do not show that for sure yet.
    Written,
    /// Its list is not known.
    Unlisted,
    /// The writer's list is not known.
    NoList,
    /// It is not the registry that collects logs.
    NotLogs,
    /// What is needed is not known.
    NoLease,
    /// It is the writer, and that is asked for no reads.
    WriteOnly,
    /// It answered that it does not have it.
    Absent,
    /// Its answer was older than what is needed.
    Older,
    /// It is of another version than agents are served from, or which one it is, is not sure.
    Apart,
    /// It could take it, and one that is better for it is waited for.
    Able,
}

impl Reason {
    /// The same in a byte.
    pub(super) fn brief(&self) -> Brief {
        match self {
            Self::Down(_) => Brief::Down,
            Self::Unknown => Brief::Unknown,
            Self::Ejected => Brief::Ejected,
            Self::Drained => Brief::Drained,
            Self::Withheld(_) => Brief::Withheld,
            Self::NotWriter => Brief::NotWriter,
            Self::Unable => Brief::Unable,
            Self::Tried => Brief::Tried,
            Self::Full { .. } => Brief::Full,
            Self::Bound(bound) => Brief::at(*bound),
            Self::Elsewhere => Brief::Elsewhere,
            Self::Behind { .. } => Brief::Behind,
            Self::Unclaimed => Brief::Unclaimed,
            Self::Foreign => Brief::Foreign,
            Self::Differs => Brief::Differs,
            Self::Written => Brief::Written,
            Self::Unlisted => Brief::Unlisted,
            Self::NoList => Brief::NoList,
            Self::NotLogs => Brief::NotLogs,
            Self::NoLease => Brief::NoLease,
            Self::WriteOnly => Brief::WriteOnly,
            Self::Absent => Brief::Absent,
            Self::Older => Brief::Older,
            Self::Apart => Brief::Apart,
            Self::Able => Brief::Able(Rank::Second),
        }
    }

    /// Whether it is about freshness.
    fn is_unfresh(&self) -> bool {
        let by_position = matches!(
            self,
            Self::Behind { .. } | Self::Unclaimed | Self::Foreign | Self::NoLease | Self::Older
        );
        by_position || matches!(self, Self::Differs | Self::Written | Self::Unlisted | Self::NoList)
    }

    /// Whether it could serve such requests at another time, as it is configured.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::NotWriter | Self::NotLogs | Self::WriteOnly | Self::Elsewhere | Self::Unable | Self::Apart
        )
    }

    /// Whether a hold is no cure for it: what it waits for takes longer, or never comes.
    fn is_settled(&self) -> bool {
        let by_list = matches!(self, Self::Differs | Self::Written | Self::NotLogs);
        by_list || matches!(self, Self::Behind { .. } | Self::WriteOnly | Self::NotWriter | Self::Absent)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(why) => write!(f, "down, {why}"),
            Self::Withheld(why) => f.write_str(why),
            Self::Full { most } => write!(f, "at its limit of {most} requests"),
            Self::Bound(Bound::Connections(lane, most)) => {
                write!(f, "at its limit of {most} connections of the {} lane", lane.as_str())
            }
            Self::Bound(Bound::Pending(most)) => {
                write!(f, "at its limit of {most} connections that are being made")
            }
            Self::Behind { needed, has } => write!(f, "has {has}, and {needed} is needed"),
            Self::Able => f.write_str("could take it, a better one is waited for"),
            other => write!(f, "{}", other.brief()),
        }
    }
}

/// Nothing was eligible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoneLeft {
    /// Each upstream with its reason.
    pub upstreams: Vec<(String, Reason)>,
    /// A replica may catch up, and may be waited for so long yet.
    pub wait: Option<Duration>,
}

impl NoneLeft {
    /// One that has just answered with something too old, or that it does not have it.
    pub fn of(upstream: String, older: bool) -> Self {
        let reason = if older { Reason::Older } else { Reason::Absent };
        Self { upstreams: vec![(upstream, reason)], wait: None }
    }

    /// Whether it is for want of freshness.
    pub fn is_unfresh(&self) -> bool {
        self.upstreams.iter().any(|(_, reason)| reason.is_unfresh())
    }

    /// Those that would take it if they had room, by their places (of one that a choice has told, that is), and whether it is
    /// a connection of a lane that they lack.
    pub fn full(&self) -> impl Iterator<Item = (usize, Option<Lane>)> {
        self.upstreams.iter().enumerate().filter_map(|(place, (_, reason))| match reason {
            Reason::Full { .. } | Reason::Bound(Bound::Pending(_)) => Some((place, None)),
            Reason::Bound(Bound::Connections(lane, _)) => Some((place, Some(*lane))),
            Reason::Bound(Bound::Queue(lane)) => Some((place, *lane)),
            _ => None,
        })
    }

    /// Whether somebody would take it who is at one of its bounds.
    pub fn is_full(&self) -> bool {
        self.full().next().is_some()
    }

    /// Whether the writer is not asked because the config says so.
    pub fn is_write_only(&self) -> bool {
        self.upstreams.iter().any(|(_, reason)| *reason == Reason::WriteOnly)
    }

    /// Whether a hold cannot change it.
    pub fn is_settled(&self) -> bool {
        !self.upstreams.is_empty() && self.upstreams.iter().all(|(_, reason)| reason.is_settled())
    }
}

impl fmt::Display for NoneLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, reason)) in self.upstreams.iter().enumerate() {
            let gap = if at > 0 { "; " } else { "" };
            write!(f, "{gap}{name}: {reason}")?;
        }
        Ok(())
    }
}
