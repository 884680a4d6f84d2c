//! Manifests: what must be true of one before it is taken, and what we read of it.
//!
//! Media types decide nothing about taking a manifest: any JSON object whose references are here is stored
//! and given back byte for byte.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;

use super::super::content::{Catalogue, Content, ContentError};
use crate::{
    model::{Digest, DigestError, RepositoryName},
    wire::{oci, template},
};

/// Bytes that parsed manifests may take. Full: any of them makes room and is read again when needed.
const CACHED: usize = 128 * 1024 * 1024;

/// Layers, or manifests of an index, that one manifest may list; more are refused. Every tag that points to it
/// repeats their names in the vendor's API, so a few megabytes pushed could become gigabytes shown.
const LISTED: usize = 8192;

/// Longest media type; RFC 6838 allows 127 bytes on each side of the slash.
const MEDIA_TYPE: usize = 255;

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFault {
    /// Not JSON, or not of the form.
    #[error("manifest cannot be read: {0}")]
    Form(String),
    /// It was put under a digest that is not its own.
    #[error("manifest is {got}, not {expected}")]
    Digest {
        /// The name it was given.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// It names content by something we cannot check.
    #[error("manifest names `{digest}`: {source}")]
    Reference {
        /// As written.
        digest: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// Something it needs is not in the repository.
    #[error("manifest needs {}, which is not in the repository; push it first", these(.0))]
    Missing(Vec<Digest>),
    /// Something it needs has another size.
    #[error("manifest says that {digest} has {said} bytes; it has {has}")]
    Size {
        /// The blob.
        digest: Digest,
        /// As written.
        said: u64,
        /// As stored.
        has: u64,
    },
}

/// What a layer is to a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A disk layer; everything that does not say otherwise.
    Image,
    /// A suspend state.
    State,
    /// The virtual machine's NVRAM.
    Nvram,
    /// Its configuration.
    Config,
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Of the content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Of a layer.
    pub role: Role,
    /// It may be fetched elsewhere, so it need not be here.
    pub elsewhere: bool,
}

/// A manifest or index as far as we read it.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    own_media_type: Option<String>,
    /// The config blob.
    pub config: Option<Part>,
    /// The config's media type; the artifact type when none is given.
    pub config_type: Option<String>,
    /// The layers, base first.
    pub layers: Vec<Part>,
    /// The manifests an index lists.
    pub children: Vec<Part>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// The kind of artifact.
    pub artifact_type: Option<String>,
    /// Free.
    pub annotations: BTreeMap<String, String>,
}

