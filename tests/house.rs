//! Guards the house: who may import whom, which crate stays in which room, how long a file may be, where
//! printing, spawning and the clock may stand, that every metric is named once and every example config loads.
//!
//! The rules are the data at the top. When the house is better for another arrow, change the data and
//! `docs/architecture.md` in the same commit, and say why.

#![expect(clippy::unwrap_used, reason = "a test says what broke by breaking there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use switchyard::telemetry::names;

#[path = "house/source.rs"]
mod source;

use source::Source;

/// Who may import whom. `model` and `clock` are everybody's; `cli` may import everything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &[]),
    ("wire", &[]),
    ("balance", &[]),
    ("tls", &[]),
    ("telemetry", &[]),
    ("config", &["wire", "telemetry", "tls"]),
    ("import", &["config"]),
    ("supervise", &["telemetry"]),
    ("http", &["telemetry", "wire", "supervise", "tls"]),
    ("store", &["config", "telemetry", "supervise", "tls", "wire"]),
    ("health", &["config", "telemetry", "supervise", "wire", "tls"]),
    ("auth", &["config", "wire", "http", "telemetry", "supervise", "tls"]),
    ("client", &["config", "wire", "balance", "telemetry", "tls"]),
    ("discovery", &["config", "store", "telemetry", "supervise"]),
    (
        "proxy",
        &[
            "config",
            "wire",
            "http",
            "client",
            "balance",
            "health",
            "discovery",
            "telemetry",
            "supervise",
            "tls",
        ],
    ),
    ("controller", &["config", "wire", "http", "auth", "client", "store", "telemetry", "supervise"]),
    ("registry", &["config", "wire", "http", "auth", "client", "store", "telemetry", "supervise"]),
    ("agent", &["config", "wire", "client", "telemetry", "supervise", "tls"]),
];

/// A path of another crate and the only places that may name it.
const FENCES: &[(&str, &[&str], &str)] = &[
    ("pingora_core", &["proxy/engine/"], "the engine alone knows Pingora"),
    ("nix", &["proxy/engine/splice/"], "what rustix lacks is needed in one place"),
    (
        "httparse",
        &["proxy/h1/", "proxy/engine/", "http/direct/"],
        "heads are read in one place and shown as `Fields`",
    ),
    (
        "rustls",
        &["tls/", "proxy/engine/"],
        "files become handshakes in one place, and one place shakes hands",
    ),
    (
        "aws_lc_rs",
        &["tls/", "auth/"],
        "keys of ours are made and used in two rooms: for connections, and for callers",
    ),
    ("x509_parser", &["tls/"], "certificates are looked at in one place"),
    ("hickory_resolver", &["discovery/dns.rs"], "names are asked for in one place"),
    ("etcd_client", &["store/etcd.rs", "store/etcd/"], "the store is a trait"),
    (
        "redb",
        &["store/embedded.rs", "store/embedded/", "registry/log/"],
        "two rooms keep a file of it, each its own",
    ),
    (
        "axum",
        &[
            "http/",
            "auth/",
            "controller/api/",
            "registry/service.rs",
            "registry/counted.rs",
            "registry/position.rs",
            "registry/feed/",
            "registry/oci/",
            "registry/vendor/",
            "proxy/admin",
        ],
        "handlers translate; nothing below them knows HTTP",
    ),
    ("maud", &["proxy/admin/page/"], "a page escapes what is put into it: no markup is made elsewhere"),
    ("clap", &["cli/"], "the command line is one room"),
    ("anyhow", &["cli/"], "rooms have errors of their own"),
    ("annotate_snippets", &["config/"], "faults are drawn where they are found"),
    ("tokio::spawn", &["supervise/"], "a task must be named and stopped"),
    ("tokio::task::spawn", &["supervise/"], "a task must be named and stopped"),
    ("std::process::Command", &["agent/driver/", "cli/", "proxy/handover/"], "child processes stand for VMs"),
    (
        "tokio::process",
        &["agent/driver/", "agent/commands/update.rs", "cli/", "proxy/handover/"],
        "child processes stand for VMs, one for its predecessor, and one installs a newer agent",
    ),
    ("listenfd", &["proxy/handover/"], "sockets are inherited in one place"),
    ("std::time::Instant::now", &["clock.rs"], "one reader of time"),
    ("tokio::time::Instant::now", &["clock.rs"], "one reader of time"),
    ("std::time::SystemTime::now", &["clock.rs"], "one reader of time"),
    ("time::OffsetDateTime::now_utc", &["clock.rs"], "one reader of time"),
];

