//! Pulled templates: verified, shared layer by layer, pinned while in use, and evicted when a pull needs room.
//!
//! ```text
//!   cache/templates/<template id>/<manifest>.json    a template that is here whole
//!   cache/layers/<hex>                         a file as it came, verified; shared between templates
//!   cache/partial/<hex>                        a download that is not whole yet
//! ```
//!
//! A file is under `layers/` only after it was hashed and synced, so its name is the record of that; its size
//! is looked at again at every use.

mod evict;
mod pull;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub(super) use pull::{Told, Trouble, pull};

use self::evict::Cached;
use super::{
    AgentError,
    facts::{Space, space},
    home::{sync_parent, write_durably},
};
use crate::{
    clock,
    config::agent::Reserve,
    model::{Digest, LayerId, TemplateId, Timestamp},
    wire::{agent::LAYERS, command::PullTemplate, node::NodeTemplate},
};

/// A download that nobody has gone on with for so long is thrown away at start.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A template that is here whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    v: u32,
    template: TemplateId,
    name: String,
    tag: String,
    manifest: Digest,
    /// Lowest first, as in the manifest.
    layers: Vec<Layer>,
    used: Timestamp,
}

/// One file of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Layer {
    digest: Digest,
    size: u64,
}

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<Digest, Kept>,
    /// How many VMs and pulls use a template.
    pins: BTreeMap<Digest, usize>,
    /// The layers of pulls under way.
    coming: BTreeMap<Digest, Coming>,
    /// One download at a time for each layer.
    turns: BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

/// A layer that pulls under way need.
#[derive(Debug, Default)]
struct Coming {
    /// Bytes yet to be written: room that is spoken for.
    rest: u64,
    /// How many pulls need it.
    pulls: usize,
}

/// Keeps the layers of a pull from being taken for nobody's, and its room spoken for, while it is held.
struct Claimed {
    cache: Cache,
    layers: BTreeSet<Digest>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        for digest in &self.layers {
            let Some(coming) = state.coming.get_mut(digest) else { continue };
            coming.pulls -= 1;
            if coming.pulls == 0 {
                state.coming.remove(digest);
            }
        }
    }
}

/// Looks at the disk; something else in tests.
type Disk = Arc<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// The cache. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    root: PathBuf,
    reserve: Reserve,
    disk: Disk,
    state: Arc<Mutex<State>>,
    /// Held while a record is written: two starts of one template write the same one.
    writing: Arc<Mutex<()>>,
}

/// Keeps a template on disk while it is held.
pub(super) struct Pin {
    cache: Cache,
    manifest: Digest,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({})", self.manifest)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        if let Some(count) = state.pins.get_mut(&self.manifest) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.manifest);
            }
        }
    }
}

impl Cache {
    /// Reads what is there. A template with a file missing or of another size is not there.
    pub(super) fn open(root: PathBuf, reserve: Reserve) -> Result<Self, AgentError> {
        Self::open_on(root, reserve, Arc::new(space))
    }

    fn open_on(root: PathBuf, reserve: Reserve, disk: Disk) -> Result<Self, AgentError> {
        let cache = Self { root, reserve, disk, state: Arc::default(), writing: Arc::default() };
        for dir in ["templates", "layers", "partial"] {
            let path = cache.root.join(dir);
            fs::create_dir_all(&path).map_err(AgentError::data(path))?;
        }
        let kept = cache.read_all().map_err(AgentError::data(&cache.root))?;
        cache.state().kept = kept;
        cache.sweep(&BTreeSet::new(), old).map_err(AgentError::data(&cache.root))?;
        Ok(cache)
    }

    /// Templates here, sorted.
    pub(super) fn list(&self) -> Vec<NodeTemplate> {
        let state = self.state();
        let tell = |kept: &Kept| NodeTemplate {
            uuid: kept.template.to_string(),
            name: kept.name.clone(),
            tag: kept.tag.clone(),
        };
        let list: BTreeSet<NodeTemplate> = state.kept.values().map(tell).collect();
        list.into_iter().collect()
    }

    /// The largest layers of templates here, and their sizes.
    pub(super) fn layers(&self) -> BTreeMap<LayerId, u64> {
        let state = self.state();
        let all: BTreeSet<Layer> = state.kept.values().flat_map(|kept| kept.layers.iter().copied()).collect();
        let mut all: Vec<_> = all.iter().map(|layer| (layer.size, LayerId::of(&layer.digest))).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().take(LAYERS).map(|(size, id)| (id, size)).collect()
    }

    /// Bytes they take, a shared layer once.
    pub(super) fn used(&self) -> u64 {
        let state = self.state();
        let layers: BTreeSet<Layer> =
            state.kept.values().flat_map(|kept| kept.layers.iter().copied()).collect();
        layers.iter().map(|layer| layer.size).sum()
    }

    /// Holds a template, here or to come.
    pub(super) fn pin(&self, manifest: Digest) -> Pin {
        *self.state().pins.entry(manifest).or_default() += 1;
        Pin { cache: self.clone(), manifest }
    }

