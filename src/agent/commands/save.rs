//! Makes a version of a template of a VM: its script, its stop, its files to the registry.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::info;

use super::restart::Seized;
use crate::{
    agent::{
        act::Left,
        driver::{ScriptSpec, VmKey},
        join::with_causes,
        node::Node,
        saves::Saving,
        settle::{One, ended},
    },
    client::{
        Templates,
        transfer::{Bytes, Calls, Push, Sessions, Source, Watch, hash_file},
    },
    model::{CommandId, Digest, Progress, RepositoryName},
    wire::{
        command::{OUTPUT, Revert, SaveVm},
        oci::{self, Manifest},
        template::{self, RevertTemplate},
        vm::ScriptResult,
    },
};

/// A script that does not end is ended after so long: nothing may hang for ever.
const SCRIPT: Duration = Duration::from_secs(600);

/// A stop that does not end fails the saving.
const STOP: Duration = Duration::from_secs(120);

/// A push of which nothing moves for so long is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// For one call of the registry's template API.
const CALL: Duration = Duration::from_secs(30);

/// Files of a VM that become layers, at most: a registry takes no more in one manifest.
const FILES: usize = 4096;

pub(super) async fn save(node: &Arc<Node>, id: &CommandId, order: &SaveVm) -> Result<(), String> {
    let vm = Seized::take(node, VmKey { instance: order.instance.clone(), attempt: order.attempt }).await?;
    let one = One::new(node.clone(), vm.key.clone());
    // Of an earlier run that came as far as the stop; the script has run then.
    let mut saving = match node.saves.of(&vm.key).filter(|saving| saving.id == *id) {
        Some(saving) => saving,
        None => {
            let script = run_script(node, id, order, &vm).await?;
            let saving = Saving::new(id.clone(), order.clone(), script);
            node.saves.put(&saving).map_err(unwritten)?;
            saving
        }
    };
    if order.suspend_test {
        info!(vm = %vm.key, "no driver can suspend: the VM is stopped, and there is nothing for the suspend test to resume");
    }
    let stopped = tokio::time::timeout(STOP, vm.unless_unwanted(node.driver.stop(&vm.key))).await;
    let pushed = match stopped {
        Ok(stopped) => match stopped? {
            Ok(()) => {
                node.vms.change(&vm.key, |vm| {
                    // Said here, so that its end is none that nobody had asked for.
                    vm.info = vm.info.take().map(|info| ended(info, "stopped"));
                });
                vm.unless_unwanted(push(node, &mut saving, &vm.key)).await?
            }
            Err(error) => Err(format!("the VM could not be stopped: {}", with_causes(&error))),
        },
        Err(_) => Err(format!("the VM did not stop within {} s", STOP.as_secs())),
    };
    match pushed {
        Ok(digest) => {
            info!(vm = %vm.key, manifest = %digest, "image of a vm was saved");
            // It stays, stopped, until the controllers have its end noted and it deleted.
            node.vms.change(&vm.key, |vm| vm.saved = true);
            Ok(())
        }
        Err(why) => {
            let why = format!("its image could not be saved: {why}");
            one.fail(why.clone(), Left::Stopped).await;
            node.saves.forget(&vm.key);
            Err(why)
        }
    }
}

/// Runs the script that comes before; the VM is as it was when this fails.
async fn run_script(
    node: &Arc<Node>,
    id: &CommandId,
    order: &SaveVm,
    vm: &Seized<'_>,
) -> Result<Option<ScriptResult>, String> {
    if order.script.is_empty() {
        return Ok(None);
    }
    let body = BASE64_STANDARD
        .decode(order.script.as_bytes())
        .map_err(|error| format!("the script is no base64: {error}"))?;
    let run = node.driver.script(&vm.key, ScriptSpec { body, timeout: SCRIPT });
    let result = match vm.unless_unwanted(run).await? {
        Ok(result) => result,
        Err(error) => {
            ScriptResult { return_code: -1, errors: vec![with_causes(&error)], ..ScriptResult::default() }
        }
    };
    let why = match (result.did_timeout, result.return_code) {
        (true, _) => Some(format!("the script did not end within {} s", SCRIPT.as_secs())),
        (false, 0) if result.errors.is_empty() => None,
        (false, code) => Some(format!("the script exited with code {code}")),
    };
    let result = fitting(result);
    node.commands.script(id, result.clone());
    match why {
        Some(why) if order.cancel_on_script_failure => Err(why),
        _ => Ok(Some(result)),
    }
}

/// The last part of an output, at most [`OUTPUT`] bytes as JSON writes them.
fn fitting(mut result: ScriptResult) -> ScriptResult {
    let mut most = OUTPUT / 2;
    while most > 0 && serde_json::to_vec(&result).is_ok_and(|json| json.len() > OUTPUT) {
        crate::agent::vms::shorten(&mut result, most);
        result.errors.truncate(16);
        most /= 2;
    }
    result
}

