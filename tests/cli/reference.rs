//! `docs/configuration.md` against the code: every key that a reader knows has its line there, with the bounds that the
//! reader has, the default that it fills in, and what a reload makes of it; and no line is of a key that nobody knows.
//!
//! What a reader knows it says itself: an unknown key is answered with those that are known, a wrong value with what
//! would be right.

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use switchyard::config::{Env, Fault, Loaded, load};
use toml::{Table, Value};

use crate::{
    certificates::{self, Authority},
    program::in_project,
};

/// No key is near it.
const UNKNOWN: &str = "qqqqqqqqqqqqqqqqqqqq";

/// The least that makes a file one of a role. What is written here is in each file of the test.
const BASE: [(&str, &str); 4] = [
    (
        "proxy",
        r#"
        [[listener]]
        bind = ["127.0.0.1:0"]
        service = "s"
        [service.s]
        kind = "controller"
        upstreams = [{ address = "10.0.1.4:8090" }, { address = "10.0.1.5:8090" }]
        "#,
    ),
    ("controller", "[server]\nlisten = \"127.0.0.1:0\"\n[store]\nembedded = \"/srv/state\"\n"),
    ("registry", "[server]\nlisten = \"127.0.0.1:0\"\n[storage]\ndisk = \"/srv/registry\"\n"),
    ("agent", "[agent]\ncontrollers = [\"http://front:8090\"]\n"),
];

