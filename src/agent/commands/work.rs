//! Carries commands out, one after the other.

use std::sync::Arc;

use super::Due;
use crate::{
    agent::{node::Node, templates},
    config::agent::Driver as DriverConfig,
    model::TemplateId,
    wire::command::{Order, PullTemplate},
};

/// Until the agent stops.
pub(in crate::agent) async fn work(node: &Arc<Node>) {
    let ending = node.ending.stop();
    loop {
        while let Some(mut due) = node.commands.begin() {
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
        }
        tokio::select! {
            () = ending.requested() => return,
            () = node.commands.work.notified() => {}
        }
    }
}

async fn carry_out(node: &Arc<Node>, due: &mut Due) -> Result<(), String> {
    let (id, order) = (&due.id, &due.order);
    let work = async {
        match order {
            Order::Pull(template) => pull(node, id, template).await,
            Order::Remove(order) => remove(node, order.template.clone()).await,
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
async fn pull(node: &Arc<Node>, id: &crate::model::CommandId, template: &PullTemplate) -> Result<(), String> {
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
