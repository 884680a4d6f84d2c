//! Bringing one template here: its manifest, then layer by layer, trying again while there is hope.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use tracing::{debug, info, warn};

use super::{Cache, Layer};
use crate::{
    agent::{backoff::Backoff, join::with_causes},
    client::oci::{Oci, Partial, PullError},
    clock,
    model::{Digest, Progress},
    wire::{command::PullTemplate, oci::Manifest},
};

/// A registry that gives not one byte for so long is given up on: another node may reach it.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How often wrong bytes, or word that there are none, are taken before it is believed.
const TRIES: u32 = 3;

/// Indexes that point to indexes: nobody makes more.
const DEPTH: u32 = 3;

/// What a pull says of itself on its way.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::agent) struct Told {
    /// How much is there.
    pub(in crate::agent) progress: Progress,
    /// What it waits for; empty while it moves.
    pub(in crate::agent) waits: String,
}

/// Why a template could not be brought here.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum Trouble {
    /// It does not fit.
    #[error("not enough disk space: {} needed, {} available beside the {} to be kept free",
        ByteSize(*needed), ByteSize(*available), ByteSize(*reserve))]
    NoSpace {
        /// Bytes.
        needed: u64,
        /// Bytes, with all evicted that may be.
        available: u64,
        /// Bytes.
        reserve: u64,
    },
    /// The disk.
    #[error("cannot use `{}`: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The registry was out of reach for too long.
    #[error("the registry gave nothing for {} minutes: {why}", PATIENCE.as_secs() / 60)]
    GaveUp {
        /// The last reason.
        why: String,
    },
    /// It cannot be had anywhere.
    #[error("the template cannot be pulled: {why}")]
    Hopeless {
        /// Why.
        why: String,
    },
}

impl Trouble {
    /// Whether another node, or this one later, may do better; else the start has failed.
    pub(in crate::agent) fn may_pass(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Disk { .. } | Self::GaveUp { .. } => true,
            Self::Hopeless { .. } => false,
        }
    }
}

/// Makes sure that a template is here whole, and gives its files. It is to be pinned before.
///
/// `delay` is waited before each layer. Dropped in the middle, what came stays and is gone on with next time.
pub(in crate::agent) async fn pull(
    cache: &Cache,
    oci: &Oci,
    task: &PullTemplate,
    delay: Duration,
    mut tell: impl FnMut(Told) + Send,
) -> Result<Vec<PathBuf>, Trouble> {
    let manifest = task.manifest;
    if let Some(files) = aside(cache, move |cache| cache.use_now(&manifest)).await? {
        debug!(template.name = %task.template_name, "template was here already");
        return Ok(files);
    }
    let layers = list_layers(oci, task, &mut tell).await?;
    let distinct: Vec<Layer> = layers.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let total = distinct.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let wanted = distinct.clone();
    let _claimed = aside(cache, move |cache| cache.make_room(&wanted)).await??;

    info!(template.name = %task.template_name, template.tag = %task.tag, bytes = total, "pull began");
    let mut before = 0u64;
    for layer in &distinct {
        tokio::time::sleep(delay).await;
        let mut at = |done: u64, waits: String| {
            tell(Told { progress: Progress::part(before.saturating_add(done), total), waits });
        };
        bring(cache, oci, task, layer, &mut at).await?;
        before = before.saturating_add(layer.size);
    }
    let entered = task.clone();
    aside(cache, move |cache| {
        cache.enter(&entered, layers).map_err(|source| cache.unusable(source))?;
        info!(template.name = %entered.template_name, template.tag = %entered.tag, "pull ended");
        let vanished = || Trouble::Hopeless { why: "it vanished from the disk at once".into() };
        cache.use_now(&entered.manifest).ok_or_else(vanished)
    })
    .await?
}

/// Work on the disk, beside the threads that serve everything else.
async fn aside<T: Send + 'static>(
    cache: &Cache,
    work: impl FnOnce(&Cache) -> T + Send + 'static,
) -> Result<T, Trouble> {
    let cache = cache.clone();
    let done = tokio::task::spawn_blocking(move || work(&cache)).await;
    done.map_err(|error| Trouble::Hopeless { why: error.to_string() })
}

