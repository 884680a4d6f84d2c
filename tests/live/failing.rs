//! Successors that do not come to serve: the running process goes on as if nothing had been.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::Output,
};

use switchyard::wire::handover::{Ask, Outcome, PROTOCOL, TAKE_OVER, UPGRADE};

use crate::{
    clients::Clients,
    raw,
    rig::{Rig, text},
    support::process::{BINARY, Process},
};

/// What an upgrade starts from now on.
fn put(rig: &Rig, script: &str) {
    remove(rig);
    std::fs::write(&rig.binary, script).unwrap();
    std::fs::set_permissions(&rig.binary, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn remove(rig: &Rig) {
    // It may be gone already.
    std::fs::remove_file(&rig.binary).ok();
}

fn put_back(rig: &Rig) {
    remove(rig);
    std::os::unix::fs::symlink(BINARY, &rig.binary).unwrap();
}

#[track_caller]
fn refused(rig: &Rig, output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(raw::get(rig.controllers, "/api/v1/status").status(), 200);
    rig.until("no successor is left", || (rig.processes().len() == 1).then_some(()));
}

#[test]
fn whatever_becomes_of_a_successor_the_running_process_goes_on() {
    let mut rig = Rig::start("broken");
    let clients = Clients::start(rig.controllers, rig.registries);
    let pid = rig.view().pid;

    rig.more = "[strange]\n".into();
    rig.write();
    // It is the running process that is asked, by its directory: the file is wrong for everybody.
    let output = std::process::Command::new(BINARY)
        .args(["upgrade", "--run-dir", text(&rig.run_dir())])
        .output()
        .unwrap();
    refused(&rig, &output, &["unknown table `strange`", "goes on as before"]);

    let taken = std::net::TcpListener::bind((rig.controllers.ip(), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    rig.more = format!("[[listener]]\nname = \"x\"\nbind = [\"{address}\"]\nservice = \"controllers\"\n");
    rig.write();
    refused(&rig, &rig.upgrade(&[]), &["is in use", "listener `x`, bind"]);
    rig.more = String::new();
    rig.write();

    put(&rig, "#!/bin/sh\nkill -9 $$\n");
    refused(&rig, &rig.upgrade(&[]), &["ended before it served", "signal: 9"]);
    put(&rig, "no program\n");
    refused(&rig, &rig.upgrade(&[]), &["could not be started"]);
    remove(&rig);
    refused(&rig, &rig.upgrade(&[]), &["could not be started", text(&rig.binary)]);
    put(&rig, "#!/bin/sh\n# proxy\nexec sleep 1000\n");
    let began = switchyard::clock::now();
    refused(&rig, &rig.upgrade(&[]), &["not ready within 30 s"]);
    assert!(began.elapsed().as_secs() >= 30);
    assert!(rig.log().contains("no successor serves, this process goes on"));

    assert_eq!((rig.view().pid, rig.view().generation), (pid, 0));
    put_back(&rig);
    rig.upgraded(&[]);
    clients.end();
}

fn speak(rig: &Rig, ask: &Ask) -> serde_json::Value {
    let mut stream = UnixStream::connect(rig.run_dir().join("control.sock")).unwrap();
    let text = serde_json::to_vec(ask).unwrap();
    stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&text).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn who_is_no_successor_gets_nothing_and_other_versions_are_told_so() {
    let rig = Rig::start("strangers");
    let ask = |what: &str, protocol| Ask {
        protocol,
        version: "9.9.9".into(),
        ask: what.into(),
        why: String::new(),
    };
    let answer = speak(&rig, &ask(TAKE_OVER, PROTOCOL));
    assert_eq!(answer["refused"], "no successor was started");
    assert_eq!(answer["sockets"].as_array().map(Vec::len), Some(0));
    let answer: Outcome = serde_json::from_value(speak(&rig, &ask(UPGRADE, PROTOCOL + 1))).unwrap();
    assert!(!answer.done && answer.why.contains("you are version 9.9.9 and speak"), "{answer:?}");
    let answer: Outcome = serde_json::from_value(speak(&rig, &ask("dance", PROTOCOL))).unwrap();
    assert!(answer.why.contains("`dance` is not known"), "{answer:?}");
    rig.upgraded(&[]);
}

#[test]
fn a_second_proxy_in_the_same_directory_is_refused_and_an_open_directory_too() {
    let rig = Rig::start("second");
    let pid = rig.view().pid;
    let other = rig.place.write(
        "other.toml",
        &format!(
            "[proxy]\nrun_dir = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             service = \"controllers\"\n[service.controllers]\nupstreams = [{{ name = \"u\", address = \"127.0.0.1:1\" }}]\n",
            rig.run_dir().display()
        ),
    );
    let start = || {
        let mut process = Process::start(&rig.place, "other", &["proxy", "-c", text(&other)]);
        let status = rig.until("it ends", || process.has_ended().flatten());
        (status.code(), process.log())
    };
    let (code, log) = start();
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("a proxy (pid {pid}) runs already")), "{log}");
    std::fs::set_permissions(rig.run_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, log) = start();
    assert_eq!(code, Some(1));
    assert!(log.contains("may be entered by others (mode 755)"), "{log}");
    let nobody = std::process::Command::new(BINARY)
        .args(["upgrade", "--run-dir", text(&rig.place.path("nobody"))])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(1) && said.contains("no proxy serves in"), "{said}");
}
