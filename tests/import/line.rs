//! The command itself: what goes where, and how it ends.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::support::process::BINARY;

const GOOD: &str = "events {}\nhttp { server { listen 8090; add_header X y; location / { proxy_pass http://10.0.1.4:8090; } } }\n";

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(BINARY)
        .arg("import")
        .args(arguments)
        .env("FRONT_PORT", "8090")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_config_is_data_and_the_report_is_not() {
    let output = run(&["nginx", "-"], GOOD);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("[[listener]]") && out.contains("address = \"10.0.1.4:8090\""), "{out}");
    assert!(err.contains("-:2: cannot be expressed: add_header X y:"), "{err}");
    assert!(err.ends_with("1 cannot be expressed\n"), "{err}");
    assert_eq!(run(&["nginx", "-", "--strict"], GOOD).status.code(), Some(1));
}

#[test]
fn it_can_be_written_to_a_file_that_check_takes_and_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("h.cfg"), dir.path().join("proxy.toml"));
    fs::write(&from, "listen l\n bind \":${FRONT_PORT}\"\n server c1 10.0.1.4:8090\n").unwrap();
    let arguments = ["haproxy", from.to_str().unwrap(), "--to", to.to_str().unwrap()];
    let output = run(&arguments, "");
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), out.as_str()), (Some(0), ""), "{err}");
    assert!(fs::read_to_string(&to).unwrap().contains("0.0.0.0:8090"));
    let checked = Command::new(BINARY).arg("check").arg(&to).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let again = run(&arguments, "");
    assert_eq!(again.status.code(), Some(1));
    assert!(texts(&again).1.contains("name a file that is not there yet"));
}

#[test]
fn programs_get_one_object() {
    let output = run(&["nginx", "-", "--output", "json"], GOOD);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["checks"], true);
    assert!(all["config"].as_str().unwrap().contains("[[listener]]"));
    let lost = all["report"].as_array().unwrap().iter().find(|note| note["fate"] == "lost").unwrap();
    assert_eq!((lost["line"].as_u64(), lost["directive"].as_str()), (Some(2), Some("add_header X y")));
    assert_eq!(texts(&output).1, "");
}

#[test]
fn what_it_includes_is_read_beside_it_and_a_pipe_is_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    fs::write(dir.path().join("conf.d/a.conf"), "server { listen 8090; include ../proxy.inc; }").unwrap();
    fs::write(dir.path().join("proxy.inc"), "location / { proxy_pass http://10.0.9.9:80; }").unwrap();
    let main = dir.path().join("nginx.conf");
    fs::write(&main, "http { include conf.d/*.conf; include proxy.inc; include /dev/zero; }").unwrap();
    // Names are relative to the main file, wherever they stand.
    let output = run(&["nginx", main.to_str().unwrap()], "");
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("/dev/zero` is no plain file"), "{err}");
    assert!(err.contains("../proxy.inc"), "{err}");
    fs::write(dir.path().join("conf.d/a.conf"), "server { listen 8090; include proxy.inc; }").unwrap();
    let (out, err) = texts(&run(&["nginx", main.to_str().unwrap()], ""));
    assert!(out.contains("10.0.9.9:80"), "{err}");
}

#[test]
fn nothing_is_made_of_what_is_no_such_config() {
    for (whose, text, says) in [
        ("nginx", "listen l\n bind :80\n", "does not end with `;`"),
        ("nginx", "http { server { listen 80; root /srv; } }", "there is nothing to proxy in it"),
        ("haproxy", "http { server { listen 80; } }", "stands before any section"),
        ("haproxy", "frontend f\n bind :80\n", "there is nothing to proxy in it"),
    ] {
        let output = run(&[whose, "-"], text);
        let (out, err) = texts(&output);
        assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(says), "{err}");
    }
    // What was read is spoken of all the same.
    let (_, err) = texts(&run(&["nginx", "-"], "http { server { listen 80; root /srv; } }"));
    assert!(err.contains("server: left out"), "{err}");
    assert_eq!(run(&["nginx", "/no/such/file"], "").status.code(), Some(2));
    let missing = "http { server { listen 443 ssl; ssl_certificate /no/a.pem; ssl_certificate_key /no/a.key; \
                   location / { proxy_pass http://10.0.1.4; } } }";
    let output = run(&["nginx", "-"], missing);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).0.contains("/no/a.pem"), "the config is there all the same");
}
