//! Bringing one VM to where it is wanted, action by action.
//!
//! Whatever takes time is given up as soon as something else is wanted, or the agent stops: every step can be
//! taken again. What cannot is written in the journal first.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    act::{Action, Left, Seen, Wanted},
    backoff::Backoff,
    driver::{DriverError, Found, ScriptSpec, VmKey, VmSpec},
    join::with_causes,
    node::Node,
    templates::{self, Told},
    vms::Vm,
};
use crate::{
    client::ClientError,
    clock,
    config::agent::Driver as DriverConfig,
    supervise::Stop,
    wire::{
        agent::{Claim, GiveBack, Granted, NOT_CLEARED, OnScriptFailure, Script, StartTask, VmPhase},
        command::PullTemplate,
        vm::{ScriptResult, VmInfo},
    },
};

/// An offer is good for three seconds; a claim that takes longer is asked about again.
const CLAIM: Duration = Duration::from_secs(3);

/// For a monitored script that names no limit.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(90);

/// A start that has not begun goes back when its step could not be written down so often: after some five seconds.
const WRITES: u32 = 5;

/// A step was given up: something else is wanted, or the agent stops.
struct GivenUp;

/// Works on one VM until nothing is left to do, or the agent stops.
pub(super) async fn settle(node: Arc<Node>, key: VmKey) {
    let mut one = One::new(node, key);
    loop {
        if one.stop.is_requested() {
            one.node.vms.release(&one.key);
            return;
        }
        let Some((action, task)) = one.node.vms.next(&one.key) else { return };
        let done = match action {
            Action::Nothing => return,
            Action::Claim => one.claim().await,
            Action::Pull => one.pull(&task).await,
            Action::AskToStart => one.ask_to_start().await,
            Action::Boot => one.boot().await,
            Action::Script => one.script(&task).await,
            Action::Delete => one.delete().await,
            Action::Forget => {
                // Struck out before a newer attempt can write itself down under the same name.
                one.node.strike(&one.key.instance).await;
                one.node.vms.forget(&one.key);
                return;
            }
        };
        // Given up: the table says what comes instead.
        drop(done);
    }
}

/// One VM, and what may be done about it.
pub(super) struct One {
    node: Arc<Node>,
    key: VmKey,
    stop: Stop,
}

impl One {
    pub(super) fn new(node: Arc<Node>, key: VmKey) -> Self {
        Self { stop: node.ending.stop(), node, key }
    }

    /// What the driver is to start; nothing if its template is not on the disk any more.
    pub(super) fn spec(&self) -> Option<VmSpec> {
        let task = self.node.vms.task(&self.key)?;
        let layers = self.node.cache.files(&task.manifest)?;
        Some(VmSpec {
            key: self.key.clone(),
            name: format!("{}-{}", self.node.config.vm_prefix, task.vm_name),
            task: (*task).clone(),
            node_id: self.node.id.to_string(),
            host: self.node.host(),
            layers,
        })
    }

    async fn claim(&mut self) -> Result<(), GivenUp> {
        self.journal(VmPhase::Claimed).await?;
        let claim = self.words();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let granted = loop {
            self.in_touch().await?;
            let node = self.node.clone();
            let asked = self
                .unless_unwanted(async {
                    // No heartbeat that does not know of this VM is under way meanwhile.
                    let _gate = node.gate.read().await;
                    node.api.claim(&claim, CLAIM).await
                })
                .await?;
            match asked {
                Ok(granted) => break granted,
                Err(error) if is_final(&error) => {
                    self.refused("claim", error.to_string());
                    return Ok(());
                }
                Err(error) => self.unanswered("claim", &error),
            }
            // It may have been granted.
            self.change(|vm| vm.begun = true);
            self.pause(&mut backoff).await?;
        };
        self.granted(granted, "claim", |vm| {
            vm.begun = true;
            vm.seen = Seen::Claimed;
        });
        Ok(())
    }

