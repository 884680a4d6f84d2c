//! What the proxy does for every request: find its route, choose an upstream, and the whole way of a small
//! one. `cargo bench --bench proxy`.

use std::{hint::black_box, net::SocketAddr, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Method;
use switchyard::{
    balance, clock,
    config::{
        Address, Log,
        proxy::{
            Access, Balance, DECISIONS, Does, Endings, Kind, Limits, Listener, Proxy, Rule, Service, Upstream,
        },
    },
    health::{Found, verdict::Tracker},
    model::{RequestId, ServiceName, UpstreamName},
    proxy::{
        self,
        choose::{self, Affinity, Brief, By, Candidate, Draw, Rank, Tried, Want, Why},
        classify,
        ctx::{Ctx, End, Note, Protocol},
        guard::{head, path},
        identify::Client,
        record::Decisions,
        retry::Traffic,
        snapshot::{Held, Snapshot},
    },
    supervise::{Stage, Tree},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const REQUEST: &[u8] = b"GET /api/v1/vm?id=5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12 HTTP/1.1\r\n\
    Host: front:8090\r\nUser-Agent: bench\r\nAccept: */*\r\nAuthorization: Basic cm9vdDpyb290\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n\
    {\"status\":\"OK\",\"message\":\"\"}";

fn guard(c: &mut Criterion) {
    let limits = head::HeadLimits { bytes: 32 * 1024, fields: 128 };
    c.bench_function("guard/head", |b| {
        b.iter(|| {
            black_box(head::scan(black_box(REQUEST), 0, limits).is_ok())
                && black_box(head::check(black_box(REQUEST), limits).is_ok())
        });
    });
    c.bench_function("guard/path", |b| {
        b.iter(|| path::normalise(black_box("/v2/mac/sonoma/manifests/v1")).is_ok())
    });
}

fn classify(c: &mut Criterion) {
    for (kind, method, path) in [
        (Kind::Controller, Method::GET, "/api/v1/vm"),
        (Kind::Controller, Method::GET, "/switchyard/v1/tasks"),
        (Kind::Controller, Method::GET, "/strange/path"),
        (Kind::Registry, Method::GET, "/v2/mac/sonoma/blobs/sha256:0123"),
        (Kind::Registry, Method::GET, "/registry/vm/info"),
    ] {
        c.bench_with_input(BenchmarkId::new("classify", path), &path, |b, path| {
            b.iter(|| classify::route(kind, black_box(&method), black_box(path)));
        });
    }
}

fn choose(c: &mut Criterion) {
    let mut tracker = Tracker::new(1, 1, clock::now(), clock::wall());
    tracker.record(Found::Good { seen: "200".into(), ready: None }, clock::now(), clock::wall());
    let verdict = tracker.verdict();
    let want = Want::plain(classify::route(Kind::Controller, &Method::GET, "/api/v1/vm"));
    for count in [2usize, 20, 50] {
        let names: Vec<UpstreamName> =
            (0..count).filter_map(|at| UpstreamName::parse(format!("u{at}")).ok()).collect();
        c.bench_with_input(BenchmarkId::new("choose", count), &names, |b, names| {
            let mut turn = 0usize;
            b.iter(|| {
                turn = turn.wrapping_add(1);
                let candidates: Vec<_> = names
                    .iter()
                    .map(|name| Candidate { outstanding: 3, ..Candidate::plain(name, verdict) })
                    .collect();
                let draw = Draw { turn, chance: turn as u64 };
                choose::next(&candidates, &want, &Tried::default(), Balance::LeastRequests, false, draw)
                    .is_ok()
            });
        });
    }
}

/// With everything that a service may have beside the filters: ways to balance, ties, zones, limits.
fn choose_balanced(c: &mut Criterion) {
    let mut tracker = Tracker::new(1, 1, clock::now(), clock::wall());
    tracker.record(Found::Good { seen: "200".into(), ready: None }, clock::now(), clock::wall());
    let verdict = tracker.verdict();
    let plain = Want::plain(classify::route(Kind::Controller, &Method::GET, "/api/v1/vm"));
    let names: Vec<UpstreamName> =
        (0..20).filter_map(|at| UpstreamName::parse(format!("u{at}")).ok()).collect();
    let candidates: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let (most, local) = (Some(100), at % 2 == 0);
            Candidate { outstanding: 3, most, local, ..Candidate::plain(name, verdict) }
        })
        .collect();
    let sticky = Want { affinity: Affinity::Stick(By::Address, 77), ..plain };
    let keyed = Want { affinity: Affinity::Key(77), ..plain };
    let zoned = Want { zoned: true, ..plain };
    for (name, want, how) in [
        ("round-robin", plain, Balance::RoundRobin),
        ("least-requests", plain, Balance::LeastRequests),
        ("peak-ewma", plain, Balance::PeakEwma),
        ("consistent-hash", keyed, Balance::ConsistentHash),
        ("sticky", sticky, Balance::LeastRequests),
        ("zoned", zoned, Balance::LeastRequests),
    ] {
        c.bench_with_input(BenchmarkId::new("choose of 20", name), &want, |b, want| {
            let mut turn = 0usize;
            b.iter(|| {
                turn = turn.wrapping_add(1);
                let draw = Draw { turn, chance: balance::mix(turn as u64) };
                choose::next(&candidates, want, &Tried::default(), how, false, draw).is_ok()
            });
        });
    }
}

