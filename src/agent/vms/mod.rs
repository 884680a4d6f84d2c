//! Every VM that was begun here: what is wanted, what is, what was told. The only mutable state of the agent
//! beside its journal; it never waits and never does I/O.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    act::{Action, Left, OnOffer, OnStop, Seen, Wanted, act, on_noted, on_offer, on_stop},
    driver::VmKey,
    journal::Entry,
    templates::Pin,
};
use crate::{
    clock,
    model::{Attempt, InstanceId, Progress},
    wire::{
        agent::{SeenVm, StartTask, StopVm, VmPhase},
        vm::{ScriptResult, VmInfo},
    },
};

/// Progress is told at most so often.
const PROGRESS: Duration = Duration::from_secs(1);

/// VMs that are not here and whose absence is to be told. More than that: told when these have been noted, for
/// an order to stop is repeated until then.
const ABSENT: usize = 10_000;

/// Script output that goes along with a heartbeat. What is longer is left to the report of the change itself: cut, it could come
/// behind the report and take its place.
const BRIEF: usize = 64 * 1024;

/// All script output of one heartbeat together; more than that is left to reports as well. Controllers refuse bodies of more than
/// 4 MiB, and in JSON each of these bytes may take six; a heartbeat that is too long would be so for ever.
const BRIEFS: usize = 256 * 1024;

/// One VM.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) attempt: Attempt,
    pub(super) seen: Seen,
    pub(super) task: Arc<StartTask>,
    pub(super) progress: Progress,
    pub(super) info: Option<VmInfo>,
    pub(super) script: Option<ScriptResult>,
    pub(super) message: String,
    /// Its claim was sent, so the controllers may count on it.
    pub(super) begun: bool,
    /// Its pull has begun.
    pub(super) pulling: bool,
    /// It was granted in an earlier run: told as starting from then on.
    pub(super) granted: bool,
    /// Its script was begun, or is about to be.
    pub(super) script_begun: bool,
    /// How often an earlier run of the agent ended in the middle of its start.
    pub(super) cut_off: u32,
    /// Its image was saved: it is stopped, and stays until it is to be deleted.
    pub(super) saved: bool,
    /// Holds its template.
    pub(super) pin: Option<Pin>,
    wanted: watch::Sender<Wanted>,
    /// A newer offer of the instance, to be taken when this is cleared away.
    next: Option<StartTask>,
    /// Somebody carries an action out.
    busy: bool,
    /// Counts changes.
    change: u64,
    /// Up to which change the controllers have answered.
    told: u64,
    progress_told: Option<Instant>,
}

impl Vm {
    /// It ends as a command has it, and not by itself.
    pub(super) fn is_in_hand(&self) -> bool {
        self.saved || self.busy && self.seen == Seen::Running
    }

    /// It should run: nobody is stopping it.
    pub(super) fn is_wanted(&self) -> bool {
        *self.wanted.borrow() == Wanted::Running
    }

    pub(super) fn new(task: StartTask) -> Self {
        Self {
            attempt: task.attempt,
            seen: Seen::Offered,
            task: Arc::new(task),
            progress: Progress::NONE,
            info: None,
            script: None,
            message: String::new(),
            begun: false,
            pulling: false,
            granted: false,
            script_begun: false,
            cut_off: 0,
            saved: false,
            pin: None,
            wanted: watch::Sender::new(Wanted::Running),
            next: None,
            busy: false,
            change: 1,
            told: 0,
            progress_told: None,
        }
    }

    pub(super) fn key(&self) -> VmKey {
        VmKey { instance: self.task.instance.clone(), attempt: self.attempt }
    }

    /// As the journal should have it.
    pub(super) fn entry(&self, phase: VmPhase) -> Entry {
        Entry {
            instance: self.task.instance.clone(),
            attempt: self.attempt,
            phase,
            task: (*self.task).clone(),
            info: self.info.clone(),
            script: self.script.clone(),
            message: self.message.clone(),
            script_begun: self.script_begun,
            cut_off: self.cut_off,
        }
    }

    /// Whether it may be started once more under the same attempt, when nothing of it is left: it was let to
    /// start, nobody was told that it runs, and no script of it was begun.
    pub(super) fn repeatable(&self) -> bool {
        matches!(self.seen, Seen::Granted | Seen::Booted) && !self.script_begun
    }

