//! `switchyard vm list` and `node list` read pages where there are some, and the vendor's whole lists elsewhere.

use std::{
    process::Output,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::process::BINARY;

type Answers = fn(target: &str) -> (u16, String);

/// Something that answers each target so; what it was asked.
#[expect(clippy::disallowed_methods, reason = "the server ends with the runtime of its test")]
async fn answering(answers: Answers) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = asked.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move { serve(client, answers, &noted).await });
        }
    });
    (address, asked)
}

async fn serve(mut client: TcpStream, answers: Answers, noted: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = answers(&target);
    noted.lock().unwrap().push(target);
    let answer =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    client.write_all(answer.as_bytes()).await
}

fn vm(id: &str, state: &str, node: &str) -> Value {
    let at = "2026-11-26T10:00:00Z";
    json!({
        "instance_id": id, "instance_state": state, "anka_registry": "", "vmid": "t-1", "node_id": node,
        "ts": at, "cr_time": at, "progress": 0, "group_id": "", "vlan": "", "usb_device": "",
        "template_name": "sonoma", "priority": 1000, "attempt": 1,
    })
}

async fn run(controller: &str, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(args).env_clear().env("SWITCHYARD_CONTROLLER", controller).kill_on_drop(true);
    command.output().await.unwrap()
}

async fn ids(controller: &str, args: &[&str]) -> Vec<String> {
    let output = run(controller, &[&["vm", "list", "--ids"], args].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_page_by_page_with_its_filters() {
    let ours: Answers = |target| {
        let second = target.contains("cursor=c%2F1");
        let page = match (target.starts_with("/switchyard/v1/instances?"), second) {
            (false, _) => return (404, String::new()),
            (_, false) => {
                json!({ "revision": 7, "instances": [vm("a", "Started", "n-1"), vm("b", "Started", "n-1")], "next": "c/1" })
            }
            (_, true) => json!({ "revision": 7, "instances": [vm("c", "Error", "n-1")] }),
        };
        (200, page.to_string())
    };
    let (at, asked) = answering(ours).await;
    let args = ["--state", "started", "--state", "Error", "--node", "n-1", "--external-id", "job 7"];
    assert_eq!(ids(&at, &args).await, ["a", "b", "c"]);
    // Whether the node is named by its name is looked up before, where nodes are told of.
    let asked = asked.lock().unwrap();
    let asked: Vec<_> = asked.iter().filter(|target| target.contains("/instances?")).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for target in asked {
        for part in ["state=started%2CError", "node=n-1", "external_id=job+7", "limit=1000"] {
            assert!(target.contains(part), "{target} lacks {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_whole_list_is_filtered_here() {
    // As a server in Go says that it has no such path.
    let vendors: Answers = |target| {
        if target != "/api/v1/vm" {
            return (404, "404 page not found\n".to_owned());
        }
        let listed = |vm: Value| json!({ "instance_id": vm["instance_id"].clone(), "vm": vm });
        let all = [vm("a", "Started", "n-1"), vm("b", "Started", "n-2"), vm("c", "Error", "n-1")].map(listed);
        (200, json!({ "status": "OK", "message": "", "body": all }).to_string())
    };
    let (at, asked) = answering(vendors).await;
    assert_eq!(ids(&at, &[]).await, ["a", "b", "c"]);
    assert_eq!(ids(&at, &["--state", "started", "--node", "n-1"]).await, ["a"]);
    let asked = asked.lock().unwrap();
    let of_instances = asked.iter().filter(|target| !target.contains("/node")).count();
    assert_eq!(of_instances, 4, "one look for pages and one list, each time: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_without_end_and_failures_between_them_are_said() {
    let without_end: Answers = |_| (200, json!({ "revision": 7, "nodes": [], "next": "c" }).to_string());
    let (at, asked) = answering(without_end).await;
    let output = run(&at, &["node", "list"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the next page is this one again"), "{said}");
    assert_eq!(asked.lock().unwrap().len(), 2);
    // Half a list is none, and is not made whole from another.
    let half: Answers = |target| match (target.starts_with("/switchyard"), target.contains("cursor=")) {
        (true, false) => (200, json!({ "revision": 7, "nodes": [], "next": "c" }).to_string()),
        (true, true) => (410, json!({ "status": "FAIL", "message": "the store was restored" }).to_string()),
        (false, _) => (200, json!({ "status": "OK", "message": "", "body": [] }).to_string()),
    };
    let (at, _) = answering(half).await;
    let output = run(&at, &["node", "list"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the store was restored"), "{said}");
}