impl Parsed {
    /// Reads a manifest; says what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let form = |error: serde_json::Error| ManifestFault::Form(error.to_string());
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(ManifestFault::Form("it is not a JSON object".into()));
        }
        let raw: oci::Manifest = serde_json::from_slice(bytes).map_err(form)?;
        if raw.layers.len().max(raw.manifests.len()) > LISTED {
            return Err(ManifestFault::Form(format!("it lists more than {LISTED} layers or manifests")));
        }
        if !raw.manifests.is_empty() && (raw.config.is_some() || !raw.layers.is_empty()) {
            // Two clients could take it for two different things.
            return Err(ManifestFault::Form("it is a manifest and an index at once".into()));
        }
        let parts = |list: &[oci::Descriptor]| list.iter().map(part).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            config: raw.config.as_ref().map(part).transpose()?,
            config_type: raw.config.map(|config| config.media_type).filter(|kind| !kind.is_empty()),
            layers: parts(&raw.layers)?,
            children: parts(&raw.manifests)?,
            subject: raw.subject.as_ref().map(part).transpose()?.map(|part| part.digest),
            artifact_type: raw.artifact_type.filter(|kind| !kind.is_empty()),
            annotations: raw.annotations,
            own_media_type: raw.media_type.filter(|kind| !kind.is_empty()),
        })
    }

    /// The type to give it back with: as it was pushed, else as it says itself, else by its form. One that came as
    /// something else than it says is refused, for no client would take it.
    pub(super) fn named(&self, pushed_as: Option<String>) -> Result<String, ManifestFault> {
        let by_form = if self.children.is_empty() { oci::IMAGE_MANIFEST } else { oci::IMAGE_INDEX };
        match (pushed_as, &self.own_media_type) {
            (Some(given), Some(own)) if !given.eq_ignore_ascii_case(own) => {
                let (given, own): (String, String) =
                    (given.chars().take(80).collect(), own.chars().take(80).collect());
                Err(ManifestFault::Form(format!("its mediaType is `{own}`, and its Content-Type `{given}`")))
            }
            (Some(given), _) => Ok(given),
            (None, Some(own)) => Ok(own.clone()),
            (None, None) => Ok(by_form.to_owned()),
        }
    }

    /// What it takes in memory, about.
    fn weight(&self) -> usize {
        let notes: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        let parts = (self.layers.len() + self.children.len() + 1) * size_of::<Part>();
        let texts = [&self.own_media_type, &self.config_type, &self.artifact_type];
        size_of::<Self>() + notes + parts + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }

    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Part> {
        self.config.iter().chain(&self.layers)
    }

    /// Everything it names must be in the repository already, with the size it says. The subject need not.
    pub async fn check_needs(
        &self,
        content: &dyn Content,
        repository: &RepositoryName,
        catalogue: Option<&Catalogue>,
    ) -> Result<(), super::RepositoryError> {
        let mut known: HashMap<Digest, Option<u64>> = HashMap::new();
        let (mut missing, mut told) = (Vec::new(), HashSet::new());
        for blob in self.blobs() {
            let has = match known.get(&blob.digest) {
                Some(has) => *has,
                None => {
                    let has = content.keep_given(repository, &blob.digest).await?;
                    known.insert(blob.digest, has);
                    has
                }
            };
            match has {
                Some(has) if has == blob.size => {}
                Some(has) => {
                    return Err(ManifestFault::Size { digest: blob.digest, said: blob.size, has }.into());
                }
                None if blob.elsewhere => {}
                None if told.insert(blob.digest) => missing.push(blob.digest),
                None => {}
            }
        }
        let children = self.missing_children(catalogue)?;
        missing.extend(children.into_iter().filter(|child| told.insert(*child)));
        if missing.is_empty() { Ok(()) } else { Err(ManifestFault::Missing(missing).into()) }
    }

    /// The manifests that it lists must be in the repository, with the size it says.
    pub(super) fn check_children(&self, catalogue: Option<&Catalogue>) -> Result<(), ManifestFault> {
        let missing = self.missing_children(catalogue)?;
        if missing.is_empty() { Ok(()) } else { Err(ManifestFault::Missing(missing)) }
    }

    /// Each once.
    fn missing_children(&self, catalogue: Option<&Catalogue>) -> Result<Vec<Digest>, ManifestFault> {
        let (mut missing, mut told) = (Vec::new(), HashSet::new());
        for child in &self.children {
            let stored = catalogue.and_then(|catalogue| catalogue.manifests.get(&child.digest));
            match stored {
                Some(stored) if stored.size == child.size => {}
                Some(stored) => {
                    return Err(ManifestFault::Size {
                        digest: child.digest,
                        said: child.size,
                        has: stored.size,
                    });
                }
                None if told.insert(child.digest) => missing.push(child.digest),
                None => {}
            }
        }
        Ok(missing)
    }
}

/// In words, whatever their number.
fn these(missing: &[Digest]) -> String {
    match missing {
        [] => "nothing".into(),
        [one] => one.to_string(),
        [one, rest @ ..] => format!("{one} and {} more", rest.len()),
    }
}

/// A media type is given back as a header and kept with the repository: it must be able to be one, and short.
pub(super) fn check_media_type(text: &str) -> Result<(), ManifestFault> {
    if text.is_empty() || text.len() > MEDIA_TYPE || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        let shown: String = text.chars().take(80).collect();
        return Err(ManifestFault::Form(format!("`{}` is no media type", shown.escape_debug())));
    }
    Ok(())
}

fn part(raw: &oci::Descriptor) -> Result<Part, ManifestFault> {
    let digest = Digest::parse(&raw.digest).map_err(|source| ManifestFault::Reference {
        digest: raw.digest.chars().take(80).collect(),
        source,
    })?;
    let said = raw.annotations.get(template::ROLE).map(String::as_str);
    let role = match said.unwrap_or(&raw.media_type) {
        "state" | template::STATE_LAYER => Role::State,
        "nvram" | template::NVRAM_LAYER => Role::Nvram,
        "config" | template::CONFIG => Role::Config,
        _ => Role::Image,
    };
    if i64::try_from(raw.size).is_err() {
        return Err(ManifestFault::Form(format!("it says that {digest} has {} bytes", raw.size)));
    }
    Ok(Part { digest, size: raw.size, role, elsewhere: !raw.urls.is_empty() })
}

