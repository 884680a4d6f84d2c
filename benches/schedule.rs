//! What a poll costs that finds so many starts waiting: `cargo bench --bench schedule`.
//!
//! `suits`: the node gets the best of them. `nothing suits`: all wait for another node group, architecture or
//! node, the case in which a scan would look at every one of them.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use switchyard::{
    clock,
    controller::{
        lists::Cache,
        records::{self, NodeRecord},
        schedule::best::best,
    },
    model::{InstanceId, NodeId, Timestamp},
    store::{KeyValue, keys::Keys},
};

fn kv(key: String, value: &Value, revision: i64) -> KeyValue {
    KeyValue {
        key,
        value: Bytes::from(value.to_string()),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: None,
    }
}

/// A queue of so many starts in a few kinds, accepted within the same minute.
fn queue(count: usize, arch: &str) -> Cache {
    let keys = Keys::new("main");
    let record = |n: usize| {
        let id = InstanceId::random();
        let created = Timestamp::from_unix_seconds(1_700_000_000 + (n % 60) as i64);
        let value = json!({
            "v": 1, "w": "", "id": id, "start": "s", "attempt": 0, "created": created, "updated": created,
            "phase": { "is": "queued", "since": created },
            "spec": {
                "template": format!("t{}", n % 20), "template_name": "t", "repository": "t", "tag": "v1",
                "version": 0, "manifest": format!("sha256:{}", "0".repeat(64)), "arch": arch, "priority": 1000,
            },
        });
        kv(keys.instance(&id), &value, n as i64 + 1)
    };
    let cache = Cache::of(1.0, &keys, (0..count).map(record).collect(), count as i64, clock::now());
    assert_eq!(cache.queues().flatten().count(), count, "every record was read");
    cache
}

fn node() -> NodeRecord {
    let value = json!({
        "v": 1, "id": NodeId::parse("n1").ok(), "groups": [], "vcpu_override": 0, "ram_override": 0,
        "settings": { "version": 1, "name": "n", "host": "h", "capacity": 2, "capacity_mode": "number", "drain_mode": false },
        "facts": {
            "host_arch": "arm64", "runs": ["arm64"], "driver": "process", "agent_version": "1",
            "hypervisor": { "product": "", "version": "", "build": "" }, "cpu_count": 8, "memory": 0, "disk_size": 0,
            "disk_free": 0, "disk_used": 0, "cpu_util": 0.0, "ram_util": 0.0,
            "templates": [{ "uuid": "t7", "name": "t", "tag": "v1" }],
        },
        "joined": Timestamp::NEVER, "reported": Timestamp::NEVER,
    });
    records::decode(value.to_string().as_bytes()).expect("a node's record")
}

fn poll(c: &mut Criterion) {
    let node = node();
    for count in [10, 1_000, 100_000] {
        for (name, arch) in [("suits", "arm64"), ("nothing suits", "amd64")] {
            let cache = queue(count, arch);
            c.bench_with_input(BenchmarkId::new(format!("poll/{name}"), count), &cache, |b, cache| {
                b.iter(|| best(black_box(cache), &node, |_, _| true));
            });
        }
        // The worst that may come before a start that is free: everything is somebody else's for this moment.
        let cache = queue(count, "arm64");
        c.bench_with_input(BenchmarkId::new("poll/none is free", count), &cache, |b, cache| {
            b.iter(|| best(black_box(cache), &node, |_, _| false));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = poll
}
criterion_main!(benches);
