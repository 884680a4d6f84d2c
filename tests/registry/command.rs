//! `switchyard template …` against a real registry: pushed, pulled, broken off at both ends, and gone on with.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    rig::noise,
    support::{
        eventually::eventually,
        place::Place,
        process::{BINARY, Process},
        relay::{Relay, Wire},
    },
};

const MIB: usize = 1 << 20;

/// A registry that can be killed, and come back at the same address.
struct Cloud {
    place: Place,
    registry: Process,
    address: SocketAddr,
    /// What commands are told to ask.
    asked: SocketAddr,
}

impl Cloud {
    async fn start(name: &str, limits: &str) -> Self {
        let place = Place::new(name);
        let address = place.address();
        let text = format!(
            "[server]\nlisten = \"{address}\"\naddress_file = \"{}\"\n[log]\naccess = \"{}\"\n[storage]\ndisk = \"{}\"\n[limits]\n{limits}\n",
            place.path("address").display(),
            place.path("access.log").display(),
            place.path("storage").display()
        );
        let config = place.write("registry.toml", &text);
        let mut registry = Process::start(&place, "registry", &["registry", "-c", config.to_str().unwrap()]);
        registry.addresses(&place.path("address")).await;
        Self { place, registry, address, asked: address }
    }

    async fn back(&mut self) {
        fs::remove_file(self.place.path("address")).ok();
        self.registry.spawn();
        self.registry.addresses(&self.place.path("address")).await;
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("template").args(args);
        command.env_clear().env("SWITCHYARD_REGISTRY", format!("http://{}", self.asked));
        command.env("XDG_STATE_HOME", self.place.path("state")).stdin(Stdio::null());
        command
    }

    /// Runs it to its end beside the runtime, on which a relay may live.
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn well(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out
    }

