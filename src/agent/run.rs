//! The loops of a running agent: tell, take tasks, work.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::{
    AgentError,
    act::{Left, Seen},
    backoff::Backoff,
    certificates, commands,
    driver::{Found, VmKey},
    home::{Home, Identity},
    join::{wish, with_causes},
    node::Node,
    recover::recover,
    settle::{ended, settle},
    vms::{News, shorten},
};
use crate::{
    client::ClientError,
    clock,
    supervise::Stop,
    wire::agent::{Heartbeat, Join, Poll, Report, VmPhase},
};

/// How long a poll is parked.
const WAIT: u32 = 10;

/// A poll that comes back empty sooner was not parked; the next one waits a little.
const NOT_PARKED: Duration = Duration::from_millis(500);

/// A heartbeat that hangs keeps claims waiting, so it gets less time than other requests.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Heartbeats are no closer than this, however much changes.
const BREATH: Duration = Duration::from_millis(100);

/// Changes that are reported at once.
const REPORTS: usize = 8;

/// Output that goes with a report which was refused with all of it.
const SHORT: usize = 4 * 1024;

/// The last words of a stopping agent may take so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often the VMs are looked at without a reason.
const LOOK: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub(super) async fn run(node: Arc<Node>, home: &Home, stop: Stop) -> Result<(), AgentError> {
    recover(&node).await?;
    info!(node.id = %node.id, node.name = %node.config.name, "agent began");
    let ended = async {
        stop.requested().await;
        node.ending.request();
    };
    tokio::join!(
        ended,
        heartbeats(&node, home),
        reports(&node),
        polls(&node),
        watch(&node),
        work(&node),
        commands::work(&node),
        certificates::watch(&node),
    );
    say_goodbye(&node).await;
    info!(node.id = %node.id, "agent ended");
    Ok(())
}