    async fn pull(&mut self, task: &StartTask) -> Result<(), GivenUp> {
        let pin = self.node.cache.pin(task.manifest);
        self.change(|vm| {
            vm.pulling = true;
            vm.pin = Some(pin);
        });
        let oci = match self.node.registry(&task.registry) {
            Ok(oci) => oci,
            Err(why) => return self.give_back(why).await,
        };
        let DriverConfig::Process(settings) = &self.node.config.driver;
        let (node, key, delay) = (self.node.clone(), self.key.clone(), settings.pull_delay);
        let told = |told: Told| node.vms.progress(&key, told.progress, told.waits);
        let template = PullTemplate::from(task);
        let pulled = self.unless_unwanted(templates::pull(&node.cache, &oci, &template, delay, told)).await?;
        match pulled {
            Ok(_) => {
                self.change(|vm| {
                    vm.progress = crate::model::Progress::ALL;
                    vm.message.clear();
                    vm.seen = Seen::Pulled;
                });
                Ok(())
            }
            Err(trouble) if trouble.may_pass() => self.give_back(trouble.to_string()).await,
            Err(trouble) => {
                self.fail(trouble.to_string(), Left::Nothing).await;
                Ok(())
            }
        }
    }

    async fn ask_to_start(&mut self) -> Result<(), GivenUp> {
        // Before it is granted: from then on the controllers never let another node have it, so this one must
        // never forget it.
        if let Err(why) = self.journal_soon(VmPhase::Starting).await? {
            return self.give_back(why).await;
        }
        let claim = self.words();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let granted = loop {
            self.in_touch().await?;
            let node = self.node.clone();
            match self.unless_unwanted(node.api.starting(&claim)).await? {
                Ok(granted) => break granted,
                Err(error) if is_final(&error) => {
                    self.refused("start", error.to_string());
                    return Ok(());
                }
                Err(error) => self.unanswered("start", &error),
            }
            self.pause(&mut backoff).await?;
        };
        self.granted(granted, "start", |vm| vm.seen = Seen::Granted);
        Ok(())
    }

    async fn boot(&mut self) -> Result<(), GivenUp> {
        // A start that was cut off leaves its files. No attempt is started twice.
        match self.node.driver.inspect(&self.key).await {
            Ok(Found::Nothing) => {}
            Ok(Found::Stopped | Found::Running) => {
                self.clear_away().await?;
                self.fail("its start was cut off".into(), Left::Nothing).await;
                return Ok(());
            }
            Err(error) => {
                self.fail(with_causes(&error), Left::Stopped).await;
                return Ok(());
            }
        }
        let Some(spec) = self.spec() else {
            self.fail("the template vanished from the disk before the start".into(), Left::Nothing).await;
            return Ok(());
        };
        let node = self.node.clone();
        let limit = node.config.start_timeout;
        let started = self.unless_unwanted(tokio::time::timeout(limit, node.driver.start(&spec))).await?;
        let why = match started {
            Ok(Ok(info)) => {
                self.change(|vm| {
                    vm.info = Some(info);
                    vm.seen = Seen::Booted;
                });
                return Ok(());
            }
            Ok(Err(error)) => with_causes(&error),
            Err(_) => format!("the VM did not start within {limit:?}"),
        };
        self.clear_away().await?;
        self.fail(why, Left::Nothing).await;
        Ok(())
    }

    async fn script(&mut self, task: &StartTask) -> Result<(), GivenUp> {
        let Some(script) = &task.script else { return self.up(None).await };
        let body = match STANDARD.decode(script.body.as_bytes()) {
            Ok(body) => body,
            Err(error) => {
                return self
                    .script_failed(script, None, format!("the startup script is no base64: {error}"))
                    .await;
            }
        };
        // A script cannot be repeated: whoever finds this mark does not start the VM again.
        self.node.vms.change(&self.key, |vm| vm.script_begun = true);
        self.journal(VmPhase::Starting).await?;
        let node = self.node.clone();
        if !script.monitored {
            // Whether it can be run is the VM's own business, as on a real one.
            if let Err(error) = self.unless_unwanted(node.driver.launch(&self.key, body)).await? {
                warn!(vm = %self.key, error = %error, "startup script could not be run");
            }
            return self.up(None).await;
        }
        let timeout = match script.timeout_seconds {
            0 => SCRIPT_TIMEOUT,
            seconds => Duration::from_secs(seconds.into()),
        };
        let run = node.driver.script(&self.key, ScriptSpec { body, timeout });
        match self.unless_unwanted(run).await? {
            Ok(result) if result.return_code == 0 && !result.did_timeout && result.errors.is_empty() => {
                self.up(Some(result)).await
            }
            Ok(result) => {
                let why = if result.did_timeout {
                    format!("the startup script did not end within {} s", timeout.as_secs())
                } else {
                    format!("the startup script exited with code {}", result.return_code)
                };
                self.script_failed(script, Some(result), why).await
            }
            Err(DriverError::NotRunning) => {
                self.clear_away().await?;
                self.fail("VM vanished while its startup script ran".into(), Left::Nothing).await;
                Ok(())
            }
            Err(error) => self.script_failed(script, None, with_causes(&error)).await,
        }
    }

