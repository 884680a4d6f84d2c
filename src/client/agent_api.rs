//! The agent's own protocol, `/switchyard/v1/…`, over one or several controllers' addresses.
//!
//! Every call is idempotent, so one that failed at an address is sent to the next at once, whatever became of
//! it at the first. Waiting and trying again later is the caller's. What a call may take is shared out among the
//! addresses that are left: one that swallows everything must not take the time of one that would answer, and is
//! not asked first the next time.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{ClientError, Credentials, Failover, Login, answer};
use crate::{
    clock,
    config::BaseUrl,
    tls::Http,
    wire::{
        agent::{Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, Poll, Report, Tasks},
        envelope::{Envelope, Status},
    },
};

/// Longest answer that is read: a task carries a script of at most a quarter of a megabyte, a list of VMs to
/// stop some hundred bytes for each. Longer: the answer counts as not this API's.
const ANSWER: usize = 8 * 1024 * 1024;

/// What a poll may take beyond the wait it asked for: the way there and back, and a held connection.
const POLL_SLACK: Duration = Duration::from_secs(5);

/// Which limits a client keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Opening a connection.
    pub dial: Duration,
    /// One request at one address.
    pub request: Duration,
}

/// A client of the controllers.
#[derive(Debug)]
pub struct AgentApi {
    http: Arc<Http>,
    controllers: Failover,
    request: Duration,
    login: Login,
}

/// What `GET /api/v1/status` says, as far as an agent cares.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ControllerStatus {
    /// `Running`.
    pub status: String,
    /// The registries' address; empty when there is none.
    #[serde(default)]
    pub registry_address: String,
}

impl AgentApi {
    /// Over these controllers.
    pub fn new(
        controllers: Vec<BaseUrl>,
        limits: Limits,
        credentials: &Credentials,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: credentials.http(limits.dial)?,
            controllers: Failover::new(controllers),
            request: limits.request,
            login: credentials.login.clone(),
        })
    }

    /// Makes or renews the node's record.
    pub async fn join(&self, join: &Join) -> Result<Joined, ClientError> {
        self.post("/switchyard/v1/join", join).await
    }

    /// Tells the whole truth about the node. Takes no longer than `within`, all addresses together.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat, within: Duration) -> Result<Heard, ClientError> {
        self.post_within("/switchyard/v1/heartbeat", heartbeat, within).await
    }

    /// Waits for a task, at most as long as the poll says and a little.
    pub async fn poll(&self, poll: &Poll) -> Result<Tasks, ClientError> {
        let timeout = Duration::from_secs(u64::from(poll.wait)) + POLL_SLACK;
        self.each(|http, base, _| {
            let url = base.join("/switchyard/v1/tasks");
            let request = http.get(&url).query(poll).timeout(timeout);
            (url, request)
        })
        .await
    }

    /// Takes an offered start. Takes no longer than `within`, all addresses together.
    pub async fn claim(&self, claim: &Claim, within: Duration) -> Result<Granted, ClientError> {
        self.post_within("/switchyard/v1/claim", claim, within).await
    }

    /// Asks to start the VM now.
    pub async fn starting(&self, claim: &Claim) -> Result<Granted, ClientError> {
        self.post("/switchyard/v1/starting", claim).await
    }

    /// Tells one VM's change.
    pub async fn report(&self, report: &Report) -> Result<Heard, ClientError> {
        self.post("/switchyard/v1/report", report).await
    }

    /// Hands a claimed start back to the queue.
    pub async fn give_back(&self, back: &GiveBack) -> Result<Granted, ClientError> {
        self.post("/switchyard/v1/giveback", back).await
    }

    /// The node goes for good.
    pub async fn leave(&self, leave: &Leave) -> Result<Granted, ClientError> {
        self.post("/switchyard/v1/leave", leave).await
    }

    /// The public status of one controller: the connectivity test of a join.
    pub async fn status_of(&self, controller: &BaseUrl) -> Result<ControllerStatus, ClientError> {
        let url = controller.join("/api/v1/status");
        self.once(&url, self.http.client().get(&url).timeout(self.request)).await
    }

    async fn post<A: Serialize, T: DeserializeOwned>(&self, path: &str, body: &A) -> Result<T, ClientError> {
        self.each(|http, base, _| {
            let url = base.join(path);
            let request = http.post(&url).json(body).timeout(self.request);
            (url, request)
        })
        .await
    }

    async fn post_within<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &A,
        within: Duration,
    ) -> Result<T, ClientError> {
        let ends = clock::now() + within.min(self.request);
        self.each(|http, base, left| {
            let url = base.join(path);
            let rest = ends.saturating_duration_since(clock::now());
            let request = http.post(&url).json(body).timeout(rest / left);
            (url, request)
        })
        .await
    }

    /// Asks one address after the other until one answers or refuses for good. `make` is told how many addresses
    /// are left, this one included.
    async fn each<T: DeserializeOwned>(
        &self,
        make: impl Fn(&reqwest::Client, &BaseUrl, u32) -> (String, reqwest::RequestBuilder),
    ) -> Result<T, ClientError> {
        let mut last = None;
        let mut left = self.controllers.count();
        for (place, base) in self.controllers.in_order() {
            let (url, request) = make(&self.http.client(), base, left.max(1));
            left = left.saturating_sub(1);
            match self.once(&url, request).await {
                Ok(answer) => {
                    self.controllers.prefer(place);
                    return Ok(answer);
                }
                // Strange: something else listens there, or stands in between; another address may be right.
                Err(error) if error.may_pass() || matches!(error, ClientError::Strange { .. }) => {
                    self.controllers.avoid(place);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Strange {
            url: String::new(),
            why: "no controller address is configured".into(),
        }))
    }

    async fn once<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.login.send(url, request).await?;
        let status = response.status().as_u16();
        let bytes = answer::read_bounded(url, response, ANSWER).await?;
        read(url, status, &bytes)
    }
}