    async fn json(&self, args: &[&str]) -> Value {
        let out = self.well(&[args, &["--output", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// It must fail with this code and say all of this.
    async fn fails(&self, args: &[&str], code: i32, says: &[&str]) {
        let output = self.run(args).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        for word in says {
            assert!(err.contains(word), "{args:?} does not say `{word}`: {err}");
        }
    }

    fn files(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let dir = self.place.path(name);
        for (name, bytes) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn same(one: &Path, other: &Path, names: &[&str]) {
    for name in names {
        assert!(fs::read(one.join(name)).unwrap() == fs::read(other.join(name)).unwrap(), "{name} differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_that_are_watched_show_what_is_pushed() {
    let cloud = Cloud::start("template-watch", "reserve = \"1MiB\"").await;
    let seen = cloud.place.path("seen");
    let mut watching = cloud
        .command(&["list", "--watch=1", "--output", "json"])
        .stdout(fs::File::create(&seen).unwrap())
        .spawn()
        .unwrap();
    let until = async |word: &str| {
        eventually(Duration::from_secs(20), &format!("{word} to be shown"), || async {
            let all = fs::read_to_string(&seen).unwrap();
            if all.contains(word) { Ok(()) } else { Err(all) }
        })
        .await;
    };
    until("[]").await;
    let dir = cloud.files("vm", &[("disk.img", b"disk")]);
    cloud.well(&["push", dir.to_str().unwrap(), "sonoma:v1"]).await;
    until("sonoma").await;
    cloud.well(&["push", dir.to_str().unwrap(), "sonoma:v2"]).await;
    until("\"v2\"").await;
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_pushed_looked_at_pulled_reverted_and_deleted() {
    let cloud = Cloud::start("template-round", "reserve = \"1MiB\"").await;
    let (base, top) = (noise(1, 3 * MIB), noise(2, MIB));
    let config = br#"{"switchyard.template.id":"c0ffee11-2233","ram":"8G"}"#;
    let dir = cloud.files(
        "vm",
        &[
            ("disk-10.img", &top),
            ("disk-2.img", &base),
            ("nvram", b"nv"),
            ("state/cpu.state", b"st"),
            ("config.json", config),
        ],
    );
    let dir = dir.to_str().unwrap();
    let push = ["push", dir, "mac/sonoma:v1+ssh", "--arch", "arm64", "--description", "with Xcode"];
    let pushed = cloud.json(&push).await;
    let files: Vec<&str> =
        pushed["layers"].as_array().unwrap().iter().map(|l| l["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["disk-2.img", "disk-10.img", "state/cpu.state", "nvram"], "base first, by number");
    assert_eq!(pushed["sent"], pushed["size"]);
    let again = cloud.json(&push).await;
    assert_eq!((&again["sent"], &again["digest"]), (&Value::from(0), &pushed["digest"]));

    let shown = cloud.json(&["show", "mac/sonoma"]).await;
    let version = &shown["versions"][0];
    assert_eq!((&shown["id"], &shown["arch"]), (&"c0ffee11-2233".into(), &"arm64".into()));
    assert_eq!((&version["tag"], &version["description"]), (&"v1+ssh".into(), &"with Xcode".into()));
    assert_eq!(
        (version["images"].as_array().unwrap().len(), version["state_files"].as_array().unwrap().len()),
        (2, 1)
    );
    let list = cloud.well(&["list"]).await;
    assert!(
        list.contains("mac/sonoma") && list.contains("c0ffee11-2233") && list.contains("never"),
        "{list}"
    );

    let goal = cloud.place.path("pulled/here");
    let to = goal.to_str().unwrap();
    let pulled = cloud.json(&["pull", "mac/sonoma:v1+ssh", to]).await;
    assert_eq!((&pulled["digest"], &pulled["received"]), (&pushed["digest"], &pushed["size"]));
    let names = ["disk-10.img", "disk-2.img", "nvram", "state/cpu.state", "config.json"];
    same(Path::new(dir), &goal, &names);
    assert_eq!(fs::read_dir(goal.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    cloud.fails(&["pull", "mac/sonoma:v1+ssh", to], 2, &["has something in it", "--force"]).await;
    fs::write(goal.join("nvram"), "changed").unwrap();
    cloud.well(&["pull", "mac/sonoma:v1+ssh", to, "--force", "-q"]).await;
    same(Path::new(dir), &goal, &names);
    assert_ne!(cloud.json(&["show", "mac/sonoma"]).await["last_pull"], 0);

    // What was pulled and is pushed again is the same thing, and nothing of it is sent.
    let copy =
        cloud.json(&["push", to, "mac/sonoma:copy", "--arch", "arm64", "--description", "with Xcode"]).await;
    assert_eq!((&copy["digest"], &copy["sent"]), (&pushed["digest"], &Value::from(0)));
    // Another repository takes over what this one has.
    let taken = cloud.json(&["push", to, "other:a", "--from", "mac/sonoma"]).await;
    assert_eq!(taken["sent"], 0, "{taken}");

    fs::write(Path::new(dir).join("disk-10.img"), noise(3, MIB)).unwrap();
    cloud.fails(&["push", dir, "mac/sonoma:copy"], 1, &["is there already", "--force"]).await;
    let moved = cloud.json(&["push", dir, "mac/sonoma:copy", "--force"]).await;
    assert_eq!(
        moved["sent"].as_u64().map(|sent| sent < 2 * MIB as u64),
        Some(true),
        "the layer that changed alone"
    );

    cloud.fails(&["revert", "mac/sonoma", "--tag", "v1+ssh"], 2, &["--yes"]).await;
    cloud
        .fails(&["revert", "mac/sonoma", "--tag", "none", "--yes"], 1, &["no version none", "template show"])
        .await;
    let gone = cloud.json(&["revert", "mac/sonoma", "--number", "1", "--yes"]).await;
    assert_eq!(gone["deleted"], serde_json::json!(["copy"]));
    cloud.well(&["rm", "other:a", "--yes"]).await;
    cloud.fails(&["rm", "other:a", "--yes"], 1, &["has no `other:a`"]).await;
    cloud.well(&["rm", "c0ffee11-2233", "--yes"]).await;
    assert_eq!(cloud.json(&["list"]).await, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_killed_goes_on_where_the_registry_says_and_outlives_its_restart() {
    let mut cloud = Cloud::start("template-killed-push", "reserve = \"1MiB\"").await;
    let relay = Relay::to(cloud.address).await;
    cloud.asked = relay.address();
    let size = 24 * MIB;
    let dir = cloud.files("vm", &[("disk.img", &noise(7, size))]);
    let push = ["push", dir.to_str().unwrap(), "big:1", "--output", "json"];
    relay.set(Wire::Narrow(8 * MIB as u64));
    let mut first = cloud.command(&push).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(30), "half of it is on its way", || async {
        (relay.carried() > 12 * MIB as u64).then_some(()).ok_or_else(|| relay.carried())
    })
    .await;
    first.kill().unwrap();
    first.wait().unwrap();

    // The second one goes on; in its middle the registry dies and comes back.
    let before = relay.carried();
    let mut second = cloud.command(&push);
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = second.spawn().unwrap();
    eventually(Duration::from_secs(30), "it goes on", || async {
        (relay.carried() > before + 2 * MIB as u64).then_some(()).ok_or_else(|| relay.carried())
    })
    .await;
    cloud.registry.kill();
    cloud.back().await;
    relay.set(Wire::Whole);
    let output = tokio::task::spawn_blocking(move || second.wait_with_output().unwrap()).await.unwrap();
    let err = text(&output.stderr);
    assert!(output.status.success(), "{err}");
    assert!(err.contains("again in"), "it was broken off and said so: {err}");
    let carried = relay.carried() - before;
    assert!(carried < (size - 4 * MIB) as u64, "the second run sent {carried} of {size} bytes: {err}");
    let goal = cloud.place.path("pulled");
    cloud.well(&["pull", "big:1", goal.to_str().unwrap()]).await;
    same(&dir, &goal, &["disk.img"]);
    let left = fs::read_dir(cloud.place.path("state/switchyard/pushes")).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().path()).filter(|p| p.extension().unwrap() == "json").collect();
    assert!(left.is_empty(), "nothing is to be gone on with: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_goes_on_with_what_is_sound_and_appears_whole() {
    let mut cloud = Cloud::start("template-killed-pull", "reserve = \"1MiB\"").await;
    let size = 100 * MIB;
    let dir = cloud.files("vm", &[("disk.img", &noise(8, size)), ("nvram", b"nv")]);
    cloud.well(&["push", dir.to_str().unwrap(), "big:1"]).await;
    let relay = Relay::to(cloud.address).await;
    cloud.asked = relay.address();
    let goal = cloud.place.path("pulled");
    let pull = ["pull", "big:1", goal.to_str().unwrap(), "--output", "json"];
    relay.set(Wire::Narrow(64 * MIB as u64));
    let mut first = cloud.command(&pull).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(30), "some chunks are here", || async {
        (relay.carried() > 72 * MIB as u64).then_some(()).ok_or_else(|| relay.carried())
    })
    .await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!goal.exists(), "half a template is not there");

    // A bit flips in what was here.
    let parts = cloud.place.path(".pulled.pull/parts");
    let part = fs::read_dir(&parts).unwrap().map(|e| e.unwrap().path());
    let part = part.into_iter().find(|p| p.metadata().unwrap().len() == size as u64).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[5] ^= 1;
    fs::write(&part, &bytes).unwrap();

    let before = relay.carried();
    let mut second = cloud.command(&[&pull[..], &["--progress-json"]].concat());
    let second = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually(Duration::from_secs(30), "it goes on", || async {
        (relay.carried() > before + 8 * MIB as u64).then_some(()).ok_or_else(|| relay.carried())
    })
    .await;
    cloud.registry.kill();
    cloud.back().await;
    relay.set(Wire::Whole);
    let output = tokio::task::spawn_blocking(move || second.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    same(&dir, &goal, &["disk.img", "nvram"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let received = said["received"].as_u64().unwrap();
    assert!(received < (size - 32 * MIB) as u64 && received >= 16 * MIB as u64, "{said}");
    for line in text(&output.stderr).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["event"].is_string(), "{line}");
    }
    assert!(!cloud.place.path(".pulled.pull").exists(), "nothing is left beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_with_what_helps() {
    let mut cloud = Cloud::start("template-wrong", "reserve = \"900TiB\"").await;
    let empty = cloud.files("empty", &[]);
    let dir = cloud.files("vm", &[("disk.img", b"disk")]);
    let (empty, dir) = (empty.to_str().unwrap(), dir.to_str().unwrap());
    cloud.fails(&["push", empty, "a:b"], 2, &["nothing to push", "--config"]).await;
    cloud.fails(&["push", dir, "ab"], 2, &["`ab` is no target", "NAME:TAG"]).await;
    cloud.fails(&["push", "a:b"], 2, &["missing"]).await;
    cloud.fails(&["push", "/nowhere/at/all", "a:b"], 2, &["cannot be read"]).await;
    cloud.fails(&["push", dir, "a:b"], 1, &["507", "not enough disk space", "template rm"]).await;
    let goal = cloud.place.path("goal");
    cloud
        .fails(&["pull", "no:such", goal.to_str().unwrap()], 1, &["does not have `no:such`", "template list"])
        .await;
    assert!(!goal.exists());
    cloud.fails(&["show", "nope"], 1, &["no template `nope`", "template list"]).await;
    cloud.fails(&["rm", "nope", "--yes"], 1, &["no template `nope`"]).await;
    cloud.registry.kill();
    let soon = ["--patience", "300ms"];
    cloud
        .fails(&[&["push", dir, "a:b"][..], &soon].concat(), 1, &["nothing moved", "tried", "push again"])
        .await;
    cloud.fails(&["list"], 1, &["cannot be reached", "SWITCHYARD_REGISTRY"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_line_and_a_log_that_was_moved_away_is_begun_anew() {
    let cloud = Cloud::start("registry-access", "reserve = \"1MiB\"").await;
    let (log, moved) = (cloud.place.path("access.log"), cloud.place.path("moved.log"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &str, id: &str| {
        let ask = http.get(format!("http://{}{path}", cloud.address)).header("x-request-id", id.to_owned());
        async move { ask.send().await.unwrap().status().as_u16() }
    };
    let line = |file: PathBuf, id: &'static str| async move {
        eventually(Duration::from_secs(10), "its line", || async {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let found = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            found.into_iter().find(|line| line["request"] == id).ok_or(text)
        })
        .await
    };
    assert_eq!(get("/v2/none/manifests/a?token=secret", "first").await, 404);
    let first = line(log.clone(), "first").await;
    let expected = serde_json::json!({
        "method": "GET", "path": "/v2/none/manifests/a", "api": "oci", "class": "read", "status": 404,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&first[key], value, "{first}");
    }
    assert!(first["client"].is_string() && first["first_byte_ms"].is_f64(), "{first}");
    fs::rename(&log, &moved).unwrap();
    cloud.registry.signal(rustix::process::Signal::USR1);
    eventually(Duration::from_secs(10), "a new file", || async { log.exists().then_some(()).ok_or("none") })
        .await;
    assert_eq!(get("/registry/status", "second").await, 200);
    assert_eq!(line(log, "second").await["api"], "vendor");
    assert!(!fs::read_to_string(moved).unwrap().contains("\"second\""));
}
