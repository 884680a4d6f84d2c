//! Answers that do not come, or come too slowly: each request has one deadline, and what may be sent elsewhere is
//! sent elsewhere while there is time.

use std::{thread, time::Duration};

use switchyard::{clock, config::proxy::Kind};

use super::{Act, Hosts};
use crate::front::{self, Front};

struct Case {
    name: &'static str,
    kind: Kind,
    /// Method, path and body.
    request: (&'static str, &'static str, &'static str),
    /// Upstreams, and whether they know idempotency keys.
    hosts: (usize, bool),
    acts: Vec<Act>,
    status: u16,
    /// Seconds it may take.
    within: (f64, f64),
    /// How often it is sent, at least and at most.
    sent: (usize, usize),
    /// What an answer of ours says.
    says: &'static str,
}

/// Too slow for any deadline, though never still.
fn trickle() -> Act {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: {}\r\n\r\n{{}}", "x".repeat(200));
    Act::Trickle(head, Duration::from_millis(100))
}

fn cases() -> Vec<Case> {
    use Kind::{Controller as C, Registry as R};
    let case = |name, kind, request, hosts, acts, status, within, sent, says| Case {
        name,
        kind,
        request,
        hosts,
        acts,
        status,
        within,
        sent,
        says,
    };
    let (never, changed, unknown) = (|| vec![Act::Never], "nothing was changed", "outcome is unknown");
    let read = ("GET", "/api/v1/vm", "");
    let terminate = ("DELETE", "/api/v1/vm", "{}");
    let start = ("POST", "/api/v1/vm", "{}");
    // The deadlines are 4.5 s and 9 s; clients give up half a second, or a whole one, later.
    let (early, late) = ((4.0, 5.0), (8.5, 10.0));
    let (half_read, half_write) = ((2.0, 3.2), (4.0, 6.0));
    vec![
        case("a read, one upstream", C, read, (1, true), never(), 502, early, (1, 2), changed),
        case("a read, another upstream", C, read, (2, true), never(), 200, half_read, (2, 2), ""),
        case("a read, none answers", C, read, (2, true), vec![Act::Never; 9], 502, early, (2, 3), changed),
        case("a terminate, one upstream", C, terminate, (1, true), never(), 502, late, (1, 2), unknown),
        case("a terminate, another upstream", C, terminate, (2, true), never(), 200, half_write, (2, 2), ""),
        case("a start, keys known", C, start, (2, true), never(), 200, half_write, (2, 2), ""),
        case("a start, keys unknown", C, start, (2, false), never(), 502, late, (1, 1), unknown),
        case("a write", C, ("PUT", "/api/v1/vm", "{}"), (2, true), never(), 502, late, (1, 1), unknown),
        case(
            "a revert",
            C,
            ("DELETE", "/api/v1/registry/revert", ""),
            (2, true),
            never(),
            502,
            late,
            (1, 1),
            unknown,
        ),
        case("a handshake", C, ("POST", "/tap/v1/x", "{}"), (2, true), never(), 502, late, (1, 1), unknown),
        case(
            "a manifest",
            R,
            ("GET", "/v2/a/manifests/x", ""),
            (2, true),
            never(),
            200,
            half_read,
            (2, 2),
            "",
        ),
        case(
            "a revert of a registry",
            R,
            ("DELETE", "/registry/revert", ""),
            (2, true),
            never(),
            502,
            late,
            (1, 1),
            unknown,
        ),
        case(
            "a slow head, another upstream",
            C,
            read,
            (2, true),
            vec![trickle()],
            200,
            half_read,
            (2, 2),
            "",
        ),
        case(
            "a slow head, one upstream",
            C,
            read,
            (1, true),
            vec![trickle(); 3],
            502,
            early,
            (1, 2),
            changed,
        ),
        case(
            "a slow head of a write",
            C,
            ("PUT", "/api/v1/vm", "{}"),
            (2, true),
            vec![trickle()],
            502,
            late,
            (1, 1),
            unknown,
        ),
        case(
            "a slow head within the deadline",
            C,
            read,
            (1, true),
            vec![Act::Trickle(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
                Duration::from_millis(60),
            )],
            200,
            (2.0, 4.4),
            (1, 1),
            "",
        ),
        case(
            "interim answers are no answer",
            C,
            read,
            (1, true),
            vec![Act::Trickle("HTTP/1.1 100 Continue\r\n\r\n".repeat(40), Duration::from_millis(10)); 3],
            502,
            early,
            (1, 2),
            changed,
        ),
        case(
            "an error that comes late",
            C,
            read,
            (2, true),
            vec![Act::CloseAfter(Duration::from_secs(1))],
            200,
            (1.0, 2.0),
            (2, 2),
            "",
        ),
        case(
            "a lost write that is known late",
            C,
            ("PUT", "/api/v1/vm", "{}"),
            (2, true),
            vec![Act::CloseAfter(Duration::from_secs(1))],
            502,
            (1.0, 2.0),
            (1, 1),
            unknown,
        ),
    ]
}

fn check(case: &Case) {
    let hosts = Hosts::new(case.hosts.0);
    if !case.hosts.1 {
        hosts.upstreams.iter().for_each(|upstream| upstream.says(200, "ok"));
    }
    let front = Front::start(front::config(case.kind, &hosts.addresses()));
    hosts.will(case.acts.clone());
    let (method, path, body) = case.request;
    let begun = clock::now();
    let answer = front.ask(&format!(
        "{method} {path} HTTP/1.1\r\nHost: front\r\nX-Request-Id: late\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let (took, name) = (begun.elapsed().as_secs_f64(), case.name);
    assert_eq!(answer.status(), case.status, "{name}, {took} s: {}", answer.text());
    assert!((case.within.0..case.within.1).contains(&took), "{name}: took {took} s, not {:?}", case.within);
    assert!(answer.text().contains(case.says), "{name}: {}", answer.text());
    let seen = hosts.seen("late");
    assert!((case.sent.0..=case.sent.1).contains(&seen.len()), "{name}: sent {} times", seen.len());
    let keys: Vec<_> = seen.iter().map(|seen| seen.head.get("idempotency-key")).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {keys:?}");
    for seen in &seen {
        let left: u64 = seen.head.get("switchyard-deadline").unwrap_or("0").parse().unwrap();
        let most = if case.within.0 > 5.5 || case.request.0 != "GET" { 9000 } else { 4500 };
        assert!(left > 0 && left <= most, "{name}: {left} ms were left");
    }
    let line = &front.lines(1)[0];
    let logged = line["attempts"].as_array().unwrap();
    assert_eq!(logged.len(), seen.len(), "{name}: {line}");
    for (attempt, seen) in logged.iter().zip(&seen) {
        assert_eq!(attempt["upstream"], format!("u{}", seen.host), "{name}: {line}");
    }
}

#[test]
fn what_gets_no_answer_in_time_goes_elsewhere_or_ends_before_its_client_gives_up() {
    let cases = cases();
    thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| scope.spawn(move || check(case))).collect();
        // Each says itself what was wrong with it.
        let failed = running.into_iter().filter_map(|one| one.join().err()).count();
        assert_eq!(failed, 0, "of {} cases", cases.len());
    });
}
