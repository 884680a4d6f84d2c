//! Agents are served from one controller version at a time: an agent that sees another version than its own upgrades
//! itself, and one that sees two in turn never rests.
//!
//! [`core`] decides and is pure; here is what keeps its decision where every request finds it, and the loop that tells
//! it how the upstreams stand. Nothing of a choice relaxes: a request of an agent waits rather than go to another
//! version.

pub mod core;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use self::core::{Choice, Core, Rules, Seen, Why};
use super::{
    record::ProxyMetrics,
    snapshot::{Live, Service},
};
use crate::{
    clock,
    config::proxy::Cohorts,
    health::{Access, State, Verdict},
    model::{RouteClass, ServerVersion, Timestamp},
    wire::{handover, upstreams as view},
};

/// How often it is looked at how the upstreams stand.
const LOOK: Duration = Duration::from_millis(200);

/// Paths in which a controller shows its version to an agent, or gives it something to do.
const OF_AGENTS: [&str; 4] = ["/queue/v1/", "/switchyard/v1/", "/pkg/", "/api/v1/status"];

/// Whether a request to a controller may show an agent which version that is. `path` is in its one form.
pub fn is_of_agents(path: &str) -> bool {
    OF_AGENTS.iter().any(|prefix| path.starts_with(prefix))
}

/// From where agents are served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// It is not decided yet: they wait.
    Nowhere,
    /// From everywhere: no upstream says which version it is.
    Everywhere,
    /// From this version.
    Version(ServerVersion),
}

impl Served {
    /// Whether an upstream that says that it is of this version may serve them.
    pub fn by(&self, version: Option<&ServerVersion>) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Everywhere => true,
            Self::Version(served) => version == Some(served),
        }
    }
}

/// What a choice is kept as for people.
#[derive(Debug)]
struct Standpoint {
    core: Core,
    why: Why,
    since: Timestamp,
    blind_told: bool,
}

/// The cohort of one service. Goes on over a reload.
#[derive(Debug)]
pub struct Cohort {
    /// Read by each request of an agent, written at each change.
    served: ArcSwap<Served>,
    state: Mutex<Standpoint>,
    changed: watch::Sender<()>,
}

/// Why an operator's word was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no upstream of service `{service}` is of version `{version}`; there are {there}")]
pub struct NobodyIs {
    service: String,
    version: ServerVersion,
    there: String,
}

impl Cohort {
    /// Nothing chosen yet.
    pub fn new(rules: &Cohorts) -> Self {
        let core = Core::new(rules_of(rules), clock::now());
        let state = Standpoint { core, why: Why::First, since: clock::wall(), blind_told: false };
        Self {
            served: ArcSwap::from_pointee(Served::Nowhere),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        }
    }

    /// The same, by these rules.
    pub fn obey(&self, rules: &Cohorts) {
        self.state().core.obey(rules_of(rules));
    }

    /// From where agents are served.
    pub fn served(&self) -> Guard<Arc<Served>> {
        self.served.load()
    }

