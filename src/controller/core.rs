//! A controller without its API: the operations and the loops that keep them going.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use super::{
    ControllerError, Health,
    duties::{self, Offers},
    lists::{Feed, probe},
    members::Membership,
    numbers::Numbers,
    ops::Ops,
    standing,
};
use crate::{
    config::controller::{Controller as Config, StoreKind},
    store::{KeptLease, Store},
    supervise::{Handle, OnEnd, Stage, Stop},
    telemetry::Metrics,
};

/// A loop that ended by itself is started again after this long: only a panic of ours ends one.
pub(super) const RESTART: Duration = Duration::from_secs(1);

/// The operations of a running controller.
pub struct Core {
    /// What can be done.
    pub ops: Ops,
    /// What `/readyz` says.
    pub health: Health,
    /// What it counts.
    pub metrics: Metrics,
}

impl Core {
    /// Starts everything but the API. `address` is what the member's key says.
    ///
    /// Errors when the client of the registries, or a metric, cannot be made.
    pub fn start(
        config: Config,
        store: Arc<dyn Store>,
        tasks: &Handle,
        address: String,
    ) -> Result<Self, ControllerError> {
        let (health, metrics) = (Health::default(), Metrics::new());
        let numbers = Numbers::new(&metrics)?;
        let name = config.server.name.clone();
        let upkeep = config.store.upkeep;
        let looks_after_itself = matches!(config.store.kind, StoreKind::Embedded(_));
        let ops = Ops::new(config, store, tasks.clone(), health.clone(), numbers.clone())?;
        let lease = KeptLease::new();
        let run = uuid::Uuid::new_v4().simple().to_string();
        let member = Membership { ops: ops.clone(), lease: lease.clone(), address, run };
        let loops = Loops { tasks, name };

        let (fed, seen) = (ops.clone(), health.clone());
        loops.start(Stage::Loops, "feed", move |stop| {
            let (ops, health) = (fed.clone(), seen.clone());
            let (lists, clocks) = (ops.inner.lists.clone(), ops.inner.clocks.clone());
            let told = lists.clone();
            let tell = move |what| ops.inner.dispatch.told(what, &told);
            Feed { lists, health, clocks, tell }.run(stop)
        });
        let of = ops.clone();
        loops.start(Stage::Loops, "probe", move |stop| {
            probe(of.inner.lists.clone(), of.inner.numbers.clone(), stop)
        });
        let of = ops.clone();
        loops.start(Stage::Loops, "dispatch", move |stop| {
            let ops = of.clone();
            async move { ops.inner.dispatch.run(&ops.inner.lists, stop).await }
        });
        let of = ops.clone();
        loops.start(Stage::Loops, "listen", move |stop| of.clone().listen(stop));
        let of = ops.clone();
        loops.start(Stage::Loops, "offers", move |stop| Offers { ops: of.clone() }.run(stop));
        let of = ops.clone();
        loops.start(Stage::Loops, "registries", move |stop| {
            let watching = of.templates().clone().watch(stop);
            async move { watching.await.unwrap_or(()) }
        });
        let of = member.clone();
        loops.start(Stage::Loops, "membership", move |stop| of.clone().run(stop));
        let of = member.clone();
        loops.start(Stage::Loops, "expiry", move |stop| duties::run(duties::expiry(), of.clone(), stop));
        let of = member.clone();
        loops.start(Stage::Loops, "starts", move |stop| duties::run(duties::starts(), of.clone(), stop));
        let of = member.clone();
        loops.start(Stage::Loops, "scheduling", move |stop| {
            duties::run(duties::scheduling(), of.clone(), stop)
        });
        let of = member.clone();
        loops.start(Stage::Loops, "commands", move |stop| duties::run(duties::commands(), of.clone(), stop));
        let of = member.clone();
        loops.start(Stage::Loops, "mac pool", move |stop| duties::run(duties::mac_pool(), of.clone(), stop));
        let of = member.clone();
        loops.start(Stage::Loops, "images", move |stop| duties::run(duties::images(), of.clone(), stop));
        if !looks_after_itself {
            let of = member.clone();
            loops.start(Stage::Loops, "upkeep", move |stop| duties::run(duties::upkeep(), of.clone(), stop));
            let (of, seen) = (ops.clone(), health.clone());
            loops.start(Stage::Loops, "store's members", move |stop| {
                standing::look(of.inner.store.clone(), upkeep, seen.clone(), numbers.clone(), stop)
            });
        }
        let of = member;
        loops.start(Stage::Loops, "events", {
            let member = of.clone();
            move |stop| duties::run(duties::events(), member.clone(), stop)
        });
        loops.start(Stage::Loops, "absence", move |stop| duties::run(duties::absence(), of.clone(), stop));
        let of = ops.clone();
        loops.start(Stage::Leases, "lease", move |stop| lease.clone().keep(of.inner.store.clone(), stop));
        Ok(Self { ops, health, metrics })
    }
}

struct Loops<'a> {
    tasks: &'a Handle,
    name: String,
}

impl Loops<'_> {
    fn start<F, Fut>(&self, stage: Stage, what: &str, mut work: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let name = format!("controller {}: {what}", self.name);
        self.tasks.start(stage, name, OnEnd::Restart(RESTART), move |stop| {
            let work = work(stop);
            async move {
                work.await;
                Ok::<_, Infallible>(())
            }
        });
    }
}
