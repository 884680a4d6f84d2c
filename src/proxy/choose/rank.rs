//! What a registry is to a request: the first choice, one that will do, or none, and why not. The table of
//! `docs/replication.md`, "Which registry may answer".

use super::{Candidate, Reason, Tried, Want};
use crate::{
    config::proxy::StaleReads,
    health::{Access, May, State},
    proxy::{classify::Needs, freshness::Standing},
};

/// How freshness bears on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// What is needed is known for sure.
    pub lease: bool,
    /// What may be answered when it is not.
    pub stale: StaleReads,
    /// It is known by comparing lists, not by positions.
    pub listing: bool,
}

/// Why an answer may miss the last pushes: what `Switchyard-Stale` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stale {
    /// Whether it misses any cannot be known.
    Unknown,
    /// It does.
    Behind,
}

impl Stale {
    /// The word of the header, the access log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Behind => "behind",
        }
    }
}

/// What an upstream is to a request. Of those that are eligible one of the lowest rank takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The first choice.
    First,
    /// It will do when there is no first choice.
    Second,
    /// It will do then, and its answer is marked.
    Stale(Stale),
}

/// Whether the writer cannot be asked: its probes fail, it says so itself, or this request has found out; or whether
/// it is none, for what is read.
pub(super) fn writer_lost(candidates: &[Candidate<'_>], want: &Want, tried: &Tried) -> bool {
    let Some(writer) = want.writer else { return false };
    let deposed = want.deposed && want.route.access == Access::Read;
    let silent = tried.silent(writer) || tried.refused.contains(&writer);
    deposed
        || silent
        || candidates.get(writer).is_none_or(|candidate| {
            candidate.verdict.state == State::Down || withheld(candidate, want).is_some()
        })
}

/// What this upstream is to the request, or why it is nothing to it. Says nothing about its probes, and nothing
/// relaxes it.
pub(super) fn rank(place: usize, candidate: &Candidate<'_>, want: &Want, lost: bool) -> Result<Rank, Reason> {
    if want.only.is_some_and(|only| only != place) {
        return Err(Reason::Elsewhere);
    }
    // What has begun there ends there: an upload session, a handshake, a push.
    if candidate.drained && want.only != Some(place) && want.rather != Some(place) {
        return Err(Reason::Drained);
    }
    if candidate.apart {
        return Err(Reason::Apart);
    }
    if want.route.needs == Needs::Logs {
        return match (want.logs.is_some_and(|logs| logs != place), withheld(candidate, want)) {
            (true, _) => Err(Reason::NotLogs),
            (false, Some(reason)) => Err(reason),
            (false, None) => Ok(Rank::First),
        };
    }
    let writer = want.writer.filter(|_| want.only.is_none());
    let is_writer = writer == Some(place);
    let instead = lost && want.fresh.is_some() && want.route.needs == Needs::Blob;
    if writer.is_some() && want.route.to_writer && !is_writer && !instead {
        return Err(Reason::NotWriter);
    }
    if let Some(reason) = withheld(candidate, want) {
        return Err(reason);
    }
    if writer.is_none() {
        return Ok(Rank::First);
    }
    if want.route.needs == Needs::Keys {
        // A session is good where it was made, and a push needs one at the writer.
        return Ok(if is_writer { Rank::First } else { Rank::Second });
    }
    if want.route.to_writer {
        return Ok(if is_writer { Rank::First } else { Rank::Second });
    }
    // One that is the writer no more is to reads what a replica is.
    let former = want.deposed && matches!(want.route.needs, Needs::Repository | Needs::All);
    if is_writer && (!former || want.write_only) {
        // A push begins with a question that needs nothing, and a blob that no replica has yet may be there: rather
        // the writer than nobody.
        let none = !depends(want) && want.route.needs != Needs::Blob;
        let rather = none || want.route.needs == Needs::Blob;
        return match (want.write_only && want.route.access == Access::Read, &want.fresh) {
            (true, _) if !rather => Err(Reason::WriteOnly),
            (true, _) => Ok(Rank::Second),
            (false, Some(_)) if !none => Ok(Rank::Second),
            (false, _) => Ok(Rank::First),
        };
    }
    match &want.fresh {
        Some(fresh) if depends(want) && fresh.listing => listed(candidate, want, fresh, lost),
        Some(fresh) if depends(want) => replica(candidate, want, fresh, lost),
        _ => Ok(Rank::First),
    }
}

/// Whether it depends on how far a registry has come. By lists that is so for what nobody can tell, too.
fn depends(want: &Want) -> bool {
    match want.route.needs {
        Needs::Repository | Needs::All => true,
        Needs::Unsaid => want.fresh.is_some_and(|fresh| fresh.listing),
        Needs::Nothing | Needs::Blob | Needs::Keys | Needs::Logs => false,
    }
}

/// A replica of the vendor's, for what depends on what it lists.
fn listed(candidate: &Candidate<'_>, want: &Want, fresh: &Fresh, lost: bool) -> Result<Rank, Reason> {
    let allowed = fresh.stale == StaleReads::Allow && (lost || want.write_only);
    let for_want_of_a_writer = lost && fresh.stale != StaleReads::Never;
    match candidate.standing {
        Standing::Same if fresh.lease => Ok(Rank::First),
        // What differs was pushed since, or taken back.
        Standing::Differs { .. } if fresh.lease && (allowed || for_want_of_a_writer) => {
            Ok(Rank::Stale(Stale::Behind))
        }
        _ if allowed || for_want_of_a_writer => Ok(Rank::Stale(Stale::Unknown)),
        _ if !fresh.lease => Err(Reason::NoList),
        Standing::Differs { .. } => Err(Reason::Differs),
        Standing::Written => Err(Reason::Written),
        _ => Err(Reason::Unlisted),
    }
}

/// A replica, for what depends on how far it has come.
fn replica(candidate: &Candidate<'_>, want: &Want, fresh: &Fresh, lost: bool) -> Result<Rank, Reason> {
    let allowed = fresh.stale == StaleReads::Allow && (lost || want.write_only);
    let for_want_of_a_writer = lost && fresh.stale != StaleReads::Never;
    match candidate.standing {
        Standing::Foreign => Err(Reason::Foreign),
        // It may have begun anew while the writer was away, and then has all that it had.
        Standing::Unclaimed if for_want_of_a_writer && !fresh.lease => Ok(Rank::Stale(Stale::Unknown)),
        Standing::Unclaimed => Err(Reason::Unclaimed),
        Standing::Fresh { .. } if fresh.lease => Ok(Rank::First),
        Standing::Behind { .. } if fresh.lease && allowed => Ok(Rank::Stale(Stale::Behind)),
        Standing::Behind { needed, has, .. } if fresh.lease => Err(Reason::Behind { needed, has }),
        _ if allowed || for_want_of_a_writer => Ok(Rank::Stale(Stale::Unknown)),
        _ => Err(Reason::NoLease),
    }
}

/// What it says of itself.
fn withheld(candidate: &Candidate<'_>, want: &Want) -> Option<Reason> {
    if let May::No(why) = candidate.verdict.may(want.route.class, want.route.access) {
        return Some(Reason::Withheld(why.clone()));
    }
    let unable = want.ability.is_some_and(|ability| !candidate.verdict.supports(ability));
    unable.then_some(Reason::Unable)
}