    fn phase(&self) -> VmPhase {
        match self.seen {
            Seen::Offered | Seen::Claimed | Seen::Pulled if self.granted => VmPhase::Starting,
            Seen::Offered | Seen::Claimed if !self.pulling => VmPhase::Claimed,
            Seen::Offered | Seen::Claimed | Seen::Pulled => VmPhase::Pulling,
            Seen::Granted | Seen::Booted => VmPhase::Starting,
            Seen::Running => VmPhase::Running,
            Seen::Failed(_) => VmPhase::Failed,
            Seen::Gone => VmPhase::Gone,
        }
    }

    fn listed(&self) -> bool {
        match (*self.wanted.borrow(), self.seen) {
            (_, Seen::Offered) => self.begun,
            // Nothing of it runs, and it is nobody's business any more.
            (Wanted::Forgotten, Seen::Claimed | Seen::Pulled | Seen::Failed(Left::Nothing) | Seen::Gone) => {
                false
            }
            _ => true,
        }
    }

    /// Whether it takes one of the node's places.
    fn takes_room(&self) -> bool {
        match self.seen {
            Seen::Offered | Seen::Claimed | Seen::Pulled | Seen::Granted | Seen::Booted | Seen::Running => {
                true
            }
            Seen::Failed(Left::Running) => true,
            Seen::Failed(Left::Nothing | Left::Stopped) | Seen::Gone => false,
        }
    }

    fn show(&self) -> SeenVm {
        SeenVm {
            instance: self.task.instance.clone(),
            attempt: self.attempt,
            phase: self.phase(),
            progress: self.progress,
            info: self.info.clone(),
            script: self.script.clone(),
            message: self.message.clone(),
        }
    }
}

/// What is to be told of one VM, and which change that covers.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) vm: SeenVm,
    change: u64,
}

#[derive(Debug, Default)]
struct Inner {
    vms: BTreeMap<InstanceId, Vm>,
    /// To be stopped, but not here.
    absent: BTreeMap<InstanceId, (Attempt, bool)>,
}

/// The table. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Vms {
    inner: Arc<Mutex<Inner>>,
    /// Something is to be done.
    pub(super) work: Arc<Notify>,
    /// Something is to be told.
    pub(super) news: Arc<Notify>,
    /// There may be room again.
    pub(super) room: Arc<Notify>,
}

impl Vms {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked left a map that is whole at every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a VM of an earlier run in.
    pub(super) fn restore(&self, vm: Vm) {
        self.lock().vms.insert(vm.task.instance.clone(), vm);
        self.work.notify_one();
    }

    /// Takes an offer, if it is new.
    pub(super) fn offer(&self, task: StartTask) {
        let mut inner = self.lock();
        inner.absent.remove(&task.instance);
        let here = inner.vms.get_mut(&task.instance);
        match (on_offer(here.as_ref().map(|vm| vm.newest()), task.attempt), here) {
            (OnOffer::Ignore, _) => return,
            (OnOffer::After, Some(vm)) => {
                vm.next = Some(task);
                vm.want(Wanted::Forgotten);
            }
            (OnOffer::Take | OnOffer::After, _) => {
                inner.vms.insert(task.instance.clone(), Vm::new(task));
            }
        }
        drop(inner);
        self.work.notify_one();
    }

    /// Whether any attempt of the instance is here.
    pub(super) fn has(&self, instance: &InstanceId) -> bool {
        self.lock().vms.contains_key(instance)
    }

    /// The controllers want it stopped.
    pub(super) fn stop(&self, stop: &StopVm) {
        let mut inner = self.lock();
        let here = inner.vms.get_mut(&stop.instance);
        match (on_stop(here.as_ref().map(|vm| vm.attempt), stop.attempt), here) {
            (OnStop::Stop, Some(vm)) => {
                if vm.next.as_ref().is_some_and(|next| next.attempt <= stop.attempt) {
                    vm.next = None;
                }
                vm.want(Wanted::Gone);
            }
            (OnStop::Ignore, _) => return,
            (OnStop::TellGone | OnStop::Stop, _) => {
                if inner.absent.len() < ABSENT {
                    inner.absent.insert(stop.instance.clone(), (stop.attempt, false));
                    self.news.notify_one();
                }
                return;
            }
        }
        drop(inner);
        self.work.notify_one();
    }

