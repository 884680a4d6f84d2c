//! The proxy's admin API.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{ClientError, answer, http_client};
use crate::{
    config::BaseUrl,
    wire::{
        registries::Registries,
        upstreams::{Cohort, CohortOrder, Upstreams},
    },
};

/// Longest answer that is taken.
const ANSWER: usize = 16 * 1024 * 1024;

/// For the connect and for the answer: who asks sits before a screen.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of one proxy.
#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: BaseUrl,
}

impl Admin {
    /// Of this address.
    pub fn new(base: BaseUrl) -> Result<Self, reqwest::Error> {
        Ok(Self { http: http_client(PATIENCE)?, base })
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

    /// Says which version the agents of a service are served from; answers with how it stands then.
    pub async fn order_cohort(&self, service: &str, order: &CohortOrder) -> Result<Cohort, ClientError> {
        let url = self.base.join(&format!("/admin/v1/services/{service}/cohort"));
        self.asked(&url, self.http.post(&url).json(order)).await
    }

    async fn asked<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let url = url.to_owned();
        let asked = async {
            let response = request.send().await;
            let response = response.map_err(|source| ClientError::transport(&url, source))?;
            let status = response.status();
            let whole = answer::read_bounded(&url, response, ANSWER).await?;
            if !status.is_success() {
                let message = answer::excerpt(&whole);
                return Err(ClientError::Refused { url: url.clone(), status: status.as_u16(), message });
            }
            serde_json::from_slice(&whole)
                .map_err(|error| ClientError::Strange { url: url.clone(), why: error.to_string() })
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Silent { url: url.clone(), within: PATIENCE }),
        }
    }
}
