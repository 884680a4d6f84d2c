//! No start waits for ever, on a node whose room is counted by resources, under any stream of smaller and more urgent ones:
//! the scheduler's own choices, played over hours of a clock that is moved on.

use std::time::Duration;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::dispatch::Dispatch;
use crate::{
    clock,
    controller::lists::Cache,
    model::{InstanceId, NodeId},
    store::{KeyValue, keys::Keys},
};

/// Processors of the node that VMs may have.
const ALL: u32 = 16;

/// Largest of those that come all the time.
const SMALL: u32 = 8;

/// Points by which a second of waiting makes a start sooner. With it the least urgent is overtaken by what comes within
/// 100 s.
const AGEING: f64 = 100.0;
const OVERTAKEN: f64 = 100.0;

/// After so long what fits no more than others have left it is waited for, and at most so long runs what has to end before.
const KEPT_FREE: f64 = 60.0;
const LONGEST: f64 = 30.0;

#[derive(Debug, Clone)]
struct Start {
    id: InstanceId,
    template: &'static str,
    priority: u32,
    vcpu: u32,
    comes: f64,
    runs: f64,
    ends: Option<f64>,
}

impl Start {
    fn new(n: usize, template: &'static str, priority: u32, vcpu: u32, comes: f64, runs: f64) -> Self {
        let id = InstanceId::parse(format!("i-{n:04}")).unwrap();
        Self { id, template, priority, vcpu, comes, runs, ends: None }
    }

    fn record(&self, keys: &Keys, now: f64) -> KeyValue {
        let created = clock::wall().minus(Duration::from_secs_f64(now - self.comes));
        let phase = match self.ends {
            None => json!({ "is": "queued", "since": created }),
            Some(_) => json!({ "is": "started", "node": "n1", "since": created }),
        };
        let value = json!({
            "v": 1, "w": "", "id": self.id, "start": "s", "attempt": 0, "created": created, "updated": created,
            "phase": phase,
            "spec": {
                "template": self.template, "template_name": self.template, "repository": "t", "tag": "v1", "version": 0,
                "manifest": format!("sha256:{}", "0".repeat(64)), "arch": "arm64", "priority": self.priority,
                "vcpu": self.vcpu, "vram": 16,
                "layers": if self.template == "near" { vec!["0123456789ab"] } else { Vec::new() },
            },
        });
        stored(keys.instance(&self.id), &value)
    }
}

fn stored(key: String, value: &Value) -> KeyValue {
    let value = Bytes::from(value.to_string());
    KeyValue { key, value, create_revision: 1, mod_revision: 1, version: 1, lease: None }
}

fn node(keys: &Keys, id: &NodeId) -> [KeyValue; 2] {
    let record = json!({
        "v": 1, "id": id, "groups": [], "vcpu_override": 0, "ram_override": 0, "force_overrides": true,
        "settings": { "version": 1, "name": "n", "host": "h", "capacity": 2, "capacity_mode": "resource", "drain_mode": false },
        "facts": {
            "host_arch": "arm64", "runs": ["arm64"], "driver": "process", "agent_version": "1",
            "hypervisor": { "product": "", "version": "", "build": "" }, "cpu_count": ALL / 2, "memory": 64_u64 << 30,
            "disk_size": 0, "disk_free": 0, "disk_used": 0, "cpu_util": 0.0, "ram_util": 0.0,
            // What is there goes a little before what is not.
            "templates": [{ "uuid": "here", "name": "here", "tag": "v1" }],
            "layers": { "0123456789ab": 20_u64 << 30 },
        },
        "joined": "1970-01-01T00:00:00Z", "reported": "1970-01-01T00:00:00Z",
    });
    let present = json!({ "v": 1, "lease": 1, "session": "s", "former": [], "offers": 0 });
    [stored(keys.node(id), &record), stored(keys.node_alive(id), &present)]
}

/// What the scheduler gives the node at this moment, one after the other until there is nothing.
fn gives(starts: &mut [Start], now: f64) {
    let (keys, id) = (Keys::new("main"), NodeId::parse("n1").unwrap());
    loop {
        let there = |start: &&Start| start.comes <= now && start.ends.is_none_or(|ends| ends > now);
        let records = starts.iter().filter(there).map(|start| start.record(&keys, now));
        let records = records.chain(node(&keys, &id)).collect();
        let cache = Cache::of(AGEING, &keys, records, 1, clock::now());
        let dispatch = Dispatch::new("c1".into());
        let seat = dispatch.park(&id);
        let node = &cache.node(&id).expect("it was just put there").record;
        let Some(chosen) = dispatch.choose(&cache, &seat, node) else { return };
        let chosen = starts.iter_mut().find(|start| start.id == chosen.id).expect("one of these");
        chosen.ends = Some(now + chosen.runs);
        let taken: u32 = starts
            .iter()
            .filter(|start| start.ends.is_some_and(|ends| ends > now))
            .map(|start| start.vcpu)
            .sum();
        assert!(taken <= ALL, "{taken} processors of {ALL} are taken");
    }
}

/// Plays until the large one is placed; when, or nothing if it is not within the bound.
fn placed(large: u32, stream: &[(usize, u32, f64, f64)]) -> (Option<f64>, f64) {
    // At first the node is full.
    let mut starts: Vec<_> = (0..2).map(|n| Start::new(n, "here", 1, SMALL, 0.0, 20.0 + n as f64)).collect();
    starts.push(Start::new(2, "away", 10_000, large, 1.0, 10.0));
    let mut comes = 1.0;
    for (template, vcpu, gap, runs) in stream.iter().cycle() {
        comes += gap;
        let template = ["here", "near", "away"][*template];
        starts.push(Start::new(starts.len(), template, 1, *vcpu, comes, *runs));
        if comes > 2_000.0 {
            break;
        }
    }
    // What may go before it, and then waits for each other at worst: while one of them waits half of the node is in use.
    let before = starts.iter().filter(|start| start.comes <= OVERTAKEN + 2.0 && start.vcpu <= SMALL);
    let work: f64 = before.map(|start| f64::from(start.vcpu) * start.runs).sum();
    let bound = OVERTAKEN + KEPT_FREE + work / f64::from(ALL - SMALL) + 2.0 * LONGEST;
    let mut now = 0.0;
    while now <= bound {
        gives(&mut starts, now);
        if starts[2].ends.is_some() {
            return (Some(now), bound);
        }
        let comes = starts.iter().map(|start| start.comes);
        let ends = starts.iter().filter_map(|start| start.ends);
        // What waits for its minute has no event of its own: polls come all the time.
        now = comes.chain(ends).filter(|at| *at > now).fold(now + 5.0, f64::min);
    }
    (None, bound)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_large_start_gets_its_place_under_any_stream_of_smaller_and_more_urgent_ones(
        large in SMALL + 1..=ALL,
        stream in vec((0..3_usize, 1..=SMALL, 1.0..6.0_f64, 5.0..LONGEST), 20..40),
    ) {
        let (placed, bound) = placed(large, &stream);
        prop_assert!(placed.is_some(), "it has not started after {bound:.0} s");
    }
}