    /// The controllers have noted its end.
    pub(super) fn noted(&self, noted: &StopVm) {
        let mut inner = self.lock();
        if inner.absent.get(&noted.instance).is_some_and(|(attempt, _)| *attempt <= noted.attempt) {
            inner.absent.remove(&noted.instance);
        }
        if let Some(vm) = inner.vms.get_mut(&noted.instance)
            && vm.attempt <= noted.attempt
        {
            let wanted = on_noted(*vm.wanted.borrow(), vm.seen);
            vm.want(wanted);
        }
        drop(inner);
        self.work.notify_one();
    }

    /// It is not ours: whatever there is of it goes, and nobody is told.
    pub(super) fn disown(&self, key: &VmKey) {
        let mut inner = self.lock();
        if let Some(vm) = inner.get(key) {
            vm.want(Wanted::Forgotten);
        }
    }

    /// The next thing to do for each VM that nobody is busy with; they are busy from now on.
    pub(super) fn due(&self) -> Vec<VmKey> {
        let mut inner = self.lock();
        let due = inner.vms.values_mut().filter(|vm| !vm.busy && vm.action() != Action::Nothing);
        due.map(|vm| {
            vm.busy = true;
            vm.key()
        })
        .collect()
    }

    /// What to do now, by whoever is busy with it. With nothing to do it is not busy any more.
    pub(super) fn next(&self, key: &VmKey) -> Option<(Action, Arc<StartTask>)> {
        let mut inner = self.lock();
        let vm = inner.get(key)?;
        match vm.action() {
            Action::Nothing => {
                vm.busy = false;
                None
            }
            action => Some((action, vm.task.clone())),
        }
    }

    /// Takes a VM that runs, so that nobody else does anything with it until it is released. Whether it could be taken.
    pub(super) fn seize(&self, key: &VmKey) -> bool {
        let mut inner = self.lock();
        let free = |vm: &&mut Vm| vm.seen == Seen::Running && !vm.busy && !vm.saved && vm.is_wanted();
        match inner.get(key).filter(free) {
            Some(vm) => {
                vm.busy = true;
                true
            }
            None => false,
        }
    }

    /// What is known of it.
    pub(super) fn info(&self, key: &VmKey) -> Option<VmInfo> {
        self.lock().get(key)?.info.clone()
    }

    /// What was asked of it.
    pub(super) fn task(&self, key: &VmKey) -> Option<Arc<StartTask>> {
        Some(self.lock().get(key)?.task.clone())
    }

    /// Nobody is busy with it any more, whatever there is to do.
    pub(super) fn release(&self, key: &VmKey) {
        if let Some(vm) = self.lock().get(key) {
            vm.busy = false;
        }
        self.work.notify_one();
    }

    /// Follows what is wanted of it.
    pub(super) fn follow(&self, key: &VmKey) -> Option<watch::Receiver<Wanted>> {
        self.lock().get(key).map(|vm| vm.wanted.subscribe())
    }

    /// Changes it, if it is still there; the change is told.
    pub(super) fn change<T>(&self, key: &VmKey, change: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        let mut inner = self.lock();
        let vm = inner.get(key)?;
        let took_room = vm.takes_room();
        let done = change(vm);
        vm.change += 1;
        if took_room && !vm.takes_room() {
            self.room.notify_one();
        }
        self.news.notify_one();
        Some(done)
    }

    /// How far its pull is; told now and then.
    pub(super) fn progress(&self, key: &VmKey, progress: Progress, message: String) {
        let now = clock::now();
        let mut inner = self.lock();
        let Some(vm) = inner.get(key) else { return };
        let other = vm.message != message;
        vm.progress = progress;
        vm.message = message;
        if other || vm.progress_told.is_none_or(|at| now - at >= PROGRESS) {
            vm.progress_told = Some(now);
            vm.change += 1;
            self.news.notify_one();
        }
    }

    /// Strikes it out; a newer offer that waited for that takes its place.
    pub(super) fn forget(&self, key: &VmKey) {
        let mut inner = self.lock();
        let Some(vm) = inner.get(key) else { return };
        if let Some(next) = vm.next.take() {
            inner.vms.insert(key.instance.clone(), Vm::new(next));
        } else {
            inner.vms.remove(&key.instance);
        }
        drop(inner);
        self.room.notify_one();
        self.work.notify_one();
    }

