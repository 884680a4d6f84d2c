//! A request that is held: its place in the line, what it follows, and the loop in which it looks again.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use super::{
    answer::Answer,
    choose::{Candidate, NoneLeft},
    ctx::Ctx,
    forward,
    hold::{self, Ended, Full, Place, Spot, Wants},
    next::{self, Mover, NoNext, Not},
    record::ProxyMetrics,
    room,
    snapshot::{self, Live, Service},
};
use crate::clock;

/// What a waiting request follows, and its place among those that wait.
struct Waiting {
    place: Place,
    /// When it goes at the latest, now that somebody can take it.
    goes: Option<Instant>,
    /// When those that could not be connected to are tried once more.
    tick: Instant,
    /// Where there was no room for it.
    full: Vec<Spot>,
    follows: Follows,
    config: watch::Receiver<()>,
}

/// What may change while it waits.
struct Follows {
    verdicts: Vec<watch::Receiver<()>>,
    news: Option<watch::Receiver<()>>,
}

impl Follows {
    fn of(service: &Service) -> Self {
        let follow = |upstream: &Arc<snapshot::Upstream>| {
            let mut verdict = upstream.prober.follow();
            verdict.mark_unchanged();
            verdict
        };
        let followed = service.follow.as_ref().map(|follow| follow.news());
        let news = followed.or_else(|| service.survey.as_ref().map(|survey| survey.news()));
        let mut verdicts: Vec<_> = service.upstreams.iter().map(follow).collect();
        verdicts.extend(service.cohort.as_ref().map(|cohort| cohort.follow()));
        Self { verdicts, news }
    }
}

impl Waiting {
    fn begin(
        ctx: &Ctx,
        service: &Service,
        live: &Live,
        bytes: u64,
        now: Instant,
        none: Option<&NoneLeft>,
    ) -> Result<Self, Full> {
        let limits = &ctx.snapshot.limits;
        let wants = none.map(|none| full(service, none)).unwrap_or_default();
        let spots = wants.iter().map(|(spot, _)| *spot).collect();
        Ok(Self {
            place: service.line.enter(bytes, limits.held, limits.held_bytes, wants)?,
            goes: None,
            tick: now + hold::TICK,
            full: spots,
            follows: Follows::of(service),
            config: live.follow(),
        })
    }

    /// Notes whom it waits for because they have no room. Whether those are others than before: then it must look once
    /// more, for there may have been room before it waited for it.
    fn wants(&mut self, service: &Service, none: &NoneLeft) -> bool {
        let wants = full(service, none);
        let spots: Vec<Spot> = wants.iter().map(|(spot, _)| *spot).collect();
        if spots == self.full {
            return false;
        }
        self.place.want(wants);
        self.full = spots;
        true
    }
}

/// Who has no room, and who waits there.
fn full(service: &Service, none: &NoneLeft) -> Wants {
    let full = none.full().filter_map(|(place, lane)| {
        let upstream = service.upstreams.get(place)?;
        Some(((upstream.id, lane), upstream.room.queue(lane).clone()))
    });
    full.collect()
}

/// The turn of a request that waits, when it looks.
pub(super) struct Turn<'a> {
    pub(super) place: &'a Place,
    goes: &'a mut Option<Instant>,
    /// Its hold ends then.
    until: Instant,
}

impl Turn<'_> {
    /// When it may go to the one of this place, if not now: those that come back get what waits little by little.
    pub(super) fn not_before(
        &mut self,
        candidates: &[Candidate<'_>],
        place: usize,
        now: Instant,
    ) -> Option<Instant> {
        if candidates.get(place)?.is_whole() {
            return None;
        }
        let servers = candidates.iter().filter(|one| one.takes()).map(Candidate::wholeness).sum();
        let (before, behind) = self.place.others();
        let left = self.until.saturating_duration_since(now);
        let at = now + hold::delay(before, behind, servers, left, self.goes.is_some());
        let at = self.goes.map_or(at, |known| known.min(at));
        *self.goes = Some(at);
        (at > now).then_some(at)
    }
}

