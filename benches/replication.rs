//! What replication adds to a push and to a read: the log's append and pages, who has to confirm, and what a proxy
//! looks up for each read. `cargo bench --bench replication`.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use switchyard::{
    model::{Mark, Position, RepositoryName},
    proxy::freshness::{Freshness, Polled, Subject},
    registry::{
        log::{Log, PAGE_LINES},
        writer::leases::{Leases, PROXIES},
    },
    wire::replication::{Change, Entry},
};

fn entry(prev: Position) -> (Entry, Bytes) {
    let position = if prev == Position::ZERO { Position { epoch: 1, seq: 1 } } else { prev.next() };
    let entry = Entry {
        position,
        prev,
        time: 1_795_000_000,
        change: Change::Untagged,
        repository: RepositoryName::parse("mac/sonoma-xcode").ok(),
        opened: None,
        digest: None,
        blobs: Vec::new(),
        patch: None,
    };
    let line = serde_json::to_vec(&entry).expect("plain fields").into();
    (entry, line)
}

fn log(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Log::open(dir.path()).expect("a new log");
    group.bench_function("append, durable", |b| {
        b.iter(|| on_disk.append(&[entry(on_disk.head().0)]).expect("room for an entry"));
    });
    let memory = Log::in_memory().expect("a new log");
    let mut page = Vec::new();
    for _ in 0..PAGE_LINES {
        page.push(entry(page.last().map_or(Position::ZERO, |(entry, _): &(Entry, Bytes)| entry.position)));
    }
    memory.append(&page).expect("room for a page");
    let end = memory.head().0;
    group.throughput(Throughput::Elements(PAGE_LINES as u64));
    group.bench_function("read a page", |b| {
        b.iter(|| memory.read(Position::ZERO, Some(Mark::ZERO), end).is_ok())
    });
    group.finish();
}

fn leases(c: &mut Criterion) {
    let mut leases = Leases::default();
    let now = Duration::from_secs(100);
    let at = |seq| Position { epoch: 1, seq };
    for n in 0..PROXIES {
        leases.polled(&format!("proxy-{n}"), at(1), now);
    }
    leases.appended(at(2), now);
    c.bench_function("leases/a poll among 64 proxies", |b| b.iter(|| leases.polled("proxy-7", at(1), now)));
    c.bench_function("leases/may it be acknowledged", |b| b.iter(|| leases.settled(black_box(at(2)), now)));
}

fn freshness(c: &mut Criterion) {
    let now = Duration::from_secs(100);
    for count in [100u64, 10_000, 100_000] {
        let names: Vec<RepositoryName> =
            (0..count).filter_map(|n| RepositoryName::parse(format!("mac/template-{n}")).ok()).collect();
        let mut known = Freshness::new(20, 0, Duration::from_secs(1));
        let poll = |upto, changes| Polled {
            head: upto,
            upto,
            mark: Mark::ZERO,
            changes,
            reigns: Vec::new(),
            lease: Duration::from_secs(2),
        };
        known.polled(poll(Position { epoch: 1, seq: 1 }, Vec::new()), now, now);
        let changes =
            names.iter().zip(2..).map(|(name, seq)| (Position { epoch: 1, seq }, name.clone())).collect();
        let head = Position { epoch: 1, seq: count + 1 };
        known.polled(poll(head, changes), now, now);
        for place in 0..20 {
            known.reported(place, Some(head), now);
        }
        c.bench_with_input(
            BenchmarkId::new("freshness/20 registries, repositories", count),
            &names,
            |b, names| {
                let mut turn = 0;
                b.iter(|| {
                    turn = (turn + 7919) % names.len();
                    let subject = Subject::Repository(&names[turn]);
                    (0..20).filter(|place| known.standing(*place, subject, now).has().is_some()).count()
                });
            },
        );
    }
}

criterion_group!(benches, log, leases, freshness);
criterion_main!(benches);
