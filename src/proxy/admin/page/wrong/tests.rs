use super::*;
use crate::{
    model::RouteClass,
    proxy::admin::page::seen::{Certificates, Rates},
    wire::{
        handover::{Old, Process},
        orders::{Order, What},
        registries::{self, Registries},
        replication::{Lag, Role, State},
        transfers::Transfers,
        upstreams::{
            ClassVerdict, Cohort, Connections, Discovery, Ejected, MaxConnections, Service, Upstream,
            Upstreams,
        },
    },
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + seconds)
}

pub(in crate::proxy::admin::page) fn upstream(name: &str, health: &str, evidence: &str) -> Upstream {
    Upstream {
        name: name.into(),
        address: format!("10.0.0.1:{}", 8000 + name.len()),
        health: health.into(),
        since: at(-600),
        evidence: evidence.into(),
        classes: Vec::new(),
        ejected: None,
        failures: 0,
        drained: false,
        orders: Vec::new(),
        outstanding: 0,
        max_requests: None,
        connections: Connections::default(),
        unused: Connections::default(),
        max_connections: MaxConnections::default(),
        pending: 0,
        max_pending: None,
        waiting: 0,
        at_limit: Vec::new(),
        weight: 1,
        weight_now: 1.0,
        zone: None,
        local: false,
        latency_seconds: None,
        writer: false,
        found: false,
        version: None,
    }
}

pub(in crate::proxy::admin::page) fn service(name: &str, upstreams: Vec<Upstream>) -> Service {
    Service {
        name: name.into(),
        kind: "controller".into(),
        held: 0,
        held_bytes: 0,
        maintenance: false,
        orders: Vec::new(),
        cohort: None,
        panic: false,
        discovery: None,
        balance: "least-requests".into(),
        sticky: String::new(),
        upstreams,
    }
}

pub(in crate::proxy::admin::page) fn seen(services: Vec<Service>) -> Seen {
    Seen {
        at: at(0),
        upstreams: Upstreams { services },
        registries: Registries { services: Vec::new() },
        transfers: Transfers { transfers: Vec::new(), full: false },
        refusals: Vec::new(),
        process: Process {
            pid: 7,
            version: "0".into(),
            generation: 0,
            config: None,
            listeners: Vec::new(),
            connections: 0,
            old: Vec::new(),
        },
        certificates: Vec::new(),
        config: 0,
        refused: None,
        upgrade_failed: false,
        rates: Rates::default(),
    }
}

fn up(name: &str) -> Upstream {
    upstream(name, "up", "GET /readyz: 200")
}

fn down(name: &str) -> Upstream {
    upstream(name, "down", &format!("{name}: connection refused"))
}

fn ejected(name: &str) -> Upstream {
    let why = "5 in a row: 502".into();
    Upstream { ejected: Some(Ejected { since: at(-5), until: at(5), times: 1, why }), ..up(name) }
}

/// There is this fault, of this level, with this in its reason, and something to do about it; how many there are.
fn check(seen: &Seen, level: Level, what: &str, why: &str) -> usize {
    let all = wrong(seen);
    let found = all.iter().find(|wrong| wrong.what.contains(what));
    let Some(found) = found else { panic!("no {what:?} in {all:#?}") };
    assert_eq!(found.level, level, "{found:?}");
    assert!(found.why.contains(why), "{found:?}");
    for wrong in &all {
        assert!(
            !wrong.why.is_empty() && !wrong.remedy.is_empty(),
            "a red light without reason or remedy: {wrong:?}"
        );
    }
    assert!(all.is_sorted_by_key(|wrong| wrong.level));
    all.len()
}

#[test]
fn nothing_is_wrong_with_what_is_well() {
    assert_eq!(wrong(&seen(vec![service("ci", vec![up("a"), up("b")])])), []);
}

#[test]
fn with_all_down_the_service_is_broken_and_the_reason_names_each_server_once() {
    let mut all = service("ci", vec![down("a"), ejected("b")]);
    all.held = 3;
    let seen = seen(vec![all]);
    assert_eq!(
        check(&seen, Level::Broken, "No server of ci can take requests", "a is down: a: connection refused"),
        1
    );
    check(&seen, Level::Broken, "No server", "b is ejected: 5 in a row");
    assert!(wrong(&seen)[0].remedy.contains("3 requests wait"));
    let many = service("ci", ["a", "b", "c", "d", "e", "f"].map(down).into());
    check(&super::tests::seen(vec![many]), Level::Broken, "No server", "and 2 more");
    check(&super::tests::seen(vec![service("ci", Vec::new())]), Level::Broken, "has no servers", "none");
}

#[test]
fn one_that_is_down_or_ejected_among_others_is_a_warning() {
    let seen = seen(vec![service("ci", vec![up("a"), down("b"), ejected("c")])]);
    assert_eq!(check(&seen, Level::Warning, "b of ci is down", "connection refused"), 2);
    check(&seen, Level::Warning, "c of ci is ejected", "5 in a row");
    assert_eq!(wrong(&seen)[0].since, Some(at(-600)));
}

