//! The controllers' API, as an operator's program uses it: `/api/v1/…` (`reference/controller-api.md`).
//!
//! What may be done twice is asked again after a lost answer. A start is asked again under one `Idempotency-Key`, and
//! after a lost answer only of a controller of ours: the vendor's would start a second VM.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;

use super::{ClientError, Credentials, Login, answer, templates};
use crate::{
    clock,
    config::BaseUrl,
    tls::Http,
    wire::{
        cloud::{NodeWaits, Why},
        command::{Order, ShownCommand},
        distribution::{Distribution, RemovalsSent, Requested},
        group::{GroupAsk, NodeGroups},
        headers::IDEMPOTENCY_KEY,
        image::Image,
        node::{DeleteNode, Node, NodeConfig, NodeGroup},
        vm::{ListedVm, StartVm, TerminateVm, UpdateVm, Vm},
    },
};

/// Longest answer that is read: 100,000 instances have about 90 MiB.
const ANSWER: usize = 256 * 1024 * 1024;

/// How long opening a connection may take: a front is near, or it is not there.
const CONNECT: Duration = Duration::from_secs(2);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A body of which nothing is wanted.
type Nothing = Option<Box<RawValue>>;

/// A client of one controller, or of a front of some.
#[derive(Debug, Clone)]
pub struct Controllers {
    http: Arc<Http>,
    base: BaseUrl,
    timeout: Duration,
    patience: Duration,
    login: Login,
    waits: Option<Waits>,
}

/// Whom to tell that a call is made again, and for how long. Told once.
#[derive(Debug, Clone)]
struct Waits {
    tell: fn(&ClientError, Duration),
    told: Arc<AtomicBool>,
}

/// What is asked of a saving.
#[derive(Debug, Clone, Serialize)]
pub struct SaveAsk<'a> {
    /// The instance.
    pub id: &'a str,
    /// The new version's tag.
    pub tag: &'a str,
    /// The template that gets it.
    pub target_vm_id: Option<&'a str>,
    /// Or a new one of this name.
    pub new_template_name: Option<&'a str>,
    /// Shown with it.
    pub description: Option<&'a str>,
    /// Suspend rather than stop.
    pub suspend: bool,
    /// Base64; runs in the VM before.
    pub script: Option<String>,
    /// Nothing is done if that fails.
    pub cancel_on_script_failure: bool,
    /// Take the newest version back before.
    pub revert_before_push: bool,
    /// Rather this version and every later one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revert_tag: Option<&'a str>,
}

/// A call that can be made again.
pub(super) struct Call<'a> {
    pub(super) method: reqwest::Method,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Value>,
    pub(super) key: Option<&'a str>,
}

/// Which template to bring to which nodes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DistributeAsk<'a> {
    /// By its id.
    #[serde(rename = "template_id")]
    pub template: &'a str,
    /// The latest version without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<&'a str>,
    /// These, by id; all nodes if there are none and no group is named.
    #[serde(rename = "node_ids", skip_serializing_if = "<[_]>::is_empty")]
    pub nodes: &'a [String],
    /// Those of this group.
    #[serde(rename = "group_id", skip_serializing_if = "Option::is_none")]
    pub group: Option<&'a str>,
    /// The group of callers that it is for, where resources are managed.
    #[serde(rename = "group", skip_serializing_if = "Option::is_none")]
    pub permission_group: Option<&'a str>,
}