    /// The files of a template, lowest first, if it is here whole; notes the use.
    fn use_now(&self, manifest: &Digest) -> Option<Vec<PathBuf>> {
        let kept = self.state().kept.get(manifest).cloned()?;
        if !kept.layers.iter().all(|layer| self.has(layer)) {
            warn!(template.name = %kept.name, manifest = %manifest, "template had lost a file");
            self.drop_record(&kept);
            return None;
        }
        let kept = Kept { used: clock::wall(), ..kept };
        // A use that is not noted costs at most an eviction out of turn.
        if let Err(error) = self.write(&kept) {
            warn!(error = %error, "the use of a template could not be noted");
        }
        let paths = kept.layers.iter().map(|layer| self.layer(&layer.digest)).collect();
        self.state().kept.insert(*manifest, kept);
        Some(paths)
    }

    /// The files of a template that is here whole, lowest first.
    pub(super) fn files(&self, manifest: &Digest) -> Option<Vec<PathBuf>> {
        let state = self.state();
        let layers = &state.kept.get(manifest)?.layers;
        Some(layers.iter().map(|layer| self.layer(&layer.digest)).collect())
    }

    /// The parts of a template that is here whole: what each is, its size, and its file.
    pub(super) fn parts(&self, manifest: &Digest) -> Option<Vec<(Digest, u64, PathBuf)>> {
        let state = self.state();
        let layers = &state.kept.get(manifest)?.layers;
        Some(layers.iter().map(|layer| (layer.digest, layer.size, self.layer(&layer.digest))).collect())
    }

    /// Enters a template whose files are all here.
    fn enter(&self, task: &PullTemplate, layers: Vec<Layer>) -> io::Result<()> {
        let kept = Kept {
            v: 1,
            template: task.template.clone(),
            name: task.template_name.clone(),
            tag: task.tag.clone(),
            manifest: task.manifest,
            layers,
            used: clock::wall(),
        };
        self.write(&kept)?;
        self.state().kept.insert(kept.manifest, kept);
        Ok(())
    }

    fn has(&self, layer: &Layer) -> bool {
        fs::metadata(self.layer(&layer.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == layer.size)
    }

    fn layer(&self, digest: &Digest) -> PathBuf {
        self.root.join("layers").join(digest.hex())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    fn record(&self, kept: &Kept) -> PathBuf {
        self.root.join("templates").join(kept.template.as_str()).join(format!("{}.json", kept.manifest.hex()))
    }

    fn write(&self, kept: &Kept) -> io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.record(kept);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        write_durably(&path, &serde_json::to_vec_pretty(kept)?)
    }

    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        state.turns.entry(*digest).or_default().clone()
    }

    /// A verified download becomes a layer.
    fn accept(&self, digest: &Digest) -> io::Result<()> {
        let path = self.layer(digest);
        fs::rename(self.partial(digest), &path)?;
        sync_parent(&path)
    }

    /// Makes room for `layers`, of which those that are not here count, less what is downloaded of them; and
    /// speaks for that room. Only what must go goes, and no template if that would not do.
    fn make_room(&self, layers: &[Layer]) -> Result<Claimed, Trouble> {
        match self.try_make_room(layers) {
            Err(Trouble::NoSpace { .. }) => {
                // What broken pulls left behind goes before the refusal, whatever its age.
                self.sweep(&layers.iter().map(|layer| layer.digest).collect(), |_| true)
                    .map_err(|source| self.unusable(source))?;
                self.try_make_room(layers)
            }
            done => done,
        }
    }

    fn try_make_room(&self, layers: &[Layer]) -> Result<Claimed, Trouble> {
        let on_disk = (self.disk)(&self.root).map_err(|source| self.unusable(source))?;
        let reserve = match self.reserve {
            Reserve::Share(share) => (on_disk.total as f64 * share) as u64,
            Reserve::Bytes(bytes) => bytes,
        };
        // A layer that is about to be used must not go with the template that brought it.
        let wanted: BTreeMap<Digest, u64> = layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let mut state = self.state();
        let rest = |digest: &Digest, size: u64| {
            if self.has(&Layer { digest: *digest, size }) {
                return 0;
            }
            size.saturating_sub(fs::metadata(self.partial(digest)).map_or(0, |meta| meta.len()))
        };
        let new = wanted.iter().filter(|(digest, _)| !state.coming.contains_key(digest));
        let needed = new.map(|(digest, size)| rest(digest, *size)).fold(0, u64::saturating_add);
        let spoken_for = state.coming.values().map(|coming| coming.rest).fold(0, u64::saturating_add);
        let free = on_disk.free.saturating_sub(spoken_for);
        let cached: Vec<Cached> = state
            .kept
            .values()
            .map(|kept| Cached {
                manifest: kept.manifest,
                used: kept.used,
                pinned: state.pins.contains_key(&kept.manifest),
                layers: kept.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
            })
            .collect();
        let stay = wanted.keys().chain(state.coming.keys()).copied().collect();
        let plan = evict::plan(needed, free, reserve, &cached, &stay).map_err(|short| Trouble::NoSpace {
            needed: short.needed,
            available: short.available,
            reserve,
        })?;
        for manifest in plan {
            let Some(kept) = state.kept.remove(&manifest) else { continue };
            info!(template.name = %kept.name, template.tag = %kept.tag, "template was evicted to make room");
            self.delete(&state, &kept, &stay).map_err(|source| self.unusable(source))?;
        }
        for (digest, size) in &wanted {
            let rest = rest(digest, *size);
            let coming = state.coming.entry(*digest).or_insert(Coming { rest, pulls: 0 });
            coming.pulls += 1;
        }
        Ok(Claimed { cache: self.clone(), layers: wanted.into_keys().collect() })
    }