/// Tells the whole truth every few seconds, and joins when the node has no record.
async fn heartbeats(node: &Arc<Node>, home: &Home) {
    let ending = node.ending.stop();
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while !ending.is_requested() {
        let done = tokio::select! {
            () = ending.requested() => return,
            done = beat(node, home) => done,
        };
        let pause = match done {
            Ok(()) => {
                backoff.reset();
                node.config.heartbeat
            }
            Err(error) => {
                let pause = backoff.pause(rand::random());
                warn!(error = %with_causes(&error), pause = ?pause, "the controllers were not reached");
                // A failure is what a wake-up would tell of.
                node.in_touch.send_replace(false);
                tokio::select! {
                    () = ending.requested() => return,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
        };
        tokio::select! {
            () = ending.requested() => return,
            () = tokio::time::sleep(pause) => {}
            () = async {
                tokio::time::sleep(BREATH).await;
                node.beat.notified().await;
            } => {}
        }
    }
}

async fn beat(node: &Arc<Node>, home: &Home) -> Result<(), ClientError> {
    // Joining, reporting, and joining once more if the record was deleted in between.
    for _ in 0..2 {
        if *node.must_join.borrow() {
            join(node, home).await?;
        }
        if say_all(node).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// One heartbeat; whether the controllers know the node.
async fn say_all(node: &Arc<Node>) -> Result<bool, ClientError> {
    let alone = node.gate.write().await;
    let news = node.vms.all();
    let heartbeat = Heartbeat {
        node_id: node.id.clone(),
        session: node.session.clone(),
        facts: node.facts(),
        vms: news.iter().map(|news| news.vm.clone()).collect(),
        commands: node.commands.reports(),
    };
    let heard = node.api.heartbeat(&heartbeat, HEARTBEAT).await?;
    drop(alone);
    if heard.known {
        node.commands.heard(&heartbeat.commands);
    }
    for news in &news {
        node.vms.told(news);
    }
    if node.vms.has_untold() {
        // What is too long for a heartbeat.
        node.vms.news.notify_one();
    }
    let known = heard.known;
    node.hear(heard);
    if known && !node.in_touch.send_replace(true) {
        info!(node.id = %node.id, "the controllers have heard of this node");
    }
    Ok(known)
}

async fn join(node: &Arc<Node>, home: &Home) -> Result<(), ClientError> {
    let wish = wish(&node.config);
    let join = Join { node_id: node.id.clone(), wish: wish.clone(), facts: node.facts() };
    let joined = node.api.join(&join).await?;
    info!(node.id = %node.id, node.name = %wish.name, "node joined");
    node.hear_registry(joined.registry);
    node.begin_with(joined.config);
    let mut identity = Identity::new(node.id.clone());
    identity.joined = Some(wish);
    if let Err(error) = home.remember(&identity) {
        // It joins once more after the next start.
        warn!(error = %with_causes(&error), "the join could not be written down");
    }
    node.must_join.send_replace(false);
    Ok(())
}

/// Tells each change at once. What is not answered goes along with the next heartbeat, or is reported after it.
async fn reports(node: &Arc<Node>) {
    let ending = node.ending.stop();
    loop {
        tokio::select! {
            () = ending.requested() => return,
            () = node.vms.news.notified() => {}
        }
        // Before the first heartbeat nobody may know the node; that heartbeat tells nearly everything, and asks for the rest.
        if !*node.in_touch.borrow() {
            continue;
        }
        let all = stream::iter(node.vms.untold()).map(|news| report(node, news));
        let told = all.buffer_unordered(REPORTS).all(|told| async move { told });
        tokio::select! {
            () = ending.requested() => return,
            told = told => if !told { node.lost_touch() },
        }
    }
}

/// Whether the change was answered for.
async fn report(node: &Arc<Node>, news: News) -> bool {
    let mut report = Report { node_id: node.id.clone(), vm: news.vm.clone() };
    let mut answer = node.api.report(&report).await;
    if let (Err(error), Some(script)) = (&answer, &mut report.vm.script)
        && !error.may_pass()
    {
        // Too long for a controller or for something in between, most likely.
        shorten(script, SHORT);
        answer = node.api.report(&report).await;
    }
    match answer {
        Ok(heard) => {
            debug!(instance = %news.vm.instance, phase = ?news.vm.phase, "vm was reported");
            node.vms.told(&news);
            node.hear(heard);
            true
        }
        Err(error) => {
            warn!(instance = %news.vm.instance, error = %with_causes(&error), "report was not answered");
            false
        }
    }
}

/// Takes tasks, as long as the controllers hear this node's reports.
async fn polls(node: &Arc<Node>) {
    let ending = node.ending.stop();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut in_touch = node.in_touch.subscribe();
    loop {
        tokio::select! {
            () = ending.requested() => return,
            _ = in_touch.wait_for(|in_touch| *in_touch) => {}
        }
        let free = node.free();
        let poll = Poll { node: node.id.clone(), session: node.session.clone(), free, wait: WAIT };
        let began = clock::now();
        let answer = tokio::select! {
            () = ending.requested() => return,
            // A poll that asks for nothing can be given up for one that asks for something.
            () = more_room(node), if free == 0 => continue,
            answer = node.api.poll(&poll) => answer,
        };
        let pause = match answer {
            Ok(tasks) => {
                backoff.reset();
                let mut empty = tasks.stop.is_empty() && tasks.start.is_none();
                if node.commands.take(tasks.commands) {
                    // They are heard of now.
                    node.beat.notify_one();
                    empty = false;
                }
                for stop in &tasks.stop {
                    node.vms.stop(stop);
                }
                if let Some(start) = tasks.start {
                    // Room may have gone while the poll was parked; and it is not for controllers to make it.
                    if node.free() == 0 && !node.vms.has(&start.instance) {
                        warn!(instance = %start.instance, attempt = start.attempt,
                            "start was offered beyond this node's room and was left to go back");
                        empty = true;
                    } else {
                        info!(instance = %start.instance, attempt = start.attempt,
                            template.name = %start.template_name, "start was offered");
                        node.vms.offer(start);
                    }
                }
                if !empty || clock::now() - began >= NOT_PARKED { Duration::ZERO } else { NOT_PARKED }
            }
            Err(error) => {
                warn!(error = %with_causes(&error), "poll failed");
                node.unheard(&error);
                backoff.pause(rand::random())
            }
        };
        tokio::select! {
            () = ending.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Completes when the node may take starts again.
async fn more_room(node: &Arc<Node>) {
    loop {
        let pause = node.pause.until().filter(|_| node.pause.holds());
        tokio::select! {
            () = node.vms.room.notified() => {}
            () = async {
                match pause {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
        if node.free() > 0 {
            return;
        }
    }
}

/// Looks for VMs that ended by themselves.
async fn watch(node: &Arc<Node>) {
    let ending = node.ending.stop();
    loop {
        tokio::select! {
            () = ending.requested() => return,
            () = node.driver.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        for (key, seen) in node.vms.running() {
            // One that starts is watched by whoever starts it; one that is saved is to be stopped.
            if matches!(seen, Seen::Granted | Seen::Booted) || node.commands.saves(&key) {
                continue;
            }
            match node.driver.inspect(&key).await {
                Ok(Found::Running) => {}
                Ok(Found::Stopped | Found::Nothing) => vanished(node, &key).await,
                Err(error) => warn!(vm = %key, error = %with_causes(&error), "vm could not be looked at"),
            }
        }
    }
}

async fn vanished(node: &Arc<Node>, key: &VmKey) {
    let entry = node.vms.change(key, |vm| {
        // It did not vanish: it is being stopped, as asked.
        if !vm.is_wanted() || vm.is_in_hand() {
            return None;
        }
        let failed = match vm.seen {
            Seen::Running => "VM vanished".to_owned(),
            // It had failed before; that stays the reason.
            Seen::Failed(Left::Running) => vm.message.clone(),
            // Somebody deleted it meanwhile, as asked.
            Seen::Offered | Seen::Claimed | Seen::Pulled | Seen::Granted | Seen::Booted => return None,
            Seen::Failed(Left::Nothing | Left::Stopped) | Seen::Gone => return None,
        };
        warn!(vm = %key, "vm vanished");
        vm.message = failed;
        vm.info = vm.info.take().map(|info| ended(info, "failed"));
        // Its files are removed when the controllers have noted it, or want it gone.
        vm.seen = Seen::Failed(Left::Stopped);
        vm.pin = None;
        Some(vm.entry(VmPhase::Failed))
    });
    let Some(Some(entry)) = entry else { return };
    if let Err(error) = node.write(entry).await {
        error!(vm = %key, error = %error, "the journal could not be written");
    }
    // What its scripts left running goes with it.
    match node.driver.delete(key).await {
        Ok(()) => {
            node.vms.change(key, |vm| {
                if vm.seen == Seen::Failed(Left::Stopped) {
                    vm.seen = Seen::Failed(Left::Nothing);
                }
            });
        }
        Err(error) => warn!(vm = %key, error = %with_causes(&error), "vm could not be cleared away"),
    }
}

/// Has every VM worked on that has something to be done; ends when the agent stops and all hands are still.
async fn work(node: &Arc<Node>) {
    let ending = node.ending.stop();
    // Emptied below before this returns.
    let mut workers = JoinSet::new();
    let mut ids = std::collections::HashMap::new();
    loop {
        if !ending.is_requested() {
            for key in node.vms.due() {
                let worker = settle(node.clone(), key.clone());
                let handle = workers.spawn(worker);
                ids.insert(handle.id(), key);
            }
        }
        tokio::select! {
            () = ending.requested(), if workers.is_empty() => return,
            () = node.vms.work.notified(), if !ending.is_requested() => {}
            Some(ended) = workers.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                let key = ids.remove(&id);
                if let (Err(error), Some(key)) = (ended, key) {
                    // A mistake of ours in one VM is not to take the others down; it is tried again.
                    error!(vm = %key, error = %error, "work on a vm broke down");
                    tokio::time::sleep(NOT_PARKED).await;
                    node.vms.release(&key);
                }
            }
        }
    }
}

/// Takes down what would die with this process anyway, and says so while there is somebody to hear it.
async fn say_goodbye(node: &Arc<Node>) {
    for (key, seen) in node.vms.running() {
        if seen == Seen::Granted && matches!(node.driver.inspect(&key).await, Ok(Found::Nothing)) {
            // Not begun: the next run goes on with it.
            continue;
        }
        if seen == Seen::Running && node.saves.of(&key).is_some() {
            // The next run goes on with what is on the disk.
            if let Err(error) = node.driver.stop(&key).await {
                error!(vm = %key, error = %with_causes(&error), "vm could not be stopped");
            }
            continue;
        }
        if let Err(error) = node.driver.delete(&key).await {
            error!(vm = %key, error = %with_causes(&error), "vm could not be stopped");
            continue;
        }
        let entry = node.vms.change(&key, |vm| {
            if vm.repeatable() {
                // Nobody saw it: the next run starts it anew.
                vm.info = None;
                return None;
            }
            if !matches!(seen, Seen::Failed(_)) {
                vm.message = "its node's agent was stopped".into();
            }
            vm.info = vm.info.take().map(|info| ended(info, "failed"));
            vm.seen = Seen::Failed(Left::Nothing);
            Some(vm.entry(VmPhase::Failed))
        });
        if let Some(Some(entry)) = entry
            && let Err(error) = node.write(entry).await
        {
            error!(vm = %key, error = %error, "the journal could not be written");
        }
    }
    match tokio::time::timeout(FAREWELL, say_all(node)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => info!(error = %with_causes(&error), "the controllers did not hear the last report"),
        Err(_) => info!("the controllers did not hear the last report in time"),
    }
}
