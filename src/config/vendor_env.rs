//! The vendor's `ANKA_*` variables: which of our keys each one sets, and why the others are ignored.
//!
//! The names are those of `reference/configuration.md` that are marked for controller or registry. A
//! variable that means something this version does not do is no error: an existing compose file keeps working,
//! and the log says at start what became of each one. Except for the switches that close a door: a server that
//! was told to ask for credentials and starts without asking would be open to everybody.

use std::collections::BTreeMap;

use super::{
    env::{Env, EnvNote},
    raw::Stand,
    report::{Fault, Place},
};

/// What the variables come to: values for our keys, a note per variable, and what cannot be read.
#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) stands: BTreeMap<(&'static str, &'static str), Stand>,
    pub(super) notes: Vec<EnvNote>,
    pub(super) faults: Vec<Fault>,
}

/// How a value is brought into our form.
#[derive(Clone, Copy)]
enum Form {
    /// As it is.
    Same,
    /// `:8090` becomes `0.0.0.0:8090`.
    Listen,
    /// Without the slash at its end, which the vendor took.
    Url,
    /// A switch that says the opposite of ours.
    Not,
    /// A switch, as Go's services read one.
    Switch,
    /// In the words of Go, in which the vendor's services read it.
    Flag,
    /// `tls_1.2` becomes `1.2`; older ones are not spoken here.
    Version,
    /// A switch for lines on standard output.
    Lines,
}

