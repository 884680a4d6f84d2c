//! Carries commands out, those of a lane one after the other.

use std::sync::Arc;

use super::{Due, restart::restart, save::save, update::update};
use crate::{
    agent::{node::Node, templates},
    config::agent::Driver as DriverConfig,
    model::{CommandId, TemplateId},
    wire::command::{Lane, Order, PullTemplate},
};

/// Until the agent stops.
pub(in crate::agent) async fn work(node: &Arc<Node>) {
    tokio::join!(
        in_lane(node, Lane::Disk),
        in_lane(node, Lane::Restart),
        in_lane(node, Lane::Save),
        in_lane(node, Lane::Update),
    );
}

async fn in_lane(node: &Arc<Node>, lane: Lane) {
    let ending = node.ending.stop();
    loop {
        // Before the look, so that nothing that comes after it is missed.
        let woken = node.commands.work.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        if let Some(mut due) = node.commands.begin(lane) {
            // That it has begun keeps starts away; that it has ended lets them come.
            node.beat.notify_one();
            let id = due.id.clone();
            let done = tokio::select! {
                biased;
                () = ending.requested() => {
                    node.commands.put_back(&id);
                    return;
                }
                done = carry_out(node, &mut due) => done,
            };
            node.commands.end(&id, done);
            node.vms.room.notify_one();
            node.beat.notify_one();
            continue;
        }
        tokio::select! {
            () = ending.requested() => return,
            () = woken => {}
        }
    }
}

async fn carry_out(node: &Arc<Node>, due: &mut Due) -> Result<(), String> {
    let (id, order) = (&due.id, &due.order);
    let work = async {
        match order {
            Order::Pull(template) => pull(node, id, template).await,
            Order::Remove(order) => remove(node, order.template.clone()).await,
            Order::Restart(order) => restart(node, order).await,
            Order::Save(order) => save(node, id, order).await,
            Order::Update => update(node, id).await,
            Order::Unknown => Err("this agent does not know this command; install a newer one".into()),
        }
    };
    tokio::select! {
        biased;
        // The sender's end is that of the table: nothing is wanted any more.
        _ = due.wanted.wait_for(|wanted| !wanted) => Err("it is wanted no more".into()),
        done = work => done,
    }
}

/// Brings a template to the disk. Given up in its middle, what came stays and is gone on with next time.
async fn pull(node: &Arc<Node>, id: &CommandId, template: &PullTemplate) -> Result<(), String> {
    let _pin = node.cache.pin(template.manifest);
    let oci = node.registry("")?;
    let DriverConfig::Process(settings) = &node.config.driver;
    let told = |told: templates::Told| node.commands.progress(id, told.progress, told.waits);
    let pulled = templates::pull(&node.cache, &oci, template, settings.pull_delay, told).await;
    pulled.map(drop).map_err(|trouble| trouble.to_string())
}

async fn remove(node: &Arc<Node>, template: TemplateId) -> Result<(), String> {
    let cache = node.cache.clone();
    let removed = tokio::task::spawn_blocking(move || cache.remove_template(&template)).await;
    removed.map_err(|error| error.to_string())?
}
