//! What both kinds of config become, and how it is written down.

use std::time::Duration;

use super::units;

/// Keys of a table with their values, as TOML; in the order of their first setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows(Vec<(&'static str, String)>);

impl Rows {
    /// Sets a key; what it was before is gone.
    pub(super) fn set(&mut self, key: &'static str, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Its value, as TOML.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str())
    }

    /// Sets all of these.
    pub(super) fn extend(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            self.set(key, value.clone());
        }
    }

    /// Without this key.
    pub(super) fn remove(&mut self, key: &str) {
        self.0.retain(|(known, _)| *known != key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an inline table.
    fn inline(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        format!("{{ {} }}", pairs.join(", "))
    }

    fn write(&self, out: &mut String) {
        for (key, value) in &self.0 {
            out.push_str(&format!("{key} = {value}\n"));
        }
    }
}

/// Text as TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A list as TOML.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) cert: String,
    pub(super) key: String,
}

/// `tls` of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) pairs: Vec<Pair>,
    pub(super) rows: Rows,
}

/// One of `rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) does: Does,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Does {
    /// Sends to the service of this name.
    Send(String),
    /// Refuses with this status.
    Deny(u16),
}

impl Rule {
    /// Host and path.
    pub(super) fn matched(&self) -> (Option<&str>, Option<&str>) {
        (self.host.as_deref(), self.path.as_deref())
    }

    /// The service that it sends to.
    pub(super) fn service(&self) -> Option<&str> {
        match &self.does {
            Does::Send(service) => Some(service),
            Does::Deny(_) => None,
        }
    }
}

/// `[[listener]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) bind: Vec<String>,
    pub(super) rules: Vec<Rule>,
    pub(super) tls: Option<Tls>,
    pub(super) rows: Rows,
    pub(super) limits: Rows,
}

/// `[service.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) registry: bool,
    pub(super) rows: Rows,
    pub(super) tls: Option<Rows>,
    pub(super) upstreams: Vec<Rows>,
    /// `discovery`, as keys.
    pub(super) discovery: Rows,
    pub(super) health: Rows,
    pub(super) timeouts: Rows,
    pub(super) passive: Rows,
    /// Comments before it.
    pub(super) remarks: Vec<String>,
}

/// A whole config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) proxy: Rows,
    pub(super) log: Rows,
    pub(super) admin: Rows,
    pub(super) limits: Rows,
    pub(super) listeners: Vec<Listener>,
    pub(super) services: Vec<Service>,
}

impl Plan {
    /// The service of this name.
    pub(super) fn service(&mut self, name: &str) -> Option<&mut Service> {
        self.services.iter_mut().find(|service| service.name == name)
    }

    /// What has to fit together: the admin listener needs a port of its own, and listeners that differ in nothing but
    /// their addresses are one.
    pub(super) fn settle(&mut self) {
        let mut kept: Vec<Listener> = Vec::new();
        for mut listener in std::mem::take(&mut self.listeners) {
            let alike = |other: &&mut Listener| {
                other.rules == listener.rules
                    && other.tls == listener.tls
                    && other.rows == listener.rows
                    && other.limits == listener.limits
            };
            match kept.iter_mut().find(alike) {
                // Bounds of a listener are for all its addresses together.
                Some(other) if listener.limits.get("connections").is_none() => {
                    other.bind.append(&mut listener.bind)
                }
                _ => kept.push(listener),
            }
        }
        self.listeners = kept;
        let used = |name: &str| {
            self.listeners
                .iter()
                .flat_map(|listener| &listener.rules)
                .any(|rule| rule.service() == Some(name))
        };
        self.services.retain(|service| used(&service.name));
        self.services.iter_mut().for_each(Service::probe_fits);
        let taken = |port: u16| {
            self.listeners
                .iter()
                .flat_map(|listener| &listener.bind)
                .any(|bind| bind.ends_with(&format!(":{port}")))
        };
        if taken(9090)
            && let Some(port) = (9091..=9190).find(|port| !taken(*port))
        {
            self.admin.set("listen", quoted(&format!("127.0.0.1:{port}")));
        }
        if self.log.get("access").is_none() {
            self.log.set("access", quoted("stdout"));
        }
    }