impl Controllers {
    /// Of this address; each try ends within `timeout`, and no new one begins after `patience`.
    pub fn new(
        base: BaseUrl,
        credentials: &Credentials,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Self, reqwest::Error> {
        let http = credentials.http(CONNECT.min(timeout))?;
        Ok(Self { http, base, timeout, patience, login: credentials.login.clone(), waits: None })
    }

    /// Tells the first failure after which a call is made again, and for how long that goes on.
    pub fn telling(self, tell: fn(&ClientError, Duration)) -> Self {
        Self { waits: Some(Waits { tell, told: Arc::default() }), ..self }
    }

    /// Waits for the next try; says no when that would be too late.
    async fn pause(&self, until: Instant, error: &ClientError) -> bool {
        if clock::now() + PAUSE >= until {
            return false;
        }
        if let Some(waits) = self.waits.as_ref().filter(|waits| !waits.told.swap(true, Ordering::Relaxed)) {
            (waits.tell)(error, self.patience);
        }
        tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        true
    }

    /// The address it asks.
    pub fn address(&self) -> &BaseUrl {
        &self.base
    }

    /// Starts instances under this key, which makes no second ones however often it is used; their ids.
    ///
    /// After an error that says [`ClientError::may_pass`] it may have been done.
    pub async fn start(&self, ask: &StartVm, key: &str) -> Result<Vec<String>, ClientError> {
        // What is not given is left out: the vendor's controllers do not know every key as `null`.
        let mut body = json(ask);
        if let Value::Object(keys) = &mut body {
            keys.retain(|_, value| !value.is_null());
        }
        let call = Call { key: Some(key), ..post("/api/v1/vm", Some(body)) };
        let until = clock::now() + self.patience;
        let mut ours = None;
        loop {
            let error = match self.once(&call).await {
                Ok(ids) => return Ok(ids),
                Err(error) => error,
            };
            let sent = !error.is_unsent();
            if !again(&error) || !self.pause(until, &error).await {
                return Err(error);
            }
            if sent && ours.is_none() {
                ours = self.is_ours().await;
            }
            if sent && ours != Some(true) {
                return Err(error);
            }
        }
    }

    /// Whether it is a controller of ours that answers; nothing if none does.
    async fn is_ours(&self) -> Option<bool> {
        let status: Map<String, Value> = self.once(&get("/api/v1/status", &[])).await.ok()?;
        Some(
            status
                .get("version")
                .and_then(Value::as_str)
                .is_some_and(|version| version.contains("switchyard")),
        )
    }

    /// Every instance, in one answer; [`Controllers::instances_like`] reads pages where there are some.
    pub async fn instances(&self) -> Result<Vec<ListedVm>, ClientError> {
        Ok(self.again::<Option<_>>(&get("/api/v1/vm", &[])).await?.unwrap_or_default())
    }

    /// One instance; nothing when there is none.
    pub async fn instance(&self, id: &str) -> Result<Option<Vm>, ClientError> {
        found(self.again(&get("/api/v1/vm", &[("id", id)])).await)
    }

    /// Why an instance is where it is; nothing when there is none. A controller of the vendor's gives an answer that is
    /// [`ClientError::Strange`].
    pub async fn why(&self, id: &str) -> Result<Option<Why>, ClientError> {
        found(self.bare_once(&get(&format!("/switchyard/v1/instances/{}/why", segment(id)), &[])).await)
    }

    /// What a node waits for; nothing when there is none of this id. A controller of the vendor's gives an answer that is
    /// [`ClientError::Strange`].
    pub async fn node_why(&self, id: &str) -> Result<Option<NodeWaits>, ClientError> {
        found(self.bare_once(&get(&format!("/switchyard/v1/nodes/{}/why", segment(id)), &[])).await)
    }

    /// Changes name, external id or metadata.
    pub async fn update(&self, id: &str, ask: &UpdateVm) -> Result<(), ClientError> {
        let call = Call {
            method: reqwest::Method::PUT,
            query: &[("id", id)],
            ..post("/api/v1/vm", Some(json(ask)))
        };
        self.again::<Nothing>(&call).await.map(drop)
    }

    /// Has an instance deleted.
    pub async fn terminate(&self, id: &str) -> Result<(), ClientError> {
        let ask = TerminateVm { id: Some(id.to_owned()) };
        self.gone(&delete("/api/v1/vm", json(&ask))).await
    }

    /// Every node, in one answer.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        Ok(self.again::<Option<_>>(&get("/api/v1/node", &[])).await?.unwrap_or_default())
    }

    /// Has an instance's VM stopped and started again. Asked once, if the first may have been heard: a second one could find
    /// the first done.
    pub async fn restart(&self, id: &str, usb_device: Option<&str>) -> Result<(), ClientError> {
        let mut body = serde_json::json!({ "instance_id": id });
        if let Some(device) = usb_device {
            body["usb_device"] = device.into();
        }
        self.heard::<Nothing>(&post("/api/v1/rpc/vm/restart", Some(body))).await.map(drop)
    }