    /// Up, and its script has done what it should.
    async fn up(&mut self, script: Option<ScriptResult>) -> Result<(), GivenUp> {
        self.node.vms.change(&self.key, |vm| vm.script = script);
        self.journal(VmPhase::Running).await?;
        self.change(|vm| {
            vm.message.clear();
            vm.seen = Seen::Running;
        });
        self.node.pause.end();
        info!(vm = %self.key, "vm is up");
        Ok(())
    }

    async fn script_failed(
        &mut self,
        script: &Script,
        result: Option<ScriptResult>,
        why: String,
    ) -> Result<(), GivenUp> {
        self.change(|vm| vm.script = result);
        let node = self.node.clone();
        let left = match script.on_failure {
            // Not monitored: nobody said what to do, so it is kept as it is.
            OnScriptFailure::Keep => Left::Running,
            OnScriptFailure::Stop => {
                self.repeat(|| node.driver.stop(&self.key)).await?;
                Left::Stopped
            }
            OnScriptFailure::Delete => {
                self.clear_away().await?;
                Left::Nothing
            }
        };
        self.fail(why, left).await;
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), GivenUp> {
        self.clear_away().await?;
        self.node.saves.forget(&self.key);
        self.node.vms.change(&self.key, |vm| {
            vm.pin = None;
            vm.info = vm.info.take().map(|info| ended(info, "deleted"));
            vm.seen = Seen::Gone;
        });
        info!(vm = %self.key, "vm is gone");
        if self.wanted() == Some(Wanted::Gone) {
            // Not written: found running at the next start, it is told as vanished, which is as good an end.
            drop(self.journal(VmPhase::Gone).await);
        }
        Ok(())
    }

    /// It failed; told until the controllers have noted it.
    pub(super) async fn fail(&self, why: String, left: Left) {
        warn!(vm = %self.key, why, "vm failed");
        let entry = self.node.vms.change(&self.key, |vm| {
            vm.message = why;
            if left != Left::Running {
                let status = if left == Left::Stopped { "stopped" } else { "failed" };
                vm.info = vm.info.take().map(|info| ended(info, status));
                vm.pin = None;
            }
            vm.entry(VmPhase::Failed)
        });
        if let Some(entry) = entry
            && let Err(error) = self.node.write(entry).await
        {
            error!(vm = %self.key, error = %error, "the journal could not be written");
        }
        self.change(|vm| vm.seen = Seen::Failed(left));
    }

