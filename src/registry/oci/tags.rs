//! Lists: tags of a repository, repositories, and the manifests about a manifest.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

use super::{Ask, Code, OciError, json};
use crate::{
    model::{Digest, RepositoryName, Tag},
    registry::{position::Shows, query::encode, repositories::RepositoryError},
    wire::oci,
};

/// Names on one page, at most.
const PAGE: usize = 10_000;

/// `GET /v2/<name>/tags/list`.
pub(super) async fn list(ask: &Ask<'_>, name: &RepositoryName) -> Result<Response, OciError> {
    let catalogue = ask.app.repositories.catalogue(name).await?;
    let page = Page::of(ask, catalogue.tags.keys().map(Tag::as_str))?;
    let body = oci::TagList { name: name.to_string(), tags: page.names.clone() };
    let mut response = page.linked(json(StatusCode::OK, &body), &format!("/v2/{name}/tags/list"));
    response.extensions_mut().insert(Shows(catalogue.changed));
    Ok(response)
}

/// `GET /v2/_catalog`.
pub(super) async fn repositories(ask: &Ask<'_>) -> Result<Response, OciError> {
    let names = ask.app.repositories.names().await?;
    let page = Page::of(ask, names.iter().map(RepositoryName::as_str))?;
    let body = oci::RepositoryList { repositories: page.names.clone() };
    Ok(page.linked(json(StatusCode::OK, &body), "/v2/_catalog"))
}

/// A page of referrers ends behind the one that reaches this: annotations are of any length.
const REFERRERS_PAGE: usize = 4 * 1024 * 1024;

/// `GET /v2/<name>/referrers/<digest>`: an empty list for what is not known.
pub(super) async fn referrers(
    ask: &Ask<'_>,
    name: &RepositoryName,
    subject: &Digest,
) -> Result<Response, OciError> {
    let repositories = &ask.app.repositories;
    let mut manifests = Vec::new();
    let wanted = ask.query.get("artifactType");
    let catalogue = match repositories.catalogue(name).await {
        Ok(catalogue) => Some(catalogue),
        Err(RepositoryError::NoRepository { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let last = ask.query.get("last").map(Digest::parse).transpose()?;
    let (mut bytes, mut next) = (0, None);
    for (digest, stored) in catalogue.iter().flat_map(|catalogue| catalogue.referrers(subject)) {
        if last.is_some_and(|last| *digest <= last) {
            continue;
        }
        if bytes >= REFERRERS_PAGE {
            next = manifests.last().map(|last: &oci::Descriptor| last.digest.clone());
            break;
        }
        let parsed = repositories.parsed(digest, stored.size).await?;
        let artifact_type = parsed.artifact_type.clone().or_else(|| parsed.config_type.clone());
        if wanted.is_some_and(|wanted| artifact_type.as_deref() != Some(wanted)) {
            continue;
        }
        let notes = parsed.annotations.iter().map(|(key, value)| key.len() + value.len());
        bytes += 512 + notes.sum::<usize>();
        manifests.push(oci::Descriptor {
            media_type: stored.media_type.clone(),
            digest: digest.to_string(),
            size: stored.size,
            urls: Vec::new(),
            artifact_type,
            annotations: parsed.annotations.clone(),
        });
    }
    let body = oci::Referrers { schema_version: 2, media_type: oci::IMAGE_INDEX.into(), manifests };
    let mut response = json(StatusCode::OK, &body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(oci::IMAGE_INDEX));
    if let Some(last) = next {
        let filter = wanted.map(|wanted| format!("&artifactType={}", encode(wanted))).unwrap_or_default();
        let link = format!("</v2/{name}/referrers/{subject}?last={last}{filter}>; rel=\"next\"");
        if let Ok(link) = HeaderValue::from_str(&link) {
            headers.insert(header::LINK, link);
        }
    }
    if let Some(catalogue) = &catalogue {
        response.extensions_mut().insert(Shows(catalogue.changed));
    }
    let headers = response.headers_mut();
    if wanted.is_some() {
        headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

struct Page {
    names: Vec<String>,
    size: usize,
    more: bool,
}

impl Page {
    /// The names behind `last`, at most `n`; `all` is in order.
    fn of<'a>(ask: &Ask<'_>, all: impl Iterator<Item = &'a str>) -> Result<Self, OciError> {
        let size = match ask.query.get("n") {
            None => PAGE,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                // More digits than a number has: more than a page has, too.
                digits.parse().unwrap_or(PAGE).min(PAGE)
            }
            Some(_) => {
                return Err(OciError::new(Code::PaginationInvalid, "`n` is not a number of names"));
            }
        };
        let last = ask.query.get("last");
        let mut rest = all.filter(|name| last.is_none_or(|last| *name > last));
        let names: Vec<String> = rest.by_ref().take(size).map(str::to_owned).collect();
        Ok(Self { names, size, more: rest.next().is_some() })
    }

    /// With where to go on, if there is more.
    fn linked(&self, mut response: Response, path: &str) -> Response {
        if let Some(last) = self.names.last().filter(|_| self.more) {
            let link = format!("<{path}?n={}&last={}>; rel=\"next\"", self.size, encode(last));
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}