/// Waits until an upstream can be chosen.
pub(super) async fn wait_for_one(
    ctx: &mut Ctx,
    live: &Live,
    metrics: &ProxyMetrics,
    mover: &impl Mover,
) -> Result<(), NoNext> {
    let mut waiting: Option<Waiting> = None;
    loop {
        let service = ctx.service().cloned().ok_or(NoNext::Answer(Answer::NoRoute))?;
        let now = clock::now();
        let hold_until = forward::hold_until(ctx.route, service.hold, ctx.started);
        if let Some(held) = &waiting {
            held.place.looks();
        }
        let turn =
            waiting.as_mut().map(|Waiting { place, goes, .. }| Turn { place, goes, until: hold_until });
        let (none, until) = match next::choose_now(ctx, &service, now, mover, turn) {
            Ok(rank) => {
                next::count_wait(ctx, &service, metrics, next::outcome(rank));
                return Ok(());
            }
            Err(Not::Yet(at)) => (None, at),
            // For a lagging replica until it is not worth it any more; else as long as anything may change.
            Err(Not::One(none)) => match none.wait {
                Some(wait) => {
                    let latest = forward::wait_until(ctx.route, ctx.started);
                    let until = latest.map_or(now + wait, |latest| latest.min(now + wait));
                    (Some(none), until)
                }
                None if next::no_use(ctx, &none) => {
                    next::count_wait(ctx, &service, metrics, "refused");
                    return Err(NoNext::Answer(next::give_up(ctx, &service, none)));
                }
                None => (Some(none), hold_until),
            },
        };
        let wait = none.as_ref().and_then(|none| none.wait);
        let Some(held) = &mut waiting else {
            match Waiting::begin(ctx, &service, live, mover.in_memory(), now, none.as_ref()) {
                Ok(begun) => waiting = Some(begun),
                // Too many wait: it goes on with those who can answer now.
                Err(_) if wait.is_some() => ctx.impatient = true,
                Err(full) => {
                    let (service, why) = (service.name.to_string(), none.unwrap_or_default());
                    metrics.held_refused(&service, full.label());
                    return Err(NoNext::Answer(Answer::HeldFull { service, full, why }));
                }
            }
            // Something may have changed before it was followed: look once more before waiting.
            continue;
        };
        if let Some(none) = &none {
            held.goes = None;
            if held.wants(&service, none) {
                continue;
            }
        }
        held.place.stays(|spot| room::is_free(&service, spot));
        ctx.fresh_waited |= wait.is_some();
        let tick = held.tick;
        let Follows { verdicts, news } = &mut held.follows;
        let changes =
            hold::Changes { verdicts, news: news.as_mut(), config: &mut held.config, place: &held.place };
        let ended = hold::wait(changes, until.min(tick), now, mover.gone()).await;
        ctx.held += clock::now().saturating_duration_since(now);
        let over = ended == Ended::Over && until <= tick;
        match (ended, &none) {
            (Ended::ClientGone, _) => {
                next::count_wait(ctx, &service, metrics, "client-gone");
                return Err(NoNext::ClientGone);
            }
            (Ended::Config, _) => {
                if renew(ctx, live)
                    && let Some(service) = ctx.service()
                {
                    held.follows = Follows::of(service);
                }
            }
            (Ended::Over, Some(NoneLeft { wait: Some(wait), .. })) if over => {
                ctx.impatient |= until < now + *wait
            }
            (Ended::Over, Some(_)) if over => ctx.hold_over = true,
            _ => {}
        }
        // What the registries have says nothing about one that could not be connected to.
        ctx.tried.forgive_older();
        let of_others = matches!(ended, Ended::News | Ended::Room) || (over && none.is_none());
        if !of_others {
            ctx.tried.forgive_refused();
            held.tick = clock::now() + hold::TICK;
        }
    }
}

/// Goes on under the config as it is now, if its service is still there: others may have been added, or found, who can take
/// it. Whether it does.
fn renew(ctx: &mut Ctx, live: &Live) -> bool {
    // What was learnt of upstreams is by their places, and those may be others.
    if ctx.tried.sent_any() || ctx.tried.absent_any() || ctx.session.is_some() {
        return false;
    }
    let next = live.load();
    let Some(before) = ctx.service() else { return false };
    let same = |service: &&Arc<Service>| service.name == before.name && service.kind == before.kind;
    let Some(place) = next.services.iter().position(|service| same(&service)) else { return false };
    // One that closes serves what it has begun as it was.
    let Some(listener) = next.place_of(ctx.listener_name()) else { return false };
    let Some(service) = next.services.get(place) else { return false };
    if Arc::ptr_eq(service, before) {
        return false;
    }
    let known = |at: usize| {
        let id = before.upstreams.get(at)?.id;
        service.upstreams.iter().position(|upstream| upstream.id == id)
    };
    let notes: Vec<usize> = ctx.attempts.iter().map(|note| known(note.place).unwrap_or(usize::MAX)).collect();
    for (note, place) in ctx.attempts.iter_mut().zip(notes) {
        note.place = place;
    }
    ctx.tried.forgive_refused();
    ctx.tried.forgive_older();
    (ctx.service, ctx.listener) = (Some(place), listener);
    ctx.snapshot = snapshot::Held::of(next);
    true
}