/// A variable that sets a key of ours.
type Honoured = (&'static str, (&'static str, &'static str), Form);

const CONTROLLER: &[Honoured] = &[
    ("ANKA_LISTEN_ADDR", ("server", "listen"), Form::Listen),
    ("ANKA_ANKA_REGISTRY", ("registries", "address"), Form::Url),
    // The vendor's own page for several controllers spells it so.
    ("ANKA_ANKA_REGISRY", ("registries", "address"), Form::Url),
    ("ANKA_PUSH_REGISTRY", ("registries", "push_address"), Form::Url),
    ("ANKA_INSTANCE_TIME_OUT", ("timeouts", "instance_visible"), Form::Same),
    ("ANKA_NODE_ACTIVE_TIMEOUT", ("timeouts", "node_active"), Form::Same),
    ("ANKA_INSTANCE_ACTIVE_TIMEOUT", ("timeouts", "instance_active"), Form::Same),
    ("ANKA_QUERY_TASK_TIMEOUT", ("timeouts", "poll"), Form::Same),
    ("ANKA_GRACEFUL_SHUTDOWN_TIMEOUT", ("shutdown", "grace"), Form::Same),
    ("ANKA_ENABLE_EVENT_LOGGING", ("events", "log"), Form::Switch),
    ("ANKA_ENABLE_AUTH", ("auth", "enabled"), Form::Flag),
    ("ANKA_ROOT_TOKEN", ("auth", "root_token"), Form::Same),
    ("ANKA_ENABLE_API_KEYS", ("auth", "api_keys"), Form::Flag),
    ("ANKA_API_KEYS_SESSION_TTL", ("auth", "session_ttl"), Form::Same),
    ("ANKA_DEFRAG_DB_INTERVAL", ("store", "defragment_every"), Form::Same),
    ("ANKA_UNKNOWN_VM_THRESHOLD", ("limits", "unknown_vm_reports"), Form::Same),
    ("ANKA_MANAGE_MAC_ADDRESSES", ("mac_pool", "manage"), Form::Flag),
    ("ANKA_ALLOW_CORS", ("web", "allow_cors"), Form::Flag),
    ("ANKA_CA_CERT", ("auth", "client_ca"), Form::Same),
    ("ANKA_ROOT_CERT", ("auth", "client_ca"), Form::Same),
    ("ANKA_CRL", ("auth", "crl"), Form::Same),
    ("ANKA_ENABLE_CONTROLLER_AUTHORIZATION", ("auth", "authorization"), Form::Flag),
    ("ANKA_ENABLE_RESOURCE_MANAGEMENT", ("auth", "resource_management"), Form::Flag),
];

/// Those that count only while a switch is on, with that.
const SWITCHED: &[(&str, &[Honoured])] = &[
    ("ANKA_ENABLE_EVENT_LOGGING", &[("ANKA_EVENT_LOG_URL", ("events", "url"), Form::Same)]),
    ("ANKA_MANAGE_MAC_ADDRESSES", &[("ANKA_MAC_ADDR_RANGE", ("mac_pool", "range"), Form::Same)]),
    (
        "ANKA_USE_ETCD_TLS",
        &[
            ("ANKA_ETCD_CA_CERT", ("store", "ca"), Form::Same),
            ("ANKA_ETCD_CERT", ("store", "cert"), Form::Same),
            ("ANKA_ETCD_CERT_KEY", ("store", "key"), Form::Same),
            ("ANKA_SKIP_ETCD_TLS_VERIFICATION", ("store", "verify"), Form::Not),
        ],
    ),
    (
        "ANKA_USE_ETCD_LOGIN",
        &[
            ("ANKA_ETCD_USERNAME", ("store", "username"), Form::Same),
            ("ANKA_ETCD_PASSWORD", ("store", "password"), Form::Same),
        ],
    ),
];

/// Those that count only while `ANKA_USE_HTTPS` is on, and then in place of others of their names, at both roles.
const SECURED: &[Honoured] = &[
    ("ANKA_SERVER_CERT", (SERVER_TLS, "cert"), Form::Same),
    ("ANKA_SERVER_KEY", (SERVER_TLS, "key"), Form::Same),
    ("ANKA_CA_CERT", (SERVER_TLS, "client_ca"), Form::Same),
    ("ANKA_ROOT_CERT", (SERVER_TLS, "client_ca"), Form::Same),
    ("ANKA_CRL", (SERVER_TLS, "crl"), Form::Same),
    ("ANKA_MIN_TLS_VERSION", (SERVER_TLS, "min_version"), Form::Version),
];

/// `[server.tls]`, as its variables have it.
const SERVER_TLS: &str = "server_tls";

const REGISTRY: &[Honoured] = &[
    ("ANKA_LISTEN_ADDR", ("server", "listen"), Form::Listen),
    ("ANKA_BASE_PATH", ("storage", "disk"), Form::Same),
    ("ANKA_GRACEFUL_SHUTDOWN_TIMEOUT", ("shutdown", "grace"), Form::Same),
    ("ANKA_ENABLE_AUTH", ("auth", "enabled"), Form::Flag),
    ("ANKA_ROOT_TOKEN", ("auth", "root_token"), Form::Same),
    ("ANKA_ENABLE_API_KEYS", ("auth", "api_keys"), Form::Flag),
    ("ANKA_API_KEYS_SESSION_TTL", ("auth", "session_ttl"), Form::Same),
    ("ANKA_CA_CERT", ("auth", "client_ca"), Form::Same),
    ("ANKA_ROOT_CERT", ("auth", "client_ca"), Form::Same),
    ("ANKA_CRL", ("auth", "crl"), Form::Same),
    ("ANKA_ACCESS_LOGS", ("log", "access"), Form::Lines),
];

/// Names, or beginnings of names with `*`, and why they are ignored. The first that fits counts.
const IGNORED: &[(&str, &str)] = &[
    ("ANKA_ALLOW_EMPTY_REGISTRY", "a controller always starts without a registry"),
    ("ANKA_ENABLE_METRICS", "metrics are always on"),
    ("ANKA_METRICS_P*", "metrics are on `/metrics` of the server's own port"),
    ("ANKA_REQUEST_TIMEOUT", "use `registries.timeout`, which stays below the clients' 10 s"),
    ("ANKA_DIAL_TIMEOUT", "a connection and its handshake have one limit together"),
    ("ANKA_MAX_IDLE_CONNECTION_PER_HOST", "as many connections are kept as were needed at once"),
    ("ANKA_NUM_HTTP_RETRIES", "what may be asked twice is, within the time of the call"),
    ("ANKA_NUM_WORKERS", "nodes ask for their work, and as many are answered as ask"),
    ("ANKA_NO_NODE_UPGRADES", "no node is ever upgraded"),
    ("ANKA_BATCH_TASK_COUNT", "each poll is given one start, and the next one is asked for at once"),
    ("ANKA_RESERVE_TASK_TIMEOUT", "use `poll` in `[timeouts]`"),
    ("ANKA_SCHEDULER_INTERVAL", "a start is looked at when something changes that it may wait for"),
    ("ANKA_CLEAN_QUEUES_INTERVAL", "use `scheduling` in `[timeouts]`: no start waits for longer"),
    ("ANKA_VRAMTHRESHOLD", "it is about the vendor's pages"),
    ("ANKA_ENABLE_INSTANCE_QUOTAS", "this version counts no instances of a group"),
    ("ANKA_QUEUE_ETCD_ENDPOINTS", "it names the vendor's own store; use `etcd` in `[store]`"),
    (
        "ANKA_*QUEUE_*",
        "agents use the same address as everybody else, with a key or a certificate of their own",
    ),
    ("ANKA_BACKEND_TYPE", "the storage is what `[storage]` of a registry says"),
    ("ANKA_USE_BACKEND_PLUGIN", "the storage is what `[storage]` of a registry says"),
    ("ANKA_BACKEND_S3_*", "only a disk or a shared directory is supported by this version"),
    (
        "ANKA_BACKEND_DISK_LOG_SLOW_IO_TIMEOUT",
        "`switchyard_registry_request_seconds` has how long answers take",
    ),
    ("ANKA_BACKEND_DISK_UPLOAD_STALL_*", "use `body_idle` in `[limits]`"),
    ("ANKA_VM_LIST_C*", "lists are made of what is there when they are asked for"),
    ("ANKA_IMAGE_DIR_PATH", "the layout below `[storage]` is another one"),
    ("ANKA_STATE_FILE_DIR_PATH", "the layout below `[storage]` is another one"),
    ("ANKA_VM_DIR_PATH", "the layout below `[storage]` is another one"),
    ("ANKA_FILES_DIR", "files that are not of templates are not kept"),
    ("ANKA_FORCED_SHUTDOWN_CLEANUP_LIMIT", "an upload that is cut can be gone on with"),
    ("ANKA_V", "use `filter` in `[log]`"),
    ("ANKA_VMODULE", "use `filter` in `[log]`"),
    ("ANKA_STANDALONE", "use `[store] embedded`"),
    ("ANKA_ETCD_ENDPOINTS", "it names the vendor's own store; use `etcd` in `[store]`"),
    ("ANKA_ETCD_REQUEST_TIMEOUT", "it is about the vendor's own store; use `store` in `[timeouts]`"),
    ("ANKA_MAC_ADDR_RANGE", "`ANKA_MANAGE_MAC_ADDRESSES` is not on"),
    ("ANKA_MAC_ADDR_RANGE_MAX_RETRIES", "a free address is known and not tried for"),
    ("ANKA_CLEAN_MAC_ADDRESS_INTERVAL", "addresses of instances that are gone are free within seconds"),
    ("ANKA_FILL_MAC_ADDRESS_RANGE_INTERVAL", "the pool is a range and always full"),
    ("ANKA_USE_ETCD_TLS", "`[store] etcd` says it: URLs that begin with `https://`"),
    ("ANKA_ETCD_CERT*", "`ANKA_USE_ETCD_TLS` is not on"),
    ("ANKA_ETCD_CA_CERT", "`ANKA_USE_ETCD_TLS` is not on"),
    ("ANKA_SKIP_ETCD_TLS_VERIFICATION", "`ANKA_USE_ETCD_TLS` is not on"),
    ("ANKA_USE_ETCD_LOGIN", "it says whether the two beside it count"),
    ("ANKA_ETCD_USERNAME", "`ANKA_USE_ETCD_LOGIN` is not on"),
    ("ANKA_ETCD_PASSWORD", "`ANKA_USE_ETCD_LOGIN` is not on"),
    ("ANKA_USE_HTTPS", "it says whether those beside it count"),
    ("ANKA_SERVER_*", "`ANKA_USE_HTTPS` is not on"),
    (
        "ANKA_SKIP_TLS_VERIFICATION",
        "use `verify = false` in the table `tls` of whom you mean, or better `ca`",
    ),
    ("ANKA_MIN_TLS_VERSION", "`ANKA_USE_HTTPS` is not on"),
    ("ANKA_MAX_TLS_VERSION", "the newest version that both know is spoken"),
    ("ANKA_CIPHER_SUITES", "use `suites` in `[server.tls]`, with IANA names"),
    ("ANKA_TLS_HANDSHAKE_TIMEOUT", "a connection and its handshake have one limit together"),
    (
        "ANKA_ENABLE_INGRESS_NGINX",
        "certificates in headers are believed of the proxies in `trusted` of `[auth]` alone",
    ),
    ("ANKA_API_KEYS_CLEANING_INTERVAL", "a key that has expired is refused at once"),
    ("ANKA_ENABLE_CONTROLLER_AUTHORIZATION", "it is about controllers"),
    ("ANKA_ENABLE_*AUTHORIZATION", "it is about registries, which know no permissions"),
    ("ANKA_ENABLE_RESOURCE_MANAGEMENT", "this registry knows no permissions"),
    ("ANKA_OIDC_CACHE_TTL", "the vendor removed it in 1.33"),
    ("ANKA_OIDC_*", "this version knows no identity providers"),
    ("ANKA_*ETCD_*", "it is about the vendor's own store"),
    ("ANKA_CLIENT_CERT*", "the vendor removed it in 1.34"),
    ("ANKA_API_KEY_*", "the vendor removed it in 1.34"),
    ("ANKA_INTERNAL_LISTEN_ADDR", "the vendor removed it in 1.36"),
    ("ANKA_USE_HTTPS_INTERNAL", "the vendor removed it in 1.36"),
    ("ANKA_LISTEN_ADDRESS", "the vendor removed it in 1.29; write `ANKA_LISTEN_ADDR`"),
    ("ANKA_REGISTRY_USER", "the vendor removed it"),
    ("ANKA_REGISTRY_AUTH_TOKEN", "the vendor removed it"),
    ("ANKA_RUN_REGISTRY", "start `switchyard registry` beside it"),
    (
        "ANKA_REGISTRY_*",
        "it is about a registry inside the controller: start `switchyard registry` beside it",
    ),
    ("ANKA_DATA_DIR", "it is about the vendor's own store"),
    ("ANKA_NAME", "it is about the vendor's own store"),
    ("ANKA_INITIAL_*", "it is about the vendor's own store"),
    ("ANKA_LISTEN_CLIENT_URLS", "it is about the vendor's own store"),
    ("ANKA_LISTEN_PEER_URLS", "it is about the vendor's own store"),
    ("ANKA_ADVERTISE_CLIENT_URLS", "it is about the vendor's own store"),
    ("ANKA_AUTO_COMPACTION_*", "it is about the vendor's own store"),
    ("ANKA_EVENT_LOG_URL", "`ANKA_ENABLE_EVENT_LOGGING` is not on"),
    ("ANKA_*LOG*", "this version logs to standard error only"),
];

/// A switch that closes a door, and what to do instead. Turned on, it is a fault: ignoring it would open the door.
type Door = (&'static str, &'static str);

const CONTROLLER_DOORS: &[Door] = &[(
    "ANKA_ENABLE_AUTHORIZATION",
    "it is the registry's; a controller's is ANKA_ENABLE_CONTROLLER_AUTHORIZATION: set that, and unset this",
)];

const REGISTRY_DOORS: &[Door] = &[
    ("ANKA_ENABLE_REGISTRY_AUTHORIZATION", EVERYTHING),
    ("ANKA_ENABLE_AUTHORIZATION", EVERYTHING),
    ("ANKA_ENABLE_RESOURCE_MANAGEMENT", EVERYTHING),
];

const EVERYTHING: &str = "this registry knows no permissions, and whoever has a credential could do everything: unset it \
                          if that is right";

/// Whether a value says that things are kept elsewhere.
type Elsewhere = fn(&str) -> bool;

/// What a registry's storage must not be told to be: taken for a disk, it would show none of what is there, and keep
/// what is pushed where nobody looks for it.
const ELSEWHERE: &[(&str, Elsewhere)] =
    &[("ANKA_BACKEND_TYPE", |text| !matches!(text.trim(), "" | "disk")), ("ANKA_USE_BACKEND_PLUGIN", on)];

/// For what the tables know nothing of.
const NO_COUNTERPART: &str = "this version has nothing that it would set";

/// For a controller.
pub(super) fn controller(env: &Env) -> Translated {
    let mut honoured = secured(env, CONTROLLER);
    for (switch, more) in SWITCHED {
        if env.get(switch).is_some_and(on) {
            honoured.extend(*more);
        }
    }
    let mut translated = translate(env, &honoured, CONTROLLER_DOORS);
    // With both, ours is for the controller alone and theirs is what nodes are told.
    if let Some((_, local)) = read(env, "ANKA_LOCAL_ANKA_REGISTRY", Form::Url, &mut translated.faults) {
        let note = |text: &str| EnvNote { variable: LOCAL.into(), honoured: true, text: text.into() };
        if let Some(for_nodes) = translated.stands.remove(&("registries", "address")) {
            translated.stands.insert(("registries", "node_address"), for_nodes);
        }
        translated.stands.insert(("registries", "address"), stand(LOCAL, local));
        translated.notes.retain(|known| known.variable != LOCAL);
        translated.notes.push(note("sets `registries.address`; nodes are told the other address"));
    }
    translated
}

const LOCAL: &str = "ANKA_LOCAL_ANKA_REGISTRY";

/// For a registry.
pub(super) fn registry(env: &Env) -> Translated {
    let mut translated = translate(env, &secured(env, REGISTRY), REGISTRY_DOORS);
    for (variable, elsewhere) in ELSEWHERE {
        if env.get(variable).is_some_and(elsewhere) {
            let shown: String =
                env.get(variable).unwrap_or_default().chars().filter(|c| !c.is_control()).take(32).collect();
            translated.faults.push(Fault {
                what: format!("`{variable}` is `{shown}`, and only a disk or a shared directory is supported here"),
                right: "unset it to start with `[storage]` as the file has it: what is kept elsewhere is not there; \
                        docs/storage.md"
                    .into(),
                place: Place::Given(format!("environment variable {variable}")),
            });
        }
    }
    translated
}

/// These, and those of TLS while its switch is on.
fn secured(env: &Env, all: &[Honoured]) -> Vec<Honoured> {
    let mut honoured = all.to_vec();
    if env.get("ANKA_USE_HTTPS").is_some_and(on) {
        honoured.retain(|(name, ..)| !SECURED.iter().any(|(other, ..)| name == other));
        honoured.extend(SECURED);
    }
    honoured
}

fn translate(env: &Env, honoured: &[Honoured], doors: &[Door]) -> Translated {
    let mut translated = Translated::default();
    for (variable, key, form) in honoured {
        let Some((name, text)) = read(env, variable, *form, &mut translated.faults) else { continue };
        let table = if key.0 == SERVER_TLS { "server.tls" } else { key.0 };
        let path = format!("{table}.{}", key.1);
        let ours = super::env::variable(key.0, key.1);
        let (honoured, note) = if env.get(&ours).is_some() {
            (false, format!("`{ours}` is set too and wins"))
        } else {
            translated.stands.insert(*key, stand(name, text));
            (true, format!("sets `{path}`"))
        };
        translated.notes.push(EnvNote { variable: name.into(), honoured, text: note });
    }
    if let Some(variable) = Some("ANKA_USE_HTTPS").filter(|name| env.get(name).is_some_and(on)) {
        // No key, and yet the table is wanted: without its certificate it is a fault, and never plain HTTP.
        translated.stands.insert((SERVER_TLS, ""), stand(variable, String::new()));
        if let Some(ca) = translated.stands.get(&(SERVER_TLS, "client_ca")) {
            // The vendor's servers ask and do not insist: users and their browsers have none.
            let asks = Stand { text: "optional".into(), ..ca.clone() };
            translated.stands.insert((SERVER_TLS, "client_auth"), asks);
        }
    }
    for (variable, right) in doors {
        if env.get(variable).is_some_and(on) {
            translated.faults.push(Fault {
                what: format!("`{variable}` is on"),
                right: (*right).to_owned(),
                place: Place::Given(format!("environment variable {variable}")),
            });
        }
    }
    for (name, _) in env.with_prefix("ANKA_") {
        if !honoured.iter().any(|(known, ..)| *known == name) {
            let why = IGNORED
                .iter()
                .find(|(pattern, _)| fits(pattern, name))
                .map_or(NO_COUNTERPART, |(_, why)| why);
            translated.notes.push(EnvNote { variable: name.into(), honoured: false, text: why.into() });
        }
    }
    translated
}

/// Whether a switch is on, as Go's services read one.
fn on(text: &str) -> bool {
    !matches!(text.trim(), "" | "0" | "false" | "FALSE" | "False" | "f" | "F")
}

fn stand(variable: &str, text: String) -> Stand {
    Stand { from: format!("environment variable {variable}"), text, wins: false }
}

/// The value in our form; an empty one counts as not set, as in a compose file with `${NAME:-}`.
fn read<'a>(env: &Env, variable: &'a str, form: Form, faults: &mut Vec<Fault>) -> Option<(&'a str, String)> {
    let text = env.get(variable).filter(|text| !text.is_empty())?;
    if text.contains(" #") || text.contains("\t#") || text.starts_with('#') {
        faults.push(Fault {
            what: format!("`{variable}` has an inline `# comment` in it"),
            right: "an environment file keeps what is behind `#` as part of the value: delete it".into(),
            place: Place::Given(format!("environment variable {variable}")),
        });
        return None;
    }
    if matches!(form, Form::Url) && text.contains(',') {
        faults.push(Fault {
            what: format!("`{variable}` names several addresses"),
            right: "name one: that of the registries' front, which knows who takes what".into(),
            place: Place::Given(format!("environment variable {variable}")),
        });
        return None;
    }
    let text = match form {
        Form::Listen if text.starts_with(':') => format!("0.0.0.0{text}"),
        Form::Url => text.trim_end_matches('/').to_owned(),
        Form::Not => (!on(text)).to_string(),
        Form::Switch => on(text).to_string(),
        Form::Lines => if on(text) { "stdout" } else { "off" }.to_owned(),
        Form::Flag if matches!(text, "1" | "t" | "T" | "TRUE" | "True") => "true".to_owned(),
        Form::Flag if matches!(text, "0" | "f" | "F" | "FALSE" | "False") => "false".to_owned(),
        Form::Version => match text.strip_prefix("tls_") {
            Some("1.0" | "1.1") => "1.2".to_owned(),
            version => version.unwrap_or(text).to_owned(),
        },
        Form::Same | Form::Listen | Form::Flag => text.to_owned(),
    };
    Some((variable, text))
}

