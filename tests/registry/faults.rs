//! A storage that turns read-only or loses its permissions, and a process that may open no more files: who suffers is said, the others go on, and it
//! comes back by itself.

use std::{
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use reqwest::StatusCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use switchyard::config::registry::Storage;

use crate::{
    rig::{Rig, config, limits, noise, refusal},
    support::{eventually::eventually, namespaces},
};

const SOON: Duration = Duration::from_secs(20);

/// Set where a scenario runs again, alone in a process: the directory.
const INSIDE: &str = "FAULTY_STORAGE";

/// Runs this binary's test `name` again by `before`, in which `$@` stands for it.
fn again(name: &str, before: &[&str], dir: &Path) {
    let (program, arguments) = before.split_first().unwrap();
    let said = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("faults::{name}"), "--nocapture"])
        .env(INSIDE, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn mount(options: &str, dir: &Path) {
    let done = Command::new("mount").args(["-o", options]).arg(dir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn can(rig: &Rig, read: bool, write: bool, why: &str) {
    eventually(SOON, &format!("reads {read} and writes {write}, for {why:?}"), || async {
        let ready: Value = rig.json("/readyz").await;
        let fits = ready["read"] == read && ready["write"] == write && ready["why"].to_string().contains(why);
        if fits { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_storage_that_turns_read_only_takes_writes_away_and_nothing_else() {
    let name = "a_storage_that_turns_read_only_takes_writes_away_and_nothing_else";
    let Some(dir) = std::env::var_os(INSIDE) else {
        if namespaces::allowed(name) {
            let dir = tempfile::tempdir().unwrap();
            let script =
                "ip link set lo up; mount -t tmpfs -o size=32m tmpfs \"$FAULTY_STORAGE\" && exec \"$@\"";
            again(name, &["unshare", "-Urnm", "sh", "-c", script, "sh"], dir.path());
        }
        return;
    };
    let dir = Path::new(&dir);
    // No file of it is open for writing all the time, or nobody could make it read-only.
    let mut config = config(dir, limits());
    config.storage = Storage::Shared(dir.to_owned());
    let rig = Rig::of(config, dir).await;
    rig.image("kept", "a", &[&noise(1, 100_000)]).await;
    can(&rig, true, true, "").await;
    // For a moment at a time a file is: the registry's own look at whether it can write.
    eventually(SOON, "the disk to be made read-only", || async {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).output().unwrap();
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    })
    .await;
    let refused = rig.ask("POST", "/v2/new/blobs/uploads/").send().await.unwrap();
    assert_eq!(refusal(refused).await, (500, "UNKNOWN".into()));
    can(&rig, true, false, "Read-only file system").await;
    rig.assert_complete("kept", "a").await;
    mount("remount,rw", dir);
    can(&rig, true, true, "[]").await;
    rig.image("new", "b", &[&noise(2, 1000)]).await;
}

#[tokio::test]
async fn a_process_that_may_open_no_more_files_says_so_and_comes_back() {
    let name = "a_process_that_may_open_no_more_files_says_so_and_comes_back";
    let Some(dir) = std::env::var_os(INSIDE) else {
        let dir = tempfile::tempdir().unwrap();
        again(name, &["env"], dir.path());
        return;
    };
    let rig = Rig::new(Path::new(&dir)).await;
    rig.image("kept", "a", &[&noise(1, 100_000)]).await;
    can(&rig, true, true, "").await;
    // From here on over the one connection that is open.
    let before = getrlimit(Resource::Nofile);
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let few = Rlimit { current: Some(next.unsigned_abs().into()), maximum: before.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    let refused = rig.get("/v2/kept/manifests/a").await;
    let text = refused.text().await.unwrap();
    assert!(text.contains("Too many open files"), "{text}");
    can(&rig, false, false, "Too many open files").await;
    setrlimit(Resource::Nofile, before).unwrap();
    can(&rig, true, true, "[]").await;
    rig.assert_complete("kept", "a").await;
    assert_eq!(
        rig.ask("POST", "/v2/new/blobs/uploads/").send().await.unwrap().status(),
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn a_storage_without_permission_says_so_and_comes_back() {
    let name = "a_storage_without_permission_says_so_and_comes_back";
    let Some(dir) = std::env::var_os(INSIDE) else {
        let dir = tempfile::tempdir().unwrap();
        // Root may do everything, unless it gives that up.
        let without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
        let before: &[&str] = if rustix::process::geteuid().is_root() { &without } else { &["env"] };
        again(name, before, dir.path());
        return;
    };
    let dir = Path::new(&dir);
    let permit = |folder: &str, mode: u32| {
        std::fs::set_permissions(dir.join(folder), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let rig = Rig::new(dir).await;
    rig.image("kept", "a", &[&noise(1, 100_000)]).await;
    can(&rig, true, true, "").await;
    for folder in ["tmp", "uploads"] {
        permit(folder, 0o555);
    }
    can(&rig, true, false, "Permission denied").await;
    let refused = rig.ask("POST", "/v2/new/blobs/uploads/").send().await.unwrap();
    let text = refused.text().await.unwrap();
    assert!(text.contains("UNKNOWN") && text.contains("Permission denied"), "{text}");
    rig.assert_complete("kept", "a").await;
    permit("repositories", 0o000);
    can(&rig, false, false, "Permission denied").await;
    for folder in ["tmp", "uploads", "repositories"] {
        permit(folder, 0o755);
    }
    can(&rig, true, true, "[]").await;
    rig.image("new", "b", &[&noise(2, 1000)]).await;
}
