//! `switchyard check`: the files of the project, roles, overrides, exit codes.

use std::{fs, path::PathBuf};

use crate::{
    certificates::{self, Authority},
    program::{Said, in_project, run, switchyard},
};

fn conf_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(in_project("conf")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
    files.sort();
    files
}

#[test]
fn every_file_of_the_project_passes_and_its_role_is_told() {
    let files = conf_files();
    let said = switchyard().arg("check").args(&files).output().unwrap();
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(out.lines().count(), files.len());
    for role in ["agent", "controller", "proxy", "registry"] {
        let line = format!("conf/{role}.toml ({role})");
        assert!(out.lines().any(|l| l.starts_with("ok ") && l.ends_with(&line)), "no `{line}` in {out}");
    }
}

#[test]
fn every_key_that_a_file_shows_in_a_comment_exists_with_a_valid_value() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    authority.leaf(&["front.example"]).write(folder.path(), "front");
    certificates::write(folder.path(), "ca.pem", &authority.cert());
    certificates::write(folder.path(), "ca.crl", &authority.list(&[], 30));
    certificates::write(folder.path(), "etcd-ca.pem", &authority.cert());
    authority.leaf(&["etcd.example"]).write(folder.path(), "etcd-client");
    for secret in ["root.token", "etcd.password", "sign.key"] {
        fs::write(folder.path().join(secret), "0123456789abcdef0123456789abcdef\n").unwrap();
    }
    for file in conf_files() {
        // Files that a config names are opened: here are some.
        let here = format!("{}/", folder.path().display());
        let text = fs::read_to_string(&file).unwrap().replace("/etc/switchyard/", &here);
        // What is said of etcd's TLS wants members inside it.
        let text = (4..=6)
            .map(|n| format!("//10.0.1.{n}:2379"))
            .fold(text, |text, member| text.replace(&format!("http:{member}"), &format!("https:{member}")));
        let shows_key = |line: &str| {
            line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")).is_some_and(|(key, value)| {
                let one_line = !value.ends_with('[');
                // Another way to say the same, or of the other kind of registry: excluded by what is in the file.
                let alternative = matches!(key, "embedded" | "shared" | "writer");
                let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                is_key && one_line && !alternative
            })
        };
        let shown = text.lines().filter(|line| shows_key(line)).count();
        let uncommented: Vec<&str> =
            text.lines().map(|line| if shows_key(line) { &line[2..] } else { line }).collect();
        let copy = folder.path().join(file.file_name().unwrap());
        fs::write(&copy, uncommented.join("\n")).unwrap();
        let said = run(&["check", copy.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(shown > 5 || file.ends_with("minimal.toml"), "{} shows {shown} keys", file.display());
    }
}

#[test]
fn the_role_is_read_from_the_tables_and_never_from_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let misnamed = folder.path().join("proxy.toml");
    fs::write(&misnamed, "[server]\nlisten = \"127.0.0.1:0\"\n[storage]\ndisk = \"/tmp/x\"\n").unwrap();
    assert!(run(&["check", misnamed.to_str().unwrap()]).out.ends_with("(registry)\n"));
    let said = run(&["controller", "-c", misnamed.to_str().unwrap()]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("this is the config of a registry, not of a controller"), "{}", said.err);
    assert!(said.err.contains("run `switchyard registry -c` with it"), "{}", said.err);
}

#[test]
fn one_bad_file_among_good_ones_gives_exit_2_and_the_good_ones_are_still_checked() {
    let good = in_project("conf/minimal.toml");
    let said = run(&["check", "/no/such/file.toml", good.to_str().unwrap()]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("cannot read the file") && said.err.contains("/no/such/file.toml"),
        "{}",
        said.err
    );
    assert!(said.out.starts_with("ok "), "{}", said.out);
}

#[test]
fn a_variable_overrides_a_key_and_is_named_when_it_is_wrong() {
    let file = in_project("conf/proxy.toml");
    let said = switchyard().arg("check").arg(&file).env("SWITCHYARD_ADMIN_LISTEN", "9091").output().unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(err.contains("--> environment variable SWITCHYARD_ADMIN_LISTEN"), "{err}");
    assert!(err.contains("add a port: `9091:8090`"), "{err}");
    // A good value in the place of a bad one of the file.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.toml");
    fs::write(
        &broken,
        fs::read_to_string(&file).unwrap().replace("\n[admin]\n", "\n[admin]\nlisten = 9090\n"),
    )
    .unwrap();
    assert_eq!(run(&["check", broken.to_str().unwrap()]).code, Some(2));
    let said = switchyard()
        .arg("check")
        .arg(&broken)
        .env("SWITCHYARD_ADMIN_LISTEN", "127.0.0.1:9091")
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(0));
}