    /// Places taken.
    pub(super) fn used(&self) -> u32 {
        let count = self.lock().vms.values().filter(|vm| vm.takes_room() || vm.next.is_some()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// All that there is, for a heartbeat.
    pub(super) fn all(&self) -> Vec<News> {
        let inner = self.lock();
        let mut room = BRIEFS;
        let vms = inner.vms.values().filter(|vm| vm.listed()).map(|vm| {
            let mut news = News { vm: vm.show(), change: vm.change };
            if vm.told >= vm.change {
                // It was told with the change, and is repeated to nobody's use.
                news.vm.script = None;
                if vm.seen == Seen::Failed(Left::Nothing) {
                    // With it, controllers take something to be left that may be looked at.
                    news.vm.info = None;
                }
                return news;
            }
            let length =
                news.vm.script.as_ref().map_or(0, |script| script.stdout.len() + script.stderr.len());
            match room.checked_sub(length) {
                Some(left) if length <= BRIEF => room = left,
                _ => {
                    news.vm.script = None;
                    if matches!(news.vm.phase, VmPhase::Running | VmPhase::Failed) {
                        // Nobody is to see the end of its start without the result: its report tells both.
                        news = News { change: 0, ..news };
                        news.vm.phase = VmPhase::Starting;
                    }
                }
            }
            news
        });
        let absent = inner.absent.iter().map(|(instance, (attempt, _))| absent(instance, *attempt));
        vms.chain(absent).collect()
    }

    /// What no answer has covered yet.
    pub(super) fn untold(&self) -> Vec<News> {
        let inner = self.lock();
        let vms = inner.vms.values().filter(|vm| vm.listed() && vm.told < vm.change);
        let vms = vms.map(|vm| News { vm: vm.show(), change: vm.change });
        let absent = inner.absent.iter().filter(|(_, (_, told))| !told);
        vms.chain(absent.map(|(instance, (attempt, _))| self::absent(instance, *attempt))).collect()
    }

    /// Whether something waits to be told in a report.
    pub(super) fn has_untold(&self) -> bool {
        self.lock().vms.values().any(|vm| vm.listed() && vm.told < vm.change)
    }

    /// The controllers have answered for this.
    pub(super) fn told(&self, news: &News) {
        let mut inner = self.lock();
        match inner.vms.get_mut(&news.vm.instance) {
            Some(vm) if vm.attempt == news.vm.attempt => vm.told = vm.told.max(news.change),
            _ => {}
        }
        if let Some((attempt, told)) = inner.absent.get_mut(&news.vm.instance)
            && *attempt == news.vm.attempt
        {
            *told = true;
        }
    }

    /// VMs of which something runs or may run.
    pub(super) fn running(&self) -> Vec<(VmKey, Seen)> {
        let inner = self.lock();
        let runs = |seen: Seen| match seen {
            Seen::Granted | Seen::Booted | Seen::Running | Seen::Failed(Left::Running) => true,
            Seen::Offered | Seen::Claimed | Seen::Pulled => false,
            Seen::Failed(Left::Nothing | Left::Stopped) | Seen::Gone => false,
        };
        inner.vms.values().filter(|vm| runs(vm.seen)).map(|vm| (vm.key(), vm.seen)).collect()
    }
}

impl Inner {
    fn get(&mut self, key: &VmKey) -> Option<&mut Vm> {
        self.vms.get_mut(&key.instance).filter(|vm| vm.attempt == key.attempt)
    }
}

impl Vm {
    fn action(&self) -> Action {
        act(*self.wanted.borrow(), self.seen)
    }

    /// The newest attempt that is here or about to be.
    fn newest(&self) -> Attempt {
        self.next.as_ref().map_or(self.attempt, |next| next.attempt)
    }

    fn want(&mut self, wanted: Wanted) {
        // What is not ours any more does not become it again.
        let kept = *self.wanted.borrow() == Wanted::Forgotten;
        if !kept && *self.wanted.borrow() != wanted {
            self.wanted.send_replace(wanted);
        }
    }
}

fn absent(instance: &InstanceId, attempt: Attempt) -> News {
    let vm = SeenVm {
        instance: instance.clone(),
        attempt,
        phase: VmPhase::Gone,
        progress: Progress::NONE,
        info: None,
        script: None,
        message: String::new(),
    };
    News { vm, change: 0 }
}

/// Keeps the end of a script's output.
pub(super) fn shorten(script: &mut ScriptResult, most: usize) {
    for text in [&mut script.stdout, &mut script.stderr] {
        let over = text.len().saturating_sub(most);
        let cut = (over..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text.drain(..cut);
    }
}
