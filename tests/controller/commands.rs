//! `switchyard vm`, `node` and `group` against a controller, as an operator types them.

use std::{
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use switchyard::{model::Progress, wire::agent::VmPhase};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{
    auth::{TOKEN, asked},
    cloud::{Cloud, PATIENCE, Plan, until_state},
    node::{Node, granted},
    support::process::BINARY,
};

fn command(controller: &str, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear().env("SWITCHYARD_CONTROLLER", controller);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// It must do well; what it printed.
async fn well(controller: &str, args: &[&str]) -> String {
    let output = command(controller, args).output().await.unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out
}

async fn json(controller: &str, args: &[&str]) -> Value {
    let out = well(controller, &[args, &["--output", "json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// It must fail with this code and say all of this.
async fn fails(controller: &str, args: &[&str], code: i32, says: &[&str]) {
    let output = command(controller, args).output().await.unwrap();
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    for word in says {
        assert!(err.contains(word), "{args:?} does not say `{word}`: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_started_waited_for_looked_at_changed_and_terminated() {
    let cloud = Cloud::start().await;
    let at = cloud.api().base().to_owned();
    let template = cloud.template("sonoma", "v1+ssh").await;
    let node = Node::joined(cloud.api(), "n-1").await;

    let asked = ["vm", "start", "sonoma:v1+ssh", "--wait", "--name", "build", "--external-id", "job/7"];
    let more = ["--metadata", "team=mac", "--metadata", "try=2", "--forward", "ssh=22", "--priority", "5"];
    let args = [asked.as_slice(), &more].concat();
    let started = async { json(&at, &args).await };
    let playing = async {
        let task = node.offered().await;
        assert_eq!(node.claim(&task).await, granted());
        let pulling = node.vm(&task, VmPhase::Pulling);
        node.report(switchyard::wire::agent::SeenVm { progress: Progress::of(0.4), ..pulling }).await;
        until_state(cloud.api(), task.instance.as_str(), "Pulling").await;
        assert_eq!(node.starting(&task).await, granted());
        node.report(node.vm(&task, VmPhase::Running)).await;
        task
    };
    let (shown, task) = tokio::join!(started, playing);
    let id = task.instance.as_str();
    assert_eq!((&shown[0]["instance_id"], &shown[0]["instance_state"]), (&json!(id), &json!("Started")));
    assert_eq!(shown[0]["metadata"], json!({ "team": "mac", "try": 2 }));
    assert_eq!((&shown[0]["name"], &shown[0]["external_id"]), (&json!("build"), &json!("job/7")));
    assert_eq!(task.hardware.port_forwarding_override.as_ref().unwrap()[0]["guest_port"], "22");

    let list = well(&at, &["vm", "list"]).await;
    for word in [id, "Started", "build", "v1+ssh", "n-1", "192.168.64.7"] {
        assert!(list.contains(word), "{word}: {list}");
    }
    let by = |filter: &[&'static str]| [&["vm", "list"], filter].concat();
    for (filter, found) in [
        (vec!["--state", "started"], 1),
        (vec!["--state", "error", "--state", "scheduling"], 0),
        (vec!["--node", "n-1", "--external-id", "job/7", "--name", "build"], 1),
        (vec!["--node", "n-1-name"], 1),
        (vec!["--node", "n-2"], 0),
        (vec!["--group", "x"], 0),
    ] {
        assert_eq!(json(&at, &by(&filter)).await.as_array().unwrap().len(), found, "{filter:?}");
    }
    assert_eq!(json(&at, &["vm", "list", "--template", &template]).await.as_array().unwrap().len(), 1);

    assert_eq!(well(&at, &["vm", "list", "--ids"]).await, format!("{id}\n"));

    let page = well(&at, &["vm", "show", id]).await;
    for word in ["Started", "team = mac", "22 of the VM at 10002 of the host", "VNC port     5900", "job/7"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    well(&at, &["vm", "update", id, "--name", "other", "--metadata", "a=b"]).await;
    let changed = json(&at, &["vm", "show", id]).await;
    assert_eq!((&changed["name"], &changed["metadata"]), (&json!("other"), &json!({ "a": "b" })));
    assert_eq!(changed["external_id"], "job/7", "what was not named stays");

    let gone = async { well(&at, &["vm", "rm", id, "--wait", "--quiet"]).await };
    let deleting = async {
        until_state(cloud.api(), id, "Terminating").await;
        node.report(node.vm(&task, VmPhase::Gone)).await;
    };
    let (said, ()) = tokio::join!(gone, deleting);
    assert!(said.contains("deleted: "), "{said}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_says_why_and_what_is_wrong_is_said_in_words() {
    let cloud = Cloud::start().await;
    let at = cloud.api().base().to_owned();
    let template = cloud.template("sonoma", "v1").await;
    let ids = well(&at, &["vm", "start", &template, "--count", "2"]).await;
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 2);
    assert!(well(&at, &["vm", "why", ids[0]]).await.contains("no node has joined"));
    Node::joined(cloud.api(), "n-1").await;
    cloud.api().post("/api/v1/node/config", &json!({ "node_id": "n-1", "drain_mode": true })).await.ok();
    let why = well(&at, &["vm", "why", ids[1]]).await;
    for word in
        ["it waits for a node", "of 2 that wait come first", "n-1-name", "it takes no starts: drain mode"]
    {
        assert!(why.contains(word), "{word}: {why}");
    }
    cloud.api().delete("/api/v1/node", &json!({ "node_id": "n-1" })).await.ok();
    let list = well(&at, &["vm", "ls"]).await;
    assert_eq!(list.matches("no node has joined").count(), 2, "{list}");
    let late = ["vm", "terminate", ids[0], "--wait", "--wait-timeout", "0s"];
    // No node had it: it is gone only after a while.
    fails(&at, &late, 1, &["not within 0s: Terminating"]).await;

    // One that cannot be made any more is told with its reason.
    let waits = async {
        let args = ["vm", "start", "sonoma", "--wait"];
        fails(&at, &args, 1, &["1 of the instances did not start", "it was terminated meanwhile"]).await;
    };
    let ending = async {
        let id = loop {
            let all = cloud.api().get("/api/v1/vm").await.ok();
            let new =
                all.as_array().unwrap().iter().find(|vm| !ids.contains(&vm["instance_id"].as_str().unwrap()));
            if let Some(new) = new {
                break new["instance_id"].as_str().unwrap().to_owned();
            }
            tokio::task::yield_now().await;
        };
        cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    };
    tokio::join!(waits, ending);

    for (args, code, says) in [
        (vec!["vm", "start", "nothing"], 1, vec!["no template `nothing`", "switchyard template list"]),
        (vec!["vm", "start", "sonoma:v9"], 1, vec!["says: No such tag v9", "switchyard template show"]),
        (vec!["vm", "start", "sonoma:v1", "--version", "0"], 2, vec!["name one version each"]),
        (vec!["vm", "start", "sonoma", "--node", "n-9"], 1, vec!["no node `n-9`", "node list"]),
        (vec!["vm", "start", "sonoma", "--count", "0"], 2, vec!["--count"]),
        (
            vec!["vm", "start", "sonoma", "--script", "/nothing/there"],
            2,
            vec!["/nothing/there", "cannot be read"],
        ),
        (vec!["vm", "start", "sonoma", "--script-timeout", "5s"], 2, vec!["--script-monitoring"]),
        (vec!["vm", "start", "sonoma", "--metadata", "x"], 2, vec!["KEY=VALUE"]),
        (vec!["vm", "start", "sonoma", "--forward", "ssh=x"], 2, vec!["no port"]),
        (vec!["vm", "start", "sonoma", "--forward", "ssh=0"], 2, vec!["use 1 to 65535"]),
        (vec!["vm", "start", "sonoma", "--wait", "--wait-timeout", "x"], 2, vec!["write it like `30s`"]),
        (vec!["vm", "show", ""], 2, vec!["a value is required for '<ID>'"]),
        (vec!["vm", "terminate", ids[0], ""], 2, vec!["a value is required for '<ID>"]),
        (vec!["vm", "save", "i-9", "--tag", "t", "--template", "nothing"], 1, vec!["no template `nothing`"]),
        (vec!["vm", "show", "i-9"], 1, vec!["no instance `i-9`", "switchyard vm list"]),
        (vec!["vm", "why", "i-9"], 1, vec!["no instance `i-9`"]),
        (vec!["vm", "terminate", "i-9"], 1, vec!["no instance `i-9`"]),
        (vec!["vm", "update", ids[1]], 2, vec!["nothing was named to change"]),
        (vec!["node", "show", "n-9"], 1, vec!["no node `n-9`", "switchyard node list"]),
        (vec!["node", "drain", "n-9"], 1, vec!["no node `n-9`"]),
        (vec!["node", "config", "n-9"], 2, vec!["nothing was named to change"]),
        (vec!["group", "delete", "g"], 1, vec!["no group `g`", "switchyard group list"]),
        (vec!["group", "create", "g", "--fallback", "x"], 1, vec!["there is no group `x`"]),
        (vec!["group", "attach", "g", "n"], 1, vec!["no group `g`"]),
    ] {
        fails(&at, &args, code, &says).await;
    }
    let hint = ["cannot be reached", "SWITCHYARD_CONTROLLER"];
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // It is asked again for a while, for it may come back: only a call that is asked once is tried here.
    fails(&format!("http://{port}"), &["group", "create", "g"], 1, &hint).await;
    fails(&cloud.registry, &["node", "list"], 1, &["a controller"]).await;
    cloud.stop().await;
}

/// Reads a program's words until one line has this; all of them.
async fn says(child: &mut tokio::process::Child, word: &str) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut all = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let found = line.contains(word);
            all.push_str(&line);
            all.push('\n');
            if found {
                return;
            }
        }
        panic!("it ended without `{word}`");
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    child.stderr = Some(lines.into_inner().into_inner());
    assert!(read.is_ok(), "it does not say `{word}`: {all}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_told_at_once_and_what_goes_on_after_an_interruption_as_well() {
    let cloud = Cloud::start().await;
    let at = cloud.api().base().to_owned();
    let template = cloud.template("sonoma", "v1").await;
    let mut waits = command(&at, &["vm", "start", &template, "--wait"]).spawn().unwrap();
    says(&mut waits, "no node has joined").await;
    let pid = Pid::from_raw(i32::try_from(waits.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = waits.wait_with_output().await.unwrap();
    let id = cloud.api().get("/api/v1/vm").await.ok()[0]["instance_id"].as_str().unwrap().to_owned();
    let (_, err) = texts(&ended);
    assert_eq!(ended.status.code(), Some(130), "{err}");
    for word in ["interrupted", "go on", &format!("switchyard vm terminate {id}")] {
        assert!(err.contains(word), "{word}: {err}");
    }
    until_state(cloud.api(), &id, "Scheduling").await;

    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut tries = command(&format!("http://{port}"), &["vm", "list"]).spawn().unwrap();
    let said = says(&mut tries, "trying again for 20 s").await;
    assert!(said.contains("cannot be reached") && tries.try_wait().unwrap().is_none(), "{said}");
    tries.kill().await.unwrap();

    let usage = command(&at, &["vm", "show"]).output().await.unwrap();
    let (_, err) = texts(&usage);
    assert!(err.contains("Usage: switchyard vm show <ID>"), "{err}");
    let help = well(&at, &["vm", "show", "--help"]).await;
    assert!(help.contains("SWITCHYARD_CONTROLLER") && help.contains(&format!("[default: {at}]")), "{help}");
    cloud.stop().await;
}

/// A wire to a controller that loses the first answer to a start.
#[expect(clippy::disallowed_methods, reason = "the wire ends with the runtime of its test")]
async fn loses_an_answer(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let lost = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, lost) = (to.clone(), lost.clone());
            tokio::spawn(async move { carry(client, &to, &lost).await });
        }
    });
    address
}

async fn carry(mut client: TcpStream, to: &str, lost: &AtomicBool) -> Option<()> {
    let mut server = TcpStream::connect(to.strip_prefix("http://")?).await.ok()?;
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    let mut losing = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read.ok().filter(|read| *read > 0)?;
                if asked[..read].starts_with(b"POST /api/v1/vm ") && !lost.swap(true, Ordering::Relaxed) {
                    losing = true;
                }
                server.write_all(&asked[..read]).await.ok()?;
            }
            read = server.read(&mut answered) => {
                let read = read.ok().filter(|read| *read > 0)?;
                if losing {
                    return None;
                }
                client.write_all(&answered[..read]).await.ok()?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_makes_no_second_vm() {
    let cloud = Cloud::start().await;
    cloud.template("sonoma", "v1").await;
    let at = loses_an_answer(cloud.api().base().to_owned()).await;
    let started = json(&at, &["vm", "start", "sonoma"]).await;
    let all = async || cloud.api().get("/api/v1/vm").await.ok();
    let made = all().await;
    assert_eq!(made.as_array().unwrap().len(), 1, "{made}");
    assert_eq!(started["instances"][0], made[0]["instance_id"]);
    // By hand it is the same, and with another body it is refused.
    let key = started["idempotency_key"].as_str().unwrap();
    let again = json(&at, &["vm", "start", "sonoma", "--idempotency-key", key]).await;
    assert_eq!((&again["instances"], all().await.as_array().unwrap().len()), (&started["instances"], 1));
    fails(
        &at,
        &["vm", "start", "sonoma", "--name", "x", "--idempotency-key", key],
        1,
        &["422", "another request"],
    )
    .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_groups_are_looked_at_and_changed() {
    let cloud = Cloud::start().await;
    let at = cloud.api().base().to_owned();
    let node = Node::joined(cloud.api(), "n-1").await;
    let list = well(&at, &["node", "list"]).await;
    for word in ["n-1", "n-1-name", "Active", "0/2", "amd64", "10.20.30.41"] {
        assert!(list.contains(word), "{word}: {list}");
    }
    let page = well(&at, &["node", "show", "n-1"]).await;
    assert!(page.contains("8 cores, 16 GB") && page.contains("old:base (c0ffee11)"), "{page}");

    well(&at, &["node", "config", "n-1", "--capacity", "3", "--name", "mini", "--capacity-mode", "resource"])
        .await;
    let shown = json(&at, &["node", "show", "n-1"]).await;
    assert_eq!((&shown["capacity"], &shown["node_name"]), (&json!(3), &json!("mini")));
    assert!(
        well(&at, &["node", "show", "n-1"]).await.contains("by resources: its own processors, its own GB")
    );
    well(&at, &["node", "config", "n-1", "--capacity-mode", "number"]).await;

    // One that is drained is waited for until it is empty.
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let task = node.offered().await;
    node.run(&task).await;
    let drained = async { well(&at, &["node", "drain", "n-1", "--wait"]).await };
    let emptied = async {
        crate::support::eventually::eventually(crate::cloud::PATIENCE, "it is drained", async || {
            let node = cloud.api().get("/api/v1/node?id=n-1").await.ok();
            if node[0]["state"] == "Drain Mode" { Ok(()) } else { Err(node) }
        })
        .await;
        cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
        node.report(node.vm(&task, VmPhase::Gone)).await;
    };
    let (said, ()) = tokio::join!(drained, emptied);
    assert!(said.contains("drained, and empty: n-1"), "{said}");
    assert_eq!(json(&at, &["node", "ls", "--state", "drain mode"]).await.as_array().unwrap().len(), 1);
    assert!(well(&at, &["node", "why", "mini"]).await.starts_with("n-1: it "));
    // What a node is given to do beside instances.
    assert!(well(&at, &["node", "distribute", "sonoma:v1", "--node", "mini"]).await.starts_with("begun: "));
    fails(&at, &["node", "distribute", "sonoma:v1", "--node", "n-9"], 1, &["no node `n-9`"]).await;
    fails(&at, &["node", "distribute", "nothing"], 1, &["no template `nothing`"]).await;
    assert_eq!(json(&at, &["node", "remove-template", "sonoma"]).await["node_ids"], json!(["n-1"]));
    fails(&at, &["node", "remove-template", "sonoma:v1"], 2, &["all versions of a template"]).await;
    well(&at, &["node", "update"]).await;
    let why = well(&at, &["node", "why", "n-1"]).await;
    assert!([" pull ", " remove ", " update "].iter().all(|what| why.contains(what)), "{why}");
    well(&at, &["node", "undrain", "mini"]).await;
    assert_eq!(json(&at, &["node", "ls", "--state", "drain mode"]).await, json!([]));

    let spare = well(&at, &["group", "create", "spare"]).await;
    let lab = ["group", "create", "lab", "--description", "by the window", "--fallback", "spare"];
    assert_eq!(json(&at, &lab).await["fallback_group_id"], spare.trim());
    let list = well(&at, &["group", "list"]).await;
    assert!(
        list.contains("by the window")
            && list.lines().any(|line| line.contains("lab") && line.contains("spare")),
        "{list}"
    );
    well(&at, &["group", "attach", "lab", "n-1"]).await;
    assert_eq!(json(&at, &["node", "ls", "--group", "lab"]).await.as_array().unwrap().len(), 1);
    well(&at, &["group", "detach", "lab", "n-1"]).await;
    assert_eq!(json(&at, &["node", "ls", "--group", "lab"]).await, json!([]));
    fails(&at, &["group", "delete", "spare"], 1, &["fallback of group `lab`"]).await;
    well(&at, &["group", "update", "lab", "--fallback", "", "--name", "lab 2"]).await;
    well(&at, &["group", "delete", spare.trim()]).await;
    well(&at, &["group", "rm", "lab 2"]).await;
    assert_eq!(json(&at, &["group", "list"]).await, json!([]));

    well(&at, &["node", "delete", "n-1"]).await;
    assert_eq!(json(&at, &["node", "list"]).await, json!([]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_asks_who_calls_is_shown_the_root_token() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let at = cloud.api().base().to_owned();
    fails(&at, &["node", "list"], 1, &["401", "Authentication Required", "--root-token-file"]).await;
    fails(&at, &["vm", "why", "i-9", "--root-token", "wrong-and-long"], 1, &["401"]).await;
    assert_eq!(json(&at, &["node", "list", "--root-token", TOKEN]).await, json!([]));
    fails(&at, &["vm", "why", "i-9", "--root-token", TOKEN], 1, &["no instance `i-9`"]).await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_groups_of_callers_may_do_is_said_and_shown() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let at = cloud.api().base().to_owned();
    let root = |args: &[&'static str]| -> Vec<&'static str> { [args, &["--root-token", TOKEN]].concat() };
    let output = command(&at, &root(&["permission", "list"])).output().await.unwrap();
    let (out, err) = texts(&output);
    assert!(out.contains("GROUP") && err.contains("permission create GROUP"), "{out}{err}");
    let names = json(&at, &root(&["permission", "names"])).await;
    assert!(names["start_vm"]["description"].is_string(), "{names}");
    assert!(well(&at, &root(&["permission", "names"])).await.contains("start instances"));

    let made = well(&at, &root(&["permission", "create", "team a-b c", "list_vms", "start_vm"])).await;
    assert_eq!(made.trim(), "made: team a-b c may do 2 things");
    let again = root(&["permission", "create", "team a-b c", "list_vms"]);
    fails(&at, &again, 2, &["there is a group `team a-b c` already", "permission set"]).await;
    let shown = json(&at, &root(&["permission", "show", "team a-b c"])).await;
    assert_eq!(shown, json!({ "name": "team a-b c", "permissions": ["list_vms", "start_vm"] }));
    let shown = well(&at, &root(&["permission", "show", "team a-b c"])).await;
    assert!(
        shown.lines().any(|line| line.contains("start_vm") && line.contains("start instances")),
        "{shown}"
    );
    let wrong = root(&["permission", "set", "team a-b c", "list_vm"]);
    fails(&at, &wrong, 2, &["permissions: there is no `list_vm`", "permission names"]).await;
    fails(&at, &root(&["permission", "set", "team a-b c"]), 2, &["<PERMISSION>"]).await;
    // A proxy would refuse the call's path.
    fails(&at, &root(&["permission", "create", "a/b", "list_vms"]), 2, &["slashes"]).await;
    fails(&at, &root(&["permission", "set", "other", "list_vms"]), 1, &["no group of callers `other`"]).await;
    let set = json(&at, &root(&["permission", "set", "team a-b c", "list_nodes"])).await;
    assert_eq!(set["permissions"], json!(["list_nodes"]), "those and no others");
    assert_eq!(
        json(&at, &root(&["permission", "set", "team a-b c", "--none"])).await["permissions"],
        json!([])
    );
    let list = well(&at, &root(&["permission", "ls"])).await;
    assert!(list.lines().any(|line| line.split_whitespace().eq(["team", "a-b", "c", "0", "-"])), "{list}");
    assert_eq!(well(&at, &root(&["permission", "rm", "team a-b c"])).await.trim(), "deleted: team a-b c");
    for verb in ["show", "delete"] {
        let gone = root(&["permission", verb, "team a-b c"]);
        fails(&at, &gone, 1, &["no group of callers `team a-b c`", "switchyard permission list"]).await;
    }
    fails(&at, &["permission", "list"], 1, &["401", "--root-token-file"]).await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_watched_shows_what_comes() {
    let cloud = Cloud::start().await;
    let at = cloud.api().base().to_owned();
    let mut watching = command(&at, &["group", "list", "--watch=1", "--output", "json"]).spawn().unwrap();
    let mut out = watching.stdout.take().unwrap();
    let mut until = async |word: &str| {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(word) {
            let mut piece = [0; 4096];
            let read = tokio::time::timeout(crate::cloud::PATIENCE, out.read(&mut piece)).await;
            let read = read.expect("something is shown").unwrap();
            assert!(read > 0, "it ended");
            seen.extend_from_slice(&piece[..read]);
        }
    };
    until("[]").await;
    cloud.api().post("/api/v1/group", &json!({ "name": "lab" })).await.ok();
    until("lab").await;
    watching.kill().await.unwrap();
    cloud.stop().await;
}
