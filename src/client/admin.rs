//! The proxy's admin API.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{ClientError, answer, http_client};
use crate::{
    config::BaseUrl,
    model::RequestId,
    wire::{
        config::Config,
        decisions::Decisions,
        explain::{Ask, Explained},
        handover::{Process, Upgraded},
        headers,
        listeners::Listeners,
        orders::{Note, Ordered, Reloaded, SetMaintenance, SetWeight},
        registries::Registries,
        upstreams::{Cohort, CohortOrder, Upstreams},
    },
};

/// Longest answer that is taken.
const ANSWER: usize = 16 * 1024 * 1024;

/// For the connect and for the answer: who asks sits before a screen.
const PATIENCE: Duration = Duration::from_secs(5);

/// For an upgrade: longer than one can take.
const UPGRADE: Duration = Duration::from_secs(50);

/// A client of one proxy.
#[derive(Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: BaseUrl,
    token: Option<String>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Admin {
    /// Of this address. With a token if it asks for one.
    pub fn new(base: BaseUrl, token: Option<String>) -> Result<Self, reqwest::Error> {
        Ok(Self { http: http_client(PATIENCE)?, base, token })
    }

    /// Which registry may answer, and why. Takes at most some seconds.
    pub async fn registries(&self) -> Result<Registries, ClientError> {
        let url = self.base.join("/admin/v1/registries");
        self.asked(&url, self.http.get(&url)).await
    }

    /// The pools as they stand. Takes at most some seconds.
    pub async fn upstreams(&self) -> Result<Upstreams, ClientError> {
        let url = self.base.join("/admin/v1/upstreams");
        self.asked(&url, self.http.get(&url)).await
    }

    /// Where a request would go if it came now, and why. Takes at most some seconds.
    pub async fn explain(&self, ask: &Ask) -> Result<Explained, ClientError> {
        let url = self.base.join("/admin/v1/explain");
        self.asked(&url, self.http.post(&url).json(ask)).await
    }

    /// What was decided about the requests of this id, if they are over and among the last. Takes at most some seconds.
    pub async fn decided(&self, request: &RequestId) -> Result<Decisions, ClientError> {
        let url = self.base.join(&format!("/admin/v1/decisions/{}", segment(request.as_str())));
        self.asked(&url, self.http.get(&url)).await
    }

    /// Says which version the agents of a service are served from; answers with how it stands then.
    pub async fn order_cohort(&self, service: &str, order: &CohortOrder) -> Result<Cohort, ClientError> {
        let url = self.base.join(&format!("/admin/v1/services/{service}/cohort"));
        self.asked(&url, self.http.post(&url).json(order)).await
    }

    /// Where clients come in. Takes at most some seconds.
    pub async fn listeners(&self) -> Result<Listeners, ClientError> {
        let url = self.base.join("/admin/v1/listeners");
        self.asked(&url, self.http.get(&url)).await
    }

    /// What it goes by. Takes at most some seconds.
    pub async fn config(&self) -> Result<Config, ClientError> {
        let url = self.base.join("/admin/v1/config?format=json");
        self.asked(&url, self.http.get(&url)).await
    }

    /// The same as a file.
    pub async fn config_file(&self) -> Result<String, ClientError> {
        let url = self.base.join("/admin/v1/config?format=toml");
        let whole = self.bytes(&url, self.http.get(&url), PATIENCE).await?;
        String::from_utf8(whole.to_vec())
            .map_err(|error| ClientError::Strange { url, why: error.to_string() })
    }

    /// This process and those it has replaced.
    pub async fn process(&self) -> Result<Process, ClientError> {
        let url = self.base.join("/admin/v1/process");
        self.asked(&url, self.http.get(&url)).await
    }

    /// An upstream takes nothing new, or takes requests again.
    pub async fn drain(
        &self,
        service: &str,
        upstream: &str,
        on: bool,
        note: &Note,
    ) -> Result<Ordered, ClientError> {
        let word = if on { "drain" } else { "undrain" };
        let url = self.base.join(&format!("/admin/v1/services/{service}/upstreams/{upstream}/{word}"));
        self.asked(&url, self.http.post(&url).json(note)).await
    }

    /// An upstream has this weight; `None`: that of the config again.
    pub async fn weigh(
        &self,
        service: &str,
        upstream: &str,
        weight: Option<u32>,
        note: Note,
    ) -> Result<Ordered, ClientError> {
        let url = self.base.join(&format!("/admin/v1/services/{service}/upstreams/{upstream}/weight"));
        let Some(weight) = weight else { return self.asked(&url, self.http.delete(&url).json(&note)).await };
        let Note { by, reason } = note;
        self.asked(&url, self.http.put(&url).json(&SetWeight { weight, by, reason })).await
    }

    /// Everything of a service is answered 503, or nothing is for that reason; `None`: as the config says.
    pub async fn maintain(
        &self,
        service: &str,
        on: Option<bool>,
        note: Note,
    ) -> Result<Ordered, ClientError> {
        let url = self.base.join(&format!("/admin/v1/services/{service}/maintenance"));
        let Some(on) = on else { return self.asked(&url, self.http.delete(&url).json(&note)).await };
        let Note { by, reason } = note;
        self.asked(&url, self.http.post(&url).json(&SetMaintenance { on, by, reason })).await
    }

    /// The config is read again; which one is in use then.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        let url = self.base.join("/admin/v1/reload");
        self.asked(&url, self.http.post(&url)).await
    }

    /// The binary on disk replaces it; who serves then. Takes up to three quarters of a minute.
    pub async fn upgrade(&self) -> Result<Upgraded, ClientError> {
        let url = self.base.join("/admin/v1/upgrade");
        let whole = self.bytes(&url, self.http.post(&url), UPGRADE).await?;
        read(&url, &whole)
    }

    async fn asked<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        read(url, &self.bytes(url, request, PATIENCE).await?)
    }

    /// What a good answer holds.
    async fn bytes(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        within: Duration,
    ) -> Result<Bytes, ClientError> {
        let url = url.to_owned();
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let asked = async {
            let response = request.send().await;
            let response = response.map_err(|source| ClientError::transport(&url, source))?;
            let status = response.status();
            if !response.headers().contains_key(headers::ADMIN) {
                let why =
                    format!("it answered {status}, and not as the admin listener of a switchyard proxy");
                return Err(ClientError::Strange { url: url.clone(), why });
            }
            let whole = answer::read_bounded(&url, response, ANSWER).await?;
            if !status.is_success() {
                let message = answer::words(&whole);
                return Err(ClientError::Refused { url: url.clone(), status: status.as_u16(), message });
            }
            Ok(whole)
        };
        match tokio::time::timeout(within, asked).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Silent { url: url.clone(), within }),
        }
    }
}

fn read<T: DeserializeOwned>(url: &str, whole: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(whole)
        .map_err(|error| ClientError::Strange { url: url.to_owned(), why: error.to_string() })
}

/// A segment of a path; what could end it is encoded.
fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let of = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment_whatever_is_in_it() {
        assert_eq!(segment("a-1_b.C~"), "a-1_b.C~");
        assert_eq!(segment("a?b#c%d/é"), "a%3Fb%23c%25d%2F%C3%A9");
    }
}