/// What some keys need beside them to mean anything; merged into the base. `DIR` is a folder with certificates.
const BESIDE: &[(&str, &str, &str)] = &[
    ("proxy", "trace.s", "trace = { context = \"join\" }"),
    ("proxy", "trace.otlp", "trace = { context = \"join\" }"),
    ("proxy", "limits.rate", "limits = { rate = { requests = \"100/s\" } }"),
    ("proxy", "listener.limits.rate", "listener = [{ limits = { rate = { requests = \"100/s\" } } }]"),
    ("proxy", "listener.rules", "listener = [{ service = \"\", rules = [{ service = \"s\" }] }]"),
    (
        "proxy",
        "listener.rules.deny",
        "listener = [{ rules = [{ path = \"/a\", deny = 403 }, { service = \"s\" }] }]",
    ),
    ("proxy", "listener.tls", "listener = [{ tls = { cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }]"),
    ("proxy", "listener.tls.client_ca", ASKING),
    ("proxy", "listener.tls.crl", ASKING),
    (
        "proxy",
        "listener.tls.certs",
        "listener = [{ tls = { certs = [{ cert = \"DIR/front.pem\", key = \"DIR/front.key\" }] } }]",
    ),
    ("proxy", "service.*.tls", "service = { s = { tls = { ca = \"DIR/ca.pem\" } } }"),
    (
        "proxy",
        "service.*.tls.verify",
        "service = { s = { tls = { ca = \"\", cert = \"DIR/front.pem\", key = \"DIR/front.key\" } } }",
    ),
    (
        "proxy",
        "service.*.hash",
        "service = { s = { balance = \"consistent-hash\", hash = { by = \"header\", name = \"x-team\" } } }",
    ),
    ("proxy", "service.*.sticky", "service = { s = { sticky = { by = \"cookie\" } } }"),
    ("proxy", "service.*.cohort.", "service = { s = { cohorts = true } }"),
    (
        "proxy",
        "service.*.discovery",
        "service = { s = { discovery = { etcd = [\"http://10.0.1.4:2379\"] } } }",
    ),
    (
        "proxy",
        "service.*.discovery.resolver",
        "service = { s = { discovery = { etcd = \"\", dns = \"c.example:8090\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.dns",
        "service = { s = { discovery = { etcd = \"\", dns = \"c.example:8090\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.srv",
        "service = { s = { discovery = { etcd = \"\", srv = \"_c._tcp.example\" } } }",
    ),
    ("proxy", "service.*.timeouts.floor", "service = { s = { timeouts = { floor_rate = \"4KiB/s\" } } }"),
    ("controller", "auth", "auth = { enabled = true, root_token_file = \"DIR/root.token\" }"),
    ("controller", "auth.resource_management", "auth = { authorization = true }"),
    ("registry", "auth", "auth = { enabled = true, root_token_file = \"DIR/root.token\" }"),
    ("*", "server.tls", "server = { tls = { cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }"),
    ("*", "server.tls.client_ca", ASKED),
    ("*", "server.tls.crl", ASKED),
    (
        "*",
        "server.tls.certs",
        "server = { tls = { certs = [{ cert = \"DIR/front.pem\", key = \"DIR/front.key\" }] } }",
    ),
    ("controller", "mac_pool.range", "mac_pool = { manage = true }"),
    ("controller", "store.compact_every", OF_ETCD),
    ("controller", "store.quota", OF_ETCD),
    ("controller", "auth.c", "auth = { client_ca = \"DIR/ca.pem\", trusted = [\"10.0.0.0/8\"] }"),
    ("controller", "auth.trusted", "auth = { client_ca = \"DIR/ca.pem\", trusted = [\"10.0.0.0/8\"] }"),
    ("registry", "auth.c", "auth = { client_ca = \"DIR/ca.pem\", trusted = [\"10.0.0.0/8\"] }"),
    ("registry", "auth.trusted", "auth = { client_ca = \"DIR/ca.pem\", trusted = [\"10.0.0.0/8\"] }"),
    ("controller", "registries", "registries = { address = \"http://front:8089\" }"),
    ("*", "auth.proxy_key_file", "auth = { client_ca = \"DIR/ca.pem\", trusted = [\"10.0.0.0/8\"] }"),
    ("agent", "agent.api_key", "agent = { api_key_id = \"node\", api_key_file = \"DIR/node.key\" }"),
    ("agent", "agent.update.timeout", "agent = { update = { command = [\"true\"] } }"),
    ("registry", "replication", "replication = { role = \"writer\" }"),
    ("registry", "members", "members = { etcd = [\"http://10.0.1.4:2379\"] }"),
    (
        "proxy",
        "service.*.discovery.ca",
        "service = { s = { discovery = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.cert",
        "service = { s = { discovery = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.key",
        "service = { s = { discovery = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.server_name",
        "service = { s = { discovery = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.verify",
        "service = { s = { discovery = { etcd = [\"https://10.0.1.4:2379\"] } } }",
    ),
    (
        "proxy",
        "service.*.discovery.username",
        "service = { s = { discovery = { etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" } } }",
    ),
    (
        "proxy",
        "service.*.discovery.password",
        "service = { s = { discovery = { etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" } } }",
    ),
    (
        "controller",
        "store.ca",
        "store = { embedded = \"\", etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }",
    ),
    (
        "controller",
        "store.cert",
        "store = { embedded = \"\", etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }",
    ),
    (
        "controller",
        "store.key",
        "store = { embedded = \"\", etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }",
    ),
    (
        "controller",
        "store.server_name",
        "store = { embedded = \"\", etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }",
    ),
    ("controller", "store.verify", "store = { embedded = \"\", etcd = [\"https://10.0.1.4:2379\"] }"),
    (
        "controller",
        "store.username",
        "store = { embedded = \"\", etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" }",
    ),
    (
        "controller",
        "store.password",
        "store = { embedded = \"\", etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" }",
    ),
    ("registry", "members.ca", "members = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }"),
    ("registry", "members.cert", "members = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }"),
    ("registry", "members.key", "members = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }"),
    (
        "registry",
        "members.server_name",
        "members = { etcd = [\"https://10.0.1.4:2379\"], ca = \"DIR/ca.pem\" }",
    ),
    ("registry", "members.verify", "members = { etcd = [\"https://10.0.1.4:2379\"] }"),
    (
        "registry",
        "members.username",
        "members = { etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" }",
    ),
    (
        "registry",
        "members.password",
        "members = { etcd = [\"http://10.0.1.4:2379\"], username = \"u\", password_file = \"DIR/token\" }",
    ),
    (
        "controller",
        "registries.tls",
        "registries = { address = \"https://front:8089\", tls = { ca = \"DIR/ca.pem\" } }",
    ),
    (
        "controller",
        "registries.tls.verify",
        "registries = { address = \"https://front:8089\", tls = { ca = \"\", cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }",
    ),
    (
        "controller",
        "events.tls",
        "events = { url = \"https://hooks:8080/x\", tls = { ca = \"DIR/ca.pem\" } }",
    ),
    (
        "controller",
        "events.tls.verify",
        "events = { url = \"https://hooks:8080/x\", tls = { ca = \"\", cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }",
    ),
    (
        "registry",
        "replication.tls",
        "replication = { peers = [\"https://10.0.1.9:8089\"], tls = { ca = \"DIR/ca.pem\" } }",
    ),
    (
        "registry",
        "replication.tls.verify",
        "replication = { peers = [\"https://10.0.1.9:8089\"], tls = { ca = \"\", cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }",
    ),
    ("agent", "agent.tls", "agent = { tls = { ca = \"DIR/ca.pem\" } }"),
    (
        "agent",
        "agent.tls.verify",
        "agent = { tls = { ca = \"\", cert = \"DIR/front.pem\", key = \"DIR/front.key\" } }",
    ),
];

