//! Ids and names as newtypes, each as strict as the API it comes from and no stricter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What of a text that somebody gave goes into answers and logs: a hostile one must not fill them.
pub fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// What is wrong with an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid {kind}: {why}")]
pub struct IdError {
    kind: &'static str,
    given: String,
    why: &'static str,
}

impl IdError {
    fn new(kind: &'static str, given: &str, why: &'static str) -> Self {
        Self { kind, given: excerpt(given), why }
    }
}

/// Longest opaque id: etcd keys and log lines are made from them.
const MAX_OPAQUE: usize = 128;

/// Ids are opaque in the vendor's API: never RFC UUIDs, but never a path or a control character either,
/// because they become store keys and file names.
fn opaque(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::new(kind, text, "it is empty"));
    }
    if text.len() > MAX_OPAQUE {
        return Err(IdError::new(kind, text, "it is longer than 128 bytes"));
    }
    if text == "." || text == ".." {
        return Err(IdError::new(kind, text, "it is a path"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/' || c == '\\') {
        return Err(IdError::new(kind, text, "it has a slash, white space or a control character"));
    }
    Ok(())
}

/// As an opaque id, without the one other character that breaks JSON which is put together by hand.
fn pasted(kind: &'static str, text: &str) -> Result<(), IdError> {
    opaque(kind, text)?;
    if text.contains('"') {
        return Err(IdError::new(kind, text, "it has a quotation mark"));
    }
    Ok(())
}

/// OCI Distribution Specification v1.1, "Pulling manifests": the grammar of `<reference>` as a tag.
fn tag(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > 128 {
        return Err(IdError::new(kind, text, "a tag has 1 to 128 bytes"));
    }
    // `+` is not in the OCI grammar; the vendor's tags have it (`v3+ssh`), so we take it in both APIs.
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b':');
    if !text.bytes().all(ok) || text.starts_with(['.', '-']) {
        return Err(IdError::new(
            kind,
            text,
            "use letters, digits, `.`, `_`, `-`, `+`, `:`; not `.` or `-` first",
        ));
    }
    Ok(())
}

/// OCI Distribution Specification v1.1: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*`, at most 255 bytes.
/// Upper case is taken too, because the vendor's template names have it.
fn repository(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > 255 {
        return Err(IdError::new(kind, text, "a repository name has 1 to 255 bytes"));
    }
    for part in text.split('/') {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !edge(part.bytes().next()) || !edge(part.bytes().last()) {
            return Err(IdError::new(kind, text, "each part starts and ends with a letter or digit"));
        }
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(IdError::new(
                kind,
                text,
                "use letters, digits, `.`, `_`, `-`, and `/` between parts",
            ));
        }
        if part.contains("..") {
            return Err(IdError::new(kind, text, "two dots in a row"));
        }
    }
    Ok(())
}

/// Names in our own config: they become metric labels, log fields and URL parts.
fn label(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > 63 {
        return Err(IdError::new(kind, text, "a name has 1 to 63 bytes"));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(IdError::new(kind, text, "use letters, digits, `.`, `_`, `-`"));
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $check:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes the text if it is a valid one, else says what is wrong with it.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                $check($kind, &text)?;
                Ok(Self(text))
            }

            /// The text as given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    )*};
}

names! {
    /// One VM, from the start request to its end.
    InstanceId, "instance id", opaque;
    /// One VM host. Any string: operators choose it with `--node-id`.
    NodeId, "node id", opaque;
    /// A group of nodes.
    GroupId, "group id", opaque;
    /// A template: the stable id beside its repository name.
    TemplateId, "template id", opaque;
    /// One start request under `requests/`: a hash when the client named an idempotency key.
    StartId, "start id", opaque;
    /// Something that a node is to do beside starts and stops; the same id is the same command, per node.
    CommandId, "command id", opaque;
    /// A template that is brought to many nodes.
    DistributionId, "request id", opaque;
    /// An API key: operators choose it, and clients paste it into JSON by hand.
    ApiKeyId, "API key id", pasted;
    /// A VM that is saved as a version of a template.
    ImageId, "request id", opaque;
    /// One HTTP request, for logs and error bodies.
    RequestId, "request id", opaque;
    /// A version of a template.
    Tag, "tag", tag;
    /// A repository: a template's name in the OCI API.
    RepositoryName, "repository name", repository;
    /// A zone of the operator's: what fails together.
    ZoneName, "zone name", label;
    /// A service of the proxy's config.
    ServiceName, "service name", label;
    /// An upstream of a service.
    UpstreamName, "upstream name", label;
    /// A registry in the replication set.
    RegistryName, "registry name", label;
}

macro_rules! random {
    ($($name:ident)*) => {$(
        impl $name {
            /// A new random one (UUID v4), from the thread's generator: one system call per id would be felt where
            /// every request gets one.
            pub fn random() -> Self {
                Self(uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string())
            }

            /// Whether it looks like one that was made here, and not like one that somebody chose.
            pub fn is_random(&self) -> bool {
                let version = uuid::Uuid::try_parse(&self.0).map(|uuid| uuid.get_version());
                version.is_ok_and(|version| version == Some(uuid::Version::Random))
            }
        }
    )*};
}
random! { InstanceId NodeId TemplateId RequestId StartId GroupId CommandId DistributionId ImageId }

impl RequestId {
    /// The one that these evenly spread bits make (as a UUID v4): for those who make many and draw them cheaply. It
    /// tells requests apart and keeps no secret.
    pub fn of(chance: u128) -> Self {
        Self(uuid::Builder::from_random_bytes(chance.to_ne_bytes()).into_uuid().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_made_here_is_told_from_one_that_somebody_chose() {
        assert!(GroupId::random().is_random());
        for chosen in ["lab", "5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12x", "5d2b8f10-6a77-1c1e-81d9-0b7a3c9e4f12"]
        {
            assert!(!GroupId::parse(chosen).unwrap().is_random(), "{chosen}");
        }
    }

    #[test]
    fn vendor_ids_that_are_no_rfc_uuids_are_taken() {
        for id in ["5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12", "i-0abc", "mac_07.example"] {
            assert_eq!(InstanceId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn ids_that_could_become_paths_or_break_logs_are_refused() {
        for id in ["", "..", "a/b", "a\\b", "a b", "a\nb", "\u{7f}", &"x".repeat(129)] {
            assert!(NodeId::parse(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn tags_with_a_plus_are_taken_and_leading_dots_are_not() {
        assert!(Tag::parse("v3+ssh").is_ok());
        assert!(Tag::parse("vanilla+port-forward-22:latest").is_ok());
        for bad in ["", ".hidden", "-x", "a b", "a/b", &"x".repeat(129)] {
            assert!(Tag::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn repositories_follow_the_oci_grammar() {
        for good in ["sonoma", "mac/sonoma-xcode", "a__b", "Sonoma14.2"] {
            assert!(RepositoryName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a..b", "a b", "-a", "a-", "ä"] {
            assert!(RepositoryName::parse(bad).is_err(), "{bad}");
        }
    }
}
