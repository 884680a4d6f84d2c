//! Thousands of polls are parked behind the proxy and one of two controllers dies. Each poll that was there ends with a
//! clean answer in the agents' own format, is asked again and is parked at the other controller; nobody is ejected for it
//! but who died; the one that comes back gets polls again, and what the proxy took for all of that it gives back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    alone,
    support::{
        api::{Answer, Api},
        cloud::{Cloud, Plan, SOON, Server},
        eventually::eventually,
        scale::scaled,
        scrape,
    },
};

/// Agents, each with one poll at a time.
fn agents() -> usize {
    scaled(400, 5000)
}

/// Agents that join at once.
const JOINING: usize = 32;

/// A parked poll that was cut is asked again after so long, as an agent does at the earliest.
const AGAIN: Duration = Duration::from_millis(100);

/// Unused connections to the controllers are kept for a moment only: how many of them a death and a return leave behind is a
/// matter of when polls end, and at the end all are to be gone.
const SERVICE: &str = "timeouts.keep_alive = \"2s\"\n";

/// No agent of this test reports, and none is to be missed.
const SETTINGS: &str = "[timeouts]\nnode_active = \"1h\"\n";

/// What the agents have seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    /// Polls that ended with nothing to do.
    empty: AtomicUsize,
    /// Polls whose controller died.
    unknown: AtomicUsize,
    /// Polls that a controller which had just started did not take.
    starting: AtomicUsize,
    /// The first answer that no agent should get.
    wrong: Mutex<Option<String>>,
}

impl Seen {
    fn nothing_wrong(&self) {
        assert_eq!(*self.wrong.lock().expect("no holder panics"), None);
    }
}

fn join(node: &str) -> Value {
    json!({
        "node_id": node,
        "wish": { "name": node, "host": "127.0.0.1", "capacity": 2 },
        "facts": {
            "host_arch": "arm64", "runs": ["arm64"], "driver": "process",
            "hypervisor": { "product": "process", "version": "1", "build": "" },
            "agent_version": "1", "cpu_count": 8, "memory": 1u64 << 34, "disk_size": 1u64 << 40,
            "disk_free": 1u64 << 39, "disk_used": 0, "templates": [], "cpu_util": 0.1, "ram_util": 0.1,
        },
    })
}

/// One agent: polls until it is told that it is over.
async fn agent(api: Api, node: String, seen: Arc<Seen>) {
    let path = format!("/switchyard/v1/tasks?node={node}&session=s&free=0&wait=10");
    while !seen.over.load(Ordering::SeqCst) {
        // A connection that ends without an answer is what must not be.
        let answer = api.get(&path).await;
        if answer.status == 200 && answer.json() == json!({ "stop": [] }) {
            seen.empty.fetch_add(1, Ordering::SeqCst);
        } else if answer.is_clean(502) {
            seen.unknown.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(AGAIN).await;
        } else if answer.is_clean(503) && answer.header("retry-after").is_some() {
            // It came back before the proxy had found it gone, and is not ready yet.
            seen.starting.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(AGAIN).await;
        } else {
            seen.wrong.lock().expect("no holder panics").get_or_insert(format!("{node}: {answer}"));
            return;
        }
    }
}

/// Polls parked at this controller now.
async fn parked(controller: &Server) -> Result<usize, String> {
    let answer = controller.api().try_call("GET", "/metrics", None).await?;
    sum(&answer, "switchyard_controller_polls")
}

fn sum(scraped: &Answer, name: &str) -> Result<usize, String> {
    let families = scrape::read(&scraped.text);
    let family = families.get(name).ok_or_else(|| format!("no {name}"))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let sum = family.series.iter().map(|(.., value)| *value).sum::<f64>() as usize;
    Ok(sum)
}

