//! Who may use the admin API.

use std::process::{Command, Output};

use switchyard::config::proxy::{Entry, Kind, Proxy};

use crate::{
    front::{self, Front},
    raw,
    upstream::{Upstream, ok},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn with_token(upstream: &Upstream, token: &str) -> Proxy {
    Proxy {
        entry: Entry::Token(Entry::token(token).unwrap()),
        ..front::config(Kind::Controller, &[upstream.address])
    }
}

/// A front whose admin API asks for [`TOKEN`].
fn guarded(upstream: &Upstream) -> Front {
    Front::start_unproven(with_token(upstream, TOKEN))
}

fn asks(front: &Front, line: &str, fields: &str) -> raw::Answer {
    raw::ask(
        front.admin,
        &format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}\r\n", front.admin),
    )
}

/// The command line, from an empty directory, with nothing of ours in its environment but these.
pub fn command(front: &Front, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let ours = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("SWITCHYARD_"));
    ours.for_each(|name| {
        command.env_remove(name);
    });
    let admin = format!("http://{}", front.admin);
    command
        .args(args)
        .args(["--admin", &admin])
        .envs(variables.iter().copied())
        .current_dir(dir.path())
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_the_token_nothing_is_shown_and_nothing_is_done() {
    let upstream = Upstream::start(|_| ok("a"));
    let front = guarded(&upstream);
    let calls = [
        "GET /admin/v1/upstreams",
        "GET /admin/v1/registries",
        "GET /admin/v1/process",
        "POST /admin/v1/reload",
        "POST /admin/v1/services/pool/cohort",
        "GET /",
        "GET /nowhere",
        "OPTIONS /admin/v1/reload",
    ];
    for line in calls {
        let none = asks(&front, line, "");
        assert_eq!(none.status(), 401, "{line}");
        assert!(none.text().contains("Authorization: Bearer"), "{line}: {}", none.text());
        assert!(none.head.get("www-authenticate").unwrap().starts_with("Bearer"), "{line}");
        let wrong = asks(&front, line, &format!("Authorization: Bearer {OTHER}\r\n"));
        assert_eq!(wrong.status(), 401, "{line}");
        assert!(!wrong.text().contains(TOKEN) && !wrong.text().contains(OTHER), "{}", wrong.text());
    }
    for line in ["GET /livez", "GET /healthz", "GET /metrics"] {
        assert_eq!(asks(&front, line, "").status(), 200, "{line}");
    }
    let with = asks(&front, "GET /admin/v1/upstreams", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!((with.status(), with.head.get("switchyard-admin")), (200, Some("v1")));
    let metrics = front.metrics();
    for (reason, count) in [("no-token", calls.len()), ("wrong-token", calls.len())] {
        let counted = format!("switchyard_proxy_admin_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&counted), "{counted}");
    }
}

#[test]
fn a_reload_changes_the_token() {
    let upstream = Upstream::start(|_| ok("a"));
    let front = guarded(&upstream);
    let with = |token: &str| {
        asks(&front, "GET /admin/v1/process", &format!("Authorization: Bearer {token}\r\n")).status()
    };
    assert_eq!((with(TOKEN), with(OTHER)), (200, 401));
    let next = Proxy { entry: with_token(&upstream, OTHER).entry, ..front.config.clone() };
    front.reload(&next).unwrap();
    assert_eq!((with(TOKEN), with(OTHER)), (401, 200));
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let upstream = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[upstream.address]);
    let refused =
        asks(&front, "POST /admin/v1/reload", "Origin: http://evil.example\r\nContent-Length: 0\r\n");
    assert_eq!(refused.status(), 403, "{}", refused.text());
    // Without a file to read this is what it comes to when it may come.
    let own = format!("Origin: http://{}\r\nContent-Length: 0\r\n", front.admin);
    assert_eq!(asks(&front, "POST /admin/v1/reload", &own).status(), 409);
}

#[test]
fn a_body_has_a_bound() {
    let upstream = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[upstream.address]);
    let long = raw::with_body(
        "POST",
        "/admin/v1/services/pool/cohort",
        "Connection: close\r\n",
        &" ".repeat(70_000),
    );
    assert_eq!(raw::ask(front.admin, &long).status(), 413);
}

#[test]
fn the_command_line_has_the_token_from_a_flag_a_variable_or_a_file() {
    let upstream = Upstream::start(|_| ok("a"));
    let front = guarded(&upstream);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let status = ["registry", "status"];
    let said = |more: &[&str], variables: &[(&str, &str)]| {
        let args: Vec<&str> = status.iter().chain(more).copied().collect();
        let output = command(&front, &args, variables);
        (output.status.code(), text(&output.stderr))
    };
    let variable = "SWITCHYARD_ADMIN_TOKEN";
    assert_eq!(said(&["--token", TOKEN], &[]).0, Some(0));
    assert_eq!(said(&[], &[(variable, TOKEN)]).0, Some(0));
    assert_eq!(said(&["--token-file", file], &[(variable, OTHER)]).0, Some(0));
    let (code, error) = said(&[], &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("needs a token") && error.contains("SWITCHYARD_ADMIN_TOKEN"), "{error}");
    let (code, error) = said(&[], &[(variable, OTHER)]);
    assert!(code == Some(1) && error.contains("is not the token") && !error.contains(OTHER), "{error}");
    let (code, error) = said(&["--token-file", "nowhere"], &[]);
    assert!(code == Some(2) && error.contains("`nowhere` cannot be read"), "{error}");
    let help = text(&command(&front, &["registry", "status", "--help"], &[(variable, TOKEN)]).stdout);
    assert!(help.contains(variable) && !help.contains(TOKEN), "{help}");
}

#[test]
fn who_is_no_admin_api_is_told_from_one() {
    let upstream = Upstream::start(|_| ok("{}"));
    let front = Front::controllers(&[upstream.address]);
    for address in [upstream.address, front.address] {
        let other = format!("http://{address}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        let output = command.args(["registry", "status", "--admin", &other]).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("not as the admin listener") && error.contains("hint: "), "{error}");
    }
}
