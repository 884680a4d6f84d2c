//! Saves VMs as versions of templates: asked for, carried out by the VM's node, and ended with it.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    Ops, OpsError, Reach,
    commands::{cannot, room_for},
    start::check_text,
};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Seen},
        records::{CommandRecord, ImageRecord, InstanceRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{ImageId, InstanceId, InstanceState, RepositoryName, Tag, TemplateId, Timestamp},
    wire::{
        command::{CommandState, Order, Revert, SaveVm},
        image::{Image, ImageError, ImageRequest, ImageStatus, SaveImage},
        permission::{DELETE_REVERT, SAVE_IMAGE},
    },
};

/// Savings that are kept, at most. More: whoever asks is refused.
pub(in crate::controller) const IMAGES: usize = 1000;

/// Longest script, as base64: it is told with the command.
const SCRIPT: usize = 128 * 1024;

/// So long after its instance has failed a saving waits for what its node says of it.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// What was asked, checked.
struct Checked {
    id: InstanceId,
    tag: Tag,
    target: Option<TemplateId>,
    name: Option<RepositoryName>,
    description: String,
    script: String,
    /// Versions of the target are deleted before the push.
    reverts: bool,
}

fn check(ask: &SaveImage) -> Result<Checked, OpsError> {
    let bad = |why: String| OpsError::BadInput(why);
    let id = ask.id.as_deref().ok_or_else(|| bad("id is required".into()))?;
    let id = InstanceId::parse(id).map_err(|error| bad(format!("id: {error}")))?;
    let tag = ask.tag.as_deref().ok_or_else(|| bad("tag is required".into()))?;
    let tag = Tag::parse(tag).map_err(|error| bad(format!("tag: {error}")))?;
    let target = ask.target_vm_id.as_deref().map(TemplateId::parse).transpose();
    let target = target.map_err(|error| bad(format!("target_vm_id: {error}")))?;
    let name = ask.new_template_name.as_deref().map(RepositoryName::parse).transpose();
    let name = name.map_err(|error| bad(format!("new_template_name: {error}")))?;
    match (&target, &name) {
        (None, None) => return Err(bad("new_template_name is required without target_vm_id".into())),
        (Some(_), Some(_)) => return Err(bad("give new_template_name or target_vm_id, not both".into())),
        (None, Some(_)) if ask.revert_before_push == Some(true) => {
            return Err(bad("revert_before_push needs target_vm_id".into()));
        }
        _ => {}
    }
    for (key, text) in [("description", &ask.description), ("revert_tag", &ask.revert_tag)] {
        check_text(key, text.as_deref())?;
    }
    let script: String =
        ask.script.iter().flat_map(|text| text.chars()).filter(|c| !c.is_ascii_whitespace()).collect();
    if script.len() > SCRIPT {
        return Err(bad(format!("script has {} bytes as base64, the most is {SCRIPT}", script.len())));
    }
    BASE64_STANDARD.decode(&script).map_err(|error| bad(format!("script is not base64: {error}")))?;
    Ok(Checked {
        id,
        tag,
        target,
        name,
        description: ask.description.clone().unwrap_or_default(),
        script,
        reverts: ask.revert_before_push == Some(true),
    })
}