/// What decides is pure: these may not name those. (Types of time are values; reading the clock is not.)
const PURE: &[(&str, &[&str])] = &[
    ("wire/", &["tokio", "std::net", "std::fs", "tracing", "reqwest", "axum"]),
    ("model/", &["tokio::net", "tokio::fs", "std::fs", "tracing", "reqwest", "axum"]),
    (
        "balance/",
        &["tokio::net", "tokio::fs", "tokio::sync", "std::net", "std::fs", "tracing", "crate::clock"],
    ),
    ("health/verdict.rs", &["tokio::net", "tokio::sync", "std::net", "tracing", "crate::clock"]),
    ("proxy/h1/", &["tokio", "std::net", "std::fs", "tracing", "crate::clock"]),
    ("proxy/h2/", &["tokio", "std::net", "std::fs", "tracing", "crate::clock"]),
    ("proxy/guard/", &["tokio::net", "crate::clock"]),
    ("proxy/limit/gcra.rs", &["tokio", "std::net", "std::fs", "tracing", "crate::clock"]),
    ("proxy/limit/who.rs", &["tokio", "std::fs", "tracing", "crate::clock"]),
    ("proxy/classify/", &["tokio", "std::net", "std::fs", "crate::clock"]),
    ("proxy/choose/", &["tokio::net", "tokio::sync", "std::fs", "crate::clock"]),
    ("proxy/forward/", &["tokio::net", "tokio::sync", "std::fs", "crate::clock"]),
    ("proxy/retry/", &["tokio::net", "tokio::sync", "std::fs", "crate::clock"]),
    ("proxy/freshness/", &["tokio", "std::net", "std::fs", "tracing", "crate::clock"]),
    ("proxy/catalogue/", &["tokio", "std::net", "std::fs", "tracing", "crate::clock"]),
    ("proxy/weigh.rs", &["tokio", "std::net", "std::fs", "crate::clock"]),
    ("controller/api/", &["crate::store", "crate::controller::schedule"]),
    ("controller/ops/", &["axum"]),
    ("controller/duties/", &["axum", "crate::controller::api"]),
    ("controller/schedule/fit.rs", &["tokio", "tracing", "crate::store", "crate::clock"]),
    ("controller/schedule/rank.rs", &["tokio", "tracing", "crate::store", "crate::clock"]),
    ("registry/log/history.rs", &["tokio", "tracing", "redb", "std::fs", "crate::clock"]),
    ("registry/writer/leases.rs", &["tokio", "tracing", "std::fs", "crate::clock"]),
    ("registry/upkeep/gc/mark.rs", &["tokio", "tracing", "std::fs", "crate::clock"]),
    ("registry/feed/", &["std::fs", "tokio::fs"]),
    ("registry/oci/", &["std::fs", "tokio::fs"]),
    ("registry/vendor/", &["std::fs", "tokio::fs"]),
    (
        "registry/replicate/plan",
        &["tokio", "tracing", "reqwest", "std::fs", "std::net", "crate::clock", "crate::client"],
    ),
    ("agent/act.rs", &["tokio", "tracing", "std::fs", "crate::clock", "crate::client"]),
];

/// Macros that print, and the one room that may.
const PRINTS: &[&str] = &["println", "eprintln", "print", "eprint", "dbg"];
const PRINTER: &str = "cli/";

/// Macros and words of unfinished work.
const UNFINISHED: &[&str] = &["todo", "unimplemented"];
const UNFINISHED_WORDS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Past this a file needs a reason here.
const LONGEST: usize = 600;
const LONG_FOR_A_REASON: &[(&str, &str)] = &[];

/// Names that say nothing about what is in them.
const NO_SUBJECT: &[&str] = &["util.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs", "manager.rs"];