/// The layers of the manifest that is to be pulled: its config first, then as they lie on one another.
async fn list_layers(
    oci: &Oci,
    task: &PullTemplate,
    tell: &mut (impl FnMut(Told) + Send),
) -> Result<Vec<Layer>, Trouble> {
    let hopeless = |why: String| Trouble::Hopeless { why };
    let mut digest = task.manifest;
    for _ in 0..DEPTH {
        let mut tries = Tries::new();
        let bytes = loop {
            match oci.manifest(&task.repository, &digest).await {
                Ok(bytes) => break bytes,
                Err(error) => {
                    let waits = tries.again(error)?;
                    tell(Told { progress: Progress::NONE, waits });
                    tries.pause().await;
                }
            }
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| hopeless(format!("its manifest is not understood: {error}")))?;
        if let Some(first) = manifest.manifests.first() {
            digest = read_digest(&first.digest)?;
            continue;
        }
        let of = |descriptor: &crate::wire::oci::Descriptor| {
            Ok(Layer { digest: read_digest(&descriptor.digest)?, size: descriptor.size })
        };
        return manifest.config.iter().chain(&manifest.layers).map(of).collect();
    }
    Err(hopeless("its index points to indexes only".into()))
}

fn read_digest(text: &str) -> Result<Digest, Trouble> {
    Digest::parse(text).map_err(|error| Trouble::Hopeless { why: error.to_string() })
}

/// One layer, whole and verified.
async fn bring(
    cache: &Cache,
    oci: &Oci,
    task: &PullTemplate,
    layer: &Layer,
    at: &mut (impl FnMut(u64, String) + Send),
) -> Result<(), Trouble> {
    let turn = cache.turn(&layer.digest);
    let _mine = turn.lock().await;
    if cache.has(layer) {
        cache.still_coming(&layer.digest, 0);
        at(layer.size, String::new());
        return Ok(());
    }
    let unusable = |source| cache.unusable(source);
    let mut partial = match Partial::open(&cache.partial(&layer.digest), layer.digest, layer.size).await {
        Ok(partial) => partial,
        Err(PullError::Disk { source, .. }) => return Err(unusable(source)),
        Err(error) => return Err(Trouble::Hopeless { why: with_causes(&error) }),
    };
    let mut tries = Tries::new();
    // Only a byte that was never here before is a step forward: one who breaks off and begins anew gets nowhere.
    let mut most = partial.len();
    loop {
        let fetched = oci
            .blob(&task.repository, &mut partial, |done| {
                cache.still_coming(&layer.digest, layer.size.saturating_sub(done));
                if done > most {
                    most = done;
                    tries.moved();
                }
                at(done, String::new());
            })
            .await;
        match fetched {
            Ok(()) => break,
            Err(error) if error.is_disk_full() => {
                return Err(Trouble::NoSpace {
                    needed: layer.size - partial.len(),
                    available: 0,
                    reserve: 0,
                });
            }
            Err(PullError::Disk { source, .. }) => return Err(unusable(source)),
            Err(error) => {
                warn!(digest = %layer.digest, error = %with_causes(&error), "the pull of a layer was interrupted");
                let waits = tries.again(error)?;
                at(partial.len(), waits);
                tries.pause().await;
            }
        }
    }
    let digest = layer.digest;
    aside(cache, move |cache| cache.accept(&digest)).await?.map_err(unusable)?;
    cache.still_coming(&layer.digest, 0);
    Ok(())
}

/// How long to go on with something that fails.
struct Tries {
    backoff: Backoff,
    doubts: u32,
    since: tokio::time::Instant,
}

impl Tries {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        Self { backoff, doubts: 0, since: clock::now() }
    }

    /// A byte came.
    fn moved(&mut self) {
        self.since = clock::now();
        self.backoff.reset();
    }

    /// Whether to try again after this; if so, what is waited for.
    fn again(&mut self, error: PullError) -> Result<String, Trouble> {
        let why = with_causes(&error);
        if error.may_pass() {
            if clock::now() - self.since >= PATIENCE {
                return Err(Trouble::GaveUp { why });
            }
            return Ok(format!("waits for the registry: {why}"));
        }
        // Another replica may have it, or have it whole.
        self.doubts += 1;
        let settled = !error.is_corrupt() && !matches!(error, PullError::Missing { .. });
        if settled || self.doubts >= TRIES {
            return Err(Trouble::Hopeless { why });
        }
        Ok(why)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.pause(rand::random())).await;
    }
}
