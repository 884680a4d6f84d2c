//! One receiver of events, of anybody's making.

use std::time::Duration;

use super::{ClientError, answer, failover::builder};
use crate::{
    config::events::WebhookUrl,
    tls::{Http, Upstream},
    wire::events::Placed,
};

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How much of an answer is read: nothing of it is wanted.
const ANSWER: usize = 64 * 1024;

/// The receiver.
pub struct Webhook {
    http: Http,
    url: WebhookUrl,
    timeout: Duration,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Webhook {
    /// At this address, by these files if it is inside TLS; it answers within `timeout`, or has not taken it.
    pub fn new(url: WebhookUrl, tls: Option<Upstream>, timeout: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { http: Http::any(tls, || builder(CONNECT))?, url, timeout })
    }

    /// Where it is, as it may be shown.
    pub fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Posts one event; any answer of 200 to 299 has taken it.
    pub async fn post(&self, event: &Placed) -> Result<(), ClientError> {
        let url = self.url.to_string();
        let asked = self.http.client().post(self.url.expose()).json(event).timeout(self.timeout).send().await;
        // The error of a request names its address, which may be a secret.
        let response = asked.map_err(|source| ClientError::transport(&url, source.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let bytes = answer::read_bounded(&url, response, ANSWER).await.unwrap_or_default();
        Err(ClientError::Refused { url, status: status.as_u16(), message: answer::excerpt(&bytes) })
    }
}
