//! Scenarios that need a namespace of their own.

use std::process::{Command, Stdio};

use super::not_run;

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
        not_run::list(scenario, "`unshare -Urm`, which is not allowed here");
    }
    allowed
}