    /// The last restart of an instance that its node was told of, if any. The vendor's controllers do not say.
    pub async fn last_restart(
        &self,
        node: &str,
        instance: &str,
    ) -> Result<Option<ShownCommand>, ClientError> {
        let query = [("node", node)];
        let call = get("/switchyard/v1/nodes/commands", &query);
        let all: Vec<ShownCommand> = match self.again::<Option<_>>(&call).await {
            Ok(all) => all.unwrap_or_default(),
            Err(error) if error.may_pass() => return Err(error),
            Err(_) => return Ok(None),
        };
        let of = |order: &Order| matches!(order, Order::Restart(vm) if vm.instance.to_string() == instance);
        Ok(all.into_iter().filter(|one| of(&one.order)).max_by_key(|one| one.created))
    }

    /// Has an instance saved as a version of a template; the id of the request. Asked once, like a restart.
    pub async fn save(&self, ask: &SaveAsk<'_>) -> Result<String, ClientError> {
        let mut body = json(ask);
        if let Value::Object(keys) = &mut body {
            keys.retain(|_, value| !value.is_null());
        }
        let requested: Requested = self.heard(&post("/api/v1/image", Some(body))).await?;
        Ok(requested.request_id)
    }

    /// How a saving stands; nothing when there is none.
    pub async fn image(&self, id: &str) -> Result<Option<Image>, ClientError> {
        found(self.again(&get("/api/v1/image", &[("id", id)])).await)
    }

    /// Has nodes bring a template to their disks; what to ask about it by. Asked once, if the first may have been heard.
    pub async fn distribute(&self, ask: &DistributeAsk<'_>) -> Result<String, ClientError> {
        let call = post("/api/v1/registry/vm/distribute", Some(json(ask)));
        Ok(self.heard::<Requested>(&call).await?.request_id)
    }

    /// How far it is.
    pub async fn distribution(&self, id: &str) -> Result<Distribution, ClientError> {
        self.again(&get("/api/v1/registry/vm/distribute", &[("id", id)])).await
    }

    /// Has nodes delete a template from their disks: these, or all if there are none.
    pub async fn remove_from_nodes(
        &self,
        template: &str,
        nodes: &[String],
    ) -> Result<RemovalsSent, ClientError> {
        // Not given is all of them; an empty list is refused.
        let body = match nodes {
            [] => serde_json::json!({}),
            nodes => serde_json::json!({ "node_ids": nodes }),
        };
        let call = delete("/api/v1/registry/vm/remove", body);
        self.again(&Call { query: &[("id", template)], ..call }).await
    }

    /// Has every agent install its newest program.
    pub async fn update_agents(&self) -> Result<(), ClientError> {
        let call = Call { method: reqwest::Method::PUT, ..get("/api/v1/node/update", &[]) };
        self.again::<Nothing>(&call).await.map(drop)
    }

    /// Changes a node's settings.
    pub async fn configure(&self, ask: &NodeConfig) -> Result<(), ClientError> {
        self.again::<Nothing>(&post("/api/v1/node/config", Some(json(ask)))).await.map(drop)
    }

    /// Forgets a node.
    pub async fn forget(&self, id: &str) -> Result<(), ClientError> {
        let ask = DeleteNode { node_id: Some(id.to_owned()) };
        self.gone(&delete("/api/v1/node", json(&ask))).await
    }

    /// Every group of nodes.
    pub async fn groups(&self) -> Result<Vec<NodeGroup>, ClientError> {
        Ok(self.again::<Option<_>>(&get("/api/v1/group", &[])).await?.unwrap_or_default())
    }

    /// Makes a group. It is asked once: a second one of the name would be refused, as if the first had not been made.
    pub async fn make_group(&self, ask: &GroupAsk) -> Result<NodeGroup, ClientError> {
        self.once(&post("/api/v1/group", Some(json(ask)))).await
    }

    /// Changes a group.
    pub async fn change_group(&self, id: &str, ask: &GroupAsk) -> Result<(), ClientError> {
        let call = Call {
            method: reqwest::Method::PUT,
            query: &[("id", id)],
            ..post("/api/v1/group", Some(json(ask)))
        };
        self.again::<Nothing>(&call).await.map(drop)
    }

    /// Deletes a group.
    pub async fn delete_group(&self, id: &str) -> Result<(), ClientError> {
        self.gone(&Call { method: reqwest::Method::DELETE, ..get("/api/v1/group", &[("id", id)]) }).await
    }

    /// Puts nodes into groups, or takes them out.
    pub async fn regroup(&self, ask: &NodeGroups, into: bool) -> Result<(), ClientError> {
        let call = post("/api/v1/node/group", Some(json(ask)));
        let method = if into { reqwest::Method::POST } else { reqwest::Method::DELETE };
        self.again::<Nothing>(&Call { method, ..call }).await.map(drop)
    }