/// Whether `name` is what the pattern says; `*` stands for anything, and may stand once or twice.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split('*').collect::<Vec<_>>().as_slice() {
        [whole] => *whole == name,
        [start, end] => name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        [start, middle, end] => name
            .strip_prefix(start)
            .and_then(|rest| rest.split_once(middle))
            .is_some_and(|(_, rest)| rest.ends_with(end)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_variable_gets_exactly_one_note() {
        let env = env(&[
            ("ANKA_LISTEN_ADDR", ":8090"),
            ("ANKA_ANKA_REGISTRY", "http://front:8089/"),
            ("ANKA_LOCAL_ANKA_REGISTRY", "http://10.0.0.4:8089"),
            ("ANKA_PUSH_REGISTRY", "http://writer:8089/"),
            ("ANKA_ENABLE_AUTH", "false"),
            ("ANKA_MYSTERY", "1"),
        ]);
        let translated = controller(&env);
        let mut names: Vec<&str> = translated.notes.iter().map(|note| note.variable.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "ANKA_ANKA_REGISTRY",
                "ANKA_ENABLE_AUTH",
                "ANKA_LISTEN_ADDR",
                "ANKA_LOCAL_ANKA_REGISTRY",
                "ANKA_MYSTERY",
                "ANKA_PUSH_REGISTRY"
            ]
        );
        assert_eq!(translated.stands[&("server", "listen")].text, "0.0.0.0:8090");
        assert_eq!(translated.stands[&("registries", "address")].text, "http://10.0.0.4:8089");
        assert_eq!(translated.stands[&("registries", "node_address")].text, "http://front:8089");
        assert_eq!(translated.stands[&("registries", "push_address")].text, "http://writer:8089");
    }

    #[test]
    fn what_etcd_is_shown_counts_while_its_switch_is_on() {
        let given = [
            ("ANKA_ETCD_CA_CERT", "/ca.pem"),
            ("ANKA_ETCD_CERT", "/c.pem"),
            ("ANKA_ETCD_CERT_KEY", "/c.key"),
            ("ANKA_SKIP_ETCD_TLS_VERIFICATION", "true"),
            ("ANKA_ETCD_USERNAME", "anka"),
            ("ANKA_ETCD_PASSWORD", "verySecret"),
        ];
        let off = controller(&env(&given));
        assert!(off.stands.is_empty() && off.notes.iter().all(|note| !note.honoured), "{off:?}");
        let switches = [("ANKA_USE_ETCD_TLS", "true"), ("ANKA_USE_ETCD_LOGIN", "1")];
        let on = controller(&env(&[&given[..], &switches].concat()));
        let of = |key| on.stands[&("store", key)].text.as_str();
        assert_eq!((of("ca"), of("cert"), of("key"), of("verify")), ("/ca.pem", "/c.pem", "/c.key", "false"));
        assert_eq!((of("username"), of("password")), ("anka", "verySecret"));
        assert!(on.notes.iter().all(|note| !note.text.contains("verySecret")));
    }

    #[test]
    fn the_receiver_of_events_counts_while_events_are_on() {
        let url = ("ANKA_EVENT_LOG_URL", "http://hooks:8080/x");
        let of = |on: &str| controller(&env(&[("ANKA_ENABLE_EVENT_LOGGING", on), url]));
        let stands = |translated: &Translated, key: &'static str| {
            translated.stands.get(&("events", key)).map(|stand| stand.text.clone())
        };
        let (on, off) = (of("1"), of("f"));
        assert_eq!(stands(&on, "log").as_deref(), Some("true"));
        assert_eq!(stands(&on, "url").as_deref(), Some("http://hooks:8080/x"));
        assert_eq!((stands(&off, "log").as_deref(), stands(&off, "url")), (Some("false"), None));
        let note = off.notes.iter().find(|note| note.variable == url.0).unwrap();
        assert!(!note.honoured && note.text.contains("is not on"), "{}", note.text);
    }

    #[test]
    fn a_switch_that_closes_a_door_is_not_ignored() {
        assert_eq!(controller(&env(&[("ANKA_ENABLE_AUTHORIZATION", "1")])).faults.len(), 1);
        assert_eq!(registry(&env(&[("ANKA_ENABLE_CONTROLLER_AUTHORIZATION", "1")])).faults, []);
        let switches =
            [("ANKA_ENABLE_CONTROLLER_AUTHORIZATION", "1"), ("ANKA_ENABLE_RESOURCE_MANAGEMENT", "true")];
        let switched = controller(&env(&switches));
        assert_eq!(switched.faults, []);
        for key in ["authorization", "resource_management"] {
            assert_eq!(switched.stands[&("auth", key)].text, "true", "{key}");
        }
        for variable in ["ANKA_ENABLE_AUTHORIZATION", "ANKA_ENABLE_RESOURCE_MANAGEMENT"] {
            for on in ["true", "TRUE", "1", "yes"] {
                assert_eq!(registry(&env(&[(variable, on)])).faults.len(), 1, "{variable}={on}");
            }
            for off in ["false", "0", ""] {
                assert_eq!(registry(&env(&[(variable, off)])).faults, [], "{variable}={off}");
            }
        }
    }

    #[test]
    fn a_registry_that_was_told_to_keep_things_elsewhere_does_not_begin_with_an_empty_disk() {
        for (variable, value) in [("ANKA_BACKEND_TYPE", "s3"), ("ANKA_USE_BACKEND_PLUGIN", "true")] {
            let faults = registry(&env(&[(variable, value), ("ANKA_BASE_PATH", "/mnt/vol")])).faults;
            assert_eq!(faults.len(), 1, "{variable}");
            assert!(faults[0].what.contains(variable) && faults[0].right.contains("unset"), "{faults:?}");
            assert_eq!(controller(&env(&[(variable, value)])).faults, []);
        }
        for (variable, value) in
            [("ANKA_BACKEND_TYPE", "disk"), ("ANKA_BACKEND_TYPE", ""), ("ANKA_USE_BACKEND_PLUGIN", "false")]
        {
            assert_eq!(registry(&env(&[(variable, value)])).faults, [], "{variable}={value}");
        }
    }

    #[test]
    fn access_lines_and_lists_of_addresses_are_not_dropped() {
        for (value, expected) in [("true", "stdout"), ("1", "stdout"), ("false", "off")] {
            let stands = registry(&env(&[("ANKA_ACCESS_LOGS", value)])).stands;
            assert_eq!(stands[&("log", "access")].text, expected);
        }
        let two = controller(&env(&[("ANKA_PUSH_REGISTRY", "http://a:8089,http://b:8089")]));
        assert!(two.stands.is_empty() && two.faults.len() == 1, "{two:?}");
        assert!(two.faults[0].what.contains("several addresses") && two.faults[0].right.contains("name one"));
    }

    #[test]
    fn every_public_variable_of_these_roles_is_known_by_name_and_on_the_page() {
        let page = include_str!("../../docs/vendor-variables.md");
        let named: std::collections::BTreeSet<&str> =
            page.split('`').filter(|word| word.starts_with("ANKA_") && !word.contains('*')).collect();
        let known = |name: &str| {
            let sets = [CONTROLLER, REGISTRY, SECURED].into_iter().flatten();
            let switched = SWITCHED.iter().flat_map(|(_, more)| *more);
            sets.chain(switched).any(|(known, ..)| *known == name)
                || name == LOCAL
                || IGNORED.iter().any(|(pattern, _)| fits(pattern, name))
        };
        for name in &named {
            assert!(known(name), "the page has {name}, of which the code says only that it sets nothing");
        }
        let plain = IGNORED.iter().map(|(name, _)| *name).filter(|name| !name.contains('*'));
        let sets = [CONTROLLER, REGISTRY, SECURED].into_iter().flatten().map(|(name, ..)| *name);
        for name in plain.chain(sets).chain([LOCAL]) {
            assert!(named.contains(name), "the page lacks {name}");
        }
    }

    #[test]
    fn certificates_are_the_servers_own_while_it_speaks_tls_itself_and_callers_in_headers_otherwise() {
        let given = [
            ("ANKA_SERVER_CERT", "/s.pem"),
            ("ANKA_SERVER_KEY", "/s.key"),
            ("ANKA_CA_CERT", "/ca.pem"),
            ("ANKA_CRL", "/ca.crl"),
            ("ANKA_MIN_TLS_VERSION", "tls_1.1"),
        ];
        let on = registry(&env(&[&given[..], &[("ANKA_USE_HTTPS", "true")]].concat()));
        let of = |key| on.stands[&(SERVER_TLS, key)].text.as_str();
        assert_eq!((of("cert"), of("key"), of("client_ca")), ("/s.pem", "/s.key", "/ca.pem"));
        assert_eq!((of("crl"), of("min_version"), of("client_auth")), ("/ca.crl", "1.2", "optional"));
        assert!(!on.stands.contains_key(&("auth", "client_ca")));
        assert!(on.notes.iter().any(|note| note.text == "sets `server.tls.cert`"), "{:?}", on.notes);
        let off = controller(&env(&given));
        assert_eq!(off.stands[&("auth", "client_ca")].text, "/ca.pem");
        assert!(!off.stands.keys().any(|(section, _)| *section == SERVER_TLS));
        let alone = controller(&env(&[("ANKA_USE_HTTPS", "1")]));
        assert!(alone.stands.keys().any(|(section, _)| *section == SERVER_TLS), "it must not serve plainly");
    }

    #[test]
    fn notes_never_hold_the_value() {
        let translated =
            registry(&env(&[("ANKA_ROOT_TOKEN", "very-secret"), ("ANKA_BASE_PATH", "/very-secret")]));
        assert!(!format!("{:?}", translated.notes).contains("very-secret"));
    }

    #[test]
    fn patterns_fit_as_their_stars_say() {
        assert!(fits("ANKA_V", "ANKA_V") && !fits("ANKA_V", "ANKA_VRAMTHRESHOLD"));
        assert!(fits("ANKA_OIDC_*", "ANKA_OIDC_SCOPES"));
        assert!(fits("ANKA_*ETCD_*", "ANKA_SKIP_ETCD_TLS_VERIFICATION"));
        assert!(!fits("ANKA_M*_TLS_VERSION", "ANKA_METRICS_PORT"));
    }
}