/// Takes the body out of an answer: bare, or in the envelope that the rest of the API uses.
fn read<T: DeserializeOwned>(url: &str, status: u16, bytes: &[u8]) -> Result<T, ClientError> {
    let strange = |why: String| ClientError::Strange { url: url.to_owned(), why };
    let refused = |message: String| ClientError::Refused { url: url.to_owned(), status, message };
    let body = match serde_json::from_slice::<Envelope<Box<RawValue>>>(bytes) {
        Ok(envelope) if status != 200 || envelope.status == Status::Fail => {
            return Err(refused(envelope.message));
        }
        Ok(Envelope { body: Some(body), .. }) => body,
        Ok(_) => return Err(strange("its envelope is empty".into())),
        // Only this API's own words are a refusal: a page that some other server has for a path it does not know
        // says nothing about a node.
        Err(_) if (400..500).contains(&status) && !matches!(status, 408 | 413 | 429) => {
            return Err(strange(format!("{status}: {}", answer::excerpt(bytes))));
        }
        Err(_) if status != 200 => return Err(refused(answer::excerpt(bytes))),
        Err(_) => serde_json::from_slice(bytes)
            .map_err(|error| strange(format!("{error}: {}", answer::excerpt(bytes))))?,
    };
    serde_json::from_str(body.get()).map_err(|error| strange(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(status: u16, body: &str) -> Result<Granted, ClientError> {
        read("http://c/claim", status, body.as_bytes())
    }

    #[test]
    fn answers_are_read_bare_and_in_the_envelope() {
        let yes = Granted { granted: true, why: String::new() };
        assert_eq!(granted(200, r#"{"granted":true}"#).unwrap(), yes);
        assert_eq!(granted(200, r#"{"status":"OK","message":"","body":{"granted":true}}"#).unwrap(), yes);
    }

    #[test]
    fn refusals_keep_their_words_and_say_whether_to_ask_again() {
        let down = granted(503, r#"{"status":"FAIL","message":"no store"}"#).unwrap_err();
        assert!(down.may_pass() && down.to_string().contains("no store"), "{down}");
        let page = granted(502, "<html>bad gateway</html>").unwrap_err();
        assert!(page.may_pass() && page.status() == Some(502), "{page}");
        let bad = granted(400, r#"{"status":"FAIL","message":"no node id"}"#).unwrap_err();
        assert!(!bad.may_pass(), "{bad}");
        let fail = granted(200, r#"{"status":"FAIL","message":"Not found"}"#).unwrap_err();
        assert!(matches!(fail, ClientError::Refused { status: 200, .. }), "{fail}");
    }

    #[test]
    fn what_is_not_this_api_is_called_strange() {
        let page = granted(404, "<html>nginx</html>").unwrap_err();
        assert!(matches!(&page, ClientError::Strange { why, .. } if why.contains("404")), "{page}");
        for body in ["", "hello", "[]", r#"{"status":"OK"}"#, r#"{"granted":"perhaps"}"#] {
            assert!(matches!(granted(200, body), Err(ClientError::Strange { .. })), "{body}");
        }
    }
}