/// A request that is over, with one attempt.
fn over(snapshot: &Held, now: tokio::time::Instant, id: u128) -> Box<Ctx> {
    let stood = (0..3).map(|_| Brief::Able(Rank::First)).collect();
    let note = Note { place: 0, why: Why::Only, end: "answered", traffic: Traffic::default(), stood };
    Box::new(Ctx {
        snapshot: snapshot.clone(),
        listener: 0,
        peer: ([127, 0, 0, 1], 1).into(),
        protocol: Protocol::Http11,
        client: Client { ip: [127, 0, 0, 1].into(), trusted: false },
        secured: None,
        method: Method::GET,
        path: "/api/v1/vm".into(),
        hostless: false,
        request: RequestId::of(id),
        trace: None,
        started: now,
        route: classify::UNROUTED,
        repository: None,
        session: None,
        of_agent: false,
        concerns: None,
        upgrade: false,
        expects: false,
        service: None,
        deadline: None,
        key: None,
        key_made: false,
        ability: None,
        affinity: Default::default(),
        tried: Tried::default(),
        hold_over: false,
        despaired: false,
        fresh_waited: false,
        impatient: false,
        said: Default::default(),
        stale: None,
        held: Duration::ZERO,
        sends: 1,
        before: None,
        what: None,
        transfer: None,
        current: None,
        attempts: smallvec::smallvec![note],
        connect: None,
        first_byte: Some(now),
        passed: Some(200),
        ours: None,
        end: End::Done,
    })
}

/// What it costs to keep what was decided about a request, beside dropping it.
fn decisions(c: &mut Criterion) {
    let now = clock::now();
    let snapshot = Held::of(std::sync::Arc::new(Snapshot {
        generation: 0,
        listeners: Vec::new(),
        services: Vec::new(),
        limits: Limits::default(),
        counts: Default::default(),
        at_listener: Vec::new(),
        endings: Endings::default(),
        decisions: DECISIONS,
        orders: Default::default(),
        progress: None,
        tracing: None,
    }));
    let mut id = 0;
    let mut next = || {
        id += 1;
        over(&snapshot, now, id)
    };
    c.bench_function("decision/dropped", |b| {
        b.iter_batched(&mut next, drop, BatchSize::LargeInput);
    });
    let kept = Decisions::default();
    c.bench_function("decision/kept", |b| {
        b.iter_batched(&mut next, |ctx| kept.keep(ctx, DECISIONS, now), BatchSize::LargeInput);
    });
}

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    let mut connections = tokio::task::JoinSet::new();
    let serve = async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 4096];
                // Each request comes in one piece here.
                while tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) && tcp.write_all(ANSWER).await.is_ok()
                {
                }
            });
        }
    };
    // The runtime of the bench ends it.
    drop(tokio::runtime::Handle::current().spawn(serve));
    address
}

fn config(upstream: SocketAddr) -> Proxy {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    Proxy {
        threads: 2,
        zone: None,
        zero_copy: true,
        log: Log::default(),
        access: Access::Off,
        progress: None,
        trace: None,
        admin: any,
        entry: Default::default(),
        decisions: DECISIONS,
        address_file: None,
        listeners: vec![Listener {
            name: "front".into(),
            bind: vec![any],
            tls: None,
            rules: vec![Rule { host: None, path: None, does: Does::Send(0) }],
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            expose: Vec::new(),
            http2: false,
            limits: Default::default(),
        }],
        services: vec![Service {
            retry_status: Vec::new(),
            ..Service::plain(
                ServiceName::parse("controllers").expect("a valid name"),
                Kind::Controller,
                vec![Upstream::plain(
                    UpstreamName::parse("c1").expect("a valid name"),
                    Address { host: upstream.ip().to_string(), port: upstream.port() },
                )],
            )
        }],
        limits: Limits::default(),
        endings: Endings { grace: Duration::from_secs(1), ..Endings::default() },
        run_dir: None,
    }
}

async fn ask(tcp: &mut TcpStream) {
    tcp.write_all(REQUEST).await.expect("the other side reads");
    let mut answer = Vec::with_capacity(1024);
    while !answer.ends_with(b"\"message\":\"\"}") {
        assert!(tcp.read_buf(&mut answer).await.expect("the other side answers") > 0, "closed");
    }
}

/// One request after the other on one connection: straight to the upstream, then through the proxy.
fn small_request(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let tree = Tree::new();
    let (direct, front) = runtime.block_on(async {
        let direct = upstream().await;
        let proxy = proxy::Proxy::open(config(direct), tree.handle()).await.expect("free ports");
        let front = proxy.addresses().listener("front").expect("its listener");
        tree.handle().start_vital(Stage::Edge, "proxy", |stop| proxy.run(stop));
        (direct, front)
    });
    for (name, to) in [("direct", direct), ("proxied", front)] {
        let mut tcp = runtime.block_on(async {
            let mut tcp = TcpStream::connect(to).await.expect("it listens");
            tcp.set_nodelay(true).expect("a live socket");
            ask(&mut tcp).await;
            tcp
        });
        c.bench_function(&format!("small request/{name}"), |b| b.iter(|| runtime.block_on(ask(&mut tcp))));
    }
    runtime.block_on(tree.shut_down(Duration::from_secs(5)));
}

criterion_group!(benches, guard, classify, choose, choose_balanced, decisions, small_request);
criterion_main!(benches);