const OF_ETCD: &str = "store = { embedded = \"\", etcd = [\"http://10.0.1.4:2379\"] }";
const ASKED: &str = "server = { tls = { client_auth = \"optional\", client_ca = \"DIR/ca.pem\" } }";
const ASKING: &str = "listener = [{ tls = { client_auth = \"optional\", client_ca = \"DIR/ca.pem\" } }]";

/// Another value than the default, of keys of which the reader does not say in one form what they may be.
const OTHERS: &[(&str, &str, &str)] = &[
    ("proxy", "proxy.zone", "'b'"),
    ("proxy", "proxy.run_dir", "'DIR/run'"),
    ("proxy", "proxy.address_file", "'DIR/other'"),
    ("proxy", "log.access", "'DIR/access'"),
    ("registry", "log.access", "'DIR/access'"),
    ("proxy", "trace.otlp", "'http://10.0.0.1:4318'"),
    ("proxy", "trace.service", "'other'"),
    ("proxy", "admin.listen", "'127.0.0.1:1'"),
    ("proxy", "admin.token_file", "'DIR/admin.token'"),
    ("proxy", "admin.token", "'off'"),
    ("proxy", "listener.name", "'other'"),
    ("proxy", "listener.bind", "['127.0.0.1:0', '127.0.0.2:0']"),
    ("proxy", "listener.trusted", "['10.0.0.0/8']"),
    ("proxy", "listener.proxy_protocol", "['10.0.0.0/8']"),
    ("proxy", "listener.expose", "['/metrics']"),
    ("proxy", "listener.rules.host", "'ci.example'"),
    ("proxy", "listener.rules.path", "'/v2'"),
    ("proxy", "listener.rules.deny", "404"),
    ("proxy", "listener.limits.rate.requests", "'7/m'"),
    ("proxy", "listener.limits.allow", "['127.0.0.1']"),
    ("proxy", "listener.limits.deny", "['10.0.0.0/8']"),
    ("proxy", "listener.tls.cert", "'DIR/chain.pem'"),
    ("proxy", "listener.tls.crl", "'DIR/ca.crl'"),
    ("proxy", "listener.tls.suites", "['TLS_AES_128_GCM_SHA256']"),
    ("proxy", "service.*.hash.name", "'x-other'"),
    ("proxy", "service.*.sticky.name", "'other'"),
    ("proxy", "service.*.retry_status", "[503]"),
    ("proxy", "service.*.writer", "'r2'"),
    ("proxy", "service.*.logs", "'r2'"),
    ("proxy", "service.*.catalogue.token_file", "'DIR/token'"),
    ("proxy", "service.*.catalogue.authorization_file", "'DIR/token'"),
    ("proxy", "service.*.upstreams.name", "'other'"),
    ("proxy", "service.*.upstreams.address", "'10.0.1.9:80'"),
    ("proxy", "service.*.upstreams.zone", "'b'"),
    ("proxy", "service.*.discovery.etcd", "['http://10.0.1.9:2379']"),
    ("proxy", "service.*.discovery.cluster", "'other'"),
    ("proxy", "service.*.discovery.dns", "'other.example:80'"),
    ("proxy", "service.*.discovery.srv", "'_other._tcp.example'"),
    ("proxy", "service.*.discovery.resolver", "'10.0.0.2:53'"),
    ("proxy", "service.*.tls.server_name", "'ci.example'"),
    ("proxy", "service.*.health.path", "'/other'"),
    ("proxy", "service.*.health.host", "'ci.example'"),
    ("proxy", "service.*.health.headers", "{ x-team = 'a' }"),
    ("proxy", "service.*.health.status", "[204]"),
    ("proxy", "service.*.health.json", "{ '/ready' = true }"),
    ("proxy", "service.*.health.text", "'ok'"),
    ("proxy", "service.*.timeouts.floor_rate", "'off'"),
    ("proxy", "limits.rate.requests", "'7/m'"),
    ("proxy", "limits.allow", "['127.0.0.1']"),
    ("proxy", "limits.deny", "['10.0.0.0/8']"),
    ("proxy", "limits.body.controller-api", "'5MiB'"),
    ("proxy", "limits.body.agent-poll", "'5MiB'"),
    ("proxy", "limits.body.registry-read", "'5MiB'"),
    ("proxy", "limits.body.auth-handshake", "'5MiB'"),
    ("proxy", "limits.body.registry-write", "'5MiB'"),
    ("proxy", "limits.body.registry-upload", "'5MiB'"),
    ("*", "server.tls.cert", "'DIR/chain.pem'"),
    ("*", "server.tls.crl", "'DIR/ca.crl'"),
    ("*", "server.tls.suites", "['TLS_AES_128_GCM_SHA256']"),
    ("*", "auth.crl", "'DIR/ca.crl'"),
    ("*", "auth.trusted", "['10.0.1.9']"),
    ("*", "auth.root_token_file", "'DIR/admin.token'"),
    ("agent", "agent.token_file", "'DIR/admin.token'"),
    ("agent", "agent.api_key_id", "'other'"),
    ("proxy", "service.*.sign_key_file", "'DIR/sign.key'"),
    ("*", "auth.proxy_key_file", "'DIR/sign.key'"),
    ("proxy", "service.*.token_file", "'DIR/admin.token'"),
    ("controller", "store.embedded", "'/srv/other'"),
    ("controller", "events.url", "'http://hooks:8080/x'"),
    ("controller", "web.packages", "'/srv/other'"),
    ("controller", "mac_pool.range", "'02:00:00:00:00:00-02:00:00:00:00:FF'"),
    ("controller", "registries.address", "'http://other:8089'"),
    ("controller", "registries.node_address", "'http://other:8089'"),
    ("controller", "registries.push_address", "'http://other:8089'"),
    ("registry", "storage.disk", "'/srv/other'"),
    ("registry", "limits.reserve", "'5GiB'"),
    ("registry", "limits.trusted", "['10.0.0.0/8']"),
    ("registry", "quota.total", "'5GiB'"),
    ("registry", "quota.template", "'5GiB'"),
    ("registry", "replication.peers", "['http://10.0.1.9:8089']"),
    ("registry", "members.etcd", "['http://10.0.1.9:2379']"),
    ("registry", "members.cluster", "'other'"),
    ("agent", "agent.controllers", "['http://other:8090']"),
    ("agent", "agent.data", "'/srv/agent'"),
    ("agent", "agent.node_id", "'mac-07'"),
    ("agent", "agent.host", "'mac-07.example'"),
    ("agent", "agent.groups", "['ios']"),
    ("agent", "agent.reserve", "'5GB'"),
    ("agent", "agent.vm_prefix", "'other'"),
    ("agent", "agent.process.start_delay", "'5s'"),
    ("agent", "agent.process.pull_delay", "'5s'"),
    ("agent", "agent.process.usb_devices", "['iPhone']"),
    ("agent", "agent.update.command", "['/usr/local/sbin/update']"),
    ("agent", "agent.process.vanish_after", "'5s'"),
    ("proxy", "service.*.discovery.server_name", "'ci.example'"),
    ("proxy", "service.*.discovery.username", "'other'"),
    ("proxy", "service.*.discovery.password_file", "'DIR/admin.token'"),
    ("controller", "store.server_name", "'ci.example'"),
    ("controller", "store.username", "'other'"),
    ("controller", "store.password_file", "'DIR/admin.token'"),
    ("registry", "members.server_name", "'ci.example'"),
    ("registry", "members.username", "'other'"),
    ("registry", "members.password_file", "'DIR/admin.token'"),
    ("controller", "registries.tls.server_name", "'ci.example'"),
    ("controller", "events.tls.server_name", "'ci.example'"),
    ("registry", "replication.tls.server_name", "'ci.example'"),
    ("agent", "agent.tls.server_name", "'ci.example'"),
    ("*", "server.listen", "'127.0.0.1:1'"),
    ("*", "server.name", "'other'"),
    ("*", "server.address_file", "'/run/other'"),
    ("*", "server.advertise", "'10.0.1.9:80'"),
    ("*", "server.zone", "'b'"),
    ("*", "agent.name", "'other'"),
    ("*", "log.filter", "'debug'"),
];