impl Ops {
    /// Has a started instance saved as a version of a template: it is `Pushing` from now on, gone when that is done, and
    /// stays when it failed. Durable when it returns.
    ///
    /// # Errors
    /// `BadInput`, `NotFound`, `NotInRegistry` for the target, `Conflict` for an instance that is not started, `TooMany`,
    /// `RegistryDown`, `Unavailable`.
    pub async fn save_image(&self, ask: SaveImage, reach: &Reach) -> Result<ImageId, OpsError> {
        self.loaded()?;
        if ask.group.is_some() && !self.has_resources() {
            return Err(OpsError::BadInput("group needs resource management, which is off".into()));
        }
        let checked = check(&ask)?;
        self.may_save_to(&checked, reach).await?;
        // Before anything of the registry: what is wrong with the instance is told first.
        let Some((_, instance)) = self.started(&checked.id, "saved").await? else {
            return Err(OpsError::NotFound);
        };
        self.of_group(reach, &instance.record.spec.permission_group)?;
        let repository = self.target_of(&checked).await?;
        let revert = match &checked.target {
            Some(template) if ask.revert_before_push == Some(true) => {
                Some(Revert { template: template.clone(), tag: ask.revert_tag.clone().unwrap_or_default() })
            }
            _ => None,
        };
        let id = ImageId::random();
        for _ in 0..RACES {
            let Some((node, instance)) = self.started(&checked.id, "saved").await? else {
                return Err(OpsError::NotFound);
            };
            let order = Order::Save(Box::new(SaveVm {
                instance: checked.id.clone(),
                attempt: instance.record.attempt,
                registry: self.inner.templates.push_address().to_owned(),
                repository: repository.clone(),
                tag: checked.tag.clone(),
                description: checked.description.clone(),
                suspend: ask.suspend.unwrap_or(true),
                suspend_test: ask.do_suspend_sanity_test.unwrap_or(false),
                script: checked.script.clone(),
                cancel_on_script_failure: ask.cancel_on_script_failure.unwrap_or(false),
                revert: revert.clone(),
            }));
            if let Some(why) = cannot(&node, &order) {
                return Err(OpsError::Conflict(why));
            }
            self.inner.lists.peek(|cache| {
                room_for(cache, std::iter::once(&node.id))?;
                match cache.commands().images().count() < IMAGES {
                    true => Ok(()),
                    false => Err(OpsError::TooMany(format!(
                        "{IMAGES} images were saved lately, which is the most; they are forgotten a day after their end"
                    ))),
                }
            })?;
            let now = clock::wall();
            let record = ImageRecord {
                id: id.clone(),
                instance: checked.id.clone(),
                node: node.id.clone(),
                vm: instance.record.info.as_ref().map(|info| info.uuid.clone()).unwrap_or_default(),
                registry: match self.inner.templates.push_address() {
                    "" => self.registry_for_nodes(),
                    address => address.to_owned(),
                },
                target: checked.target.clone(),
                new_template_name: checked.name.as_ref().map(ToString::to_string).unwrap_or_default(),
                tag: checked.tag.to_string(),
                description: checked.description.clone(),
                suspend: ask.suspend.unwrap_or(true),
                do_suspend_test: ask.do_suspend_sanity_test.unwrap_or(false),
                revert_before_push: ask.revert_before_push.unwrap_or(false),
                revert_tag: ask.revert_tag.clone().unwrap_or_default(),
                cancel_on_script_failure: ask.cancel_on_script_failure.unwrap_or(false),
                status: ImageStatus::Pending,
                error: String::new(),
                script: None,
                output_chunks: 0,
                created: now,
                ended: None,
            };
            let command = record.command().map_err(|error| OpsError::BadInput(error.to_string()))?;
            let pushing =
                InstanceRecord { saving: Some(id.clone()), updated: now, ..instance.record.as_ref().clone() };
            let (key, of) = (self.inner.keys.image(&id), self.inner.keys.instance(&checked.id));
            let draft = Draft::new(&key).at(&key, 0).at(&of, instance.mod_revision).put(&key, &record)?;
            let draft = self.draft_command(draft.put(&of, &pushing)?, &node, &command, &order, None, now)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(image.id = %id, instance.id = %checked.id, node.id = %node.id, tag = %checked.tag,
                    "image is to be saved");
                return Ok(id);
            }
            self.inner.lists.catch_up().await?;
        }
        Err(OpsError::unavailable("the instance is changed by too many at once"))
    }

    /// Refuses whoever may not save to the template. The name of one that is there means that one: a version of it would be
    /// everybody's newest.
    async fn may_save_to(&self, checked: &Checked, reach: &Reach) -> Result<(), OpsError> {
        match (&checked.target, &checked.name) {
            (_, _) if *reach == Reach::Everything => Ok(()),
            (Some(target), _) => {
                if checked.reverts {
                    self.reaches_template(reach, target, DELETE_REVERT).await?;
                }
                self.reaches_template(reach, target, SAVE_IMAGE).await
            }
            (None, Some(name)) => {
                let all = self.inner.templates.list(false).await?;
                let Some(there) = all.into_iter().find(|there| there.name == name.as_str()) else {
                    return Ok(());
                };
                let strange =
                    |error| OpsError::RegistryDown(format!("the registries gave a strange id: {error}"));
                self.reaches_template(reach, &TemplateId::parse(there.id).map_err(strange)?, SAVE_IMAGE).await
            }
            (None, None) => Ok(()),
        }
    }

    /// The repository of the template that gets the version.
    async fn target_of(&self, checked: &Checked) -> Result<RepositoryName, OpsError> {
        match (&checked.target, &checked.name) {
            (Some(target), _) => {
                let found = match self.inner.templates.show(target).await {
                    Err(OpsError::NotFound) => return Err(OpsError::NotInRegistry),
                    found => found?,
                };
                // A tag is never moved; whether one that stands in the way goes before is known when it has gone.
                if !checked.reverts
                    && found.versions.iter().any(|version| version.tag == checked.tag.as_str())
                {
                    return Err(OpsError::BadInput(format!(
                        "template `{}` has a tag `{}` already: choose another one, or have it deleted by `revert_before_push`",
                        found.name, checked.tag
                    )));
                }
                let strange =
                    || OpsError::RegistryDown("the registries do not say where that template is".into());
                found.repository.clone().ok_or_else(strange)
            }
            (None, Some(name)) => Ok(name.clone()),
            (None, None) => {
                Err(OpsError::BadInput("new_template_name is required without target_vm_id".into()))
            }
        }
    }

    /// All savings, oldest first.
    pub async fn images(&self) -> Result<Seen<Vec<Image>>, OpsError> {
        let all = self.inner.lists.read(|cache| {
            let mut all: Vec<_> = cache.commands().images().map(|item| &item.record).collect();
            all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
            all.into_iter().map(|record| shown(record, String::new())).collect()
        });
        all.await
    }

    /// One saving, with all of its script's output; with the end of that while the store is out of reach.
    pub async fn image(&self, id: &ImageId) -> Result<Seen<Image>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let record = cache.commands().image(id)?.record.clone();
            let command =
                record.command().ok().and_then(|command| cache.commands().get(&record.node, &command));
            let script = command.and_then(|item| match &item.record.order {
                Order::Save(order) => Some(order.script.clone()),
                _ => None,
            });
            Some((record, script.unwrap_or_default()))
        });
        let seen = seen.await?;
        let Some((record, script)) = seen.value else {
            return Err(match seen.stale {
                None => OpsError::NotFound,
                Some(_) => {
                    OpsError::unavailable("the store is out of reach, and this image is not in the cache")
                }
            });
        };
        let mut image = shown(&record, script);
        if record.output_chunks > 0 && seen.stale.is_none() {
            match self.read_image_output(&record).await {
                Ok(whole) => image.script_result = whole.or(image.script_result),
                Err(error) => tracing::debug!(image.id = %id, error = %error, "output could not be read"),
            }
        }
        Ok(Seen { value: image, stale: seen.stale })
    }

    /// Takes over what has become of a saving: by its command, or by its instance's end. Whether anything did.
    pub(in crate::controller) async fn settle_image(
        &self,
        id: &ImageId,
        fence: Option<&Fence>,
    ) -> Result<bool, OpsError> {
        let found = self.inner.lists.peek(|cache| {
            let image = cache.commands().image(id).filter(|item| !item.newer).cloned()?;
            let command = image.record.command().ok()?;
            let command = cache.commands().get(&image.record.node, &command).cloned();
            let instance = cache.instance(&image.record.instance).cloned();
            // What a newer controller has written is for such a one to end: it is there, and is not rewritten here.
            let newer = command.as_ref().is_some_and(|item| item.newer)
                || instance.as_ref().is_some_and(|item| item.newer);
            (!newer).then_some((image, command, instance))
        });
        let Some((image, command, instance)) = found else { return Ok(false) };
        let now = clock::wall();
        let of = |item: &Option<Item<CommandRecord>>| item.as_ref().map(|item| item.record.clone());
        let in_it = instance.as_ref().map(|item| item.record.clone());
        let Some(settled) = settle(&image.record, of(&command).as_deref(), in_it.as_deref(), now) else {
            return Ok(false);
        };
        let key = self.inner.keys.image(id);
        let mut draft =
            Draft::new(&key).at(&key, image.mod_revision).fenced(fence).put(&key, &settled.image)?;
        if let (Some(next), Some(item)) = (&settled.instance, &instance) {
            let key = self.inner.keys.instance(&next.id);
            draft = self.logged(draft, super::events::of_change(Some(&item.record), Some(next)))?;
            draft = draft.at(&key, item.mod_revision).put(&key, next)?;
        }
        if let (Some(next), Some(item)) = (&settled.command, &command) {
            let key = self.inner.keys.command(&next.node, &next.id);
            draft = draft.at(&key, item.mod_revision).put(&key, next)?;
        }
        let done = matches!(self.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done);
        if done {
            let error = settled.image.error.as_str();
            tracing::info!(image.id = %id, instance.id = %settled.image.instance, error, "image has ended");
        }
        Ok(done)
    }
}

