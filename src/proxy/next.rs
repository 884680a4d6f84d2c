//! Steps 6 and 7 together: choose, and wait while there is nothing to choose.

use std::{future::Future, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    answer::Answer,
    attempt::no_answer,
    choose::{self, Affinity, Candidate, Candidates, Chosen, Draw, NoneLeft, Rank, Want},
    classify::Needs,
    ctx::{Ctx, Current, Note},
    follow::Look,
    forward,
    held::{Turn, wait_for_one},
    lane::Lane,
    passive::Trial,
    record::ProxyMetrics,
    retry::Traffic,
    room::{self, Looks},
    snapshot::{Live, Service, UnderWay, Verdicts},
    weigh::Asked,
};
use crate::{clock, config::proxy::Balance, health::Access, wire::ready::SUPPORTS_IDEMPOTENCY};

/// Why there is no next upstream.
#[derive(Debug)]
pub(super) enum NoNext {
    /// The client is told so.
    Answer(Answer),
    /// The client has closed.
    ClientGone,
}

/// Why there is no next upstream yet.
#[derive(Debug)]
pub(super) enum Not {
    /// Nobody can take it.
    One(NoneLeft),
    /// It is not to go before then, for those that come back get what waits little by little.
    Yet(Instant),
}

impl From<NoneLeft> for Not {
    fn from(none: NoneLeft) -> Self {
        Self::One(none)
    }
}

/// What the steps ask of who moves the bytes.
pub(super) trait Mover {
    /// Completes when the client has closed.
    fn gone(&self) -> impl Future<Output = ()> + Send;

    /// Bytes of the request that lie in memory, or may come to lie there unasked.
    fn in_memory(&self) -> u64;

    /// Whether a connection to the upstream of this id is unused and at hand, that such a request may go over.
    fn has_unused(&self, upstream: u64) -> bool;
}

/// Sets [`Ctx::current`].
pub(super) async fn next_upstream(
    ctx: &mut Ctx,
    live: &Live,
    metrics: &ProxyMetrics,
    mover: &impl Mover,
) -> Result<(), NoNext> {
    // Held by a reference of its own, for the context changes.
    let snapshot = ctx.snapshot.clone();
    let service = ctx.service.and_then(|place| snapshot.services.get(place));
    let service = service.ok_or(NoNext::Answer(Answer::NoRoute))?;
    // One that has just begun has looked at the clock.
    let now = if ctx.attempts.is_empty() { ctx.started } else { clock::now() };
    match choose_now(ctx, service, now, mover, None) {
        Ok(rank) => {
            count_wait(ctx, service, metrics, outcome(rank));
            Ok(())
        }
        // Boxed: what waits is large, and nearly no request does.
        Err(_) => Box::pin(wait_for_one(ctx, live, metrics, mover)).await,
    }
}

/// What came of a wait for a replica, for metrics.
pub(super) fn outcome(rank: Rank) -> &'static str {
    match rank {
        Rank::First => "caught-up",
        Rank::Second => "writer",
        Rank::Stale(_) => "stale",
    }
}

pub(super) fn count_wait(ctx: &mut Ctx, service: &Service, metrics: &ProxyMetrics, outcome: &str) {
    if std::mem::take(&mut ctx.fresh_waited) {
        metrics.fresh_waited(service.name.as_str(), outcome);
    }
}

/// Whether waiting would only delay an error that is already known.
pub(super) fn no_use(ctx: &Ctx, none: &NoneLeft) -> bool {
    ctx.tried.sent_any() || ctx.hold_over || none.is_settled()
}

/// The answer of ours when nobody is left to be asked.
pub(super) fn give_up(ctx: &Ctx, service: &Service, why: NoneLeft) -> Answer {
    let name = service.name.to_string();
    let read = ctx.route.access == Access::Read;
    if ctx.tried.absent_any() {
        return Answer::NotSure { service: name, subject: subject(ctx), why };
    }
    if read && why.is_unfresh() {
        let needed = ctx.look(service).needed;
        return Answer::NotFresh { service: name, subject: subject(ctx), needed, why };
    }
    if ctx.tried.sent_any() {
        return no_answer(ctx, !read);
    }
    if why.is_full() {
        Answer::AtLimit { service: name, why }
    } else {
        Answer::NoUpstream { service: name, why }
    }
}

