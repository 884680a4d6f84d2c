//! The event log: written in the transactions that do what is told, read in pages.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{
    Ops, OpsError,
    look::{From, Page, gather},
};
use crate::{
    clock,
    controller::{
        lists::{EventPlace, Seen},
        records::{InstanceRecord, Phase},
        writes::{Draft, Patience},
    },
    model::{InstanceState, NodeId, TemplateId},
    wire::{
        agent::NodeFacts,
        events::{Action, Event, Placed},
        node::NodeTemplate,
        template::RevertTemplate,
    },
};

/// Templates of one report that are told.
const TEMPLATES: usize = 20;

/// Ids that one event names.
const IDS: usize = 100;

/// What became of events on their way to the receiver.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Taken.
    pub sent: AtomicU64,
    /// Tries that were not.
    pub failed: AtomicU64,
    /// Forgotten before it took them, or refused for good.
    pub lost: AtomicU64,
    /// Waiting, as the controller that tells it sees it.
    pub waiting: AtomicI64,
}

impl Pushed {
    /// Once more.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Ops {
    /// What is written, with an event of it.
    pub(super) fn logged(&self, draft: Draft, event: Option<Event>) -> Result<Draft, OpsError> {
        match event.filter(|_| self.inner.config.events.log) {
            Some(event) => draft.put(self.inner.keys.event(&event.id), &event),
            None => Ok(draft),
        }
    }

    /// Writes an event of what was done elsewhere than in the store. It was done whatever becomes of this.
    pub(super) async fn log(&self, event: Event) {
        if !self.inner.config.events.log {
            return;
        }
        let key = self.inner.keys.event(&event.id);
        let written = match Draft::new(&key).at(&key, 0).put(&key, &event) {
            Ok(draft) => self.inner.writes.commit(draft, Patience::new()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(event.action = ?event.action, %error, "an event could not be written down");
        }
    }

    /// Removes a template with all its versions.
    ///
    /// # Errors
    /// As of [`super::templates::Templates::delete`].
    pub async fn delete_template(&self, id: &TemplateId) -> Result<(), OpsError> {
        self.templates().delete(id).await?;
        self.log(of_template(Action::DeleteRegistryVm, id.as_str(), None)).await;
        Ok(())
    }

    /// Removes a version and every later one.
    ///
    /// # Errors
    /// As of [`super::templates::Templates::revert`].
    pub async fn revert_template(&self, ask: &RevertTemplate) -> Result<(), OpsError> {
        self.templates().revert(ask).await?;
        let tag = ask.tag.clone().or_else(|| ask.tag_name.clone());
        self.log(of_template(Action::DeleteRegistryVm, ask.id.as_deref().unwrap_or_default(), tag)).await;
        Ok(())
    }

    /// The next events, the oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn events_page(
        &self,
        action: Option<Action>,
        from: &From<EventPlace>,
    ) -> Result<Seen<Page<Placed, EventPlace>>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let all = cache.events().after(from.after.as_ref());
            let all = all.map(|(place, event)| {
                (place.clone(), Placed { revision: place.0, event: Event::clone(event) })
            });
            let takes = |placed: &Placed| action.is_none_or(|action| placed.event.action == action);
            let mut page = gather(all, from.limit, takes);
            page.revision = cache.applied();
            page
        });
        seen.await
    }

    /// What became of events on their way to the receiver.
    pub fn pushed(&self) -> &Pushed {
        &self.inner.pushed
    }
}

/// Of instances that were asked for.
pub(super) fn of_start(
    ids: &[crate::model::InstanceId],
    spec: &crate::controller::records::InstanceSpec,
) -> Event {
    Event {
        instance_ids: ids.iter().take(IDS).map(ToString::to_string).collect(),
        count: Some(ids.len()),
        template_id: Some(spec.template.to_string()),
        tag: Some(spec.tag.clone()),
        ..Event::new(Action::StartVM, clock::wall())
    }
}

/// Of a change of an instance, if it is one that is told.
pub(super) fn of_change(old: Option<&InstanceRecord>, next: Option<&InstanceRecord>) -> Option<Event> {
    let was = old.map(InstanceRecord::state);
    let action = match next {
        Some(next) if was == Some(next.state()) => return None,
        Some(next) => match next.state() {
            InstanceState::Started => Action::VMStarted,
            // One that ran, and was perhaps about to be saved, did not fail to start.
            InstanceState::Error if !matches!(was, Some(InstanceState::Started | InstanceState::Pushing)) => {
                Action::VMFailedToStart
            }
            InstanceState::Terminating => Action::TerminateVM,
            InstanceState::Terminated => Action::VMTerminated,
            _ => return None,
        },
        // Its node never confirmed it, or none had it.
        None => match old.map(|old| &old.phase) {
            Some(Phase::Terminating { .. }) => Action::VMTerminated,
            _ => return None,
        },
    };
    let record = next.or(old)?;
    Some(Event {
        instance_ids: vec![record.id.to_string()],
        node_id: record.node().or_else(|| old?.node()).map(ToString::to_string),
        template_id: Some(record.spec.template.to_string()),
        tag: Some(record.spec.tag.clone()),
        external_id: record.external_id.clone(),
        message: if action == Action::VMFailedToStart { record.message.clone() } else { String::new() },
        ..Event::new(action, clock::wall())
    })
}

/// Of a node.
pub(super) fn of_node(action: Action, node: &NodeId) -> Event {
    Event { node_id: Some(node.to_string()), ..Event::new(action, clock::wall()) }
}

/// Of templates that a node has and had not before.
pub(super) fn of_facts(node: &NodeId, old: &NodeFacts, new: &NodeFacts) -> Vec<Event> {
    let pulled = new.templates.iter().filter(|template| !old.templates.contains(template)).take(TEMPLATES);
    let event = |template: &NodeTemplate| Event {
        template_id: Some(template.uuid.clone()),
        tag: Some(template.tag.clone()),
        ..of_node(Action::TemplatePulled, node)
    };
    pulled.map(event).collect()
}

/// Of a template.
pub(super) fn of_template(action: Action, template: &str, tag: Option<String>) -> Event {
    Event { template_id: Some(template.to_owned()), tag, ..Event::new(action, clock::wall()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(phase: Phase, saving: bool) -> InstanceRecord {
        let spec = serde_json::json!({
            "template": "t", "template_name": "t", "repository": "t", "tag": "v1", "version": 0,
            "manifest": crate::model::Digest::of(b""), "priority": 1000,
        });
        let text = serde_json::json!({
            "id": "i", "start": "s", "spec": spec, "phase": phase, "attempt": 1, "created": clock::wall(), "updated": clock::wall(),
            "saving": saving.then_some("m"),
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_what_never_ran_failed_to_start() {
        let node: NodeId = "n".parse().unwrap();
        let failed = instance(Phase::Failed { node: Some(node.clone()), running: false }, false);
        let told = |was: InstanceRecord| of_change(Some(&was), Some(&failed)).map(|event| event.action);
        assert_eq!(
            told(instance(Phase::Starting { node: node.clone() }, false)),
            Some(Action::VMFailedToStart)
        );
        assert_eq!(told(instance(Phase::Started { node: node.clone() }, false)), None);
        let pushing = instance(Phase::Started { node }, true);
        assert_eq!(pushing.state(), InstanceState::Pushing);
        assert_eq!(told(pushing), None, "it ran until then");
    }
}