    /// Removes the files of a template that is struck out already, but for layers that others have or `stay`.
    fn delete(&self, state: &State, kept: &Kept, stay: &BTreeSet<Digest>) -> io::Result<()> {
        let mut stay = stay.clone();
        stay.extend(state.kept.values().flat_map(|kept| kept.layers.iter().map(|layer| layer.digest)));
        remove(&self.record(kept))?;
        for layer in kept.layers.iter().filter(|layer| !stay.contains(&layer.digest)) {
            remove(&self.layer(&layer.digest))?;
        }
        Ok(())
    }

    /// Removes every version of a template that nothing uses; says which are in use.
    pub(super) fn remove_template(&self, template: &TemplateId) -> Result<(), String> {
        let mut state = self.state();
        let all: Vec<Kept> = state.kept.values().filter(|kept| kept.template == *template).cloned().collect();
        let (used, unused): (Vec<Kept>, Vec<Kept>) =
            all.into_iter().partition(|kept| state.pins.contains_key(&kept.manifest));
        for kept in unused {
            state.kept.remove(&kept.manifest);
            let coming = state.coming.keys().copied().collect();
            self.delete(&state, &kept, &coming)
                .map_err(|error| format!("cannot use `{}`: {error}", self.root.display()))?;
            info!(template.name = %kept.name, template.tag = %kept.tag, "template was removed");
        }
        if used.is_empty() {
            return Ok(());
        }
        let tags: Vec<String> = used.iter().map(|kept| format!("`{}`", kept.tag)).collect();
        Err(format!("in use on this node, and left there: {}", tags.join(", ")))
    }

    /// Of a layer that is on its way so many bytes are still to be written.
    fn still_coming(&self, digest: &Digest, rest: u64) {
        if let Some(coming) = self.state().coming.get_mut(digest) {
            coming.rest = rest;
        }
    }

    fn unusable(&self, source: io::Error) -> Trouble {
        Trouble::Disk { path: self.root.clone(), source }
    }

    fn drop_record(&self, kept: &Kept) {
        self.state().kept.remove(&kept.manifest);
        if let Err(error) = remove(&self.record(kept)) {
            warn!(error = %error, "the record of a template could not be removed");
        }
    }

    fn read_all(&self) -> io::Result<BTreeMap<Digest, Kept>> {
        let mut all = BTreeMap::new();
        for template in fs::read_dir(self.root.join("templates"))? {
            let template = template?.path();
            if !template.is_dir() {
                continue;
            }
            for record in fs::read_dir(&template)? {
                let path = record?.path();
                let kept = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
                match kept {
                    Some(kept) if self.record(&kept) == path && kept.layers.iter().all(|l| self.has(l)) => {
                        all.insert(kept.manifest, kept);
                    }
                    _ => {
                        warn!(path = %path.display(), "something that is no whole template was removed");
                        remove(&path)?;
                    }
                }
            }
            // Only if empty.
            drop(fs::remove_dir(&template));
        }
        Ok(all)
    }

    /// Removes layers that no template and no pull has, and downloads nobody goes on with, if they are `due`.
    fn sweep(&self, keep: &BTreeSet<Digest>, due: impl Fn(&fs::DirEntry) -> bool) -> io::Result<()> {
        let state = self.state();
        let named = |with_kept: bool| -> BTreeSet<String> {
            let kept = state.kept.values().filter(|_| with_kept).flat_map(|kept| &kept.layers);
            let kept = kept.map(|layer| &layer.digest);
            kept.chain(keep).chain(state.coming.keys()).map(Digest::hex).collect()
        };
        for (dir, named) in [("layers", named(true)), ("partial", named(false))] {
            for entry in fs::read_dir(self.root.join(dir))? {
                let entry = entry?;
                let used = entry.file_name().to_str().is_some_and(|name| named.contains(name));
                if !used && due(&entry) {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left maps that are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file was last written more than [`STALE`] ago.
fn old(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    let seconds = modified.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let Some(at) = seconds.and_then(|d| i64::try_from(d.as_secs()).ok()) else { return false };
    clock::wall().since(Timestamp::from_unix_seconds(at)) > STALE
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
