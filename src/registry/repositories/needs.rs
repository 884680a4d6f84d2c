//! All that a repository's manifests need, for those who look after the storage as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Parsed, Part, read_small};
use crate::{
    model::{Digest, Tag},
    registry::content::{Catalogue, Content, ContentError},
    wire::upkeep::Unread,
};

/// What a repository needs to be whole.
#[derive(Debug, Default)]
pub struct Needs {
    /// Manifests, configs and layers, with their sizes.
    pub blobs: BTreeMap<Digest, u64>,
    /// Of these, the configs and layers that only this repository can give: not those that lie elsewhere.
    pub own: BTreeSet<Digest>,
    /// Of each config and layer, the manifests that name it.
    pub by: BTreeMap<Digest, Vec<Digest>>,
    /// Manifests that cannot be read: what they need is not known.
    pub unread: Vec<Unread>,
}

/// Reads every manifest of a repository. What lies elsewhere is needed where it is here as well.
///
/// A manifest that is damaged is told; a storage that fails is an error.
pub async fn needs(content: &dyn Content, catalogue: &Catalogue) -> Result<Needs, ContentError> {
    let mut needs = Needs::default();
    for (digest, stored) in &catalogue.manifests {
        needs.blobs.insert(*digest, stored.size);
        match parts(content, digest, stored.size).await {
            Ok(parts) => {
                for part in parts {
                    needs.blobs.insert(part.digest, part.size);
                    needs.by.entry(part.digest).or_default().push(*digest);
                    if !part.elsewhere {
                        needs.own.insert(part.digest);
                    }
                }
            }
            Err(Fault::Storage(error)) => return Err(error),
            Err(Fault::Damaged(why)) => {
                needs.unread.push(Unread { repository: catalogue.name.clone(), manifest: *digest, why });
            }
        }
    }
    Ok(needs)
}

/// The tags whose manifest needs this blob, in order; those of an index that lists such a manifest are among them.
pub fn tags_that_need(catalogue: &Catalogue, needs: &Needs, blob: &Digest) -> Vec<Tag> {
    let mut needing: Vec<Digest> = needs.by.get(blob).cloned().unwrap_or_default();
    if catalogue.manifests.contains_key(blob) {
        needing.push(*blob);
    }
    let mut known = 0;
    while known < needing.len() {
        let listed = needing[known];
        known += 1;
        let above = catalogue.manifests.iter().filter(|(_, stored)| stored.children.contains(&listed));
        let above: Vec<Digest> = above.map(|(digest, _)| *digest).filter(|d| !needing.contains(d)).collect();
        needing.extend(above);
    }
    let tags = catalogue.tags.iter().filter(|(_, version)| needing.contains(&version.digest));
    tags.map(|(tag, _)| tag.clone()).collect()
}

enum Fault {
    Storage(ContentError),
    Damaged(String),
}

async fn parts(content: &dyn Content, digest: &Digest, size: u64) -> Result<Vec<Part>, Fault> {
    let bytes = match read_small(content, digest, size).await {
        Ok(bytes) => bytes,
        Err(error @ ContentError::Damaged { .. }) => return Err(Fault::Damaged(error.to_string())),
        Err(error) => return Err(Fault::Storage(error)),
    };
    let parsed = Parsed::read(&bytes).map_err(|fault| Fault::Damaged(fault.to_string()))?;
    Ok(parsed.blobs().cloned().collect())
}