    /// As text; `from` says what it was made from.
    pub(super) fn write(&self, from: &str) -> String {
        // A name may have any character, and a comment ends with the line.
        let from = from.replace(|c: char| c.is_control(), " ");
        let mut out = format!(
            "# Made from {from}. Look at what was changed, guessed or left out before it serves anybody;\n# \
             `switchyard check` looks at the rest. conf/proxy.toml has every key with its meaning.\n"
        );
        for (name, rows) in
            [("proxy", &self.proxy), ("log", &self.log), ("admin", &self.admin), ("limits", &self.limits)]
        {
            if !rows.is_empty() {
                out.push_str(&format!("\n[{name}]\n"));
                rows.write(&mut out);
            }
        }
        for listener in &self.listeners {
            listener.write(&mut out);
        }
        for service in &self.services {
            service.write(&mut out);
        }
        out
    }
}

impl Listener {
    fn write(&self, out: &mut String) {
        out.push_str(&format!("\n[[listener]]\nname = {}\n", quoted(&self.name)));
        out.push_str(&format!("bind = {}\n", list(self.bind.iter().map(String::as_str))));
        match self.rules.as_slice() {
            [Rule { host: None, path: None, does: Does::Send(service) }] => {
                out.push_str(&format!("service = {}\n", quoted(service)));
            }
            rules => {
                out.push_str("rules = [\n");
                for rule in rules {
                    let mut rows = Rows::default();
                    if let Some(host) = &rule.host {
                        rows.set("host", quoted(host));
                    }
                    if let Some(path) = &rule.path {
                        rows.set("path", quoted(path));
                    }
                    match &rule.does {
                        Does::Send(service) => rows.set("service", quoted(service)),
                        Does::Deny(status) => rows.set("deny", status.to_string()),
                    }
                    out.push_str(&format!("  {},\n", rows.inline()));
                }
                out.push_str("]\n");
            }
        }
        if let Some(tls) = &self.tls {
            let mut rows = Rows::default();
            if let [only] = tls.pairs.as_slice() {
                rows.set("cert", quoted(&only.cert));
                rows.set("key", quoted(&only.key));
            } else {
                let pair =
                    |pair: &Pair| format!("{{ cert = {}, key = {} }}", quoted(&pair.cert), quoted(&pair.key));
                let pairs: Vec<String> = tls.pairs.iter().map(pair).collect();
                rows.set("certs", format!("[{}]", pairs.join(", ")));
            }
            rows.0.extend(tls.rows.0.iter().cloned());
            out.push_str(&format!("tls = {}\n", rows.inline()));
        }
        self.rows.write(out);
        if !self.limits.is_empty() {
            out.push_str(&format!("limits = {}\n", self.limits.inline()));
        }
    }
}

impl Service {
    /// `check` refuses a probe that contradicts itself.
    fn probe_fits(&mut self) {
        let probe = &mut self.health;
        if probe.get("kind") == Some("\"tcp\"") {
            for key in ["method", "path", "host", "headers", "status", "text"] {
                probe.remove(key);
            }
        }
        if probe.get("text").is_some() {
            // The answer to anything else may have no body.
            probe.remove("method");
        }
        let time = |key: &str, default: u64| {
            probe.get(key).and_then(units::read_back).unwrap_or(Duration::from_secs(default))
        };
        let most = time("interval", 2) * 10;
        if time("timeout", 1) > most {
            probe.set("timeout", quoted(&units::ours(most)));
        }
    }

    fn write(&self, out: &mut String) {
        out.push('\n');
        for remark in &self.remarks {
            out.push_str(&format!("# {}\n", remark.replace(|c: char| c.is_control(), " ")));
        }
        let kind = if self.registry { "registry" } else { "controller" };
        out.push_str(&format!("[service.{}]\nkind = \"{kind}\"\n", self.name));
        self.rows.write(out);
        if let Some(tls) = &self.tls {
            out.push_str(&format!("tls = {}\n", tls.inline()));
        }
        if !self.discovery.is_empty() {
            out.push_str(&format!("discovery = {}\n", self.discovery.inline()));
        }
        if !self.upstreams.is_empty() {
            out.push_str("upstreams = [\n");
            for upstream in &self.upstreams {
                out.push_str(&format!("  {},\n", upstream.inline()));
            }
            out.push_str("]\n");
        }
        for (name, rows) in
            [("health", &self.health), ("timeouts", &self.timeouts), ("passive", &self.passive)]
        {
            if !rows.is_empty() {
                out.push_str(&format!("\n[service.{}.{name}]\n", self.name));
                rows.write(out);
            }
        }
    }
}