    /// Id and name of every template, as the controllers list them.
    pub async fn templates(&self) -> Result<Vec<BTreeMap<String, Value>>, ClientError> {
        let call = get("/api/v1/registry/vm", &[("apiVer", "v1")]);
        Ok(self.again::<Option<_>>(&call).await?.unwrap_or_default())
    }

    /// Asks until it was heard, or the patience is over.
    async fn heard<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let until = clock::now() + self.patience;
        loop {
            match self.once(call).await {
                Err(error)
                    if (error.is_unsent() || error.status().is_some())
                        && again(&error)
                        && self.pause(until, &error).await => {}
                answered => return answered,
            }
        }
    }

    /// Asks until it is answered for good, or the patience is over.
    async fn again<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let until = clock::now() + self.patience;
        loop {
            match self.once(call).await {
                Err(error) if again(&error) && self.pause(until, &error).await => {}
                answered => return answered,
            }
        }
    }

    /// The same for a deletion: what is not there after a lost answer was deleted by it.
    async fn gone(&self, call: &Call<'_>) -> Result<(), ClientError> {
        let until = clock::now() + self.patience;
        let mut lost = false;
        loop {
            match self.once::<Nothing>(call).await {
                Err(error) if again(&error) => {
                    lost |= !error.is_unsent();
                    if !self.pause(until, &error).await {
                        return Err(error);
                    }
                }
                Err(error) if lost && templates::says_not_there(&error) => return Ok(()),
                answered => return answered.map(drop),
            }
        }
    }

    /// Asks our own API, whose answers have no envelope, until it is answered for good, or the patience is over.
    pub(super) async fn bare<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.bare_again(&get(path, query)).await
    }

    /// The same with any call that may be made twice.
    pub(super) async fn bare_again<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let until = clock::now() + self.patience;
        loop {
            match self.bare_once(call).await {
                Err(error) if again(&error) && self.pause(until, &error).await => {}
                answered => return answered,
            }
        }
    }

    async fn bare_once<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let (url, status, bytes) = self.send(call).await?;
        if status != 200 {
            return templates::read(&url, status, &bytes);
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Strange { url: url.clone(), why: error.to_string() })
    }

    async fn once<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let (url, status, bytes) = self.send(call).await?;
        templates::read(&url, status, &bytes)
    }

    /// The address that was asked, the status and the body.
    async fn send(&self, call: &Call<'_>) -> Result<(String, u16, Bytes), ClientError> {
        let url = self.base.join(call.path);
        let client = self.http.client();
        let mut asked = client.request(call.method.clone(), &url).query(call.query).timeout(self.timeout);
        if let Some(body) = &call.body {
            asked = asked.json(body);
        }
        if let Some(key) = call.key {
            asked = asked.header(IDEMPOTENCY_KEY, key);
        }
        let response = self.login.send(&url, asked).await?;
        let status = response.status().as_u16();
        let bytes = answer::read_bounded(&url, response, ANSWER).await?;
        Ok((url, status, bytes))
    }
}

/// Whether to make a call again now. Who sits before it need not wait to hear of a certificate that is not good.
fn again(error: &ClientError) -> bool {
    error.may_pass() && !matches!(error, ClientError::Untrusted { .. })
}

pub(super) fn get<'a>(path: &'a str, query: &'a [(&'a str, &'a str)]) -> Call<'a> {
    Call { method: reqwest::Method::GET, path, query, body: None, key: None }
}

fn post(path: &str, body: Option<Value>) -> Call<'_> {
    Call { method: reqwest::Method::POST, path, query: &[], body, key: None }
}

pub(super) fn delete(path: &str, body: Value) -> Call<'_> {
    Call { method: reqwest::Method::DELETE, ..post(path, Some(body)) }
}

/// These bodies are made of texts and numbers, and always have a form in JSON.
fn json(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    let piece = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(piece).collect()
}

/// What is not there is no failure.
fn found<T>(answered: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answered {
        Ok(there) => Ok(Some(there)),
        Err(refused) if templates::says_not_there(&refused) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_one_whatever_is_in_it() {
        assert_eq!(segment("i-9_a~"), "i-9_a~");
        assert_eq!(segment("../a b?ä"), "%2E%2E%2Fa%20b%3F%C3%A4");
    }
}