fn unwritten(error: std::io::Error) -> String {
    format!("the saving could not be written down: {error}")
}

/// A file that becomes a layer.
struct File {
    name: String,
    path: PathBuf,
    digest: Digest,
    size: u64,
}

async fn push(node: &Arc<Node>, saving: &mut Saving, key: &VmKey) -> Result<Digest, String> {
    let task = node.vms.task(key).ok_or("the VM is gone")?;
    let files = hashed(node.driver.files(key).await.map_err(|error| with_causes(&error))?).await?;
    let manifest = match &saving.manifest {
        Some(manifest) => manifest.clone(),
        None => {
            let oci = node.registry(&task.registry)?;
            let base = oci.image_manifest(&task.repository, &task.manifest).await;
            let base = base.map_err(|error| with_causes(&error))?;
            let manifest = manifest(&base, &files, &saving.order.description)?;
            saving.manifest = Some(manifest.clone());
            node.saves.put(saving).map_err(unwritten)?;
            manifest
        }
    };
    let layers = node.cache.parts(&task.manifest).ok_or("its template is no longer on the disk")?;

    let address = node.registry_address(&saving.order.registry)?;
    take_back(node, &address, saving).await?;
    // What the template has comes first: most of it is there already and is not sent.
    let mut sources: BTreeMap<Digest, Source> = BTreeMap::new();
    for (digest, size, path) in layers {
        sources.insert(digest, Source::File { path, digest, size });
    }
    for File { path, digest, size, .. } in files {
        sources.entry(digest).or_insert(Source::File { path, digest, size });
    }
    let calls = Calls::new(address, node.credentials()).map_err(|error| error.to_string())?;
    let sources: Vec<Source> = sources.into_values().collect();
    let total = sources.iter().map(Source::size).fold(0, u64::saturating_add);
    let told = Told::new(node.clone(), saving.id.clone(), sources.len(), total);
    let job = Job {
        calls,
        order: saving.order.clone(),
        folder: node.saves.folder(key),
        base: task.repository.clone(),
        sources,
        manifest: manifest.into(),
        told,
    };
    let (_alive, given_up) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Handle::current();
    // A push keeps what only one thread may have; dropped here, it is given up there.
    let pushed = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                pushed = job.run() => pushed,
                _ = given_up => Err("it is wanted no more".into()),
            }
        })
    });
    pushed.await.map_err(|error| error.to_string())?
}

/// Everything that a push needs, on a thread of its own.
struct Job {
    calls: Calls,
    order: SaveVm,
    /// Has what an earlier run has begun to send.
    folder: PathBuf,
    base: RepositoryName,
    sources: Vec<Source>,
    manifest: Bytes,
    told: Told,
}

impl Job {
    async fn run(self) -> Result<Digest, String> {
        let sessions = Sessions::open(Some(&self.folder), "push").map_err(|error| with_causes(&error))?;
        let push = Push {
            calls: &self.calls,
            repository: &self.order.repository,
            tag: &self.order.tag,
            sources: &self.sources,
            manifest: self.manifest,
            force: false,
            from: std::slice::from_ref(&self.base),
            sessions: &sessions,
            patience: PATIENCE,
            watch: &self.told,
        };
        push.run().await.map(|pushed| pushed.digest).map_err(|error| with_causes(&error))
    }
}

/// Tells how far a push is.
struct Told {
    node: Arc<Node>,
    id: CommandId,
    total: u64,
    done: std::sync::Mutex<Vec<u64>>,
}

impl Told {
    fn new(node: Arc<Node>, id: CommandId, blobs: usize, total: u64) -> Self {
        Self { node, id, total, done: std::sync::Mutex::new(vec![0; blobs]) }
    }
}

impl Watch for Told {
    fn at(&self, blob: usize, done: u64) {
        let mut all = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(of) = all.get_mut(blob) {
            *of = done;
        }
        let sum = all.iter().copied().fold(0, u64::saturating_add);
        self.node.commands.progress(&self.id, Progress::part(sum, self.total), String::new());
    }

    fn note(&self, _blob: usize, text: &str) {
        tracing::warn!(command.id = %self.id, note = text, "push of an image was interrupted");
    }
}

/// What each file is, read once.
async fn hashed(files: Vec<(String, PathBuf)>) -> Result<Vec<File>, String> {
    if files.len() > FILES {
        return Err(format!("the VM has {} files, the most is {FILES}", files.len()));
    }
    let all = tokio::task::spawn_blocking(move || {
        let one = |(name, path): (String, PathBuf)| {
            let unreadable = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
            let (digest, (size, _)) = hash_file(&path, |_| {}).map_err(unreadable)?;
            Ok(File { name, path, digest, size })
        };
        files.into_iter().map(one).collect()
    });
    all.await.map_err(|error| error.to_string())?
}

