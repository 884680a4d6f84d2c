//! Agents are served from one controller version at a time: an agent that sees another version than its own upgrades
//! itself, and one that sees two in turn never rests.
//!
//! [`core`] decides and is pure; here is what keeps its decision where every request finds it, and the loop that tells
//! it how the upstreams stand. Nothing of a choice relaxes: a request of an agent waits rather than go to another
//! version.
//!
//! Where a service finds its servers in etcd, [`agreed`] keeps the choice there: proxies serve agents from what is said there,
//! and whoever would have it otherwise says so, compared with what it knew.

mod agreed;
pub mod core;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

pub(super) use self::agreed::KEPT;
use self::{
    agreed::Said,
    core::{Choice, Core, GATHER, Rules, Seen, Why},
};
use super::{
    record::ProxyMetrics,
    snapshot::{Live, Service},
};
use crate::{
    clock,
    config::proxy::{self, Cohorts},
    discovery::word::{NotSaid, Word},
    health::{Access, State, Verdict},
    model::{RouteClass, ServerVersion, Timestamp},
    supervise::Handle as Tasks,
    wire::{handover, upstreams as view},
};

/// How often it is looked at how the upstreams stand.
const LOOK: Duration = Duration::from_millis(200);

/// Between two versions agents wait for so long where several proxies agree: by then each has heard that the one before is
/// over, so nobody sees it again. Shorter than any of their requests may be held.
const QUIET: Duration = Duration::from_secs(1);

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
    began: Instant,
    /// What was chosen before the last start.
    remembered: Option<handover::Cohort>,
    /// Where proxies agree, if they do.
    word: Option<Arc<Word>>,
    /// What of it was heard.
    heard: Option<i64>,
    /// Since when it should be another one, and nobody has taken that.
    wanting: Option<Instant>,
    /// Until then agents wait, for other proxies may not have heard yet.
    quiet: Option<Instant>,
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
pub enum Refused {
    /// It would be for nobody.
    #[error("no upstream of service `{service}` is of version `{version}`; there are {there}")]
    NobodyIs {
        /// Whose upstreams.
        service: String,
        /// What was named.
        version: ServerVersion,
        /// What could have been.
        there: String,
    },
    /// The other proxies could not be told.
    #[error("the other proxies cannot be told, so nothing was changed")]
    NotSaid(#[from] NotSaid),
}

impl Cohort {
    /// Nothing chosen yet.
    pub fn new(rules: &Cohorts) -> Self {
        let began = clock::now();
        let state = Standpoint {
            core: Core::new(rules_of(rules), began),
            why: Why::First,
            since: clock::wall(),
            blind_told: false,
            began,
            remembered: None,
            word: None,
            heard: None,
            wanting: None,
            quiet: None,
        };
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

    /// Agrees with other proxies as this config of its service says.
    pub(super) fn agree(&self, service: &proxy::Service, tasks: &Tasks) {
        let mut state = self.state();
        let word = agreed::word(service, state.word.as_ref(), tasks);
        if let Some(word) = word {
            (state.word, state.heard) = (word, None);
        }
    }

    /// Goes on with what was chosen before the last start, if anybody is of it still and nobody has said anything else.
    pub(super) fn remember(&self, known: &handover::Cohort) {
        self.state().remembered = Some(known.clone());
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
        self.hear(&mut state, service, metrics);
        if state.quiet.is_some_and(|until| until <= now) {
            state.quiet = None;
            if let Some(version) = state.core.chosen() {
                self.serve(Served::Version(version.clone()));
            }
        }
        let unheard = state.word.is_some() && state.heard.is_none();
        if unheard && state.core.chosen().is_none() && now.saturating_duration_since(state.began) < GATHER {
            return;
        }
        let choice = state.core.look(&seen, now);
        state.wanting = choice.is_some().then(|| state.wanting.unwrap_or(now));
        if let Some(choice) = choice {
            let choice = state.recalled(&seen, choice, now);
            self.want(&mut state, service, choice, metrics, now);
        } else if state.core.chosen().is_some() {
            state.insist();
        } else if state.core.is_blind(&seen, now) {
            if !std::mem::replace(&mut state.blind_told, true) {
                let service = &service.name;
                warn!(service.name = %service, "no upstream says which version it is, so agents are served from all of them");
            }
            drop(state);
            self.serve(Served::Everywhere);
        }
    }

    /// What proxies have agreed on since is what counts.
    fn hear(&self, state: &mut Standpoint, service: &Service, metrics: &ProxyMetrics) {
        let Some(heard) = state.word.as_ref().and_then(|word| word.heard()) else { return };
        if state.heard == Some(heard.revision) {
            return;
        }
        state.heard = Some(heard.revision);
        let said = Said::read(&heard.text);
        if said.is_none() && heard.revision > 0 {
            warn!(service.name = %service.name, "what etcd has as the version that agents are served from cannot be read");
        }
        let Some((said, choice)) = said.and_then(|said| said.choice().map(|choice| (said, choice))) else {
            return;
        };
        state.core.set_pin(said.pin());
        if state.core.chosen() != Some(&choice.version) {
            self.take(state, service, choice, metrics);
        }
    }

    /// Takes it, or says to the other proxies that it should be so: then it is heard when it is taken.
    fn want(
        &self,
        state: &mut Standpoint,
        service: &Service,
        choice: Choice,
        metrics: &ProxyMetrics,
        now: Instant,
    ) {
        let Some(word) = state.word.clone() else { return self.take(state, service, choice, metrics) };
        // Without these agents are served from nowhere. Nobody else can serve them from the version that nobody is of.
        let urgent = state.core.chosen().is_none() || state.core.is_deserted(now);
        let waited =
            state.wanting.is_some_and(|since| now.saturating_duration_since(since) >= agreed::PATIENCE);
        if urgent && (state.heard.is_none() || waited) {
            self.take(state, service, choice, metrics);
        } else if let Some(after) = state.heard {
            word.say(Said::new(&choice, state.core.pin()).text(), after);
        }
    }

    fn take(&self, state: &mut Standpoint, service: &Service, choice: Choice, metrics: &ProxyMetrics) {
        let (service, to, why) = (service.name.as_str(), choice.version.clone(), choice.why);
        let from = state.core.chosen().map_or_else(String::new, ToString::to_string);
        state.core.take(choice);
        (state.why, state.since) = (why, clock::wall());
        if state.word.is_some() && !from.is_empty() {
            state.quiet = Some(clock::now() + QUIET);
            self.serve(Served::Nowhere);
        } else {
            self.serve(Served::Version(to.clone()));
        }
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
    pub async fn order(
        &self,
        service: &Service,
        version: Option<ServerVersion>,
        metrics: &ProxyMetrics,
    ) -> Result<(), Refused> {
        let (told, tries) = (self.ordered(service, version.as_ref(), metrics)?, 3);
        let Some(word) = told else { return Ok(()) };
        for left in (0..tries).rev() {
            let said = self.order_for_all(service, version.as_ref());
            let Some((text, after)) = said else {
                return Err(NotSaid::Away(word.trouble().unwrap_or_default()).into());
            };
            match word.say_and_wait(text, after).await {
                Ok(()) => break,
                Err(NotSaid::Late) if left > 0 => self.hear(&mut self.state(), service, metrics),
                Err(error) => return Err(error.into()),
            }
        }
        self.look(service, metrics, clock::now());
        Ok(())
    }

    /// What is to be said to all proxies, and after what; none if nothing was heard yet.
    fn order_for_all(&self, service: &Service, version: Option<&ServerVersion>) -> Option<(String, i64)> {
        let (seen, now) = (seen(service), clock::now());
        let state = self.state();
        let after = state.word.as_ref()?.heard()?.revision;
        let able = |version: &ServerVersion| {
            state.core.standings(&seen, now).iter().any(|one| one.version == *version && one.able > 0)
        };
        let named = version.filter(|version| able(version) || state.core.chosen().is_none());
        let to = named.or(state.core.chosen()).cloned()?;
        let why = if named.is_some() { Why::Ordered } else { state.why };
        Some((Said::new(&Choice { version: to, why }, version).text(), after))
    }

    /// For this proxy alone; or where there are others to be told, the word by which they are.
    fn ordered(
        &self,
        service: &Service,
        version: Option<&ServerVersion>,
        metrics: &ProxyMetrics,
    ) -> Result<Option<Arc<Word>>, Refused> {
        let seen = seen(service);
        let now = clock::now();
        let mut state = self.state();
        if let Some(version) = version {
            let standings = state.core.standings(&seen, now);
            if !standings.iter().any(|standing| standing.version == *version) {
                let there = standings.iter().map(|standing| format!("`{}`", standing.version));
                let there = there.collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none that say which they are".into() } else { there };
                let service = service.name.to_string();
                return Err(Refused::NobodyIs { service, version: version.clone(), there });
            }
        }
        let word = version.map_or("by rule", ServerVersion::as_str);
        info!(service.name = %service.name, version = word, "an operator said which version agents are served from");
        if state.word.is_some() {
            return Ok(state.word.clone());
        }
        state.core.set_pin(version.cloned());
        if let Some(choice) = state.core.look(&seen, now) {
            self.take(&mut state, service, choice, metrics);
        }
        Ok(None)
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
                Served::Nowhere if state.quiet.is_none() => "undecided",
                Served::Everywhere => "no upstream says which version it is",
                Served::Nowhere | Served::Version(_) => state.why.as_str(),
            }
            .into(),
            since: state.since,
            ordered: state.core.pin().map(ToString::to_string),
            needed: state.core.needed(seen.len()) as u64,
            agreed: state.word.as_ref().map(|word| word.trouble().is_none()),
            alone: state.word.as_ref().and_then(|word| word.trouble()),
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

impl Standpoint {
    /// A first choice is the one of before the start, if anybody can serve agents from it.
    fn recalled(&mut self, seen: &[Seen], choice: Choice, now: Instant) -> Choice {
        let Some(known) = self.remembered.take().filter(|_| choice.why == Why::First) else { return choice };
        let Some(version) = ServerVersion::parse(&known.version) else { return choice };
        let standings = self.core.standings(seen, now);
        if !standings.iter().any(|standing| standing.version == version && standing.able > 0) {
            return choice;
        }
        self.core.set_pin(known.pin.as_deref().and_then(ServerVersion::parse));
        // Asked for again until it is taken.
        self.remembered = Some(known);
        Choice { version, why: Why::Told }
    }

    /// What this proxy serves agents from is not what was said, and nothing else was said since: it is said now.
    fn insist(&self) {
        let Some((word, after)) = self.word.as_ref().zip(self.heard) else { return };
        let Some(heard) = word.heard().filter(|heard| heard.revision == after) else { return };
        let ours = Said::of(&self.core, self.why);
        if let Some(ours) = ours.filter(|ours| !Said::read(&heard.text).is_some_and(|said| said.means(ours)))
        {
            word.say(ours.text(), after);
        }
    }
}

fn rules_of(config: &Cohorts) -> Rules {
    Rules { quorum: config.quorum, settle: config.settle, fallback: config.fallback }
}

fn seen(service: &Service) -> Vec<Seen> {
    let of = |verdict: &Verdict, drained: bool| {
        let may = verdict.may(RouteClass::AgentPoll, Access::Write).is_yes();
        Seen {
            version: verdict.version().cloned(),
            known: verdict.state != State::Unknown,
            able: verdict.state == State::Up && may && !drained,
        }
    };
    let upstreams = service.upstreams.iter();
    upstreams.map(|upstream| of(&upstream.prober.verdict(), upstream.ordered.is_drained())).collect()
}

/// Keeps the choices of all services until it is dropped; in this directory also for the next start.
pub(super) async fn keep(live: Arc<Live>, metrics: ProxyMetrics, run_dir: Option<PathBuf>) {
    let mut kept = Vec::new();
    loop {
        let services = &live.load().services;
        let mut known = Vec::new();
        for service in services {
            if let Some(cohort) = &service.cohort {
                cohort.look(service, &metrics, clock::now());
                known.extend(cohort.known(service.name.as_str()));
            }
        }
        // Nothing is chosen yet: what was kept may still be asked for.
        if let Some(dir) = run_dir.as_deref().filter(|_| kept != known && !known.is_empty()) {
            KEPT.keep(dir, &known);
            kept = known;
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