#[test]
fn a_variable_that_sets_no_key_is_told() {
    let said = switchyard()
        .arg("check")
        .arg(in_project("conf/proxy.toml"))
        .env("SWITCHYARD_ADMIN_LISTN", "127.0.0.1:9091")
        .output()
        .unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(
        err.contains("SWITCHYARD_ADMIN_LISTN") && err.contains("did you mean `SWITCHYARD_ADMIN_LISTEN`?"),
        "{err}"
    );
    assert_eq!(said.status.code(), Some(0));
    // One that the command line reads, where it asks others, is near no key.
    let controller = ("SWITCHYARD_CONTROLLER", "http://127.0.0.1:8090");
    let said =
        switchyard().arg("check").arg(in_project("conf/proxy.toml")).envs([controller]).output().unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    let told = "the command line reads it";
    assert!(err.contains(controller.0) && err.contains(told) && !err.contains("did you mean"), "{err}");
}

#[test]
fn variables_of_the_vendor_are_honoured_and_an_inline_comment_in_one_is_an_error() {
    let file = in_project("conf/controller.toml");
    let with = |name: &str, value: &str| {
        let output = switchyard().arg("check").arg(&file).env(name, value).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(with("ANKA_ANKA_REGISTRY", "http://front:8089/").0, Some(0));
    let (code, err) = with("ANKA_ANKA_REGISTRY", "http://front:8089 # the front");
    assert_eq!(code, Some(2));
    assert!(err.contains("`ANKA_ANKA_REGISTRY` has an inline `# comment` in it"), "{err}");
    let (code, err) = with("ANKA_NODE_ACTIVE_TIMEOUT", "120");
    assert_eq!(code, Some(2));
    assert!(
        err.contains("environment variable ANKA_NODE_ACTIVE_TIMEOUT") && err.contains("write `\"120s\"`"),
        "{err}"
    );
    let (code, err) = with("ANKA_CLEAN_MAC_ADDRESS_INTERVAL", "1h");
    assert_eq!(code, Some(0));
    assert!(err.contains("ANKA_CLEAN_MAC_ADDRESS_INTERVAL is ignored"), "{err}");
    let (code, err) = with("ANKA_ENABLE_AUTH", "true");
    assert_eq!(code, Some(2));
    assert!(err.contains("there is no root token") && err.contains("variable ANKA_ENABLE_AUTH"), "{err}");
    let (code, err) = with("ANKA_ENABLE_AUTHORIZATION", "true");
    assert_eq!(code, Some(2));
    assert!(err.contains("ANKA_ENABLE_CONTROLLER_AUTHORIZATION"), "{err}");
}

#[test]
fn a_root_token_that_can_be_guessed_refuses_to_start_and_is_not_shown() {
    let file = in_project("conf/registry.toml");
    let with = |token: &str| {
        let mut check = switchyard();
        check.arg("check").arg(&file).env("ANKA_ENABLE_AUTH", "1").env("ANKA_ROOT_TOKEN", token);
        let output = check.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = with("tooshort9");
    assert_eq!(code, Some(2));
    assert!(err.contains("has 9 characters") && !err.contains("tooshort"), "{err}");
    assert_eq!(with("long-enough").0, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("registry.toml");
    let text =
        "[server]\nlisten = '127.0.0.1:0'\n[storage]\ndisk = '/x'\n[auth]\nroot_token = 'in-the-file'\n";
    fs::write(&written, text).unwrap();
    let output = switchyard().arg("check").arg(&written).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(err.contains("`auth.enabled` is missing") && err.contains("root_token_file"), "{err}");
}

#[test]
fn every_subcommand_explains_itself_and_bad_usage_is_exit_2() {
    for command in [
        &["standalone"][..],
        &["proxy"],
        &["controller"],
        &["registry"],
        &["agent"],
        &["agent", "join"],
        &["agent", "run"],
        &["agent", "leave"],
        &["check"],
    ] {
        let said = run(&[command, &["--help"]].concat());
        assert_eq!(said.code, Some(0), "{command:?}");
        assert!(said.out.contains("Usage:"), "{command:?}: {}", said.out);
    }
    assert!(!run(&["--help"]).out.contains("vm-process"), "the VM's stand-in is no command for people");
    for wrong in [&["chek"][..], &["proxy"], &["check"], &["standalone", "--agents", "many"]] {
        assert_eq!(run(wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let file = in_project("conf/proxy.toml");
    let said: Said = switchyard().arg("check").arg(file).stdout(writer).output().unwrap().into();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}
