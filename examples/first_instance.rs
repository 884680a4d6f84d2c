//! Starts an instance of the first template that the cloud has, waits until it runs, and ends it: what a CI plugin
//! does, in one page.
//!
//! ```sh
//! cargo run --example first_instance -- http://127.0.0.1:8090
//! ```

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// How long the instance may take. A template of many gigabytes takes longer to pull; CI plugins wait for hours.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let controllers = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8090".into());
    let cloud = Cloud { http: reqwest::Client::new(), api: format!("{controllers}/api/v1") };

    let templates = cloud.call(cloud.http.get(format!("{}/registry/vm", cloud.api))).await?;
    let template = templates.get(0).context("the cloud has no template yet; push one first")?;
    say(&format!("template {} ({})", template["name"], template["id"]));

    // The key makes a repeated start harmless: send it again after a lost answer, and the same VM comes back.
    let ask = json!({ "vmid": template["id"], "external_id": "examples/first_instance" });
    let key = format!("first-instance-{}", std::process::id());
    let start = cloud.http.post(format!("{}/vm", cloud.api)).header("Idempotency-Key", key).json(&ask);
    let started = cloud.call(start).await?;
    let id = started[0].as_str().context("a start answers with ids")?.to_owned();
    say(&format!("instance {id}"));

    let outcome = tokio::time::timeout(PATIENCE, cloud.running(&id)).await;
    let end = cloud.http.delete(format!("{}/vm", cloud.api)).json(&json!({ "id": id }));
    cloud.call(end).await?;
    say("terminated");
    outcome.context("it did not start in time")?
}

struct Cloud {
    http: reqwest::Client,
    api: String,
}

impl Cloud {
    /// Sends a request and takes the envelope apart.
    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let answer: Value = request.send().await?.json().await.context("the answer is no JSON")?;
        ensure!(answer["status"] == "OK", "the cloud answered: {}", answer["message"]);
        Ok(answer["body"].clone())
    }

    /// Waits until the instance runs.
    async fn running(&self, id: &str) -> anyhow::Result<()> {
        loop {
            let vm = self.call(self.http.get(format!("{}/vm", self.api)).query(&[("id", id)])).await?;
            match vm["instance_state"].as_str() {
                Some("Started") => {
                    say(&format!("runs on node {} at {}", vm["node_id"], vm["vminfo"]["ip"]));
                    return Ok(());
                }
                Some("Scheduling" | "Pulling") => tokio::time::sleep(Duration::from_millis(500)).await,
                other => bail!("it is {other:?}: {}", vm["message"]),
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a program to look at")]
fn say(text: &str) {
    println!("{text}");
}