#[test]
fn a_writer_that_is_lost_is_broken_although_replicas_serve() {
    let writer = Upstream { writer: true, ..down("r1") };
    let seen = seen(vec![service("reg", vec![writer, up("r2")])]);
    assert_eq!(check(&seen, Level::Broken, "The writer of reg, r1, is down", "refused"), 1);
}

#[test]
fn one_of_which_nothing_is_known_is_named_after_a_while() {
    let fresh = Upstream { since: at(-2), ..upstream("b", "unknown", "not probed yet") };
    assert_eq!(wrong(&seen(vec![service("ci", vec![up("a"), fresh.clone()])])), []);
    let late = Upstream { since: at(-60), ..fresh };
    check(
        &seen(vec![service("ci", vec![up("a"), late])]),
        Level::Warning,
        "Nothing is known of b",
        "not probed yet",
    );
}

#[test]
fn a_server_that_refuses_one_kind_of_request_is_named_with_its_reason_once() {
    let full = |class| ClassVerdict { class, may: false, why: "2.1 GiB free < 50 GiB".into() };
    let classes = vec![full(RouteClass::RegistryWrite), full(RouteClass::RegistryUpload)];
    let seen = seen(vec![service("reg", vec![Upstream { classes, ..up("r1") }, up("r2")])]);
    assert_eq!(
        check(&seen, Level::Warning, "r1 of reg takes no registry-write, registry-upload", "2.1 GiB free"),
        1
    );
}

#[test]
fn that_a_replica_takes_no_writes_is_not_wrong() {
    let refuses = |class| ClassVerdict { class, may: false, why: "it is a replica".into() };
    let written = vec![refuses(RouteClass::RegistryWrite), refuses(RouteClass::RegistryUpload)];
    let replica = Upstream { classes: written.clone(), ..up("r2") };
    let writer = Upstream { writer: true, ..up("r1") };
    assert_eq!(wrong(&seen(vec![service("reg", vec![writer.clone(), replica.clone()])])), []);

    let read = vec![refuses(RouteClass::RegistryRead)];
    let seen_of = |a, b| seen(vec![service("reg", vec![a, b])]);
    check(
        &seen_of(writer.clone(), Upstream { classes: read, ..up("r2") }),
        Level::Warning,
        "r2 of reg takes no registry-read",
        "it is a replica",
    );
    check(
        &seen_of(Upstream { classes: written, ..writer }, replica),
        Level::Warning,
        "r1 of reg takes no registry-write, registry-upload",
        "it is a replica",
    );
}

#[test]
fn limits_maintenance_panic_and_waiting_are_told() {
    let full = Upstream { at_limit: vec!["requests".into()], outstanding: 9, waiting: 2, ..up("a") };
    let mut one = service("ci", vec![full, up("b")]);
    (one.maintenance, one.panic, one.held) = (true, true, 4);
    let seen = seen(vec![one]);
    assert_eq!(
        check(
            &seen,
            Level::Warning,
            "a of ci is at its limit of requests",
            "9 requests are under way there and 2 wait"
        ),
        4
    );
    check(&seen, Level::Warning, "ci is in maintenance", "maintenance = true");
    check(&seen, Level::Broken, "ejected ones are used too", "");
    check(&seen, Level::Warning, "4 requests to ci wait", "");
}

fn order(what: What) -> Order {
    Order {
        service: "ci".into(),
        upstream: Some("b".into()),
        what,
        since: at(-30),
        by: Some("ann".into()),
        from: None,
        reason: Some("new disk".into()),
        differs: true,
    }
}

#[test]
fn what_operators_have_said_is_told_with_the_word_that_takes_it_back_and_one_that_is_drained_may_be_down() {
    let drained = Upstream { drained: true, orders: vec![order(What::Drained)], ..down("b") };
    let all = seen(vec![service("ci", vec![up("a"), drained.clone()])]);
    assert_eq!(
        check(&all, Level::Note, "b of ci is drained, and nothing is under way", "ann said so: new disk"),
        1
    );
    assert!(wrong(&all)[0].remedy.contains("`switchyard undrain ci/b`"));
    let busy = Upstream { outstanding: 2, ..drained.clone() };
    check(
        &seen(vec![service("ci", vec![up("a"), busy])]),
        Level::Note,
        "2 requests are still under way",
        "ann",
    );
    let alone = seen(vec![service("ci", vec![drained])]);
    check(&alone, Level::Broken, "No server of ci can take requests", "b is drained by an operator");
    let weighed = Upstream { orders: vec![order(What::Weight(7))], ..up("b") };
    check(&seen(vec![service("ci", vec![weighed])]), Level::Note, "b of ci has weight 7", "new disk");
    let mut closed = service("ci", vec![up("a")]);
    (closed.maintenance, closed.orders) = (true, vec![order(What::Maintenance(true))]);
    check(&seen(vec![closed]), Level::Warning, "ci is in maintenance", "ann said so");
}

