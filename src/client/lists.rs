//! What a registry of the vendor's lists, and the versions of one template, each in as few words as they come in:
//! whoever compares lists need not keep them.

use std::{collections::BTreeMap, time::Duration};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;

use super::{ClientError, answer, failover::builder, templates};
use crate::{
    config::{Address, BaseUrl, proxy::Secret},
    tls::{Http, Upstream},
    wire::lenient,
};

/// Longest list: 20,000 templates have about 4 MiB.
const LIST: usize = 16 * 1024 * 1024;

/// Longest answer about one template: 1,000 versions of 100 layers have about 5 MiB.
const ONE: usize = 16 * 1024 * 1024;

/// One template of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Template id.
    pub id: String,
    /// Template name.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub size: u64,
    /// As it is written, often empty.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub arch: String,
    /// Unix seconds; 0 if the registry does not say.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub last_push: i64,
}

/// One version of a template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// From 0 on.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub number: i64,
    /// Its tag.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub tag: String,
    /// Layer files.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub images: Vec<String>,
    /// Suspend states.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub state_files: Vec<String>,
    /// The current one.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub state_file: String,
    /// Free text.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub description: String,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub size: u64,
    /// Unix seconds; 0 if the registry does not say.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub last_push: i64,
}

/// One template with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Whole {
    /// Template name.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// As it is written.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub arch: String,
    /// Oldest first.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub versions: Vec<Version>,
}

/// A client of one registry.
pub struct Lists {
    http: Http,
    base: BaseUrl,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists").field("base", &self.base.to_string()).finish_non_exhaustive()
    }
}

impl Lists {
    /// Of the registry at this address; `None` where no client can be made. Each answer comes within `timeout`.
    pub fn new(
        address: &Address,
        tls: Option<&Upstream>,
        authorization: Option<&Secret>,
        timeout: Duration,
    ) -> Option<Self> {
        let authorization = match authorization {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::from_str(secret.expose()).ok()?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let base = match tls {
            None => format!("http://{address}").parse().ok()?,
            Some(tls) => BaseUrl::https(tls.name(&address.host), address.port),
        };
        let make = move || builder(timeout);
        let http = Http::new((&address.host, address.port), tls.cloned(), make).ok()?;
        Some(Self { http, base, authorization, timeout })
    }

    /// Every template, by the newer list: `GET /registry/v2/vm`.
    pub async fn newer(&self) -> Result<Vec<Listed>, ClientError> {
        let (url, status, bytes) = self.get("/registry/v2/vm", &[], LIST).await?;
        Ok(templates::read::<Option<_>>(&url, status, &bytes)?.unwrap_or_default())
    }

    /// Id and name of every template, by the older list: `GET /registry/vm`.
    pub async fn older(&self) -> Result<Vec<Listed>, ClientError> {
        let (url, status, bytes) = self.get("/registry/vm", &[], LIST).await?;
        let listed: Option<Vec<BTreeMap<String, String>>> = templates::read(&url, status, &bytes)?;
        let of = |(id, name)| Listed { id, name, size: 0, arch: String::new(), last_push: 0 };
        Ok(listed.unwrap_or_default().into_iter().flatten().map(of).collect())
    }

    /// The versions of a template; `None` if there is no such template.
    pub async fn versions(&self, id: &str, older: bool) -> Result<Option<Whole>, ClientError> {
        let path = if older { "/registry/vm" } else { "/registry/v2/vm" };
        let (url, status, bytes) = self.get(path, &[("id", id)], ONE).await?;
        match templates::read(&url, status, &bytes) {
            Ok(whole) => Ok(whole),
            Err(refused) if templates::says_not_there(&refused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
        most: usize,
    ) -> Result<(String, u16, bytes::Bytes), ClientError> {
        let url = self.base.join(path);
        let mut request = self.http.client().get(&url).query(query).timeout(self.timeout);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let response = request.send().await.map_err(|source| ClientError::transport(&url, source))?;
        let status = response.status().as_u16();
        let bytes = answer::read_bounded(&url, response, most).await?;
        Ok((url, status, bytes))
    }
}

/// Whether a registry has answered so that it does not know the newer list.
pub fn is_unknown(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => matches!(status, 404 | 405),
        // The plain text of a Go service for a path that it does not know.
        ClientError::Strange { why, .. } => why.contains("status 404") || why.contains("status 405"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_taken_as_the_vendors_services_write_them() {
        let text = r#"{"status":"OK","body":[{"id":"a","name":"n","size":null,"last_pull":5},{"id":"b"}]}"#;
        let listed: Option<Vec<Listed>> = templates::read("u", 200, text.as_bytes()).unwrap();
        assert_eq!(listed.unwrap()[0].name, "n");
        let text = r#"{"status":"OK","body":{"id":"a","name":"n","versions":[{"number":0,"tag":"t","images":null}]}}"#;
        let whole: Option<Whole> = templates::read("u", 200, text.as_bytes()).unwrap();
        assert_eq!(whole.unwrap().versions[0].tag, "t");
    }

    #[test]
    fn a_registry_that_knows_the_older_list_only_is_told_from_one_that_fails() {
        let read = |status, text: &str| templates::read::<Option<Vec<Listed>>>("u", status, text.as_bytes());
        assert!(is_unknown(&read(404, "404 page not found").unwrap_err()));
        assert!(is_unknown(&read(404, r#"{"status":"FAIL","message":"x"}"#).unwrap_err()));
        for (status, text) in [
            (401, r#"{"status":"FAIL","message":"Authentication Required"}"#),
            (500, "oops"),
            (200, "<html>"),
        ] {
            assert!(!is_unknown(&read(status, text).unwrap_err()), "{status}");
        }
    }
}
