//! Joining and leaving, as the command line asks for it, with a report of what was tried.

use std::{fmt, time::Duration};

use super::{
    AgentError,
    driver::{Driver, process::Process},
    facts::{self, Own},
    home::Home,
    templates::Cache,
};
use crate::{
    client::{AgentApi, Credentials, Limits, Login, Templates},
    config::{BaseUrl, agent},
    model::NodeId,
    supervise::Tree,
    wire::agent::{Join, Leave, NodeWish},
};

/// One connectivity test. Prints as one line that ends in `Ok` or says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `controller` or `registry`.
    pub what: &'static str,
    /// The address.
    pub address: String,
    /// Why it failed; nothing when it did not.
    pub fault: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Testing connection to {} {}... ", self.what, self.address)?;
        match &self.fault {
            None => f.write_str("Ok"),
            Some(why) => write!(f, "failed: {why}"),
        }
    }
}

/// How a join went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// What was tested. One working controller is enough; a registry that fails now may come later.
    pub checks: Vec<Check>,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
}

/// How a leave went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The node that is no more.
    pub node: NodeId,
}

/// Tests the controllers and the registry, then makes or renews the node's record.
///
/// Refused while an agent runs in the data directory.
pub async fn join(config: &agent::Agent) -> Result<Joining, AgentError> {
    let home = Home::open(&config.data)?;
    let mut identity = home.identify(config.node_id.as_ref())?;
    let credentials = credentials(config);
    let api = api(config, &credentials)?;

    let mut checks = Vec::new();
    let mut registry = String::new();
    for controller in &config.controllers {
        let fault = match api.status_of(controller).await {
            Ok(status) => {
                registry = status.registry_address;
                (status.status != "Running").then(|| format!("its status is `{}`", status.status))
            }
            Err(error) => Some(with_causes(&error)),
        };
        checks.push(Check { what: "controller", address: controller.to_string(), fault });
    }
    if checks.iter().all(|check| check.fault.is_some()) {
        return Err(AgentError::Unconnected { checks });
    }
    if !registry.is_empty() {
        let fault = registry_fault(&registry, config.request_timeout, &credentials).await;
        checks.push(Check { what: "registry", address: registry, fault });
    }

    // Nothing is started with it; it is asked what it is.
    let tree = Tree::new();
    let agent::Driver::Process(settings) = &config.driver;
    let driver = Process::open(settings.clone(), home.join("vms"), tree.handle())?;
    let cache = Cache::open(home.join("cache"), config.reserve)?;
    let own = Own { used: cache.used(), templates: cache.list(), layers: cache.layers() };
    let wish = wish(config);
    let facts = facts::facts(driver.facts(), &config.data, own);
    api.join(&Join { node_id: identity.node_id.clone(), wish: wish.clone(), facts }).await?;
    identity.joined = Some(wish);
    home.remember(&identity)?;
    Ok(Joining { checks, node: identity.node_id, name: config.name.clone() })
}

/// Takes the node out of the cloud. Its id stays here, so that it is the same node if it joins again.
///
/// Refused while an agent runs in the data directory, and by the controllers while instances run on the node.
pub async fn leave(config: &agent::Agent) -> Result<Leaving, AgentError> {
    let home = Home::open(&config.data)?;
    let not_joined = || AgentError::NotJoined { data: config.data.clone() };
    let mut identity = home.identity()?.ok_or_else(not_joined)?;
    let answer =
        api(config, &credentials(config))?.leave(&Leave { node_id: identity.node_id.clone() }).await?;
    if !answer.granted {
        return Err(AgentError::Refused(answer.why));
    }
    identity.joined = None;
    home.remember(&identity)?;
    Ok(Leaving { node: identity.node_id })
}

/// What the config asks of the controllers.
pub(super) fn wish(config: &agent::Agent) -> NodeWish {
    NodeWish {
        name: config.name.clone(),
        host: config.host.clone(),
        capacity: config.capacity,
        capacity_mode: config.capacity_mode,
        vcpu_override: 0,
        ram_override: 0,
        groups: config.groups.clone(),
        drain_mode: config.drain_mode,
        force_overrides: config.force_overrides,
    }
}

pub(super) fn api(config: &agent::Agent, credentials: &Credentials) -> Result<AgentApi, AgentError> {
    let limits = Limits { dial: config.dial_timeout, request: config.request_timeout };
    AgentApi::new(config.controllers.clone(), limits, credentials).map_err(AgentError::Http)
}

/// How it speaks to controllers and registries.
pub(super) fn credentials(config: &agent::Agent) -> Credentials {
    let login =
        config.api_key.as_ref().map_or_else(|| Login::with(config.authorization.as_ref()), Login::key);
    Credentials::new(login, config.tls.clone())
}

async fn registry_fault(address: &str, timeout: Duration, credentials: &Credentials) -> Option<String> {
    let base: BaseUrl = match address.parse() {
        Ok(base) => base,
        Err(error) => return Some(format!("`{address}` is no address: {error}")),
    };
    let asked = match Templates::new(base, credentials, timeout) {
        Ok(client) => client.status().await,
        Err(error) => return Some(with_causes(&error)),
    };
    match asked {
        Ok(status) if status.status == "Running" => None,
        Ok(status) => Some(format!("its status is `{}`", status.status)),
        Err(error) => Some(with_causes(&error)),
    }
}

/// An error with what is behind it, for a line that people read.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_line_ends_in_ok_or_in_the_reason() {
        let check = |fault: Option<&str>| {
            let fault = fault.map(str::to_owned);
            Check { what: "controller", address: "http://c:8090".into(), fault }.to_string()
        };
        assert_eq!(check(None), "Testing connection to controller http://c:8090... Ok");
        assert!(check(Some("it is down")).ends_with("... failed: it is down"));
    }
}
