//! Balance: one of those that are eligible and of the same rank.
//!
//! What ties the request to one upstream comes first, then the zone, then the way of the service. A tie looks at neither load
//! nor zone nor slow start, for two proxies know those differently.

use smallvec::SmallVec;

use super::{
    Affinity, By, Candidate, Draw, FEW, Rank, Want, Why,
    candidate::tag,
    reason::{Tie, Within},
};
use crate::{
    balance::{self, Entry},
    config::proxy::Balance,
};

/// What became of one upstream in the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// It can take the request.
    Open,
    /// It could, if it had not as many under way as it takes.
    Full,
    /// It was tried, or it fails its probes: it is one of those that could.
    Out,
}

/// One that could take the request by its rank, whether it can now or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) rank: Rank,
    pub(super) place: usize,
    pub(super) stand: Stand,
}

/// All of them. Most services have no more upstreams than this has room for.
pub(super) type AllSeen = SmallVec<[Seen; FEW]>;
type Places = SmallVec<[usize; FEW]>;
type Entries = SmallVec<[Entry; FEW]>;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// This one.
    One(Rank, usize, Why),
    /// The one that the request is tied to is full, and waited for.
    Wait,
    /// Nobody can.
    None,
}

/// One of the lowest rank. Of those that may miss something, the one that has come furthest. `patient`: a full one may be
/// waited for rather than another one asked.
pub(super) fn pick(
    candidates: &[Candidate<'_>],
    seen: &[Seen],
    want: &Want,
    how: Balance,
    patient: bool,
    draw: Draw,
) -> Pick {
    let of = |stand: Stand| seen.iter().filter(move |one| one.stand == stand);
    let Some(best) = of(Stand::Open).map(|one| one.rank).min() else { return Pick::None };
    // What may miss something is no way out when what does not is only busy.
    let busy = |one: &Seen| one.rank < best && !matches!(one.rank, Rank::Stale(_));
    if patient && matches!(best, Rank::Stale(_)) && of(Stand::Full).any(busy) {
        return Pick::Wait;
    }
    let mut places: Places = of(Stand::Open).filter(|one| one.rank == best).map(|one| one.place).collect();
    if matches!(best, Rank::Stale(_)) {
        let far = |place: &usize| candidates.get(*place).map(|candidate| candidate.standing.far());
        let furthest = places.iter().map(far).max().flatten();
        places.retain(|place| far(place) == furthest);
    }
    if let Some(place) = want.rather {
        if places.contains(&place) {
            return Pick::One(best, place, Why::Belongs);
        }
        if patient && of(Stand::Full).any(|one| one.place == place) {
            return Pick::Wait;
        }
    }
    if let Some(tied) = tied(candidates, seen, &places, best, want.affinity, patient) {
        return tied;
    }
    let within = stay(candidates, seen, &mut places, best, want, draw);
    let among = places.len();
    let mut entries = Entries::new();
    entries.extend(places.iter().filter_map(|place| candidates.get(*place)).map(Candidate::entry));
    let (by, at, spilled) = match (how, want.affinity) {
        (Balance::RoundRobin, _) => (how, balance::round_robin(&entries, draw.turn), false),
        (Balance::PeakEwma, _) => (how, balance::peak_ewma(&entries, draw.chance), false),
        (Balance::ConsistentHash, Affinity::Key(key)) => match balance::bounded_hash(&entries, key) {
            Some(hashed) => (how, Some(hashed.place), hashed.spilled),
            None => (how, None, false),
        },
        // Of what it is about, or whose it is, nothing is known.
        (Balance::LeastRequests | Balance::ConsistentHash, _) => {
            (Balance::LeastRequests, balance::least_requests(&entries, draw.chance), false)
        }
    };
    let Some(place) = at.and_then(|at| places.get(at)) else { return Pick::None };
    let why = match (among, within) {
        (1, Within::Anywhere) => Why::Only,
        _ => Why::Balanced { by, among, within, spilled },
    };
    Pick::One(best, *place, why)
}

/// The one that the request is tied to, of those that are open; another one stands in for it only while it fails, and always
/// the same one.
fn tied(
    candidates: &[Candidate<'_>],
    seen: &[Seen],
    open: &[usize],
    best: Rank,
    affinity: Affinity,
    patient: bool,
) -> Option<Pick> {
    let own = |place: &usize, wanted: u64| candidates.get(*place).is_some_and(|c| tag(c.seed) == wanted);
    let first = |places: &[usize], key: u64| {
        let entries: Entries =
            places.iter().filter_map(|place| candidates.get(*place)).map(Candidate::lasting).collect();
        balance::first(&entries, key).and_then(|at| places.get(at).copied())
    };
    let among = |keep: fn(Stand) -> bool| -> Places {
        seen.iter().filter(|one| one.rank == best && keep(one.stand)).map(|one| one.place).collect()
    };
    let waits =
        |wanted: usize| patient && seen.iter().any(|one| one.place == wanted && one.stand == Stand::Full);
    if matches!(affinity, Affinity::Free | Affinity::Key(_) | Affinity::Untagged) {
        return None;
    }
    let all = among(|_| true);
    let (by, wanted, stands_in) = match affinity {
        Affinity::Free | Affinity::Key(_) | Affinity::Untagged => return None,
        Affinity::Stick(by, key) => (by, first(&all, key)?, first(open, key)?),
        Affinity::Tagged(wanted) => match all.iter().find(|place| own(place, wanted)) {
            Some(place) => (By::Cookie, *place, first(open, wanted)?),
            // It names one that is of another rank, or down for this class: its clients keep together.
            None if candidates.iter().any(|c| tag(c.seed) == wanted) => {
                let stands_in = first(open, wanted)?;
                return Some(Pick::One(best, stands_in, Why::Tied(Tie { by: By::Cookie, own: false })));
            }
            None => return None,
        },
    };
    if open.contains(&wanted) {
        return Some(Pick::One(best, wanted, Why::Tied(Tie { by, own: true })));
    }
    if waits(wanted) {
        return Some(Pick::Wait);
    }
    Some(Pick::One(best, stands_in, Why::Tied(Tie { by, own: false })))
}

/// Leaves those of the own zone, or the others when it has not enough left.
fn stay(
    candidates: &[Candidate<'_>],
    seen: &[Seen],
    open: &mut Places,
    best: Rank,
    want: &Want,
    draw: Draw,
) -> Within {
    let local = |place: usize| candidates.get(place).filter(|candidate| candidate.local);
    if !want.zoned {
        return Within::Anywhere;
    }
    let now: u64 = open.iter().filter_map(|place| local(*place)).map(|c| c.part.get()).sum();
    let here = open.iter().filter(|place| local(**place).is_some()).count();
    if here == open.len() {
        return Within::Zone;
    }
    let of_zone = seen.iter().filter(|one| one.rank == best).filter_map(|one| local(one.place));
    let whole = of_zone.map(|candidate| candidate.weight.get()).sum();
    // One key goes one way: what is spilled over is the same each time.
    let draw = match want.affinity {
        Affinity::Key(key) => balance::mix(!key),
        _ => draw.chance,
    };
    let stays = balance::stays(now, whole, draw);
    open.retain(|place| local(*place).is_some() == stays);
    if stays { Within::Zone } else { Within::Beyond }
}