    /// Wakes when that changes.
    pub fn follow(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What a successor goes on with; nothing while nothing is chosen.
    pub fn known(&self, service: &str) -> Option<handover::Cohort> {
        let state = self.state();
        Some(handover::Cohort {
            service: service.to_owned(),
            version: state.core.chosen()?.to_string(),
            since: state.since,
            pin: state.core.pin().map(ToString::to_string),
        })
    }

    /// Goes on with what a predecessor had chosen.
    pub fn handed(&self, known: &handover::Cohort) {
        let mut state = self.state();
        state.core.set_pin(known.pin.as_deref().and_then(ServerVersion::parse));
        if let Some(version) = ServerVersion::parse(&known.version) {
            (state.why, state.since) = (Why::Told, known.since);
            state.core.take(Choice { version: version.clone(), why: Why::Told });
            self.serve(Served::Version(version));
        }
    }

    /// Takes in how the upstreams stand, and makes the choice that follows.
    fn look(&self, service: &Service, metrics: &ProxyMetrics, now: Instant) {
        let seen = seen(service);
        let mut state = self.state();
        if let Some(choice) = state.core.look(&seen, now) {
            self.take(&mut state, service, choice, metrics);
        } else if state.core.is_blind(&seen, now) {
            if !std::mem::replace(&mut state.blind_told, true) {
                let service = &service.name;
                warn!(service.name = %service, "no upstream says which version it is, so agents are served from all of them");
            }
            drop(state);
            self.serve(Served::Everywhere);
        }
    }

    fn take(&self, state: &mut Standpoint, service: &Service, choice: Choice, metrics: &ProxyMetrics) {
        let (service, to, why) = (service.name.as_str(), choice.version.clone(), choice.why);
        let from = state.core.chosen().map_or_else(String::new, ToString::to_string);
        state.core.take(choice);
        (state.why, state.since) = (why, clock::wall());
        self.serve(Served::Version(to.clone()));
        metrics.cohort_changed(service, why.as_str());
        let (to, why) = (to.as_str(), why.as_str());
        if why == Why::Fallback.as_str() {
            warn!(
                service.name = service,
                from, to, why, "agents are served from another version: nobody of theirs could"
            );
        } else {
            info!(service.name = service, from, to, why, "agents are served from this version");
        }
    }

    /// An operator names the version that agents are to be served from, for as long as anybody is of it; or gives the
    /// choice back to the rule.
    pub fn order(
        &self,
        service: &Service,
        version: Option<ServerVersion>,
        metrics: &ProxyMetrics,
    ) -> Result<(), NobodyIs> {
        let seen = seen(service);
        let now = clock::now();
        let mut state = self.state();
        if let Some(version) = &version {
            let standings = state.core.standings(&seen, now);
            if !standings.iter().any(|standing| standing.version == *version) {
                let there = standings.iter().map(|standing| format!("`{}`", standing.version));
                let there = there.collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none that say which they are".into() } else { there };
                return Err(NobodyIs { service: service.name.to_string(), version: version.clone(), there });
            }
        }
        let word = version.as_ref().map_or("by rule", ServerVersion::as_str);
        info!(service.name = %service.name, version = word, "an operator said which version agents are served from");
        state.core.set_pin(version);
        if let Some(choice) = state.core.look(&seen, now) {
            self.take(&mut state, service, choice, metrics);
        }
        Ok(())
    }

    /// For the admin API.
    pub fn view(&self, service: &Service) -> view::Cohort {
        let (seen, now) = (seen(service), clock::now());
        let state = self.state();
        let standings = state.core.standings(&seen, now).into_iter().map(|standing| view::CohortVersion {
            served: self.served().by(Some(&standing.version)),
            version: standing.version.to_string(),
            upstreams: standing.upstreams as u64,
            able: standing.able as u64,
            settled_seconds: standing.settled.map(|settled| settled.as_secs()),
        });
        view::Cohort {
            version: state.core.chosen().map(ToString::to_string),
            why: match &**self.served() {
                Served::Nowhere => "undecided",
                Served::Everywhere => "no upstream says which version it is",
                Served::Version(_) => state.why.as_str(),
            }
            .into(),
            since: state.since,
            ordered: state.core.pin().map(ToString::to_string),
            needed: state.core.needed(seen.len()) as u64,
            versions: standings.collect(),
        }
    }

    fn serve(&self, served: Served) {
        if **self.served.load() != served {
            self.served.store(Arc::new(served));
            self.changed.send_replace(());
        }
    }

    fn state(&self) -> MutexGuard<'_, Standpoint> {
        // Whole before and after each step of a holder that panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rules_of(config: &Cohorts) -> Rules {
    Rules { quorum: config.quorum, settle: config.settle, fallback: config.fallback }
}

fn seen(service: &Service) -> Vec<Seen> {
    let of = |verdict: &Verdict| Seen {
        version: verdict.version().cloned(),
        known: verdict.state != State::Unknown,
        able: verdict.state == State::Up && verdict.may(RouteClass::AgentPoll, Access::Write).is_yes(),
    };
    service.upstreams.iter().map(|upstream| of(&upstream.prober.verdict())).collect()
}

/// Keeps the choices of all services until it is dropped.
pub(super) async fn keep(live: Arc<Live>, metrics: ProxyMetrics) {
    loop {
        for service in &live.load().services {
            if let Some(cohort) = &service.cohort {
                cohort.look(service, &metrics, clock::now());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_an_agent_a_version_goes_to_its_cohort() {
        for path in [
            "/queue/v1/cmd/task",
            "/queue/v1/controller/task",
            "/switchyard/v1/tasks",
            "/pkg/AnkaAgentArm.pkg",
        ] {
            assert!(is_of_agents(path), "{path}");
        }
        for path in ["/api/v1/vm", "/api/v1/node", "/tap/v1/hand", "/readyz", "/", "/queue/v10/x"] {
            assert!(!is_of_agents(path), "{path}");
        }
    }
}