/// Every fault of one file, each with its place.
fn faults(source: &Source) -> Vec<String> {
    let mut out = Vec::new();
    let room = room_of(&source.name);
    let at = |line: usize| format!("src/{}:{line}", source.name);

    for named in &source.paths {
        if let Some(target) = named.path.strip_prefix("crate::").and_then(|p| p.split("::").next())
            && !may_import(room, target)
        {
            out.push(format!("{}: `{room}` may not import `{target}` ({})", at(named.line), named.path));
        }
        if named.path.starts_with("switchyard::") && room != "main" {
            out.push(format!("{}: say `crate`, not `switchyard`", at(named.line)));
        }
        if named.path.starts_with("crate::") && named.path.ends_with("::*") && !named.in_test {
            out.push(format!("{}: a glob of ours outside tests hides what is used", at(named.line)));
        }
        if named.in_test {
            continue;
        }
        for (path, places, why) in FENCES {
            if within(&named.path, path) && !places.iter().any(|p| source.name.starts_with(p)) {
                out.push(format!("{}: `{path}` only in {} ({why})", at(named.line), places.join(", ")));
            }
        }
        for (place, not) in PURE {
            if source.name.starts_with(place)
                && let Some(path) = not.iter().find(|p| within(&named.path, p))
            {
                out.push(format!("{}: `{path}` has no place in {place}", at(named.line)));
            }
        }
    }
    for called in source.macros.iter().filter(|m| !m.in_test) {
        if PRINTS.contains(&called.text.as_str()) && !source.name.starts_with(PRINTER) {
            out.push(format!("{}: `{}!` only in {PRINTER}", at(called.line), called.text));
        }
        if UNFINISHED.contains(&called.text.as_str()) {
            out.push(format!("{}: `{}!` is unfinished work", at(called.line), called.text));
        }
    }
    for comment in &source.comments {
        let words = comment.text.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.into_iter().find(|w| UNFINISHED_WORDS.contains(w)) {
            out.push(format!("{}: `{word}` is unfinished work", at(comment.line)));
        }
    }
    for text in source.strings.iter().filter(|s| !s.in_test && source.name != "telemetry/names.rs") {
        if is_metric(&text.text) {
            out.push(format!(
                "{}: metric `{}` is named in telemetry/names.rs alone",
                at(text.line),
                text.text
            ));
        }
    }
    if source.lines > LONGEST && !LONG_FOR_A_REASON.iter().any(|(name, _)| *name == source.name) {
        out.push(format!("{}: {} lines; look for the second subject", at(LONGEST), source.lines));
    }
    if source.name.rsplit('/').next().is_some_and(|file| NO_SUBJECT.contains(&file)) {
        out.push(format!("{}: a file is named for its subject", at(1)));
    }
    out
}

fn room_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

fn may_import(room: &str, target: &str) -> bool {
    let is_room = target == "cli" || MAY_IMPORT.iter().any(|(name, _)| *name == target);
    if !is_room || target == room || ["model", "clock"].contains(&target) || ["cli", "lib"].contains(&room) {
        return true;
    }
    MAY_IMPORT.iter().any(|(name, may)| *name == room && may.contains(&target))
}