fn subject(ctx: &Ctx) -> String {
    match (&ctx.repository, ctx.route.needs) {
        (Some(repository), Needs::Blob) => {
            format!("blob `{}` of `{repository}`", ctx.path.rsplit('/').next().unwrap_or_default())
        }
        (Some(repository), _) => format!("`{repository}`"),
        (None, _) if ctx.path.starts_with("/v2/_catalog") => "the list of all repositories".into(),
        // A list, or what one template is: the query says which.
        (None, _) => format!("`{}`", ctx.path),
    }
}

/// Choices that another request may spoil by taking the last room first.
const RACES: u32 = 4;

/// Step 6.
pub(super) fn choose_now(
    ctx: &mut Ctx,
    service: &Service,
    now: Instant,
    mover: &impl Mover,
    mut turn: Option<Turn<'_>>,
) -> Result<Rank, Not> {
    let look = ctx.look(service);
    let verdicts = service.verdicts();
    let want = ctx.want(service, &look);
    let hold = forward::hold(ctx.route, service.hold);
    let mut races = 0;
    loop {
        let first = turn.is_none() && ctx.attempts.is_empty() && races == 0;
        let looks = Looks {
            lane: Lane::of(ctx.route),
            place: turn.as_ref().map(|turn| turn.place),
            may_wait: !ctx.tried.sent_any(),
            first,
            now,
        };
        let mut candidates = Candidates::new();
        found(ctx, service, &verdicts, &look, looks, |id| mover.has_unused(id), &mut candidates);
        let at_once = is_hopeless(ctx, &candidates, &want, hold, now);
        let turn_of = || service.turn.0.fetch_add(1, Ordering::Relaxed);
        let draw = draw(service, &want, first, turn_of, rand::random);
        let desperate = ctx.hold_over || at_once;
        let (chosen, trial) = loop {
            let chosen = choose::next(&candidates, &want, &ctx.tried, service.balance, desperate, draw);
            let chosen = chosen.inspect_err(|_| ctx.despaired |= at_once)?;
            match service.trial(&mut candidates, chosen.place, now) {
                Trial::Taken => {}
                Trial::None => break (chosen, None),
                Trial::Ours(number) => break (chosen, Some(number)),
            }
        };
        let Some(upstream) = service.upstreams.get(chosen.place) else {
            return Err(NoneLeft::default().into());
        };
        if let Some(turn) = turn.as_mut().filter(|_| trial.is_none() && !ctx.hold_over)
            && let Some(at) = turn.not_before(&candidates, chosen.place, now)
        {
            return Err(Not::Yet(at));
        }
        let at = UnderWay::at(ctx.snapshot.clone(), ctx.service.unwrap_or_default(), chosen.place, trial);
        let Some(under_way) = at else {
            races += 1;
            if races < RACES {
                continue;
            }
            return Err(choose::none_left(&candidates, &want, &ctx.tried, desperate).into());
        };
        service.pins.chosen(ctx, service, chosen.place, now);
        let supports =
            || candidates.get(chosen.place).is_some_and(|c| c.verdict.supports(SUPPORTS_IDEMPOTENCY));
        let keyed = ctx.route.creates && supports();
        tracing::debug!(request.id = %ctx.request, upstream.name = %upstream.name, why = %chosen.why, "upstream chosen");
        if let Some(past) = chosen.why.past() {
            service.numbers.passed_over(past);
        }
        ctx.current = Some(Current {
            under_way,
            place: chosen.place,
            began: now,
            traffic: Traffic::default(),
            whole: 0,
            keyed,
            asked: asked(&want, &chosen, &look, ctx.concerns.as_ref().is_some_and(|c| c.session)),
            blameless: false,
            well: false,
        });
        ctx.attempts.push(Note {
            place: chosen.place,
            why: chosen.why,
            end: "under-way",
            traffic: Traffic::default(),
            stood: chosen.stood,
        });
        return Ok(chosen.rank);
    }
}

