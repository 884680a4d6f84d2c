//! Which upstream would take a request, and what each of the others is to it.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{course, refused};
use crate::{
    health::Access,
    proxy::{
        answer::Answer,
        choose::{
            self, Affinity, Candidate, Candidates, Chosen, Draw, NoneLeft, Out, Rank, Reason, Tried, Want,
        },
        classify::Needs,
        cohort::Served,
        ctx::Ctx,
        follow::Look,
        forward,
        hold::Full,
        lane::Lane,
        next,
        room::Looks,
        snapshot::Service,
    },
    wire::{
        explain::{self as wire, Choice, Course, Freshness, Nobody, Pick},
        ready::SUPPORTS_IDEMPOTENCY,
    },
};

/// Choices that are made to see how many each upstream gets.
const DRAWS: usize = 400;

/// And to see whether chance plays a part.
const CHANCES: usize = 64;

/// What a choice is made from.
pub(super) struct Scene<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) service: &'a Service,
    pub(super) want: Want,
    pub(super) now: Instant,
    candidates: &'a [Candidate<'a>],
    /// The next turn, which is not taken.
    turn: usize,
}

impl Scene<'_> {
    fn next(&self, want: &Want, tried: &Tried, desperate: bool, draw: Draw) -> Result<Chosen, NoneLeft> {
        choose::next(self.candidates, want, tried, self.service.balance, desperate, draw)
    }

    /// A draw so many turns on; `first`: nobody was asked before.
    fn draw(&self, first: bool, ahead: usize) -> Draw {
        next::draw(self.service, &self.want, first, || self.turn.wrapping_add(ahead), rand::random)
    }

    fn shown(&self, chosen: &Chosen, certain: bool) -> Pick {
        Pick {
            upstream: self.ctx.upstream_name(chosen.place).to_owned(),
            why: chosen.why.to_string(),
            certain,
            stale: match chosen.rank {
                Rank::Stale(stale) => Some(stale.as_str().into()),
                Rank::First | Rank::Second => None,
            },
        }
    }

    /// The pick of one choice, if there is one.
    fn pick(&self, want: &Want, tried: &Tried, desperate: bool) -> Result<(Chosen, Pick), NoneLeft> {
        let draw = || self.draw(!tried.sent_any(), 0);
        let chosen = self.next(want, tried, desperate, draw())?;
        let same = |_| {
            let other = self.next(want, tried, desperate, draw());
            other.is_ok_and(|other| other.place == chosen.place)
        };
        let certain = (0..CHANCES).all(same);
        let pick = self.shown(&chosen, certain);
        Ok((chosen, pick))
    }

    /// Of many choices the part of each upstream, by place.
    fn shares(&self, desperate: bool) -> Vec<f64> {
        let mut counts = vec![0u32; self.candidates.len()];
        for ahead in 0..DRAWS {
            let chosen = self.next(&self.want, &Tried::default(), desperate, self.draw(true, ahead));
            if let Some(count) = chosen.ok().and_then(|chosen| counts.get_mut(chosen.place)) {
                *count += 1;
            }
        }
        counts.into_iter().map(|count| f64::from(count) / DRAWS as f64).collect()
    }
}

/// The choice for a request that was let in and routed, and what bounds it then.
pub(super) fn of(ctx: Box<Ctx>) -> (Option<Choice>, Option<Course>) {
    let snapshot = ctx.snapshot.clone();
    let Some(service) = ctx.service.and_then(|place| snapshot.services.get(place)) else {
        return (None, None);
    };
    let (look, verdicts, now) = (ctx.look(service), service.verdicts(), ctx.started);
    let want = ctx.want(service, &look);
    let looks = Looks { lane: Lane::of(ctx.route), place: None, may_wait: true, first: false, now };
    // Which connections are unused each thread knows for itself; if there are more than requests, some are.
    let unused = |id: u64| {
        let upstream = service.upstreams.iter().find(|upstream| upstream.id == id);
        upstream.is_some_and(|upstream| {
            let open: u64 = Lane::ALL.iter().map(|lane| upstream.room.open(*lane)).sum();
            open > upstream.outstanding()
        })
    };
    let mut candidates = Candidates::new();
    next::found(&ctx, service, &verdicts, &look, looks, unused, &mut candidates);
    let turn = service.turn.0.load(Ordering::Relaxed);
    let scene = Scene { ctx: &ctx, service, want, now, candidates: &candidates, turn };
    let hold = forward::hold(ctx.route, service.hold);
    let desperate = next::is_hopeless(&ctx, &candidates, &want, hold, now);
    let (picked, nobody) = match scene.pick(&want, &Tried::default(), desperate) {
        Ok(picked) => (Some(picked), None),
        Err(none) => (None, Some(while_nobody(&scene, none))),
    };
    let keyed = |place: usize| {
        let supports = candidates.get(place).is_some_and(|c| c.verdict.supports(SUPPORTS_IDEMPOTENCY));
        ctx.route.creates && supports
    };
    let keyed = picked.as_ref().is_some_and(|(chosen, _)| keyed(chosen.place));
    let instead = picked.as_ref().and_then(|(chosen, _)| {
        let mut tried = Tried::default();
        tried.sent(chosen.place);
        let want = Want { ability: keyed.then_some(SUPPORTS_IDEMPOTENCY), ..want };
        scene.pick(&want, &tried, desperate).ok().filter(|(other, _)| other.place != chosen.place)
    });
    let course = course::of(&scene, keyed, instead.is_some());
    let may_repeat = ctx.route.repeatable || keyed;
    let choice = Choice {
        balance: service.balance.as_str().into(),
        tie: tie(&want),
        cohort: ctx.of_agent.then(|| served(service)).flatten(),
        freshness: freshness(&ctx, service, &look),
        upstreams: upstreams(&scene, desperate),
        pick: picked.map(|(_, pick)| pick),
        instead: instead.filter(|_| may_repeat).map(|(_, pick)| pick),
        nobody,
    };
    (Some(choice), Some(course))
}