/// Whether `path` is `prefix` or below it.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `switchyard_<room>_…`: at least three words.
fn is_metric(text: &str) -> bool {
    text.starts_with("switchyard_")
        && text.split('_').count() >= 3
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let (src, mut found) = (root().join("src"), Vec::new());
    files(&src, "rs", &mut found);
    found.sort();
    assert!(found.len() > 40, "the scan found only {} files", found.len());
    found
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            source::read(&name, &fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn every_file_keeps_the_rules_of_its_room() {
    let faults: Vec<String> = sources().iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_folder_of_src_is_a_room_of_the_table() {
    let known: BTreeSet<&str> =
        MAY_IMPORT.iter().map(|(name, _)| *name).chain(["cli", "lib", "main"]).collect();
    for source in sources() {
        assert!(known.contains(room_of(&source.name)), "src/{} is in no room of the table", source.name);
    }
}

#[test]
fn main_knows_the_command_line_alone_and_is_short() {
    for source in sources().iter().filter(|s| s.name == "main.rs") {
        assert!(source.lines < 60, "main.rs has {} lines", source.lines);
        for named in source.paths.iter().filter(|n| n.path.starts_with("switchyard::")) {
            assert!(named.path.starts_with("switchyard::cli"), "main.rs:{} names {}", named.line, named.path);
        }
    }
}

/// The table above and the one that people read say the same.
#[test]
fn the_table_is_the_one_of_the_architecture_page() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut written: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let table = page.split("| room | may import |").nth(1).expect("the page has the table");
    for line in table.lines().skip(2).take_while(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let rooms: Vec<&str> = cells[0].split('·').collect();
        let imports: Vec<String> = cells[1].split('·').map(without_remarks).collect();
        for (at, group) in rooms.iter().enumerate() {
            let imports = imports.get(at).unwrap_or(&imports[0]);
            for room in group.split('`').skip(1).step_by(2) {
                let may = imports.split(',').map(str::trim).filter(|i| !["", "nothing"].contains(i));
                written.insert(room.to_owned(), may.map(str::to_owned).collect());
            }
        }
    }
    written.remove("cli");
    let checked: BTreeMap<String, BTreeSet<String>> = MAY_IMPORT
        .iter()
        .filter(|(name, _)| !["model", "clock"].contains(name))
        .map(|(name, may)| ((*name).to_owned(), may.iter().map(|m| (*m).to_owned()).collect()))
        .collect();
    assert_eq!(checked, written);
}

/// `wire, telemetry (why)` → `wire, telemetry`.
fn without_remarks(cell: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0);
    for c in cell.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out.trim().to_owned()
}

/// A checker that finds nothing proves nothing.
#[test]
fn the_checker_sees_what_is_forbidden() {
    let check = |name: &str, text: &str| faults(&source::read(name, text));
    let refused = |name: &str, text: &str, expected: &str| {
        let found = check(name, text);
        assert!(found.iter().any(|f| f.contains(expected)), "{name}: {text}\n{found:?}");
    };
    refused("proxy/choose.rs", "use crate::store::Store;", "`proxy` may not import `store`");
    refused("agent/run.rs", "use crate::{config, controller::Ops};", "`agent` may not import `controller`");
    refused("wire/vm.rs", "fn f() { crate::config::x() }", "`wire` may not import `config`");
    refused("store/mod.rs", "use super::registry::x;", "`store` may not import `registry`");
    refused(
        "registry/content/disk.rs",
        "mod a { use super::super::super::super::cli; }",
        "may not import `cli`",
    );
    refused(
        "controller/mod.rs",
        "use pingora_core::x;",
        "src/controller/mod.rs:1: `pingora_core` only in proxy/engine/",
    );
    refused("controller/ops/nodes.rs", "use ::axum::Json;", "`axum`");
    refused("controller/lists.rs", "use etcd_client as e;", "`etcd_client`");
    refused("http/serve.rs", "fn f() { tokio::spawn(x); }", "`tokio::spawn`");
    refused("registry/gc.rs", "use std::{io, process::Command};", "child processes");
    refused("agent/act.rs", "use crate::clock;", "no place in agent/act.rs");
    refused("proxy/record.rs", "fn f() { println!(\"x\") }", "`println!`");
    refused("agent/mod.rs", "fn f() { todo!() }", "unfinished");
    refused("agent/mod.rs", "// FIXME later\n", "unfinished");
    refused("proxy/record.rs", "const M: &str = \"switchyard_proxy_held_total\";", "names.rs alone");
    refused("model/ids.rs", &"\n".repeat(LONGEST + 1), "second subject");
    refused("http/util.rs", "", "named for its subject");
    refused("http/body.rs", "use super::*;", "a glob of ours");

    for (name, text) in [
        ("proxy/choose.rs", "use crate::{balance, model::X, wire::vm};"),
        ("cli/output.rs", "use crate::proxy::x; fn f() { println!(\"{}\", 1) }"),
        ("store/etcd.rs", "use etcd_client::Client;"),
        ("agent/driver/process.rs", "use tokio::process::Command;"),
        ("proxy/mod.rs", "// crate::store is not for us\nconst X: &str = \"crate::store\";"),
        ("client/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n    use axum::Router;\n}"),
    ] {
        assert_eq!(check(name, text), [""; 0], "{name}: {text}");
    }
}

#[test]
fn metrics_are_named_as_agreed() {
    let mut seen = BTreeSet::new();
    for metric in names::ALL {
        let name = metric.name;
        assert!(is_metric(name), "{name} is not switchyard_<room>_<what>_<unit>");
        assert!(seen.insert(name), "{name} twice");
        for bad in [
            "_ms",
            "_millis",
            "_milliseconds",
            "_micros",
            "_minutes",
            "_kb",
            "_mb",
            "_count",
            "_sum",
            "_bucket",
        ] {
            assert!(!name.ends_with(bad), "{name}: units are seconds and bytes; {bad} is not for a name");
        }
        for label in metric.labels {
            let bad = ["id", "path", "message", "instance", "url", "digest", "request_id"];
            assert!(!bad.contains(label), "{name}: label `{label}` has no bound");
        }
        let total = metric.kind == names::Kind::Counter;
        assert_eq!(
            name.ends_with("_total"),
            total,
            "{name}: `_total` is the end of counters, and of no other"
        );
        assert!(metric.help.ends_with('.') || metric.help.ends_with(')'), "{name}: help is a sentence");
    }
}

/// The page of metrics has every one of them, with its type, its labels and its help, and no other.
#[test]
fn the_page_of_metrics_is_the_list_of_metrics() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let written: Vec<&str> = page.lines().filter(|line| line.starts_with("| `switchyard_")).collect();
    let expected: Vec<String> = names::ALL
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, help) = (metric.kind.as_str(), metric.help);
            format!("| `{}` | {kind} | {} | {help} |", metric.name, labels.join(", "))
        })
        .collect();
    let missing: Vec<&String> = expected.iter().filter(|row| !written.contains(&row.as_str())).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks these rows:\n{missing:#?}");
    let unknown: Vec<&&str> = written.iter().filter(|row| !expected.iter().any(|e| e == *row)).collect();
    assert!(unknown.is_empty(), "docs/metrics.md has rows of no metric:\n{unknown:#?}");
    assert_eq!(written.len(), expected.len(), "each has one row");
}