    /// The node cannot do it: back to the queue, and nothing of it is kept here.
    async fn give_back(&mut self, why: String) -> Result<(), GivenUp> {
        if self.node.vms.change(&self.key, |vm| vm.granted) == Some(true) {
            // An earlier run was let to start it: no other node may have it any more.
            self.fail(why, Left::Nothing).await;
            return Ok(());
        }
        warn!(vm = %self.key, why, "start was given back");
        self.node.pause.begin();
        let back = GiveBack { claim: self.words(), why };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let node = self.node.clone();
            match self.unless_unwanted(node.api.give_back(&back)).await? {
                // Refused: it is not ours in the first place.
                Ok(_) => break,
                Err(error) if error.may_pass() => self.unanswered("give-back", &error),
                Err(error) => {
                    self.unanswered("give-back", &error);
                    break;
                }
            }
            self.pause(&mut backoff).await?;
        }
        self.node.vms.disown(&self.key);
        Ok(())
    }

    /// Stops and deletes whatever there is of it, as often as it takes.
    async fn clear_away(&mut self) -> Result<(), GivenUp> {
        let node = self.node.clone();
        self.repeat(|| node.driver.delete(&self.key)).await
    }

    /// Does what must succeed, until it does or the agent stops. The reason of the wait is told.
    async fn repeat<F, Fut>(&self, act: F) -> Result<(), GivenUp>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), DriverError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            let Err(error) = act().await else { return Ok(()) };
            error!(vm = %self.key, error = %with_causes(&error), "vm could not be cleared away");
            self.change(|vm| vm.message = format!("{NOT_CLEARED}{}", with_causes(&error)));
            tokio::select! {
                () = self.stop.requested() => return Err(GivenUp),
                () = tokio::time::sleep(backoff.pause(rand::random())) => {}
            }
        }
    }

    /// Goes on if the step was granted, else nothing of this attempt is kept.
    fn granted(&self, answer: Granted, step: &'static str, go_on: impl FnOnce(&mut Vm)) {
        if answer.granted {
            self.change(go_on);
        } else {
            self.refused(step, answer.why);
        }
    }

    fn refused(&self, step: &'static str, why: String) {
        info!(vm = %self.key, step, why, "step was refused; the instance is not this node's");
        self.node.vms.disown(&self.key);
    }

    /// Writes the step down that is about to be taken. If that fails the step is not taken.
    async fn journal(&mut self, phase: VmPhase) -> Result<(), GivenUp> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let entry = self.node.vms.change(&self.key, |vm| vm.entry(phase)).ok_or(GivenUp)?;
            let Err(error) = self.node.write(entry).await else { return Ok(()) };
            error!(vm = %self.key, error = %error, "the journal could not be written");
            self.change(|vm| vm.message = format!("the node's journal could not be written: {error}"));
            self.pause(&mut backoff).await?;
        }
    }

    /// The same of a step that another node can take as well: on a full disk this one may wait for ever.
    async fn journal_soon(&mut self, phase: VmPhase) -> Result<Result<(), String>, GivenUp> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut why = String::new();
        for _ in 0..WRITES {
            let entry = self.node.vms.change(&self.key, |vm| vm.entry(phase)).ok_or(GivenUp)?;
            let Err(error) = self.node.write(entry).await else { return Ok(Ok(())) };
            why = format!("the node's journal could not be written: {error}");
            error!(vm = %self.key, error = %error, "the journal could not be written");
            self.change(|vm| vm.message.clone_from(&why));
            self.pause(&mut backoff).await?;
        }
        Ok(Err(why))
    }

    /// Waits until the controllers have heard from this node since it started or was cut off.
    async fn in_touch(&mut self) -> Result<(), GivenUp> {
        let mut in_touch = self.node.in_touch.subscribe();
        self.unless_unwanted(async move { in_touch.wait_for(|in_touch| *in_touch).await.is_ok() }).await?;
        Ok(())
    }

    async fn pause(&mut self, backoff: &mut Backoff) -> Result<(), GivenUp> {
        self.unless_unwanted(tokio::time::sleep(backoff.pause(rand::random()))).await
    }

    /// The work's result, unless the VM is not wanted any more, since before or meanwhile.
    async fn unless_unwanted<T>(&self, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let wanted = self.node.vms.follow(&self.key).ok_or(GivenUp)?;
        tokio::select! {
            biased;
            () = self.stop.requested() => Err(GivenUp),
            () = unwanted(wanted) => Err(GivenUp),
            done = work => Ok(done),
        }
    }

    fn unanswered(&self, step: &'static str, error: &ClientError) {
        warn!(vm = %self.key, step, error = %with_causes(error), "step was not answered and is repeated");
        self.node.unheard(error);
    }

    fn change(&self, change: impl FnOnce(&mut Vm)) {
        // Gone from the table, it needs no change.
        self.node.vms.change(&self.key, change).unwrap_or_default();
    }

    fn wanted(&self) -> Option<Wanted> {
        self.node.vms.follow(&self.key).map(|wanted| *wanted.borrow())
    }

    fn words(&self) -> Claim {
        Claim {
            node_id: self.node.id.clone(),
            instance: self.key.instance.clone(),
            attempt: self.key.attempt,
        }
    }
}

/// Whether repeating the call cannot help. Without a record it can, after a join; beside a second agent with
/// the same id it can, once that one is gone.
fn is_final(error: &ClientError) -> bool {
    matches!(error.status(), Some(400..500))
        && !error.may_pass()
        && !matches!(error.status(), Some(404 | 409 | 425))
}

pub(super) async fn unwanted(mut wanted: watch::Receiver<Wanted>) {
    // The sender's end is the VM's: nothing is wanted of it any more.
    drop(wanted.wait_for(|wanted| *wanted != Wanted::Running).await);
}

/// The last that is known of a VM that runs no more.
pub(super) fn ended(info: VmInfo, status: &str) -> VmInfo {
    let now = clock::wall();
    VmInfo { status: status.into(), stop_date: Some(now), timestamp: Some(now), ..info }
}
