//! The programs of others that the scenarios use as users do: `curl` and `skopeo`.

use std::{path::Path, process::Stdio};

use serde_json::Value;

use super::place::{MARK, Place};

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end.
pub async fn run(place: &Place, program: &str, arguments: &[&str]) -> Said {
    let out = command(place, program, arguments)
        .output()
        .await
        .unwrap_or_else(|error| panic!("`{program}` did not start: {error}"));
    Said {
        ok: out.status.success(),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

fn command(place: &Place, program: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env(MARK, place.dir()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `curl` with a JSON body as the vendor's documentation shows it, so with curl's own Content-Type.
/// Gives the status and the body.
pub async fn curl(place: &Place, method: &str, url: &str, body: Option<&Value>) -> (u16, Value) {
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut arguments =
        vec!["-sS", "--noproxy", "*", "--max-time", "30", "-X", method, url, "-w", "\n%{http_code}"];
    if body.is_some() {
        arguments.extend(["-d", &text]);
    }
    let said = run(place, "curl", &arguments).await;
    assert!(said.ok, "curl {method} {url}: {}", said.err);
    let (body, status) = said.out.rsplit_once('\n').expect("the status is on a line of its own");
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("curl {url}: {error}: {body}"));
    (status.parse().expect("a status"), body)
}

/// Copies an OCI layout to a registry: `to` is `HOST:PORT/REPOSITORY:TAG`.
pub async fn push(place: &Place, layout: &Path, to: &str) -> Said {
    let arguments = push_arguments(layout, to);
    run(place, "skopeo", &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The same, not waited for: dropping it kills the client.
pub fn start_push(place: &Place, layout: &Path, to: &str) -> tokio::process::Child {
    let arguments = push_arguments(layout, to);
    command(place, "skopeo", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("`skopeo` did not start: {error}"))
}

fn push_arguments(layout: &Path, to: &str) -> Vec<String> {
    let mut all = skopeo("copy");
    // The layers are what they are: recompressing them would change their digests.
    all.extend(["--preserve-digests", "--dest-tls-verify=false"].map(str::to_owned));
    all.extend([format!("oci:{}", layout.display()), format!("docker://{to}")]);
    all
}

/// Copies from a registry into a new OCI layout.
pub async fn pull(place: &Place, from: &str, layout: &Path) -> Said {
    let mut all = skopeo("copy");
    all.extend(["--preserve-digests", "--src-tls-verify=false"].map(str::to_owned));
    all.extend([format!("docker://{from}"), format!("oci:{}", layout.display())]);
    run(place, "skopeo", &all.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn skopeo(verb: &str) -> Vec<String> {
    vec!["--insecure-policy".into(), verb.into()]
}