/// What becomes of it when nobody can take it: step 7, without the time that it takes.
fn while_nobody(scene: &Scene<'_>, none: NoneLeft) -> Nobody {
    let Scene { ctx, service, now, .. } = *scene;
    let (tried, why) = (Tried::default(), none.to_string());
    let (held, held_bytes) = service.line.inside();
    let limits = &ctx.snapshot.limits;
    let full = if held >= limits.held {
        Some(Full::Number)
    } else {
        (held_bytes > limits.held_bytes).then_some(Full::Bytes)
    };
    let mut nobody = Nobody { why, catches_up_ms: None, held_ms: 0, then: None, last_resort: None };
    let mut none = none;
    let mut want = scene.want;
    if let Some(wait) = none.wait {
        let latest = forward::wait_until(ctx.route, now).map(|at| at.saturating_duration_since(now));
        let wait =
            if full.is_some() { Duration::ZERO } else { latest.map_or(wait, |latest| wait.min(latest)) };
        nobody.catches_up_ms = Some(millis(wait));
        want = Want { patient: false, ..want };
        match scene.pick(&want, &tried, false) {
            Ok((_, pick)) => {
                nobody.last_resort = Some(pick);
                return nobody;
            }
            Err(still) => none = still,
        }
    }
    if next::no_use(ctx, &none) {
        nobody.then = Some(refused(&next::give_up(ctx, service, none)));
        return nobody;
    }
    if let Some(full) = full {
        let answer = Answer::HeldFull { service: service.name.to_string(), full, why: none };
        nobody.then = Some(refused(&answer));
        return nobody;
    }
    let until = forward::hold_until(ctx.route, service.hold, now);
    nobody.held_ms = millis(until.saturating_duration_since(now));
    match scene.pick(&want, &tried, true) {
        Ok((_, pick)) => nobody.last_resort = Some(pick),
        Err(none) => nobody.then = Some(refused(&next::give_up(ctx, service, none))),
    }
    nobody
}

/// For people, whole milliseconds will do.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn tie(want: &Want) -> String {
    match want.affinity {
        _ if want.only.is_some() => "its upload session".into(),
        _ if want.rather.is_some() => "this client's handshake, session or push".into(),
        Affinity::Free => String::new(),
        Affinity::Key(_) => "a key, as long as its upstream is not overloaded".into(),
        Affinity::Stick(by, _) => format!("sticky by {}", by.as_str()),
        Affinity::Tagged(_) => "sticky by cookie".into(),
        Affinity::Untagged => "sticky by cookie: it has none, and would be given one".into(),
    }
}

fn served(service: &Service) -> Option<String> {
    let cohort = service.cohort.as_ref()?;
    Some(match &**cohort.served() {
        Served::Nowhere => "none is chosen yet, agents wait".into(),
        Served::Everywhere => "any, no upstream says which it is".into(),
        Served::Version(version) => version.to_string(),
    })
}

fn freshness(ctx: &Ctx, service: &Service, look: &Look) -> Option<Freshness> {
    let fresh = service.fresh(look)?;
    let reads = ctx.route.access == Access::Read;
    Some(Freshness {
        by: service.reads.freshness.as_str().into(),
        matters: reads
            && match ctx.route.needs {
                Needs::Repository | Needs::All => true,
                Needs::Unsaid => fresh.listing,
                Needs::Nothing | Needs::Blob | Needs::Keys | Needs::Logs => false,
            },
        known: look.lease,
        needed: look.needed,
        deposed: look.deposed,
        stale_reads: service.reads.stale.as_str().into(),
        write_only: service.reads.write_only,
    })
}

fn upstreams(scene: &Scene<'_>, desperate: bool) -> Vec<wire::Candidate> {
    let Scene { service, candidates, ref want, .. } = *scene;
    let stood = choose::each(candidates, want, &Tried::default(), desperate);
    let shares = scene.shares(desperate);
    let of = |(place, (candidate, stood)): (usize, (&Candidate<'_>, Result<Rank, Reason>))| wire::Candidate {
        name: candidate.name.to_string(),
        address: service
            .upstreams
            .get(place)
            .map(|upstream| upstream.address.to_string())
            .unwrap_or_default(),
        eligible: stood.is_ok(),
        why: match &stood {
            Ok(rank) => rank.text().into(),
            Err(reason) => reason.to_string(),
        },
        share: shares.get(place).copied().unwrap_or_default(),
        health: candidate.verdict.state.as_str().into(),
        evidence: candidate.verdict.evidence.clone(),
        outstanding: candidate.outstanding,
        max_requests: candidate.most,
        traffic: match candidate.out {
            Out::In => "in".into(),
            Out::Ejected => "ejected".into(),
            Out::Trial => "trial".into(),
        },
        weight: candidate.part.shown(),
        local: candidate.local,
        writer: service.writer == Some(place),
        position: service.follow.as_ref().and_then(|follow| follow.core().have(place)),
    };
    candidates.iter().zip(stood).enumerate().map(of).collect()
}