/// Keys that have no other value by themselves: one word alone so far, or one that must fit another key.
const ALONE: [(&str, &str); 58] = [
    ("agent", "agent.api_key_file"),
    ("controller", "server.tls.key"),
    ("controller", "server.tls.certs.cert"),
    ("controller", "server.tls.certs.key"),
    ("controller", "server.tls.client_auth"),
    ("controller", "server.tls.client_ca"),
    ("registry", "server.tls.key"),
    ("registry", "server.tls.certs.cert"),
    ("registry", "server.tls.certs.key"),
    ("registry", "server.tls.client_auth"),
    ("registry", "server.tls.client_ca"),
    ("controller", "auth.client_ca"),
    ("registry", "auth.client_ca"),
    ("controller", "auth.root_token"),
    ("registry", "auth.root_token"),
    ("proxy", "listener.service"),
    ("proxy", "listener.rules.service"),
    ("proxy", "listener.tls.key"),
    ("proxy", "listener.tls.certs.cert"),
    ("proxy", "listener.tls.certs.key"),
    ("proxy", "listener.tls.client_auth"),
    ("proxy", "listener.tls.client_ca"),
    ("proxy", "service.*.kind"),
    ("proxy", "service.*.storage"),
    ("proxy", "service.*.tls.ca"),
    ("proxy", "service.*.tls.cert"),
    ("proxy", "service.*.tls.key"),
    ("controller", "store.etcd"),
    ("registry", "storage.shared"),
    ("controller", "store.cluster"),
    ("registry", "replication.role"),
    ("registry", "replication.writer"),
    ("registry", "replication.write_ack"),
    ("agent", "agent.driver"),
    ("proxy", "service.*.discovery.ca"),
    ("proxy", "service.*.discovery.cert"),
    ("proxy", "service.*.discovery.key"),
    ("proxy", "service.*.discovery.password"),
    ("controller", "store.ca"),
    ("controller", "store.cert"),
    ("controller", "store.key"),
    ("controller", "store.password"),
    ("registry", "members.ca"),
    ("registry", "members.cert"),
    ("registry", "members.key"),
    ("registry", "members.password"),
    ("controller", "registries.tls.ca"),
    ("controller", "registries.tls.cert"),
    ("controller", "registries.tls.key"),
    ("controller", "events.tls.ca"),
    ("controller", "events.tls.cert"),
    ("controller", "events.tls.key"),
    ("registry", "replication.tls.ca"),
    ("registry", "replication.tls.cert"),
    ("registry", "replication.tls.key"),
    ("agent", "agent.tls.ca"),
    ("agent", "agent.tls.cert"),
    ("agent", "agent.tls.key"),
];

