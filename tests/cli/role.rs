//! A role's process: what it does around the role itself.

use std::{fs, net::TcpListener};

use crate::program::{run, switchyard};

#[test]
fn a_broken_file_is_exit_2_with_the_words_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(&file, "[server]\nlisten = \":0\"\n[storage]\ndisk = \"/tmp\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (checked, started) = (run(&["check", file]), run(&["registry", "-c", file]));
    assert_eq!(started.code, Some(2));
    assert_eq!(checked.err, started.err);
}

#[test]
fn a_busy_port_is_exit_1_and_names_address_holder_and_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    let disk = folder.path().join("content");
    let text = format!("[server]\nlisten = \"{address}\"\n[storage]\ndisk = \"{}\"\n", disk.display());
    fs::write(&file, text).unwrap();
    let said = run(&["registry", "-c", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let last = said.err.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default().to_owned();
    assert!(last.contains(&address.to_string()) && last.contains("server.listen"), "{last}");
    assert!(last.contains(&format!("(pid {})", std::process::id())), "{last}");
}

#[test]
fn what_became_of_the_vendors_variables_is_logged_first_and_never_their_values() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(
        &file,
        format!("[server]\nlisten = \"{}\"\n[storage]\ndisk = \"/x\"\n", taken.local_addr().unwrap()),
    )
    .unwrap();
    let output = switchyard()
        .args(["registry", "-c", file.to_str().unwrap()])
        .env("ANKA_BASE_PATH", folder.path().join("content"))
        .env("ANKA_ROOT_TOKEN", "a-very-secret-token")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let line = |name: &str| err.lines().find(|line| line.contains(name)).unwrap_or_default();
    assert!(line("ANKA_BASE_PATH").contains("environment variable honoured"), "{err}");
    assert!(line("ANKA_ROOT_TOKEN").contains("environment variable ignored"), "{err}");
    assert!(!err.contains("a-very-secret-token"), "{err}");
}

#[test]
fn an_agent_without_controllers_says_how_to_name_one() {
    let said = run(&["agent", "run"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("error: no controller is named\nhint: "), "{}", said.err);
    let said = run(&["agent", "join", "front:8090", "--heartbeat", "5"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("write `http://front:8090`") && said.err.contains("--> flag URL"),
        "{}",
        said.err
    );
    assert!(said.err.contains("write `\"5s\"`") && said.err.contains("--> flag --heartbeat"), "{}", said.err);
}
