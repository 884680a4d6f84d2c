//! The way of one request through a proxy: as `proxy/next.rs`, `proxy/attempt.rs` and `Follow::{look,answered}` do it,
//! with the proxy's own steps: classify, choose, weigh, retry.

use std::{rc::Rc, time::Duration};

use http::Method;
use rand::Rng;
use switchyard::{
    config::proxy::{Balance, Kind, StaleReads},
    health::Verdict,
    model::{Digest, Position, RepositoryName, UpstreamName},
    proxy::{
        choose::{self, Candidate, Draw, Fresh, NoneLeft, Rank, Stale, Tried, Want},
        classify::{self, Needs, Route},
        freshness::{Standing, Subject},
        retry::{self, Case, Event, What},
        weigh::{self, Asked, Weighed},
    },
};

use super::{
    link::{Failed, Node},
    proxy::{Follow, Proxy},
    writer::{self, Answer, Made, Order, Question, Shown},
};

/// Before real clients give up.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// An attempt is given up when another one could follow.
const ATTEMPT: Duration = Duration::from_secs(3);
const ATTEMPTS: u32 = 3;
/// While nothing is eligible, a request waits so long.
const HOLD: Duration = Duration::from_secs(2);
/// One that could not be connected to is tried again so often.
const TICK: Duration = Duration::from_millis(250);

/// What a client is given.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// Passed on; `None` is "not found".
    Passed { shown: Option<Shown>, stale: Option<Stale>, by: usize },
    /// 503 or 502 of ours, or an error of the registry.
    Error,
}

/// What is known at one moment with regard to one subject.
struct Look {
    at: Duration,
    lease: bool,
    needed: Option<Position>,
    standings: Vec<Standing>,
}

/// What one request carries.
struct Ctx {
    question: Question,
    route: Route,
    follow: Rc<Follow>,
    started: Duration,
    tried: Tried,
    sends: u32,
    hold_over: bool,
}

impl Ctx {
    fn subject(&self) -> Subject<'_> {
        match &self.question {
            Question::All => Subject::All,
            Question::Tags(name) | Question::Manifest(name, _) | Question::Blob(name, _) => {
                Subject::Repository(name)
            }
        }
    }
}

enum Next {
    Again,
    Give(Given),
}

impl Proxy {
    /// Answers a read.
    pub(super) async fn read(self: Rc<Self>, question: Question) -> Given {
        let path = match &question {
            Question::Tags(name) => format!("/v2/{name}/tags/list"),
            Question::Manifest(name, tag) => format!("/v2/{name}/manifests/{tag}"),
            Question::Blob(name, digest) => format!("/v2/{name}/blobs/{digest}"),
            Question::All => "/v2/_catalog".to_owned(),
        };
        let mut ctx = Ctx {
            question,
            route: classify::route(Kind::Registry, &Method::GET, &path),
            follow: self.follow.borrow().clone(),
            started: self.boot(),
            tried: Tried::default(),
            sends: 0,
            hold_over: false,
        };
        loop {
            let left = (ctx.started + DEADLINE).saturating_sub(self.boot());
            if left.is_zero() {
                return Given::Error;
            }
            let Some((place, asked)) = self.next(&mut ctx).await else { return Given::Error };
            let question = ctx.question.clone();
            let ask = move |server| writer::read(server, question.clone());
            let from = Node::Proxy(self.seat);
            let answer = self.world.call(from, place, ATTEMPT.min(left), ask).await;
            if answer.as_ref().err() != Some(&Failed::Refused) {
                ctx.sends += 1;
                ctx.tried.sent(place);
            }
            let answer = answer.inspect(|answer| self.answered(&ctx, place, &asked, answer));
            match self.judge(&mut ctx, place, &asked, answer) {
                Next::Again => {}
                Next::Give(given) => return given,
            }
        }
    }

    fn look(&self, ctx: &Ctx) -> Look {
        let core = ctx.follow.core.borrow();
        let at = self.boot();
        Look {
            at,
            lease: core.lease_live(at),
            needed: core.need(ctx.subject()),
            standings: (0..self.world.sites.len()).map(|p| core.standing(p, ctx.subject(), at)).collect(),
        }
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.probes.borrow().iter().map(|probe| probe.verdict().clone()).collect()
    }

    fn choose(&self, ctx: &Ctx, look: &Look) -> Result<choose::Chosen, NoneLeft> {
        let names: Vec<UpstreamName> =
            self.world.sites.iter().map(|site| UpstreamName::parse(&site.name).unwrap()).collect();
        let verdicts = self.verdicts();
        let one = |(place, verdict)| Candidate {
            standing: look.standings[place],
            ..Candidate::plain(&names[place], verdict)
        };
        let candidates: Vec<Candidate<'_>> = verdicts.iter().enumerate().map(one).collect();
        let want = self.want(ctx, look);
        let turn = self.turns.replace(self.turns.get() + 1);
        let draw = Draw { turn, chance: self.world.engine.draw(|rng| rng.random()) };
        choose::next(&candidates, &want, &ctx.tried, Balance::RoundRobin, ctx.hold_over, draw)
    }

    fn want(&self, ctx: &Ctx, look: &Look) -> Want {
        Want {
            writer: Some(ctx.follow.writer),
            write_only: self.world.write_only,
            fresh: Some(Fresh { lease: look.lease, stale: StaleReads::WriterLost, listing: false }),
            ..Want::plain(ctx.route)
        }
    }

