//! Step 6: which upstream takes the next attempt, and why. Reads what it is given; opens nothing.
//!
//! Filters first, balance second. What a filter dropped keeps its reason, so that log, error answer and
//! admin API say the same. Of registries with replicated storage [`rank`] says which may answer.

mod candidate;
mod affinity;
mod rank;
mod reason;
mod brief;
mod pick;

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use self::pick::{AllSeen, Pick, Seen, Stand};
pub use self::{
    affinity::{Affinity, By, Carried},
    brief::{Brief, Briefs},
    candidate::{Candidate, seed, tag},
    rank::{Fresh, Rank, Stale},
    reason::{NoneLeft, Past, Reason, Tie, Why, Within},
};
use super::{
    classify::{Needs, Route},
    freshness::Standing,
};
use crate::{config::proxy::Balance, health::State};

/// Where an upstream stands with what became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// It takes them.
    In,
    /// It is ejected.
    Ejected,
    /// Its ejection is over, and this request may be its trial.
    Trial,
}

/// What the request needs.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// What it is.
    pub route: Route,
    /// The write registry of replicated storage.
    pub writer: Option<usize>,
    /// The registry that collects logs.
    pub logs: Option<usize>,
    /// Only this place will do: the registry of an upload session.
    pub only: Option<usize>,
    /// Of several that would do alike this one: what the request belongs to is there.
    pub rather: Option<usize>,
    /// The write registry says that it is none any more, or another says that it has succeeded it.
    pub deposed: bool,
    /// The writer is asked for no reads.
    pub write_only: bool,
    /// How freshness bears on it; `None`: not at all.
    pub fresh: Option<Fresh>,
    /// A lagging replica may be waited for.
    pub patient: bool,
    /// With a smaller part of the pool left, ejections are ignored.
    pub panic_threshold: f64,
    /// Only an upstream that declares this ability will do.
    pub ability: Option<&'static str>,
    /// What ties it to one upstream.
    pub affinity: Affinity,
    /// The proxy is in a zone, and some upstream in the same one.
    pub zoned: bool,
}

/// Of whoever says nothing else.
const PANIC_THRESHOLD: f64 = 0.3;

impl Want {
    /// Of a service whose upstreams are all alike.
    pub fn plain(route: Route) -> Self {
        Self {
            route,
            writer: None,
            logs: None,
            only: None,
            rather: None,
            deposed: false,
            write_only: false,
            fresh: None,
            patient: true,
            panic_threshold: PANIC_THRESHOLD,
            ability: None,
            affinity: Affinity::Free,
            zoned: false,
        }
    }

    /// Whether balance has nothing to say, for it belongs somewhere.
    pub fn is_bound(&self) -> bool {
        let tied = matches!(self.affinity, Affinity::Stick(..) | Affinity::Tagged(_));
        tied || self.only.is_some()
            || self.rather.is_some()
            || (self.route.to_writer && self.writer.is_some())
    }
}

/// Places of a few upstreams.
type Places = SmallVec<[usize; 2]>;

/// What the attempts so far have taught.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// Places where the request was sent.
    sent: Places,
    /// Those of them that answered, although nothing of it was passed on.
    answered: Places,
    /// Places that could not be connected to; forgotten after a while, for nothing was sent.
    refused: Places,
    /// Places that answered that they do not have it.
    absent: Places,
    /// Places whose answer was older than what is needed; forgotten after a while, for they may catch up.
    older: Places,
    /// One was asked twice already.
    again: bool,
}

impl Tried {
    /// It was sent there.
    pub fn sent(&mut self, place: usize) {
        self.again |= self.sent.contains(&place);
        self.sent.push(place);
    }

    /// It has refused to look at it, and may be asked again at once.
    pub fn unsent(&mut self, place: usize) {
        self.sent.retain(|sent| *sent != place);
    }

    /// It answered with an error for which another one is asked.
    pub fn answered(&mut self, place: usize) {
        self.answered.push(place);
    }