/// Keys of registries alone; they have this service beside them.
const OF_REGISTRIES: [&str; 9] = [
    "token_file",
    "storage",
    "writer",
    "write_only",
    "freshness",
    "stale_reads",
    "fresh_wait",
    "logs",
    "catalogue",
];
const REGISTRIES: &str = r#"service = { s = { kind = "registry", writer = "r1", upstreams = [
    { name = "r1", address = "10.0.1.4:8089" }, { name = "r2", address = "10.0.1.5:8089" } ] } }"#;

/// What is in `admin.token`.
pub(crate) const ADMIN_TOKEN: &str = "0123456789abcdef";

/// The files that one test writes and reads.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ca");
        authority.leaf(&["front.example"]).write(folder.path(), "front");
        authority.client("agent").write(folder.path(), "agent");
        certificates::write(folder.path(), "ca.pem", &authority.cert());
        certificates::write(folder.path(), "ca.crl", &authority.list(&[], 30));
        fs::copy(folder.path().join("front.pem"), folder.path().join("chain.pem")).unwrap();
        let (private, _) = switchyard::tls::rsa::generate().unwrap();
        fs::write(folder.path().join("node.key"), BASE64_STANDARD.encode(private)).unwrap();
        fs::write(folder.path().join("sign.key"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(folder.path().join("token"), "secret\n").unwrap();
        fs::write(folder.path().join("admin.token"), ADMIN_TOKEN).unwrap();
        fs::write(folder.path().join("root.token"), "fedcba9876543210\n").unwrap();
        Self { folder }
    }

    /// The file of a role in which the key at `path` means something.
    pub(crate) fn around(&self, role: &str, path: &str) -> Table {
        let text = BASE.iter().find(|(of, _)| *of == role).unwrap().1;
        let mut file: Table = text.parse().unwrap();
        let mut merge = |text: &str| {
            let text = text.replace("DIR", self.folder.path().to_str().unwrap());
            merge(&mut file, text.parse().unwrap());
        };
        let beside =
            BESIDE.iter().filter(|(of, prefix, _)| (*of == role || *of == "*") && path.starts_with(prefix));
        beside.for_each(|(.., text)| merge(text));
        if let Some(key) = path.strip_prefix("service.*.") {
            let key = key.split('.').next().unwrap();
            if OF_REGISTRIES.contains(&key) {
                merge(REGISTRIES);
            }
            if key == "catalogue" {
                merge("service = { s = { freshness = \"catalogue\" } }");
            }
        }
        file
    }

    fn load(&self, file: &Table) -> Result<Loaded, Vec<Fault>> {
        let path = self.folder.path().join("file.toml");
        fs::write(&path, file.to_string()).unwrap();
        load(&path, &Env::default()).map(|(loaded, _)| loaded).map_err(|all| all.iter().cloned().collect())
    }

    /// What is said of this value for the key.
    fn with(&self, role: &str, path: &str, value: Value) -> Result<Loaded, Vec<Fault>> {
        let mut file = self.around(role, path);
        put(&mut file, path, value);
        self.load(&file)
    }

    /// The keys that are known in the table at `path`; `None` if there is no table.
    fn known(&self, role: &str, path: &str) -> Option<Vec<String>> {
        let inner = if path.is_empty() { UNKNOWN.to_owned() } else { format!("{path}.{UNKNOWN}") };
        let said_of = |faults: Result<Loaded, Vec<Fault>>| {
            let faults = faults.err()?;
            let fault = faults.iter().find(|fault| fault.what.contains(UNKNOWN))?;
            let known = fault.right.strip_prefix("known here: ")?;
            Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
        };
        said_of(self.with(role, &inner, Value::Integer(1))).or_else(|| {
            let entry = Table::from_iter([(UNKNOWN.to_owned(), Value::Integer(1))]);
            said_of(self.with(role, path, Value::Array(vec![Value::Table(entry)])))
        })
    }

    /// Every key of a role that is no table itself.
    fn keys(&self, role: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut tables = vec![String::new()];
        while let Some(table) = tables.pop() {
            for key in self.known(role, &table).unwrap() {
                let path = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
                match path.as_str() {
                    "service" => tables.push("service.*".into()),
                    path if self.known(role, path).is_some() => tables.push(path.into()),
                    _ => found.push(path),
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// How the reader wants the value written, as far as it says that in one form.
    fn form(&self, role: &str, path: &str) -> Option<String> {
        let wrong = [
            Value::Integer(-1),
            Value::Float(-1.5),
            Value::String("0s".into()),
            Value::String("366d".into()),
            Value::String("1ms".into()),
            Value::String("0B".into()),
            Value::String("9999TiB".into()),
            Value::String("no such word".into()),
        ];
        wrong.into_iter().find_map(|value| {
            let faults = self.with(role, path, value).err()?;
            faults.iter().find_map(|fault| form_of(&fault.right))
        })
    }

    /// Values that the key may have, as far as they are known.
    fn values(&self, role: &str, path: &str) -> Vec<Value> {
        let here = self.folder.path().to_str().unwrap();
        let listed = OTHERS.iter().filter(|(of, key, _)| (*of == role || *of == "*") && *key == path);
        let listed = listed.map(|(.., text)| value(&text.replace("DIR", here)).unwrap());
        let form = self.form(role, path).unwrap_or_default();
        let (kind, range) = form.split_once(", ").unwrap_or((&form, ""));
        let ends: Vec<String> =
            range.trim_start_matches("from ").split(" to ").map(|end| end.replace('`', "")).collect();
        let formed: Vec<Value> = match kind {
            "whole number" => ends.iter().map(|end| Value::Integer(end.parse().unwrap())).collect(),
            "number" => ends.iter().map(|end| Value::Float(end.parse().unwrap())).collect(),
            "duration" | "size" => ends.into_iter().map(Value::String).collect(),
            "`true` or `false`" => vec![Value::Boolean(true), Value::Boolean(false)],
            _ => form.split('`').skip(1).step_by(2).map(|word| Value::String(word.into())).collect(),
        };
        listed.chain(formed).collect()
    }

    /// A file in which this key has a value that makes a difference.
    pub(crate) fn changed(&self, role: &str, path: &str) -> Option<Table> {
        let around = self.load(&self.around(role, path)).ok();
        self.values(role, path).into_iter().find_map(|value| {
            let mut file = self.around(role, path);
            put(&mut file, path, value);
            self.load(&file).ok().filter(|loaded| Some(loaded) != around.as_ref()).map(|_| file)
        })
    }
}

/// `use a whole number from 1 to 5` → `whole number, 1 to 5`.
fn form_of(right: &str) -> Option<String> {
    let rest = right.strip_prefix("use a ").and_then(|rest| rest.split_once(" from "));
    if let Some((kind @ ("whole number" | "number" | "duration" | "size"), range)) = rest {
        return Some(match range.split_once(" to ") {
            // The longest that any key takes.
            Some((from, "`1year 18h`")) => format!("{kind}, from {from}"),
            _ => format!("{kind}, {range}"),
        });
    }
    if right == "write `true` or `false`, without quotes" {
        return Some("`true` or `false`".into());
    }
    let words = right.strip_prefix("use ")?;
    let between = words.split('`').step_by(2);
    let only_words =
        between.clone().count() > 1 && between.into_iter().all(|b| ["", ", ", " or "].contains(&b));
    only_words.then(|| words.to_owned())
}

/// One value as it is written in a file.
fn value(text: &str) -> Option<Value> {
    let file: Table = format!("value = {text}").parse().ok()?;
    file.get("value").cloned()
}

/// Later values go before earlier ones; of lists of tables the first entry is merged. An empty text takes a key away.
pub(crate) fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (_, Value::String(text)) if text.is_empty() => drop(into.remove(&key)),
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(mut new)) => match (&mut old[..], &mut new[..]) {
                ([Value::Table(old)], [Value::Table(new)]) => merge(old, std::mem::take(new)),
                _ => *old = new,
            },
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Where `path` leads, past what is there already: the first entry of a list of tables, the service of the test.
fn put(file: &mut Table, path: &str, value: Value) {
    let (first, rest) = match path.split_once('.') {
        None => return drop(file.insert(path.to_owned(), value)),
        Some(("*", rest)) => ("s", rest),
        Some(parts) => parts,
    };
    let next = file.entry(first).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Array(entries) = next
        && matches!(entries.first(), Some(Value::Table(_)))
    {
        return put(entries[0].as_table_mut().unwrap(), rest, value);
    }
    if !next.is_table() {
        *next = Value::Table(Table::new());
    }
    put(next.as_table_mut().unwrap(), rest, value);
}

/// One line of the page.
pub(crate) struct Row {
    pub(crate) role: String,
    pub(crate) path: String,
    value: String,
    default: String,
    pub(crate) reload: Option<String>,
}

fn page() -> String {
    fs::read_to_string(in_project("docs/configuration.md")).unwrap()
}

/// `service.NAME.x` and `[service.NAME.x]` are `service.*.x`.
fn shape(written: &str) -> String {
    written.trim_matches(['[', ']']).replace("NAME", "*")
}

pub(crate) fn rows() -> Vec<Row> {
    let (mut role, mut table, mut columns, mut rows) = (String::new(), String::new(), Vec::new(), Vec::new());
    for line in page().lines() {
        if let Some(name) = line.strip_prefix("## ") {
            role = name.to_lowercase();
        } else if let Some(name) = line.strip_prefix("### `") {
            table = shape(name.trim_end_matches('`'));
        } else if line.starts_with("| key |") {
            columns = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), columns.len(), "{line}");
            let cell =
                |name: &str| columns.iter().position(|column| column == name).map(|at| cells[at].to_owned());
            rows.push(Row {
                role: role.clone(),
                path: format!("{table}.{}", cells[1].trim_matches('`')),
                value: cell("value").unwrap(),
                default: cell("default").unwrap(),
                reload: cell("reload"),
            });
        }
    }
    rows
}

/// What is wrong with the lines of one role.
fn check(role: &str) {
    let (files, rows) = (Files::new(), rows());
    let rows: Vec<&Row> = rows.iter().filter(|row| row.role == role).collect();
    let mut wrong: Vec<String> = Vec::new();
    let mut written: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *written.entry(&row.path).or_default() += 1);
    let known = files.keys(role);
    wrong.extend(
        known.iter().filter(|key| !written.contains_key(key.as_str())).map(|k| format!("no line for `{k}`")),
    );
    wrong.extend(
        written.iter().filter(|(_, count)| **count > 1).map(|(key, _)| format!("two lines for `{key}`")),
    );
    for row in rows {
        let path = row.path.as_str();
        let mut say = |what: String| wrong.push(format!("`{path}`: {what}"));
        if !known.iter().any(|key| key == path) {
            say("no reader knows it".into());
            continue;
        }
        if let Some(form) = files.form(role, path)
            && form != row.value
        {
            say(format!("the page says {:?}, the reader {form:?}", row.value));
        }
        let around = files.load(&files.around(role, path)).map_err(|faults| format!("{faults:?}")).unwrap();
        match row
            .default
            .strip_prefix('`')
            .and_then(|rest| rest.strip_suffix('`'))
            .filter(|d| !d.contains('`'))
        {
            _ if row.default == "required" => {
                let mut file = files.around(role, path);
                take(&mut file, path);
                let faults = files.load(&file).err().unwrap_or_default();
                if !faults.iter().any(|fault| fault.what.ends_with("is missing")) {
                    say(format!("required, but a file without it gives {faults:?}"));
                }
            }
            Some(written) => match value(written) {
                None if written.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {}
                None => say(format!("the default {written} is no TOML")),
                Some(value) => match files.with(role, path, value) {
                    Ok(loaded) if loaded == around => {}
                    Ok(_) => say(format!("the default is not {written}")),
                    Err(faults) => say(format!("with its default: {faults:?}")),
                },
            },
            None if row.default.bytes().any(|b| b.is_ascii_digit()) => {
                say(format!("a default with a figure is written as a value: {}", row.default));
            }
            None => {}
        }
        let alone = ALONE.contains(&(role, path));
        if files.changed(role, path).is_none() != alone {
            say(format!(
                "{} changes the config",
                if alone { "a value" } else { "no value that is known here" }
            ));
        }
    }
    assert!(wrong.is_empty(), "docs/configuration.md, {role}: {} faults\n{}", wrong.len(), wrong.join("\n"));
}

