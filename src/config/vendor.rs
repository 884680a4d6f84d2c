//! What a proxy needs to know of the vendor's servers behind it, besides what it needs to know of any.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::model::UpstreamName;

/// A text that nobody may see: not in logs, not in errors, not in a dump.
#[derive(Clone)]
pub struct Secret(Arc<Kept>);

#[derive(Clone)]
struct Kept {
    text: Box<str>,
    /// The key that named its file, and that.
    file: Option<(&'static str, PathBuf)>,
}

/// By the text alone.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Secret {}

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Kept { text: text.into(), file: None }))
    }

    /// One that a key of the config names the file of.
    pub(super) fn of_file(self, key: &'static str, file: &Path) -> Self {
        Self(Arc::new(Kept { file: Some((key, file.to_owned())), ..Arc::unwrap_or_clone(self.0) }))
    }

    /// The key by which it was read, and the file that it named.
    pub(super) fn file(&self) -> Option<(&'static str, &Path)> {
        self.0.file.as_ref().map(|(key, file)| (*key, file.as_path()))
    }

    /// To be sent, and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What is special about the vendor's registries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vendor {
    /// The registry that collects logs. Without a name the writer, else the first one.
    pub logs: Option<UpstreamName>,
    /// `[service.NAME.catalogue]`.
    pub lists: Lists,
}

/// How registries are asked for their lists, where reads go by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lists {
    /// From one list to the next, at each registry.
    pub interval: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// A registry may answer out of a cache that is so old.
    pub cache: Duration,
    /// `Authorization` of the questions.
    pub authorization: Option<Secret>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
            // Of the vendor's registries, `ANKA_VM_LIST_CACHE_TTL`.
            cache: Duration::from_secs(30),
            authorization: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let lists = Lists { authorization: Some(Secret::new("Basic cm9vdA==")), ..Lists::default() };
        let shown = format!("{lists:?} {:#?}", Vendor { lists: lists.clone(), ..Vendor::default() });
        assert!(!shown.contains("cm9vdA"), "{shown}");
        assert_eq!(lists.authorization.unwrap().expose(), "Basic cm9vdA==");
    }
}