    /// Whether it was sent there, and nothing came.
    fn silent(&self, place: usize) -> bool {
        let of = |places: &[usize]| places.iter().filter(|at| **at == place).count();
        of(&self.sent) > of(&self.answered)
    }

    /// Connecting there failed.
    pub fn refused(&mut self, place: usize) {
        self.refused.push(place);
    }

    /// It answered that it does not have what was asked for.
    pub fn absent(&mut self, place: usize) {
        self.sent.retain(|sent| *sent != place);
        self.absent.push(place);
    }

    /// Its answer was older than what is needed.
    pub fn older(&mut self, place: usize) {
        self.sent.retain(|sent| *sent != place);
        self.older.push(place);
    }

    /// Lets those be tried once more that could not be connected to.
    pub fn forgive_refused(&mut self) {
        self.refused.clear();
    }

    /// Lets those be tried once more that may have caught up.
    pub fn forgive_older(&mut self) {
        self.older.clear();
    }

    /// Whether any answered that it does not have it.
    pub fn absent_any(&self) -> bool {
        !self.absent.is_empty()
    }

    fn spent(&self, place: usize) -> bool {
        [&self.sent, &self.refused, &self.absent, &self.older].iter().any(|places| places.contains(&place))
    }

    /// Whether anything was sent to anyone who has not answered.
    pub fn sent_any(&self) -> bool {
        !self.sent.is_empty()
    }
}

/// Chance and turn of one choice.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Counts up by one per request; by chance if that takes no turn.
    pub turn: usize,
    /// Evenly spread.
    pub chance: u64,
}

/// The pick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its place among the candidates.
    pub place: usize,
    /// What it is to the request.
    pub rank: Rank,
    /// Why this one.
    pub why: Why,
    /// What each of the candidates was to the choice.
    pub stood: Briefs,
}

/// Most services have no more upstreams than this; those of more cost an allocation.
pub const FEW: usize = 8;

/// The upstreams of a service as they stand.
pub type Candidates<'a> = SmallVec<[Candidate<'a>; FEW]>;

