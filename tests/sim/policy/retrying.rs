//! What must hold of retries.

use switchyard::proxy::{
    choose::Candidate,
    retry::{Because, Event as Failed, Verdict},
};

use super::{
    Watcher, check,
    plan::ATTEMPTS,
    world::{Event, World},
};

/// Seconds that count.
const WINDOW: u64 = 10;

/// What one proxy has had, each with its second.
#[derive(Default)]
struct Ledger {
    requests: Vec<u64>,
    retries: Vec<u64>,
}

/// Retries are never more than the budget, and never fewer for want of one.
pub(super) struct Budget {
    of: Vec<Ledger>,
}

impl Budget {
    pub(super) fn of(world: &World) -> Self {
        Self { of: world.proxies.iter().map(|_| Ledger::default()).collect() }
    }
}

impl Watcher for Budget {
    fn see(&mut self, world: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let (second, budget) = (world.second(), world.plan.budget);
        let recent = |all: &[u64]| all.iter().rev().take_while(|at| second - **at < WINDOW).count() as f64;
        match event {
            Event::Came { proxy } => self.of[*proxy].requests.push(second),
            Event::Decided { proxy, verdict, borne, .. } => {
                let ledger = &mut self.of[*proxy];
                let (requests, retries) = (recent(&ledger.requests), recent(&ledger.retries));
                let most = requests * budget.ratio + f64::from(budget.min) * WINDOW as f64;
                let costs = matches!(verdict, Verdict::Again(why) if why.costs());
                check(!costs || *borne == Some(true), || format!("{verdict:?} was paid by nobody"))?;
                if costs {
                    check(retries + 1.0 <= most, || {
                        format!("{retries} retries of {requests} requests, and one more: {most} are borne")
                    })?;
                    ledger.retries.push(second);
                }
                check(*borne != Some(false) || retries + 1.0 > most, || {
                    format!("refused: {retries} retries of {requests} requests, and {most} are borne")
                })?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Nothing runs twice that may not, and nothing is sent more often than it may be.
pub(super) struct Repeats;

impl Watcher for Repeats {
    fn see(&mut self, _: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        match event {
            Event::Chosen { asked, .. } => {
                check(asked.sends < ATTEMPTS || asked.tried.sent_any(), || "it forgot what it sent".into())?;
                // What could not be connected to was not sent; so one more may be about to be.
                check(asked.sends <= ATTEMPTS, || format!("it was sent {} times", asked.sends))
            }
            Event::Decided { case, sends, verdict: Verdict::Again(why), .. } => {
                let harmless = case.route.repeatable || (case.route.creates && case.keyed);
                check(*why == Because::ConnectFailed || harmless, || format!("{case:?} is sent again"))?;
                check(*why == Because::ConnectFailed || *sends < ATTEMPTS, || {
                    format!("{why:?} after {sends} sends")
                })?;
                check(!(case.status_spent && matches!(case.event, Failed::BadStatus(_))), || {
                    "a second answer was dropped".into()
                })
            }
            _ => Ok(()),
        }
    }
}