/// What a saving comes to.
#[derive(Debug, PartialEq)]
struct Settled {
    image: ImageRecord,
    instance: Option<InstanceRecord>,
    command: Option<CommandRecord>,
}

/// What has become of a saving that goes on; nothing while nothing has. Pure.
fn settle(
    image: &ImageRecord,
    command: Option<&CommandRecord>,
    instance: Option<&InstanceRecord>,
    now: Timestamp,
) -> Option<Settled> {
    if image.status != ImageStatus::Pending {
        return None;
    }
    let mine = instance.filter(|instance| {
        instance.state() == InstanceState::Pushing && instance.saving.as_ref() == Some(&image.id)
    });
    let ended = |status, error: &str| ImageRecord {
        status,
        error: error.to_owned(),
        script: command.and_then(|command| command.script.clone()),
        output_chunks: command.map_or(0, |command| command.output_chunks),
        ended: Some(now),
        ..image.clone()
    };
    let failed = |why: &str| Settled {
        image: ended(ImageStatus::Error, why),
        // The node says what is left of it: if the VM was stopped for this, it has failed by then.
        instance: mine.map(|instance| InstanceRecord { saving: None, updated: now, ..instance.clone() }),
        command: command.filter(|command| !command.state.is_over()).map(|command| command.failed(why, now)),
    };
    match command {
        None => Some(failed("its node's command is gone")),
        Some(command) if command.state == CommandState::Done => Some(Settled {
            image: ended(ImageStatus::Done, ""),
            instance: mine.map(|instance| {
                let node = instance.node().cloned();
                instance.in_phase(Phase::Terminating { node, since: now }, now)
            }),
            command: None,
        }),
        Some(command) if command.state == CommandState::Failed => Some(failed(&command.message)),
        Some(_) if mine.is_some() => None,
        // Its node tells the instance's end first, and what it says of the command a moment later says more.
        Some(_) if instance.is_some_and(|one| is_fresh_failure(one, now)) => None,
        Some(_) => Some(failed(&match instance {
            None => "the instance is gone".to_owned(),
            Some(instance) if instance.message.is_empty() => {
                format!("the instance is {}", instance.state().as_str())
            }
            Some(instance) => format!("the instance is {}: {}", instance.state().as_str(), instance.message),
        })),
    }
}