/// A whole small blob: manifests and configs. Its caller knows the size, which bounds it.
pub(super) async fn read_small(
    content: &dyn Content,
    digest: &Digest,
    size: u64,
) -> Result<Bytes, ContentError> {
    let damaged = |why: &str| ContentError::Damaged { what: format!("blob {digest}"), why: why.into() };
    let Some(body) = content.read(digest, None).await? else { return Err(damaged("it is not here")) };
    if body.size != size {
        return Err(damaged("it has another size than when it was pushed"));
    }
    let mut pieces = body.bytes();
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.try_next().await.map_err(ContentError::io("read a blob"))? {
        whole.extend_from_slice(&piece);
    }
    // Cheap at this size, and what follows is decided by these bytes.
    if digest.algorithm().of(&whole) != *digest {
        return Err(damaged("its content does not match its name"));
    }
    Ok(whole.freeze())
}

/// Manifests as read, by digest: they never change.
#[derive(Default)]
pub(super) struct Cache {
    parsed: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_digest: HashMap<Digest, (Arc<Parsed>, usize)>,
    bytes: usize,
}

impl Cache {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Parsed>> {
        let kept = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_digest.get(digest).map(|(parsed, _)| parsed.clone())
    }

    pub(super) fn put(&self, digest: Digest, parsed: Arc<Parsed>) {
        let size = parsed.weight();
        let mut kept = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.bytes + size > CACHED
            && let Some(any) = kept.by_digest.keys().next().copied()
        {
            let freed = kept.by_digest.remove(&any).map_or(0, |(_, size)| size);
            kept.bytes -= freed;
        }
        let before = kept.by_digest.insert(digest, (parsed, size)).map_or(0, |(_, size)| size);
        kept.bytes = kept.bytes + size - before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str) -> String {
        format!(r#"{{"mediaType":"x","digest":"{}","size":{}}}"#, Digest::of(text.as_bytes()), text.len())
    }

    #[test]
    fn nulls_where_go_writes_them_are_taken() {
        let text = format!(r#"{{"config":{},"layers":null,"annotations":null,"subject":null}}"#, blob("c"));
        let parsed = Parsed::read(text.as_bytes()).unwrap();
        assert_eq!(parsed.config.unwrap().digest, Digest::of(b"c"));
        assert!(parsed.layers.is_empty());
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for bad in [
            "",
            "[]",
            "null",
            "{",
            r#"{"layers":{}}"#,
            r#"{"layers":[{"digest":"sha256:00","size":1}]}"#,
            r#"{"layers":[{"digest":"sha512:00","size":1}]}"#,
            r#"{"config":{"digest":"x","size":-1}}"#,
        ] {
            assert!(Parsed::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_manifest_that_would_fill_memory_or_break_sums_is_refused() {
        let many = vec![blob("l"); LISTED + 1].join(",");
        for list in ["layers", "manifests"] {
            let text = format!(r#"{{"{list}":[{many}]}}"#);
            assert!(matches!(Parsed::read(text.as_bytes()), Err(ManifestFault::Form(_))), "{list}");
        }
        let huge = blob("h").replace(r#""size":1"#, &format!(r#""size":{}"#, u64::MAX));
        let text = format!(r#"{{"layers":[{huge}]}}"#);
        assert!(matches!(Parsed::read(text.as_bytes()), Err(ManifestFault::Form(_))));
    }

    #[test]
    fn the_cache_counts_what_is_kept_and_not_what_was_pushed() {
        let notes: BTreeMap<String, String> =
            (0..CACHED / 64).map(|n| (n.to_string(), String::new())).collect();
        let cache = Cache::default();
        for text in ["a", "b"] {
            let parsed = Parsed { annotations: notes.clone(), ..Parsed::default() };
            cache.put(Digest::of(text.as_bytes()), Arc::new(parsed));
        }
        assert!(cache.get(&Digest::of(b"a")).is_none(), "two of them are more than may be kept");
    }

    #[test]
    fn roles_come_from_annotation_first() {
        let annotated = blob("n").replace("}", r#","annotations":{"org.switchyard.template.role":"nvram"}}"#);
        let typed = blob("s").replace("\"x\"", &format!("{:?}", template::STATE_LAYER));
        let text = format!(r#"{{"layers":[{},{annotated},{typed}]}}"#, blob("i"));
        let roles: Vec<_> = Parsed::read(text.as_bytes()).unwrap().layers.iter().map(|l| l.role).collect();
        assert_eq!(roles, [Role::Image, Role::Nvram, Role::State]);
    }
}