/// Chooses the upstream of the next attempt. With `desperate` one that is ejected will do, and, only if none passes its
/// probes, one whose probes fail; nothing else is relaxed by it.
pub fn next(
    candidates: &[Candidate<'_>],
    want: &Want,
    tried: &Tried,
    how: Balance,
    desperate: bool,
    draw: Draw,
) -> Result<Chosen, NoneLeft> {
    let lost = rank::writer_lost(candidates, want, tried);
    let (mut seen, mut hopeless) = (AllSeen::new(), AllSeen::new());
    let mut asked = None;
    let (mut ejected, heeded) = (AllSeen::new(), heeds_ejections(candidates, want, lost));
    let mut proven = false;
    let mut wait = None;
    let mut stood = Briefs::new();
    for (place, candidate) in candidates.iter().enumerate() {
        let (up, spent) = (candidate.is_up(), tried.spent(place));
        let rank = rank::rank(place, candidate, want, lost);
        let brief = Brief::of(place, candidate, &rank, tried, heeded);
        stood.push(brief);
        if up && !spent {
            wait = wait.max(worth_waiting(candidate, want, &rank));
        }
        let rank = match rank {
            Ok(rank) => rank,
            Err(reason) => {
                if reason.may_pass() {
                    // It counts for what its zone and its clients miss.
                    seen.push(Seen { rank: Rank::First, place, stand: Stand::Out });
                }
                continue;
            }
        };
        proven |= up;
        let full = candidate.is_full();
        seen.push(Seen { rank, place, stand: brief.stand() });
        if up && tried.sent.contains(&place) && !full {
            asked = Some((rank, place));
        }
        let last = Seen { rank, place, stand: Stand::Open };
        if !spent && !full {
            match brief {
                Brief::Ejected => ejected.push(last),
                Brief::Down | Brief::Unknown => hopeless.push(last),
                _ => {}
            }
        }
    }
    let nobody = || nobody(candidates, want, tried, lost, desperate);
    // A lagging replica is waited for before anybody is asked who is not the first choice; but not once bytes went
    // out, for that would only delay an error.
    let first = seen.iter().any(|one| one.rank == Rank::First && one.stand == Stand::Open);
    if let Some(wait) = wait.filter(|_| want.patient && !first && !tried.sent_any()) {
        return Err(NoneLeft { wait: Some(wait), ..nobody() });
    }
    let patient = !desperate && !tried.sent_any();
    match pick::pick(candidates, &seen, want, how, patient, draw) {
        Pick::One(rank, place, why) => {
            let why = match candidates.get(place).map(|candidate| candidate.out) {
                Some(Out::Ejected) => Why::Panic,
                Some(Out::Trial) => Why::Trial,
                Some(Out::In) | None => self::why(want, rank, place, why),
            };
            return Ok(Chosen { place, rank, why, stood });
        }
        Pick::Wait => return Err(nobody()),
        Pick::None => {}
    }
    if let Some((rank, place)) = asked
        && !tried.again
    {
        return Ok(Chosen { place, rank, why: Why::Again, stood });
    }
    if desperate && let Pick::One(rank, place, _) = pick::pick(candidates, &ejected, want, how, false, draw) {
        return Ok(Chosen { place, rank, why: Why::Panic, stood });
    }
    if desperate
        && !proven
        && let Pick::One(rank, place, _) = pick::pick(candidates, &hopeless, want, how, false, draw)
    {
        return Ok(Chosen { place, rank, why: Why::Desperate, stood });
    }
    Err(nobody())
}

/// Whether ejections count for such a request: not when so few are left that these would break down under its load.
fn heeds_ejections(candidates: &[Candidate<'_>], want: &Want, lost: bool) -> bool {
    if candidates.iter().all(|candidate| candidate.out != Out::Ejected) {
        return true;
    }
    let left = |(place, candidate): &(usize, &Candidate<'_>)| {
        let well = candidate.verdict.state == State::Up && candidate.out == Out::In;
        well && rank::rank(*place, candidate, want, lost).is_ok()
    };
    let pool = candidates.iter().filter(|candidate| !candidate.drained).count();
    !is_panic(candidates.iter().enumerate().filter(left).count(), pool, want.panic_threshold)
}

/// Whether so many that are left of a pool are too few to heed ejections.
pub fn is_panic(left: usize, of: usize, threshold: f64) -> bool {
    (left as f64) < threshold * of as f64
}

/// What each upstream is to such a request now, before anything was tried, or why it is nothing to it.
pub fn ranks(candidates: &[Candidate<'_>], want: &Want) -> Vec<Result<Rank, Reason>> {
    each(candidates, want, &Tried::default(), false)
}

/// What each upstream is to a request that has tried so much, or why it is nothing to it: [`next`] decides by the same.
pub fn each(
    candidates: &[Candidate<'_>],
    want: &Want,
    tried: &Tried,
    desperate: bool,
) -> Vec<Result<Rank, Reason>> {
    let lost = rank::writer_lost(candidates, want, tried);
    let heeded = heeds_ejections(candidates, want, lost) && !desperate;
    let of = |(place, candidate): (usize, &Candidate<'_>)| {
        stands(place, candidate, rank::rank(place, candidate, want, lost), tried, heeded)
    };
    candidates.iter().enumerate().map(of).collect()
}

/// For how long none that could serve such a request has passed its probes; `None` when one does, or when
/// one was never asked.
pub fn failing_for(
    candidates: &[Candidate<'_>],
    want: &Want,
    tried: &Tried,
    now: Instant,
) -> Option<Duration> {
    let lost = rank::writer_lost(candidates, want, tried);
    let mut since = None;
    for (place, candidate) in candidates.iter().enumerate() {
        if rank::rank(place, candidate, want, lost).is_err() {
            continue;
        }
        if candidate.verdict.state != State::Down {
            return None;
        }
        since = since.max(Some(candidate.verdict.since));
    }
    since.map(|since| now.saturating_duration_since(since))
}

/// For how long it pays to wait until this one has caught up.
fn worth_waiting(candidate: &Candidate<'_>, want: &Want, rank: &Result<Rank, Reason>) -> Option<Duration> {
    let lags = matches!(rank, Err(Reason::Behind { .. }) | Ok(Rank::Stale(Stale::Behind)));
    match candidate.standing {
        Standing::Behind { patience, .. } if lags && want.fresh.is_some() => Some(patience),
        _ => None,
    }
    .filter(|patience| !patience.is_zero())
}

/// Why this one: what it is to the request says more than how it was picked.
fn why(want: &Want, rank: Rank, place: usize, picked: Why) -> Why {
    let is_writer = want.writer == Some(place);
    match rank {
        Rank::Stale(stale) => Why::Stale(stale),
        Rank::First if want.only.is_some() => Why::Session,
        Rank::First if want.route.needs == Needs::Logs && want.logs == Some(place) => Why::Logs,
        Rank::First if is_writer && (want.route.to_writer || want.route.needs == Needs::Keys) => Why::Writer,
        Rank::Second if !is_writer => Why::WriterLost,
        Rank::Second => match (want.route.needs, want.fresh) {
            (
                Needs::Repository | Needs::All | Needs::Unsaid,
                Some(Fresh { lease: false, listing: true, .. }),
            ) => Why::NoList,
            (Needs::Unsaid, Some(_)) => Why::NoneFresh,
            (Needs::Repository | Needs::All, Some(Fresh { lease: false, .. })) => Why::NoLease,
            (Needs::Repository | Needs::All, Some(_)) => Why::NoneFresh,
            _ => Why::WriterLast,
        },
        Rank::First => picked,
    }
}

/// Nobody, with the reason of each.
pub fn none_left(candidates: &[Candidate<'_>], want: &Want, tried: &Tried, desperate: bool) -> NoneLeft {
    nobody(candidates, want, tried, rank::writer_lost(candidates, want, tried), desperate)
}

fn nobody(candidates: &[Candidate<'_>], want: &Want, tried: &Tried, lost: bool, desperate: bool) -> NoneLeft {
    // Where ejections do not count, something else is in the way.
    let heeded = heeds_ejections(candidates, want, lost) && !desperate;
    let of = |(place, candidate): (usize, &Candidate<'_>)| {
        let rank = rank::rank(place, candidate, want, lost);
        let reason = stands(place, candidate, rank, tried, heeded).err().unwrap_or(Reason::Able);
        (candidate.name.to_string(), reason)
    };
    NoneLeft { upstreams: candidates.iter().enumerate().map(of).collect(), wait: None }
}

/// [`Brief::of`], with what a reason is made of.
fn stands(
    place: usize,
    candidate: &Candidate<'_>,
    rank: Result<Rank, Reason>,
    tried: &Tried,
    heeded: bool,
) -> Result<Rank, Reason> {
    match Brief::of(place, candidate, &rank, tried, heeded) {
        Brief::Absent => Err(Reason::Absent),
        Brief::Able(rank) => Ok(rank),
        _ if rank.is_err() => rank,
        Brief::Down => Err(Reason::Down(candidate.verdict.evidence.clone())),
        Brief::Unknown => Err(Reason::Unknown),
        Brief::Older => Err(Reason::Older),
        Brief::Ejected => Err(Reason::Ejected),
        Brief::Full => Err(Reason::Full { most: candidate.most.unwrap_or_default() }),
        Brief::Connections | Brief::Pending | Brief::Queue => {
            Err(candidate.bound.map_or(Reason::Tried, Reason::Bound))
        }
        _ => Err(Reason::Tried),
    }
}

#[cfg(test)]
mod tests;