/// Open descriptors, and bytes in memory, of the proxy.
fn takes(cloud: &Cloud) -> (usize, usize) {
    let pid = cloud.proxy.process.pid().expect("it runs");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    let resident: usize = resident.and_then(|kib| kib.parse().ok()).expect("a number");
    (open, resident << 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_polls_outlive_the_controller_that_they_were_parked_at() {
    let _turn = alone().await;
    let plan = Plan { agents: 0, controller: SETTINGS.into(), service: SERVICE.into(), ..Plan::default() };
    let mut cloud = Cloud::start("polls", &plan).await;
    let (before, unused) = takes(&cloud);

    // A client of their own: its unused connections go when it goes.
    let agents_api = Api::new(cloud.controllers_front);
    let mut joining = JoinSet::new();
    for first in 0..JOINING {
        let api = agents_api.clone();
        joining.spawn(async move {
            for n in (first..agents()).step_by(JOINING) {
                let joined = api.post("/switchyard/v1/join", &join(&format!("n{n}"))).await;
                assert_eq!(joined.status, 200, "{joined}");
            }
        });
    }
    while let Some(joined) = joining.join_next().await {
        joined.expect("every agent joins");
    }

    let seen = Arc::new(Seen::default());
    let mut polls = JoinSet::new();
    for n in 0..agents() {
        polls.spawn(agent(agents_api.clone(), format!("n{n}"), seen.clone()));
    }
    let all = async |cloud: &Cloud, at: &[usize]| {
        eventually(SOON, "every poll to be parked", || async {
            seen.nothing_wrong();
            let mut counts = Vec::new();
            for controller in at {
                counts.push(parked(&cloud.controllers[*controller]).await?);
            }
            // Those that have just ended are asked again in a moment.
            let sum: usize = counts.iter().sum();
            if sum + sum / 20 >= agents() { Ok(counts) } else { Err(format!("{counts:?}")) }
        })
        .await
    };
    let mut most = 0;
    for round in 0..2 {
        let counts = all(&cloud, &[0, 1]).await;
        // One that has just come back fills up as polls end.
        eventually(SOON, "both to have a part", || async {
            let (a, b) = (parked(&cloud.controllers[0]).await?, parked(&cloud.controllers[1]).await?);
            if a.min(b) * 3 >= agents() { Ok(()) } else { Err(format!("{a} and {b}")) }
        })
        .await;
        let (open, memory) = takes(&cloud);
        assert!(open >= before + 2 * agents() * 9 / 10, "a poll has two connections: {open} of {counts:?}");
        if round > 0 {
            assert!(memory < most + most / 4, "a death costs memory: {memory} after {most}");
        }
        most = most.max(memory);

        let cut = parked(&cloud.controllers[0]).await.expect("it runs");
        let told = seen.unknown.load(Ordering::SeqCst);
        cloud.controllers[0].process.kill();
        all(&cloud, &[1]).await;
        let told = seen.unknown.load(Ordering::SeqCst) - told;
        assert!(told > 0 && told <= cut + cut / 10, "{told} were told, of {cut} that were parked there");

        let ejected = cloud.ejected().await.expect("the proxy answers");
        assert!(ejected.iter().all(|(name, _)| name == "c1"), "{ejected:?}");
        let up = cloud.upstreams().await.expect("the proxy answers");
        assert!(up.iter().any(|(name, health, _)| name == "c2" && health == "up"), "{up:?}");
        cloud.controllers[0].restart().await;
        cloud.upstreams_are("up").await;
    }
    let counted = cloud.admin.get("/metrics").await;
    let c2 = "upstream=\"c2\"";
    let ejected =
        counted.text.lines().find(|l| l.starts_with("switchyard_proxy_ejections_total") && l.contains(c2));
    assert_eq!(ejected, None, "the other one was never ejected");

    seen.over.store(true, Ordering::SeqCst);
    polls.shutdown().await;
    drop(agents_api);
    seen.nothing_wrong();
    let (empty, unknown) = (seen.empty.load(Ordering::SeqCst), seen.unknown.load(Ordering::SeqCst));
    eventually(SOON, "the descriptors to come back", || async {
        let open = takes(&cloud).0;
        // The probes and this test keep a few.
        if open < before + 20 { Ok(()) } else { Err(format!("{open}, and {before} before")) }
    })
    .await;
    println!(
        "{} polls, two deaths: {unknown} ended with the controller, {empty} by themselves; {} MiB at most, {} KiB more for each poll",
        agents(),
        most >> 20,
        (most.saturating_sub(unused) / agents()) >> 10,
    );
}
