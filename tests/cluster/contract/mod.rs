//! The controller's public API as data: what is asked and what has to be answered, a case for each behaviour that the
//! reference names. One table, asked of one controller, and the same through the proxy while a controller of three is
//! killed and started again every second.

mod instances;
mod others;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;

use crate::{
    alone,
    support::{
        api::{Answer, Api},
        cloud::{Cloud, Plan, SOON, ids},
        image::Image,
        scale::scaled,
        shape::{self, Field},
    },
};

/// What has to be answered.
#[derive(Clone, Debug)]
enum Expect {
    /// FAIL with this status; the message has these words.
    Fail(u16, &'static str),
    /// OK, and what is at this JSON pointer of the body is this.
    Is(&'static str, Value),
    /// OK, and the object at this pointer has this shape.
    Shape(&'static str, &'static [Field]),
    /// OK, and the body is a list of so many different texts: a start, whose instances are terminated again.
    Ids(usize),
    /// This status, whatever else.
    Status(u16),
}

use Expect::{Fail, Ids, Is, Shape, Status};
use instances::{reads, refused_starts, starts};
use others::{credentials, distribution, hardware_and_images, methods, other_calls, ours};

/// A request and its answer.
#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    path: String,
    body: String,
    expect: Expect,
}

/// What the cases are about.
struct World {
    template: String,
    instance: String,
}

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";
const VM: &str = "/api/v1/vm";
const NODE: &str = "/api/v1/node";
const CONFIG: &str = "/api/v1/node/config";
const GROUP: &str = "/api/v1/group";
const MEMBERS: &str = "/api/v1/node/group";
const TEMPLATES: &str = "/api/v1/registry/vm";

/// Of `GET /api/v1/stats`.
const STATS: &[Field] = &[
    Field("tasks_per_second", shape::Is::Decimal, true),
    Field("average_queue_time", shape::Is::Decimal, true),
    Field("queued", shape::Is::Count, true),
];

fn case(method: &'static str, path: impl Into<String>, body: impl ToString, expect: Expect) -> Case {
    Case { method, path: path.into(), body: body.to_string(), expect }
}

/// All of them.
fn table(world: &World) -> Vec<Case> {
    let mut all = reads(world);
    all.extend(starts(world));
    all.extend(refused_starts(world));
    all.extend(other_calls(world));
    all.extend(hardware_and_images(world));
    all.extend(distribution(world));
    all.extend(credentials());
    all.extend(ours(world));
    all.extend(methods());
    all
}

/// What became of a run.
#[derive(Debug, Default)]
struct Outcome {
    faults: Vec<String>,
    asked: usize,
    again: usize,
}

/// Tries of one case while servers come and go: a request that was cut off is answered 502 by the proxy, for nobody
/// knows what became of it. A client asks again, under the same key.
const TRIES: usize = 5;

async fn run(api: &Api, table: &[Case], patient: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for (n, case) in table.iter().enumerate() {
        let key = format!("contract-{n}-{}", rand::random::<u64>());
        let mut tries = 0;
        let said = loop {
            let said = ask(api, case, &key).await;
            let passing = match &said {
                Ok(answer) => matches!(answer.status, 502..=504),
                Err(_) => true,
            };
            tries += 1;
            if !patient || !passing || tries == TRIES {
                break said;
            }
            outcome.again += 1;
        };
        outcome.asked += 1;
        let fault = match said {
            Ok(answer) => {
                if matches!(case.expect, Ids(_)) && answer.is_ok() {
                    for id in ids(&answer) {
                        // Whether it is gone at once is not what this is about.
                        drop(api.try_call("DELETE", VM, Some(&json!({ "id": id }))).await);
                    }
                }
                fault(&case.expect, &answer).map(|why| format!("{why}\n    {answer}"))
            }
            Err(why) => Some(why),
        };
        if let Some(why) = fault {
            let body: String = case.body.chars().take(200).collect();
            outcome
                .faults
                .push(format!("{} {} {body}\n    wants {:?}: {why}", case.method, case.path, case.expect));
        }
    }
    outcome
}

async fn ask(api: &Api, case: &Case, key: &str) -> Result<Answer, String> {
    let method: reqwest::Method = case.method.parse().map_err(|_| "no method".to_owned())?;
    let mut request = api.http().request(method, format!("{}{}", api.base(), case.path));
    if case.path == VM && case.method == "POST" {
        request = request.header("idempotency-key", key);
    }
    if !case.body.is_empty() {
        request = request.body(case.body.clone());
    }
    let since = clock::now();
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    Ok(Answer { status, headers, text, took: clock::now() - since })
}

/// What is not as expected.
fn fault(expect: &Expect, answer: &Answer) -> Option<String> {
    let body = || match answer.is_ok() {
        true => Ok(answer.ok()),
        false => Err("no success".to_owned()),
    };
    let at = |pointer: &str| body().map(|body| body.pointer(pointer).cloned().unwrap_or_default());
    let right = match expect {
        Fail(status, words) => match answer.failure() {
            Some(said) if answer.status == *status && said.contains(words) && answer.text.len() < 2000 => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        },
        Is(pointer, value) => at(pointer).and_then(|found| match found == *value {
            true => Ok(()),
            false => Err(format!("found {found}")),
        }),
        Shape(pointer, shape) => at(pointer).and_then(|found| {
            let faults = shape::faults(&found, shape);
            if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
        }),
        Ids(count) => body().and_then(|body| {
            let ids: Vec<&str> = body.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let different = ids.iter().collect::<std::collections::BTreeSet<_>>().len();
            if (ids.len(), different) == (*count, *count) { Ok(()) } else { Err(format!("{ids:?}")) }
        }),
        Status(status) if answer.status == *status => Ok(()),
        Status(_) => Err("another status".into()),
    };
    right.err()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_at_one_controller_and_at_three_that_die_in_turn() {
    let _turn = alone().await;
    let timeouts = "[timeouts]\nnode_active = \"30s\"\ninstance_active = \"30s\"\n";
    let plan = Plan { controllers: 3, agents: 1, controller: timeouts.into(), ..Plan::default() };
    let mut cloud = Cloud::start("contract", &plan).await;
    let image = Image::write(&cloud.place.path("image"), 1, 2, 1);
    let template = cloud.push(&image, "mac/sonoma", "v1").await;
    let ask = json!({
        "vmid": template, "name": "one", "external_id": "job/1", "metadata": { "team": "ios" },
    });
    let instance = cloud.run(ask).await.remove(0);
    cloud.reaches(&instance, &["Started"], SOON).await;
    let table = table(&World { template, instance: instance.clone() });
    assert!(table.len() >= 200, "{} cases", table.len());

    let alone = run(&cloud.controllers[0].api(), &table, false).await;
    assert!(
        alone.faults.is_empty(),
        "{} of {} at one controller:\n{}",
        alone.faults.len(),
        alone.asked,
        alone.faults.join("\n")
    );

    // Each second another one is killed; it is back before the next one goes.
    let (api, over) = (cloud.api.clone(), AtomicBool::new(false));
    let Cloud { controllers, .. } = &mut cloud;
    let dying = async {
        let mut deaths = 0;
        while !over.load(Ordering::Relaxed) {
            let next = deaths % controllers.len();
            controllers[next].process.kill();
            controllers[next].restart().await;
            deaths += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        deaths
    };
    let asking = async {
        let until = clock::now() + Duration::from_secs(scaled(6, 120) as u64);
        let mut whole = Outcome::default();
        loop {
            let round = run(&api, &table, true).await;
            whole.faults.extend(round.faults);
            (whole.asked, whole.again) = (whole.asked + round.asked, whole.again + round.again);
            if clock::now() >= until || whole.faults.len() > 20 {
                over.store(true, Ordering::Relaxed);
                return whole;
            }
        }
    };
    let (deaths, moving) = tokio::join!(dying, asking);
    assert!(
        moving.faults.is_empty(),
        "{} of {} while controllers die:\n{}",
        moving.faults.len(),
        moving.asked,
        moving.faults.join("\n")
    );
    assert!(deaths >= 3, "each of them died: {deaths}");
    assert!(moving.again * 10 <= moving.asked, "{} of {} were asked again", moving.again, moving.asked);
    println!(
        "contract: {} cases; {} asked while {deaths} controllers died, {} again",
        table.len(),
        moving.asked,
        moving.again
    );
    let shown = cloud.show(&instance).await;
    assert_eq!(shown["instance_state"], "Started", "nothing of it was touched: {shown}");
}