/// A name nobody counts is a promise on the dashboard that is never kept.
#[test]
fn every_metric_is_counted_somewhere() {
    let page = fs::read_to_string(root().join("src/telemetry/names.rs")).unwrap();
    let constants: Vec<&str> =
        page.lines().filter_map(|l| l.trim().split_once(" = \"switchyard_").map(|(name, _)| name)).collect();
    assert_eq!(constants.len(), names::ALL.len(), "the scan of names.rs sees every constant");
    let mut elsewhere = Vec::new();
    files(&root().join("src"), "rs", &mut elsewhere);
    let code: String = elsewhere
        .iter()
        .filter(|p| !p.ends_with("telemetry/names.rs"))
        .map(|p| fs::read_to_string(p).unwrap())
        .collect();
    let unused: Vec<&&str> = constants.iter().filter(|c| !code.contains(&format!("names::{c}"))).collect();
    assert!(unused.is_empty(), "named but never counted: {unused:?}");
}

#[test]
fn every_example_config_loads() {
    let mut examples = Vec::new();
    files(&root().join("conf"), "toml", &mut examples);
    let names: BTreeSet<&str> = examples.iter().filter_map(|p| p.file_name()?.to_str()).collect();
    for role in ["proxy.toml", "controller.toml", "registry.toml", "agent.toml"] {
        assert!(names.contains(role), "conf/{role} is missing; there are {names:?}");
    }
    let check =
        |path: &Path| Command::new(env!("CARGO_BIN_EXE_switchyard")).arg("check").arg(path).output().unwrap();
    for example in &examples {
        let out = check(example);
        assert!(
            out.status.success(),
            "{}: {}{}",
            example.display(),
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        // And the check looks: the same file with a key that nobody knows is refused.
        let broken = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        let text = fs::read_to_string(example).unwrap();
        fs::write(broken.path(), format!("no_such_key_at_all = 1\n{text}")).unwrap();
        assert_eq!(check(broken.path()).status.code(), Some(2), "{} with an unknown key", example.display());
    }
}