#[test]
fn sources_that_are_away_are_told() {
    let mut one = service("ci", vec![up("a")]);
    one.discovery = Some(Discovery {
        from: "etcd at e1".into(),
        well: false,
        why: "no leader".into(),
        since: at(-9),
        found: 1,
    });
    one.cohort = Some(Cohort {
        version: None,
        why: "nobody is healthy at quorum".into(),
        since: at(-9),
        ordered: None,
        needed: 2,
        agreed: Some(false),
        alone: Some("etcd: no leader".into()),
        versions: Vec::new(),
    });
    let seen = seen(vec![one]);
    assert_eq!(check(&seen, Level::Warning, "Servers of ci cannot be looked up", "no leader"), 3);
    check(&seen, Level::Broken, "No version is chosen", "quorum");
    check(&seen, Level::Warning, "without the others", "etcd: no leader");
}

fn replicated(lag: Lag, reads: bool) -> Seen {
    let state = State {
        registry: "r2".into(),
        role: Role::Replica,
        position: None,
        unconfirmed: None,
        head: None,
        epoch: 1,
        lag,
        read: reads,
        write: false,
        why: vec!["the disk is slow".into()],
        fetching: Vec::new(),
        peers: Vec::new(),
        followers: Vec::new(),
        aside: Vec::new(),
    };
    let replica = registries::Upstream {
        name: "r2".into(),
        address: "10.0.0.2:8089".into(),
        registry: Some("r2".into()),
        role: Some(Role::Replica),
        position: None,
        fresh: false,
        reads,
        why: "it claims no position".into(),
        told_seconds: Some(1.0),
        state: Some(state),
        catalogue: None,
    };
    let mut seen = seen(vec![service("reg", vec![Upstream { writer: true, ..up("r1") }, up("r2")])]);
    seen.registries.services.push(registries::Service {
        name: "reg".into(),
        storage: "replicated".into(),
        freshness: "position".into(),
        writer: Some("r1".into()),
        write_only: false,
        stale_reads: "writer-lost".into(),
        proxy: None,
        lease_ms: Some(900),
        lease_why: String::new(),
        warnings: Vec::new(),
        floor: None,
        newest: None,
        repositories: 0,
        written: None,
        upstreams: vec![replica],
    });
    seen
}

#[test]
fn a_replica_that_lags_for_long_or_is_read_by_nobody_is_told() {
    let lag = |entries, seconds| Lag { entries, bytes: 77, seconds };
    assert_eq!(wrong(&replicated(lag(0, 0.0), true)), []);
    assert_eq!(wrong(&replicated(lag(3, 2.0), false)), [], "it is on its way");
    let late = replicated(lag(3, 45.0), false);
    assert_eq!(
        check(
            &late,
            Level::Warning,
            "r2 of reg is behind the writer by 3 changes",
            "77 bytes are to be fetched, for 45 s"
        ),
        1
    );
    check(&late, Level::Warning, "is behind", "the disk is slow");
    let unread = replicated(lag(0, 0.0), false);
    assert_eq!(
        check(&unread, Level::Warning, "r2 of reg is read by nobody", "claims no position; the disk is slow"),
        1
    );
}

#[test]
fn a_log_that_is_not_followed_and_words_that_do_not_fit_are_told_but_not_beside_a_lost_writer() {
    let mut seen = replicated(Lag::default(), true);
    let service = &mut seen.registries.services[0];
    (service.lease_ms, service.lease_why) = (None, "404 from the writer".into());
    service.warnings.push("r1 says it is a replica".into());
    assert_eq!(check(&seen, Level::Warning, "The log of the writer of reg is not followed", "404"), 2);
    check(&seen, Level::Warning, "does not go with the config", "r1 says");
    seen.upstreams.services[0].upstreams[0].health = "down".into();
    let words: Vec<String> = wrong(&seen).into_iter().map(|wrong| wrong.what).collect();
    assert!(!words.iter().any(|what| what.contains("not followed")), "{words:?}");
}

#[test]
fn certificates_reloads_upgrades_and_old_processes_are_told() {
    let mut seen = seen(vec![service("ci", vec![up("a")])]);
    let of = |of: &str, until, refused: &str| Certificates {
        of: of.into(),
        until: Some(until),
        ending: vec![("certificate", until)],
        refused: refused.into(),
    };
    seen.certificates = vec![of("listener a", at(3600), ""), of("listener b", at(-1), "front.key: no key")];
    seen.refused = Some((at(-60), "proxy.toml:3:1: unknown key".into()));
    seen.upgrade_failed = true;
    let old = |pid| Old { pid, generation: 0, since: at(-60), until: at(3000), connections: 4 };
    seen.process.old = vec![old(41)];
    assert_eq!(check(&seen, Level::Warning, "The certificate of listener a ends soon", "good until"), 6);
    check(&seen, Level::Broken, "The certificate of listener b has ended", "good until");
    check(&seen, Level::Warning, "New certificates of listener b were refused", "front.key: no key");
    check(&seen, Level::Warning, "The last reload was refused", "proxy.toml:3:1");
    check(&seen, Level::Warning, "The last upgrade came to nothing", "");
    check(&seen, Level::Note, "Process 41", "4 connections");
    seen.process.old.push(old(42));
    check(&seen, Level::Warning, "Process 42", "4 connections");
}