/// Whether the instance has failed just now.
fn is_fresh_failure(instance: &InstanceRecord, now: Timestamp) -> bool {
    instance.state() == InstanceState::Error && now.since(instance.updated) < LAST_WORDS
}

fn shown(record: &ImageRecord, script: String) -> Image {
    let error = match record.status {
        ImageStatus::Error => {
            Some(ImageError { message: record.error.clone(), r#type: "SaveImageError".into() })
        }
        ImageStatus::Pending | ImageStatus::Done => None,
    };
    Image {
        id: record.id.to_string(),
        status: record.status,
        request: ImageRequest {
            request_id: record.id.to_string(),
            priority: 0,
            timestamp: record.created.unix_seconds(),
            reserve_expiry_timestamp: 0,
            registry_addr: record.registry.clone(),
            vm_id: record.vm.clone(),
            instance_id: record.instance.to_string(),
            node_id: record.node.to_string(),
            template_id: record.target.as_ref().map(ToString::to_string).unwrap_or_default(),
            new_template_name: record.new_template_name.clone(),
            tag: record.tag.clone(),
            description: record.description.clone(),
            suspend: record.suspend,
            script,
            do_suspend_test: record.do_suspend_test,
            revert_before_push: record.revert_before_push,
            revert_tag: record.revert_tag.clone(),
            cancel_on_script_failure: record.cancel_on_script_failure,
        },
        error,
        script_result: record.script.clone(),
    }
}

/// Savings that are over and were shown for long enough, and pending ones.
pub(in crate::controller) fn pending(cache: &Cache) -> Vec<ImageId> {
    let pending = cache.commands().images().filter(|item| item.record.status == ImageStatus::Pending);
    pending.map(|item| item.record.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRecord {
        serde_json::from_value(serde_json::json!({
            "id": "m", "instance": "i", "node": "n", "registry": "", "tag": "v1", "suspend": true, "status": "pending",
            "created": Timestamp::NEVER,
        }))
        .unwrap()
    }

    fn command(state: CommandState, message: &str) -> CommandRecord {
        let order = Order::Unknown;
        let new =
            CommandRecord::new("m".parse().unwrap(), "n".parse().unwrap(), order, None, Timestamp::NEVER);
        CommandRecord { state, message: message.into(), ..new }
    }

    fn instance(phase: Phase) -> InstanceRecord {
        let node: crate::model::NodeId = "n".parse().unwrap();
        let spec = serde_json::json!({
            "template": "t", "template_name": "t", "repository": "t", "tag": "v1", "version": 0,
            "manifest": crate::model::Digest::of(b""), "priority": 1000,
        });
        let text = serde_json::json!({
            "id": "i", "start": "s", "phase": Phase::Started { node }, "attempt": 1, "created": Timestamp::NEVER,
            "updated": Timestamp::NEVER, "spec": spec, "saving": "m",
        });
        let started: InstanceRecord = serde_json::from_value(text).unwrap();
        started.in_phase(phase, Timestamp::NEVER)
    }

    #[test]
    fn a_saving_ends_with_its_command_and_with_its_instance() {
        use CommandState::{Done, Failed, Running, Waiting};
        let node: crate::model::NodeId = "n".parse().unwrap();
        let later = Timestamp::NEVER.plus(Duration::from_secs(60));
        let pushing = instance(Phase::Started { node: node.clone() });
        assert_eq!(pushing.state(), InstanceState::Pushing);
        let with = |state, instance: Option<&InstanceRecord>, now| {
            settle(&image(), Some(&command(state, "why")), instance, now)
        };
        for state in [Waiting, Running] {
            assert_eq!(with(state, Some(&pushing), later), None, "it goes on");
        }
        let done = with(Done, Some(&pushing), later).unwrap();
        assert_eq!(done.image.status, ImageStatus::Done);
        assert_eq!(done.instance.unwrap().state(), InstanceState::Terminating, "its instance goes");
        let failed = with(Failed, Some(&pushing), later).unwrap();
        assert_eq!((failed.image.status, failed.image.error.as_str()), (ImageStatus::Error, "why"));
        assert_eq!(failed.instance.unwrap().state(), InstanceState::Started, "its instance stays");

        let broken = instance(Phase::Failed { node: Some(node.clone()), running: true });
        assert_eq!(with(Running, Some(&broken), Timestamp::NEVER), None, "its node will say more");
        let lost = with(Running, Some(&broken), later).unwrap();
        assert!(lost.instance.is_none() && lost.image.error.contains("Error"), "{lost:?}");
        assert_eq!(lost.command.unwrap().state, Failed, "nobody is asked to do it any more");
        let going = instance(Phase::Terminating { node: Some(node), since: Timestamp::NEVER });
        assert!(with(Running, Some(&going), Timestamp::NEVER).unwrap().image.error.contains("Terminating"));
        assert!(with(Running, None, later).unwrap().image.error.contains("gone"));
        assert!(settle(&image(), None, Some(&pushing), later).unwrap().image.error.contains("command"));
        let over = ImageRecord { status: ImageStatus::Done, ..image() };
        assert_eq!(settle(&over, None, None, later), None);
    }
}
