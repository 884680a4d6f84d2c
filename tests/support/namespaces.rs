//! Scenarios that need a namespace of their own.

use std::{
    fs::OpenOptions,
    io::Write as _,
    process::{Command, Stdio},
};

/// Whether this machine lets us make user and mount namespaces. Where it does not, the scenario is named as not
/// run, or fails when the run is strict.
pub fn allowed(scenario: &str) -> bool {
    let tried = Command::new("unshare")
        .args(["-Urm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let allowed = tried.is_ok_and(|status| status.success());
    if !allowed {
        let strict = std::env::var_os("SWITCHYARD_TEST_STRICT").is_some_and(|v| v == "1");
        assert!(!strict, "{scenario} needs `unshare -Urm`, which is not allowed here");
        list_as_not_run(&format!("{scenario}: `unshare -Urm` is not allowed here"));
    }
    allowed
}

/// The test runner hides what a passing test prints, so it goes into a file that `scripts/test` shows at its end.
fn list_as_not_run(line: &str) {
    println!("not run: {line}");
    if let Some(path) = std::env::var_os("SWITCHYARD_TEST_NOT_RUN") {
        let mut file =
            OpenOptions::new().append(true).create(true).open(path).expect("the file for what was not run");
        writeln!(file, "{line}").expect("room for a line");
    }
}