    /// Steps 6 and 7: chooses, and waits while there is nothing to choose.
    async fn next(&self, ctx: &mut Ctx) -> Option<(usize, Asked)> {
        let hold_until = ctx.started + HOLD;
        loop {
            let seen = ctx.follow.news.version();
            let look = self.look(ctx);
            let none = match self.choose(ctx, &look) {
                Ok(chosen) => {
                    let stale = match chosen.rank {
                        Rank::Stale(stale) => Some(stale),
                        Rank::First | Rank::Second => None,
                    };
                    let asked = Asked {
                        needs: ctx.route.needs,
                        at: look.at,
                        needed: look.needed.filter(|_| look.lease),
                        stale,
                        listing: false,
                        session: false,
                        of_writer: chosen.place == ctx.follow.writer,
                    };
                    return Some((chosen.place, asked));
                }
                Err(none) => none,
            };
            self.world.trace(|| format!("{} has nobody for {:?}: {none}", self.name(), ctx.question));
            let now = self.boot();
            let no_use = ctx.tried.sent_any() || ctx.hold_over || none.is_settled();
            let until = match none.wait {
                Some(wait) => now + wait,
                None if no_use => return None,
                None => hold_until,
            };
            if until <= now {
                ctx.hold_over |= none.wait.is_none();
            } else {
                let wait = self.world.seats[self.seat].machine.real((until - now).min(TICK));
                self.world.engine.within(wait, ctx.follow.news.past(seen)).await;
            }
            ctx.tried.forgive_refused();
            ctx.tried.forgive_older();
        }
    }

    /// Takes in what the head of an answer says.
    fn answered(&self, ctx: &Ctx, place: usize, asked: &Asked, answer: &Answer) {
        let (follow, now) = (&ctx.follow, self.boot());
        let shows = matches!(answer.status, 200..=399 | 404);
        let of_nobody = answer.status == 404 && answer.position.is_none();
        let judges = shows && !of_nobody && asked.needs != Needs::Nothing && !asked.of_writer;
        let mut core = follow.core.borrow_mut();
        let has = core.have(place).filter(|_| place != follow.writer);
        let mut news = false;
        if has.is_some() && (answer.position > has || (judges && answer.position != has)) {
            news |= core.answered(place, answer.position, asked.at, now);
        }
        if let Some(changed) = answer.changed.filter(|_| shows) {
            news |= core.seen(ctx.subject(), changed, now);
        }
        drop(core);
        if news {
            follow.news.tell();
        }
    }

    /// Steps 8 and 9: what is passed on, and what follows.
    fn judge(&self, ctx: &mut Ctx, place: usize, asked: &Asked, answer: Result<Answer, Failed>) -> Next {
        let event = match &answer {
            Err(Failed::Refused) => Event::ConnectFailed,
            Err(Failed::Closed) => Event::NoAnswer(What::Closed),
            Err(Failed::Silent) => Event::NoAnswer(What::TimedOut),
            Ok(answer) => match weigh::weigh(asked, answer.status, answer.position) {
                Weighed::Good => return Next::Give(given(answer, asked, place)),
                Weighed::Behind => Event::Behind,
                Weighed::NotHere => Event::NotHere,
            },
        };
        match event {
            Event::ConnectFailed => ctx.tried.refused(place),
            Event::Behind => {
                ctx.tried.older(place);
                ctx.sends -= 1;
            }
            Event::NotHere => {
                ctx.tried.absent(place);
                ctx.sends -= 1;
            }
            _ => {}
        }
        let other = self.choose(ctx, &self.look(ctx)).is_ok_and(|chosen| chosen.place != place);
        let case = Case {
            route: ctx.route,
            event,
            // Whatever had a connection here was sent.
            traffic: retry::Traffic { sent: 1, whole: true, ..retry::Traffic::default() },
            sends_left: ctx.sends < ATTEMPTS,
            time_left: self.boot() < ctx.started + DEADLINE,
            body_at_hand: true,
            keyed: false,
            other,
            status_spent: false,
        };
        match (retry::verdict(&case), answer) {
            (retry::Verdict::Again(_), _) => Next::Again,
            (retry::Verdict::PassOn, Ok(answer)) => Next::Give(given(&answer, asked, place)),
            _ => Next::Give(Given::Error),
        }
    }

    /// Passes a change on to the writer.
    pub(super) async fn change(self: Rc<Self>, name: RepositoryName, order: Order) -> Option<Made> {
        let follow = self.follow.borrow().clone();
        let to = follow.writer;
        let (repository, asked) = (name.clone(), order);
        let ask = move |server| writer::change(server, repository.clone(), asked.clone());
        let made = self.world.call(Node::Proxy(self.seat), to, DEADLINE, ask).await.ok()?;
        if let Made::Acknowledged(position) = made {
            // What the writer has is never compared with anything.
            if follow.core.borrow_mut().seen(Subject::Repository(&name), position, self.boot()) {
                follow.news.tell();
            }
        }
        Some(made)
    }

    pub(super) async fn upload(self: Rc<Self>, name: RepositoryName, blob: Digest) -> bool {
        let to = self.follow.borrow().writer;
        let ask = move |server| writer::upload(server, name.clone(), blob);
        self.world.call(Node::Proxy(self.seat), to, DEADLINE, ask).await == Ok(true)
    }
}

fn given(answer: &Answer, asked: &Asked, by: usize) -> Given {
    if !matches!(answer.status, 200 | 404) {
        return Given::Error;
    }
    let stale = asked.stale.filter(|_| answer.status < 400);
    Given::Passed { shown: answer.shown.clone(), stale, by }
}
