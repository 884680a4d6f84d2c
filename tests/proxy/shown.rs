//! What the admin API shows of listeners and of the config in use.

use std::path::Path;

use switchyard::{
    config::{
        self, MASKED,
        bounds::{Bounds, By, Rate},
        proxy::{Does, Entry, Kind, ListenerLimits, Proxy, Rule},
    },
    wire::{config::Config, handover::Process, listeners::Listeners},
};

use crate::{
    admin::{command, text},
    front::{self, Front},
    raw::{self, Wire},
    upstream::{Upstream, ok},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn get(front: &Front, path: &str, fields: &str) -> raw::Answer {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
    raw::ask(front.admin, &ask)
}

fn listeners(front: &Front) -> Listeners {
    serde_json::from_slice(&get(front, "/admin/v1/listeners", "").body).unwrap()
}

#[test]
fn a_listener_is_shown_with_its_address_its_connections_and_what_it_lets_in() {
    let a = Upstream::start(|_| ok("a"));
    let mut config = front::config(Kind::Controller, &[a.address]);
    let rule = |path: &str, does| Rule { host: None, path: Some(path.into()), does };
    config.listeners.push(config::proxy::Listener {
        name: "ruled".into(),
        rules: vec![rule("/admin", Does::Forbid), rule("/api", Does::Send(0))],
        trusted: vec![config::proxy::Network { address: "10.0.0.0".parse().unwrap(), bits: 8 }],
        limits: ListenerLimits {
            connections: Some(7),
            bounds: Bounds {
                rate: Some(Rate {
                    by: By::Key,
                    requests: 100,
                    per: std::time::Duration::from_secs(60),
                    burst: 5,
                }),
                ..Bounds::default()
            },
        },
        ..config.listeners[0].clone()
    });
    let front = Front::start(config);
    let seen = listeners(&front);
    assert_eq!((seen.connections, seen.max_connections), (0, 20_000));
    let [first, second] = &seen.listeners[..] else { panic!("{seen:?}") };
    assert_eq!((first.name.as_str(), first.service.as_deref()), ("front", Some("pool")));
    assert_eq!(first.addresses, [front.address.to_string()]);
    assert!(first.rules.is_empty() && first.tls.is_none() && first.limits.rate.is_none(), "{first:?}");
    assert_eq!((second.service.as_deref(), second.limits.connections), (None, Some(7)));
    let rules: Vec<_> = second.rules.iter().map(|rule| (rule.path.as_deref(), rule.deny)).collect();
    assert_eq!(rules, [(Some("/admin"), Some(403)), (Some("/api"), None)]);
    assert_eq!(second.rules[1].service.as_deref(), Some("pool"));
    assert_eq!(second.trusted, ["10.0.0.0/8"]);
    let rate = second.limits.rate.as_ref().unwrap();
    assert_eq!((rate.requests.as_str(), rate.burst, rate.by.as_str()), ("100/m", 5, "key"));

    // Connections are counted where they are, and no more when they are gone.
    let wires: Vec<Wire> = (0..3).map(|_| Wire::connect(front.address)).collect();
    front::eventually("three are counted", || {
        let seen = listeners(&front);
        (seen.connections, seen.listeners[0].connections, seen.listeners[1].connections) == (3, 3, 0)
    });
    drop(wires);
    front::eventually("none is", || listeners(&front).connections == 0);
}

#[test]
fn the_config_in_use_is_shown_in_both_forms_and_counts_its_reloads() {
    let a = Upstream::start(|_| ok("a"));
    let config = Proxy {
        entry: Entry::Token(Entry::token(TOKEN).unwrap()),
        ..front::config(Kind::Registry, &[a.address])
    };
    let front = Front::start_unproven(config);
    let with = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(get(&front, "/admin/v1/config", "").status(), 401);
    let file = get(&front, "/admin/v1/config", &with);
    assert_eq!((file.status(), file.head.get("content-type")), (200, Some("application/toml")));
    let file = file.text();
    assert!(file.contains("config 0 of process") && !file.contains(TOKEN), "{file}");
    // Nothing but the token is missing.
    let faults = config::check_proxy(Path::new("dumped.toml"), &file).unwrap_err();
    assert!(faults.count() == 1 && faults.to_string().contains("token_file"), "{faults}\n{file}");
    let said = format!("token = \"{MASKED}\"");
    let again = config::check_proxy(Path::new("dumped.toml"), &file.replace(&said, "")).unwrap();
    assert_eq!(again.services, front.config.services);
    assert_eq!((&again.listeners, &again.limits), (&front.config.listeners, &front.config.limits));

    let json = |path: &str, fields: &str| -> Config {
        let answer = get(&front, path, &format!("{with}{fields}"));
        assert_eq!(answer.head.get("content-type"), Some("application/json"), "{}", answer.text());
        assert!(!answer.text().contains(TOKEN));
        serde_json::from_slice(&answer.body).unwrap()
    };
    let shown = json("/admin/v1/config?format=json", "");
    assert_eq!(shown.in_use.generation, 0);
    assert_eq!(shown.config["service"]["pool"]["kind"], "registry");
    assert_eq!(shown.config["admin"]["token"], MASKED);
    assert_eq!(json("/admin/v1/config", "Accept: application/json\r\n").config, shown.config);
    assert_eq!(get(&front, "/admin/v1/config?format=xml", &with).status(), 400);

    let mut next = front.config.clone();
    next.services[0].attempts = 2;
    front.reload(&next).unwrap();
    let shown = json("/admin/v1/config?format=json", "");
    assert_eq!((shown.in_use.generation, shown.config["service"]["pool"]["attempts"].as_u64()), (1, Some(2)));
    assert!(shown.in_use.refused.is_none());
    front.reload(&Proxy { threads: 9, ..next.clone() }).unwrap_err();
    let process = get(&front, "/admin/v1/process", &with);
    let process: Process = serde_json::from_slice(&process.body).unwrap();
    let in_use = process.config.unwrap();
    assert_eq!(in_use.generation, 1);
    assert!(in_use.refused.unwrap().why.contains("proxy.threads"));
    front.reload(&next).unwrap();
    assert!(json("/admin/v1/config?format=json", "").in_use.refused.is_none());
}

#[test]
fn the_command_line_dumps_a_config_that_check_takes_and_status_shows_which_it_is() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let run = |args: &[&str]| {
        let output = command(&front, args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dumped.toml");
    std::fs::write(&file, run(&["dump-config"])).unwrap();
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let checked = check.arg("check").arg(&file).output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let json: Config = serde_json::from_str(&run(&["dump-config", "--output", "json"])).unwrap();
    assert_eq!((json.in_use.generation, json.config["proxy"]["threads"].as_u64()), (0, Some(2)));
    front.reload(&front.config.clone()).unwrap();
    front.reload(&Proxy { threads: 9, ..front.config.clone() }).unwrap_err();
    let shown = run(&["status"]);
    let listener = format!("listener front on {}, to pool, 0 connections", front.address);
    for part in ["config 1, in use since ", "was REFUSED: `proxy.threads`", &listener] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn a_proxy_that_cannot_be_upgraded_says_so_and_asks_for_the_token_first() {
    let a = Upstream::start(|_| ok("a"));
    let entry = Entry::Token(Entry::token(TOKEN).unwrap());
    let front = Front::start_unproven(Proxy { entry, ..front::config(Kind::Controller, &[a.address]) });
    let ask = |fields: &str| {
        let fields = format!("{fields}Connection: close\r\n");
        raw::ask(front.admin, &raw::with_body("POST", "/admin/v1/upgrade", &fields, ""))
    };
    assert_eq!(ask("").status(), 401);
    let answer = ask(&format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!(answer.status(), 409, "{}", answer.text());
    assert!(answer.text().contains("`proxy.run_dir`"), "{}", answer.text());
}

#[test]
fn status_looks_again_until_it_is_stopped_and_a_proxy_that_is_away_is_no_end() {
    use std::io::{BufRead, BufReader};
    let a = Upstream::start(|_| ok("a"));
    let mut front = Front::controllers(&[a.address]);
    let admin = format!("http://{}", front.admin);
    let mut watching = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"))
        .args(["status", "--watch=1", "--admin", &admin])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut until = |word: &str| lines.find(|line| line.as_ref().unwrap().contains(word)).unwrap().unwrap();
    until("config 0, in use since");
    front.reload(&front.config.clone()).unwrap();
    let shown = until("config 1, in use since");
    // Pages are for terminals: nothing is cleared where a program reads.
    assert!(!shown.contains('\x1b'), "{shown:?}");
    front.stop();
    let mut said = BufReader::new(watching.stderr.take().unwrap()).lines();
    let said = said.find(|line| line.as_ref().unwrap().starts_with("error: ")).unwrap().unwrap();
    assert!(said.contains(&front.admin.to_string()), "{said}");
    assert!(watching.try_wait().unwrap().is_none(), "it goes on");
    watching.kill().unwrap();
    watching.wait().unwrap();
}
