//! Generations of several repositories that are written together and shown together: what takes long is done for all of
//! them at once, beside each other, and what is left for the moment in which they become visible is short.

use std::{path::PathBuf, sync::Arc};

use super::{Catalogue, ContentError, files::Files};

/// Generations that are written, and seen by nobody. What is not shown goes when this is dropped.
pub struct Staged {
    pub(super) files: Files,
    pub(super) each: Vec<One>,
}

pub(super) struct One {
    pub(super) next: Arc<Catalogue>,
    /// Where it lies until it is renamed; none where its storage writes it when it is shown.
    pub(super) file: Option<PathBuf>,
}

/// How far [`super::Content::show`] came.
#[derive(Debug)]
pub struct Shown {
    /// So many are visible, from the first one on.
    pub count: usize,
    /// Why the next one is not.
    pub error: Option<ContentError>,
    /// Why it is not known that those which are visible are durable.
    pub unsure: Option<ContentError>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        for file in self.each.iter().filter_map(|one| one.file.as_ref()) {
            self.files.forget(file);
        }
    }
}
