//! Which resource a path names. Read from its end, because a repository's name may hold any of our words.

use crate::{
    model::{Digest, DigestError, IdError, RepositoryName, Tag},
    registry::{query::decode, repositories::Reference},
};

/// What a path under `/v2/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Repositories,
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/manifests/<tag or digest>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Digest),
}

/// Why a path names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathFault {
    /// The repository's name cannot be one.
    #[error(transparent)]
    Name(IdError),
    /// The tag cannot be one.
    #[error(transparent)]
    Tag(IdError),
    /// The digest cannot be one.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// No such resource.
    #[error("no such resource under /v2/")]
    Unknown,
}

impl Target {
    /// The repository that it is in.
    pub(super) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Repositories => None,
            Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Manifest(name, _)
            | Self::Tags(name)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    /// For `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Repositories | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
        }
    }
}

/// Reads a path.
pub(super) fn parse(path: &str) -> Result<Target, PathFault> {
    let rest = path.strip_prefix("/v2").ok_or(PathFault::Unknown)?;
    if rest.is_empty() || rest == "/" {
        return Ok(Target::Base);
    }
    let rest = rest.strip_prefix('/').ok_or(PathFault::Unknown)?;
    let parts: Vec<String> = rest.split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["_catalog"] => Ok(Target::Repositories),
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            Ok(Target::Uploads(repository(name)?))
        }
        [name @ .., "blobs", "uploads", id] => Ok(Target::Upload(repository(name)?, (*id).to_owned())),
        [name @ .., "blobs", digest] => Ok(Target::Blob(repository(name)?, Digest::parse(digest)?)),
        [name @ .., "manifests", text] => Ok(Target::Manifest(repository(name)?, reference(text)?)),
        [name @ .., "tags", "list"] => Ok(Target::Tags(repository(name)?)),
        [name @ .., "referrers", digest] => Ok(Target::Referrers(repository(name)?, Digest::parse(digest)?)),
        _ => Err(PathFault::Unknown),
    }
}

fn repository(parts: &[&str]) -> Result<RepositoryName, PathFault> {
    // A slash that came escaped would make another name than the one that a proxy routed by.
    let name = parts.iter().all(|part| !part.contains('/')).then(|| parts.join("/"));
    RepositoryName::parse(name.unwrap_or_default()).map_err(PathFault::Name)
}

/// Tags of the vendor may hold a colon, so a text is a digest only if it looks like one: an algorithm in
/// front, or more hexadecimal digits behind the colon than a tag would have.
fn reference(text: &str) -> Result<Reference, PathFault> {
    let looks = text.split_once(':').is_some_and(|(algorithm, digits)| {
        algorithm == "sha256"
            || algorithm == "sha512"
            || (digits.len() >= 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    if looks {
        return Ok(Reference::Digest(Digest::parse(text)?));
    }
    Tag::parse(text).map(Reference::Tag).map_err(PathFault::Tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    #[test]
    fn every_resource_is_found_below_names_with_slashes() {
        let digest = Digest::of(b"x");
        let check = |path: &str, wanted: Target| assert_eq!(parse(path), Ok(wanted), "{path}");
        check("/v2", Target::Base);
        check("/v2/", Target::Base);
        check("/v2/_catalog", Target::Repositories);
        check("/v2/a/b/tags/list", Target::Tags(name("a/b")));
        check("/v2/a/blobs/uploads/", Target::Uploads(name("a")));
        check("/v2/a/blobs/uploads", Target::Uploads(name("a")));
        check("/v2/a/blobs/uploads/r1.7", Target::Upload(name("a"), "r1.7".into()));
        check(&format!("/v2/a/blobs/{digest}"), Target::Blob(name("a"), digest));
        check(&format!("/v2/blobs/x/blobs/sha256%3A{}", digest.hex()), Target::Blob(name("blobs/x"), digest));
        check(&format!("/v2/a/referrers/{digest}"), Target::Referrers(name("a"), digest));
        let tag = |text: &str| Reference::Tag(Tag::parse(text).unwrap());
        check("/v2/a/manifests/v3%2Bssh", Target::Manifest(name("a"), tag("v3+ssh")));
        check("/v2/a/manifests/v3+22:latest", Target::Manifest(name("a"), tag("v3+22:latest")));
        check("/v2/tags/list/manifests/list", Target::Manifest(name("tags/list"), tag("list")));
    }

    #[test]
    fn each_fault_has_its_kind() {
        assert!(matches!(parse("/v2/../tags/list"), Err(PathFault::Name(_))));
        assert!(matches!(parse("/v2/tags/list"), Err(PathFault::Name(_))));
        assert!(matches!(parse("/v2/a%2Fb/tags/list"), Err(PathFault::Name(_))));
        assert!(matches!(parse("/v2/a/manifests/.x"), Err(PathFault::Tag(_))));
        assert!(matches!(parse("/v2/a/manifests/sha256:12"), Err(PathFault::Digest(_))));
        assert!(matches!(parse("/v2/a/blobs/latest"), Err(PathFault::Digest(_))));
        for unknown in ["/v1/", "/v2x", "/v2/a", "/v2/a/tags", "/v2/a/b/c"] {
            assert_eq!(parse(unknown), Err(PathFault::Unknown), "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_panic(
            path in "(/v2)?(/(blobs|uploads|manifests|tags|list|%2f|[ -~]{0,9})){0,6}"
        ) {
            drop(parse(&path));
        }

        #[test]
        fn a_valid_name_is_found_again(parts in prop::collection::vec("[a-zA-Z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", 1..5)) {
            let text = parts.join("/");
            prop_assert_eq!(parse(&format!("/v2/{text}/tags/list")), Ok(Target::Tags(name(&text))));
        }
    }
}
