//! The registries' `/registry/…` API, ours and the vendor's (`reference/registry-api.md` §2).
//!
//! The two differ in what they say of something that is not there: ours answers 404 with the envelope, the
//! vendor's codes are not documented. So an unclear refusal is settled by looking into the list.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{ClientError, Credentials, Login, answer};
use crate::{
    config::BaseUrl,
    model::TemplateId,
    tls::Http,
    wire::{
        envelope::{Envelope, Status},
        template::{Disk, RegistryStatus, RevertTemplate, Template, TemplateSummary},
    },
};

/// Longest answer that is read. A list of the 1,000 templates we design for has a quarter of a megabyte, a
/// template with 100 versions of 100 layers about half of one. Longer: the answer counts as not this API's.
const ANSWER: usize = 32 * 1024 * 1024;

/// How long opening a connection may take: a front is near, or it is not there.
const CONNECT: Duration = Duration::from_secs(2);

/// A body of which nothing is wanted.
type RawBody = Box<RawValue>;

/// A client of one registries' front, or of one registry.
#[derive(Debug, Clone)]
pub struct Templates {
    http: Arc<Http>,
    base: BaseUrl,
    timeout: Duration,
    login: Login,
}

impl Templates {
    /// Of this address; each call ends within `timeout`, whatever the server does.
    pub fn new(base: BaseUrl, credentials: &Credentials, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = credentials.http(CONNECT.min(timeout))?;
        Ok(Self { http, base, timeout, login: credentials.login.clone() })
    }

    /// The address it asks.
    pub fn address(&self) -> &BaseUrl {
        &self.base
    }

    /// `GET /registry/status`.
    pub async fn status(&self) -> Result<RegistryStatus, ClientError> {
        self.get("/registry/status", &[]).await
    }

    /// `GET /registry/disk`.
    pub async fn disk(&self) -> Result<Disk, ClientError> {
        self.get("/registry/disk", &[]).await
    }

    /// Every template with its sizes: `GET /registry/v2/vm`.
    pub async fn list(&self) -> Result<Vec<TemplateSummary>, ClientError> {
        Ok(self.get::<Option<_>>("/registry/v2/vm", &[]).await?.unwrap_or_default())
    }

    /// Id and name of every template, without the cost of summing sizes: `GET /registry/vm`.
    pub async fn names(&self) -> Result<Vec<(String, String)>, ClientError> {
        let list: Option<Vec<BTreeMap<String, String>>> = self.get("/registry/vm", &[]).await?;
        Ok(list.unwrap_or_default().into_iter().flatten().collect())
    }

    /// One template with all its versions: `GET /registry/v2/vm?id=`; nothing when there is none.
    ///
    /// Takes at most twice the timeout: the second time only when the first answer was unclear.
    pub async fn show(&self, id: &TemplateId) -> Result<Option<Template>, ClientError> {
        let refused = match self.get("/registry/v2/vm", &[("id", id.as_str())]).await {
            Ok(template) => return Ok(template),
            Err(error @ ClientError::Refused { .. }) => error,
            Err(error) => return Err(error),
        };
        if says_not_there(&refused) {
            return Ok(None);
        }
        // 401 and 403 speak of the caller, 5xx and 429 of the server: the list would say nothing else.
        if refused.may_pass() || matches!(refused.status(), Some(401 | 403)) {
            return Err(refused);
        }
        let listed = self.list().await?.iter().any(|template| template.id == id.as_str());
        if listed { Err(refused) } else { Ok(None) }
    }

    /// Removes a template with all its versions: `DELETE /registry/vm?id=`.
    ///
    /// After an error that says [`ClientError::may_pass`] it may have been done.
    pub async fn delete(&self, id: &TemplateId) -> Result<(), ClientError> {
        let asked = self.http.client().delete(self.base.join("/registry/vm")).query(&[("id", id.as_str())]);
        self.ask::<Option<RawBody>>("/registry/vm", asked).await.map(drop)
    }