/// Adds the upstreams as this request finds them, where they stay, for they are large; `unused`: whether a connection to the
/// upstream of this id is at hand.
pub(super) fn found<'a>(
    ctx: &Ctx,
    service: &'a Service,
    verdicts: &'a Verdicts,
    look: &Look,
    looks: Looks<'_>,
    unused: impl Fn(u64) -> bool,
    candidates: &mut Candidates<'a>,
) {
    candidates.extend(service.candidates(verdicts, look, looks.now));
    service.keep_to_cohort(candidates, ctx.of_agent);
    service.mark_ejected(candidates, ctx.route, looks.now);
    room::mark(service, candidates, looks, unused);
}

/// Whether nobody has passed its probes for longer than a hold lasts: then holding is no use.
pub(super) fn is_hopeless(
    ctx: &Ctx,
    candidates: &[Candidate<'_>],
    want: &Want,
    hold: Duration,
    now: Instant,
) -> bool {
    let failing = || choose::failing_for(candidates, want, &ctx.tried, now);
    !ctx.hold_over && !ctx.despaired && failing().is_some_and(|failing| failing > hold)
}

/// Turn and chance, as far as they are needed. A request takes one turn, and only if it goes in turn: what belongs somewhere,
/// has waited, or is asked again goes by chance. The turn after that of a server that fails would always give the same ones
/// too much, and the others too little.
pub(super) fn draw(
    service: &Service,
    want: &Want,
    first: bool,
    turn: impl FnOnce() -> usize,
    chance: impl Fn() -> u64,
) -> Draw {
    let turn = match service.balance {
        Balance::RoundRobin if first && !want.is_bound() => turn(),
        Balance::RoundRobin => usize::try_from(chance() >> 32).unwrap_or_default(),
        Balance::LeastRequests | Balance::PeakEwma | Balance::ConsistentHash => 0,
    };
    let tied = matches!(want.affinity, Affinity::Key(_) | Affinity::Stick(..));
    let drawn = !tied && (want.zoned || service.balance != Balance::RoundRobin);
    Draw { turn, chance: if drawn { chance() } else { 0 } }
}

/// With what the attempt is sent off: its answer is weighed by what was known when it was chosen, not by what became
/// known since.
fn asked(want: &Want, chosen: &Chosen, look: &Look, session: bool) -> Asked {
    Asked {
        needs: if want.fresh.is_some() { want.route.needs } else { Needs::Nothing },
        at: look.at,
        needed: look.needed.filter(|_| look.lease),
        stale: match chosen.rank {
            Rank::Stale(stale) => Some(stale),
            Rank::First | Rank::Second => None,
        },
        of_writer: want.writer == Some(chosen.place) && !want.deposed,
        listing: want.fresh.is_some_and(|fresh| fresh.listing),
        session,
    }
}

/// Whether another upstream than this one could take the request now. With `whoever` one that fails its probes will do where
/// the choice would take it too.
pub(super) fn another(
    ctx: &Ctx,
    service: &Service,
    ability: Option<&'static str>,
    than: usize,
    whoever: bool,
) -> bool {
    let look = ctx.look(service);
    let want = Want { ability: ability.or(ctx.ability), ..ctx.want(service, &look) };
    let draw = Draw { turn: 0, chance: 0 };
    let (verdicts, now, may_wait) = (service.verdicts(), clock::now(), !ctx.tried.sent_any());
    let looks = Looks { lane: Lane::of(ctx.route), place: None, may_wait, first: false, now };
    let mut candidates = Candidates::new();
    found(ctx, service, &verdicts, &look, looks, |_| false, &mut candidates);
    let hold = forward::hold(ctx.route, service.hold);
    let desperate = whoever && (ctx.hold_over || is_hopeless(ctx, &candidates, &want, hold, now));
    choose::next(&candidates, &want, &ctx.tried, service.balance, desperate, draw)
        .is_ok_and(|chosen| chosen.place != than)
}