fn take(file: &mut Table, path: &str) {
    match path.split_once('.') {
        None => drop(file.remove(path)),
        Some((first, rest)) => match file.get_mut(if first == "*" { "s" } else { first }) {
            Some(Value::Table(table)) => take(table, rest),
            Some(Value::Array(entries)) => take(entries[0].as_table_mut().unwrap(), rest),
            _ => {}
        },
    }
}

#[test]
fn each_key_of_a_proxy_is_on_the_page_as_it_is_read() {
    check("proxy");
}

#[test]
fn each_key_of_a_controller_is_on_the_page_as_it_is_read() {
    check("controller");
}

#[test]
fn each_key_of_a_registry_is_on_the_page_as_it_is_read() {
    check("registry");
}

#[test]
fn each_key_of_an_agent_is_on_the_page_as_it_is_read() {
    check("agent");
}

#[test]
fn the_page_names_the_keys_of_later_versions() {
    let page = page();
    let (_, later) = page.split_once("## Keys of later versions").unwrap();
    let mut written: Vec<String> = later.split('`').skip(1).step_by(2).map(shape).collect();
    let code = fs::read_to_string(in_project("src/config/planned.rs")).unwrap();
    let (_, list) = code.split_once("const PLANNED: &[&str] =").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let mut known: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    written.sort();
    known.sort();
    assert_eq!(written, known);
    let files = Files::new();
    for path in known {
        let refused = BASE.iter().any(|(role, _)| {
            let faults = files.with(role, &path, Value::Table(Table::new())).err().unwrap_or_default();
            faults.iter().any(|fault| fault.what.ends_with("is not supported by this version"))
        });
        assert!(refused, "{path}");
    }
}