    /// Removes a version and every later one: `DELETE /registry/revert`. Nothing named is the newest alone.
    ///
    /// After an error that says [`ClientError::may_pass`] it may have been done; of a revert to the newest, a second one
    /// would take the next.
    pub async fn revert(&self, ask: &RevertTemplate) -> Result<(), ClientError> {
        // In the body: in a query, services disagree about what a `+` means.
        let asked = self.http.client().delete(self.base.join("/registry/revert")).json(ask);
        self.ask::<Option<RawBody>>("/registry/revert", asked).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ClientError> {
        self.ask(path, self.http.client().get(self.base.join(path)).query(query)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        asked: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let url = self.base.join(path);
        // The timeout covers the body as well.
        let response = self.login.send(&url, asked.timeout(self.timeout)).await?;
        let status = response.status().as_u16();
        let bytes = answer::read_bounded(&url, response, ANSWER).await?;
        read(&url, status, &bytes)
    }
}

/// Takes the body out of an answer's envelope.
pub(super) fn read<T: DeserializeOwned>(url: &str, status: u16, bytes: &[u8]) -> Result<T, ClientError> {
    let strange = |why: String| ClientError::Strange { url: url.to_owned(), why };
    let refused = |message: String| ClientError::Refused { url: url.to_owned(), status, message };
    let envelope: Envelope<Box<RawValue>> = match serde_json::from_slice(bytes) {
        Ok(envelope) => envelope,
        // A front or a program in between speaks no envelope: its status is what counts.
        Err(_) if status >= 500 || matches!(status, 401 | 403 | 408 | 429) => {
            return Err(refused(answer::excerpt(bytes)));
        }
        Err(error) => return Err(strange(format!("status {status}, {error}: {}", answer::excerpt(bytes)))),
    };
    if status != 200 || envelope.status == Status::Fail {
        return Err(refused(envelope.message));
    }
    let body = envelope.body.as_deref().map_or("null", RawValue::get);
    serde_json::from_str(body).map_err(|error| strange(format!("its body: {error}")))
}

/// The words in which registries say that there is no such template.
pub(super) fn says_not_there(refused: &ClientError) -> bool {
    match refused {
        ClientError::Refused { status: 404, .. } => true,
        ClientError::Refused { status: 200 | 400, message, .. } => {
            let message = message.to_ascii_lowercase();
            ["not found", "not in the registry"].iter().any(|words| message.contains(words))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body<T: DeserializeOwned>(status: u16, text: &str) -> Result<T, String> {
        read("http://r/x", status, text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_vendor_template_with_nulls_and_an_empty_arch_is_read() {
        let text = r#"{"status":"OK","message":"","body":{"id":"c0ffee11","name":"sonoma","versions":[
            {"number":0,"tag":"base","config_file":"c.yaml","nvram":"nvram","images":["00.ank"],"state_files":null,
             "state_file":"","description":"","size":21000003584,"arch":"","extra":1}],"size":5,"arch":""}}"#;
        let template: Template = body(200, text).unwrap();
        assert_eq!((template.arch, template.versions[0].tag.as_str()), (None, "base"));
        assert!(template.versions[0].state_files.is_empty());
        let empty: Option<Vec<TemplateSummary>> =
            body(200, r#"{"status":"OK","message":"","body":null}"#).unwrap();
        assert!(empty.is_none(), "an empty list of a Go service");
    }

    #[test]
    fn a_page_in_place_of_json_is_strange_and_a_gateway_error_is_a_refusal() {
        assert!(body::<Disk>(200, "<html>\u{7}hello").unwrap_err().contains("<html> hello"));
        assert!(body::<Disk>(404, "404 page not found").unwrap_err().contains("not this API's"));
        let error = read::<Disk>("http://r/x", 502, b"<html>bad gateway").unwrap_err();
        assert!(error.status() == Some(502) && error.may_pass(), "{error}");
    }

    #[test]
    fn not_there_is_heard_in_every_dialect() {
        let refused = |status, message: &str| ClientError::Refused {
            url: String::new(),
            status,
            message: message.into(),
        };
        for (status, message) in
            [(404, ""), (200, "Not found"), (400, "VM not in the registry"), (200, "vm x: not found")]
        {
            assert!(says_not_there(&refused(status, message)), "{status} {message}");
        }
        for (status, message) in [(500, "not found"), (401, "Authentication Required"), (400, "bad id")] {
            assert!(!says_not_there(&refused(status, message)), "{status} {message}");
        }
    }
}