/// The template's manifest with the VM's files as layers on top.
fn manifest(base: &[u8], files: &[File], description: &str) -> Result<String, String> {
    let strange = |error: serde_json::Error| format!("the template's manifest is not understood: {error}");
    let read: Manifest = serde_json::from_slice(base).map_err(strange)?;
    let mut whole: Value = serde_json::from_slice(base).map_err(strange)?;
    let layer = |file: &File| {
        json!({
            "mediaType": template::IMAGE_LAYER, "digest": file.digest, "size": file.size,
            "annotations": { template::ROLE: "image", "org.opencontainers.image.title": file.name },
        })
    };
    let mut layers = whole["layers"].as_array().cloned().unwrap_or_default();
    if layers.len() != read.layers.len() {
        return Err("the template's manifest has no list of layers".into());
    }
    layers.extend(files.iter().map(layer));
    let mut notes = read.annotations;
    // The id stays with the template that it is of.
    notes.remove(template::ID);
    notes.remove(template::DESCRIPTION);
    if !description.is_empty() {
        notes.insert(template::DESCRIPTION.into(), description.into());
    }
    let Some(object) = whole.as_object_mut() else {
        return Err("the template's manifest is no object".into());
    };
    object.insert("mediaType".into(), json!(oci::IMAGE_MANIFEST));
    object.insert("layers".into(), json!(layers));
    object.insert("annotations".into(), json!(notes));
    object.remove("subject");
    serde_json::to_string(&whole).map_err(|error| error.to_string())
}

/// Takes a version back and every later one. One that is not there takes nothing with it. What is done of it is written
/// down, for done twice it could take back more.
async fn take_back(
    node: &Node,
    registry: &crate::config::BaseUrl,
    saving: &mut Saving,
) -> Result<(), String> {
    let Some(revert) = saving.order.revert.clone() else { return Ok(()) };
    let client =
        Templates::new(registry.clone(), node.credentials(), CALL).map_err(|error| error.to_string())?;
    let found = client.show(&revert.template).await.map_err(|error| with_causes(&error))?;
    let versions = found.map(|template| template.versions).unwrap_or_default();
    let newest = versions.iter().max_by_key(|version| version.number).map(|version| version.tag.clone());
    let tag = if revert.tag.is_empty() { newest } else { Some(revert.tag.clone()) };
    if let Some(tag) = tag.filter(|tag| versions.iter().any(|version| version.tag == *tag)) {
        // The newest of now will be another one later.
        saving.order.revert = Some(Revert { tag: tag.clone(), ..revert.clone() });
        node.saves.put(saving).map_err(unwritten)?;
        let ask = RevertTemplate {
            id: Some(revert.template.to_string()),
            tag: Some(tag),
            ..RevertTemplate::default()
        };
        client
            .revert(&ask)
            .await
            .map_err(|error| format!("the template could not be reverted: {}", with_causes(&error)))?;
    }
    saving.order.revert = None;
    node.saves.put(saving).map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_version_is_the_old_one_with_the_vms_files_on_top() {
        let base = json!({
            "schemaVersion": 2, "artifactType": template::ARTIFACT,
            "config": { "mediaType": "c", "digest": Digest::of(b"c"), "size": 1 },
            "layers": [{ "mediaType": "l", "digest": Digest::of(b"l"), "size": 1 }],
            "annotations": { template::ID: "t1", template::ARCH: "arm64", template::DESCRIPTION: "old" },
        });
        let file =
            File { name: "disk.img".into(), path: PathBuf::new(), digest: Digest::of(b"new"), size: 3 };
        let made = manifest(base.to_string().as_bytes(), &[file], "with tools").unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!((&made["config"], &made["layers"][0]), (&base["config"], &base["layers"][0]));
        assert_eq!(made["layers"][1]["annotations"]["org.opencontainers.image.title"], "disk.img");
        assert_eq!(
            made["annotations"],
            json!({ template::ARCH: "arm64", template::DESCRIPTION: "with tools" }),
            "the id stays with the old template"
        );
        assert!(manifest(b"[]", &[], "").is_err() && manifest(b"{}", &[], "").is_ok_and(|m| !m.is_empty()));
    }

    #[test]
    fn of_a_long_output_the_end_is_told() {
        let long = ScriptResult { stdout: "\u{1}".repeat(OUTPUT) + "the end", ..ScriptResult::default() };
        let told = fitting(long);
        assert!(told.stdout.ends_with("the end") && serde_json::to_vec(&told).unwrap().len() <= OUTPUT);
        let short = ScriptResult { stdout: "short".into(), ..ScriptResult::default() };
        assert_eq!(fitting(short.clone()), short);
    }
}
