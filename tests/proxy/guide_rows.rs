//! The vendor's table of how a front end has to treat each kind of traffic, a row at a time: what is sent again and
//! what never is, what a body may be, how long an answer may take. Where the table and the rules of the proxy differ,
//! docs/architecture.md says why.

use std::{
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front},
    raw::{Wire, with_body},
    upstream::{Then, Upstream, ok},
};

/// When a request is sent to a second upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// While the client has got nothing.
    Unanswered,
    /// When nothing was sent to the first one.
    Unsent,
    /// Not at all: one alone has what is asked for.
    Nowhere,
}

/// How long its answer may take to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Less than the ten seconds after which clients give up.
    Prompt,
    /// Longer than those.
    Long,
}

struct Row {
    kind: Kind,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    again: Again,
    takes: Takes,
}

const fn row(kind: Kind, line: (&'static str, &'static str), again: Again, takes: Takes) -> Row {
    Row { kind, method: line.0, path: line.1, body: "", again, takes }
}

impl Row {
    const fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    fn request(&self) -> String {
        match self.method {
            "GET" => format!("GET {} HTTP/1.1\r\nHost: front\r\n\r\n", self.path),
            method => with_body(method, self.path, "", self.body),
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

const BLOB: &str = "/v2/a/blobs/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn rows() -> Vec<Row> {
    use Again::{Nowhere, Unanswered, Unsent};
    use Kind::{Controller, Registry};
    use Takes::{Long, Prompt};
    vec![
        row(Controller, ("GET", "/api/v1/vm"), Unanswered, Prompt),
        row(Controller, ("GET", "/api/v1/node"), Unanswered, Prompt),
        row(Registry, ("GET", "/registry/vm"), Unanswered, Prompt),
        row(Registry, ("GET", "/registry/status"), Unanswered, Prompt),
        row(Controller, ("POST", "/api/v1/vm"), Unsent, Prompt).body(r#"{"vmid":"t"}"#),
        row(Controller, ("POST", "/api/v1/image"), Unsent, Prompt).body("{}"),
        row(Controller, ("POST", "/api/v1/registry/vm/distribute"), Unsent, Prompt).body("{}"),
        row(Controller, ("DELETE", "/api/v1/vm"), Unanswered, Prompt).body(r#"{"id":"i"}"#),
        row(Controller, ("PUT", "/api/v1/vm"), Unsent, Prompt).body(r#"{"id":"i"}"#),
        row(Controller, ("DELETE", "/api/v1/registry/revert?id=t"), Unsent, Prompt),
        row(Registry, ("DELETE", "/registry/revert?id=t"), Unsent, Prompt),
        row(Controller, ("GET", "/queue/v1/cmd/task"), Unsent, Long),
        row(Controller, ("POST", "/queue/v1/controller/task"), Unsent, Prompt).body("result"),
        row(Controller, ("POST", "/tap/v1/hand"), Unsent, Prompt).body("{}"),
        row(Registry, ("POST", "/tap/v1/hand"), Unsent, Prompt).body("{}"),
        row(Registry, ("POST", "/v2/a/blobs/uploads/"), Unsent, Long),
        row(Registry, ("PATCH", "/v2/a/blobs/uploads/u"), Unsent, Long).body("piece"),
        row(Registry, ("PUT", "/v2/a/manifests/x"), Unsent, Long).body("{}"),
        row(Registry, ("GET", BLOB), Unanswered, Long),
        row(Registry, ("GET", "/log/stream"), Nowhere, Long),
        row(Controller, ("GET", "/pkg/agent.tgz"), Unanswered, Long),
        row(Controller, ("GET", "/"), Unanswered, Long),
    ]
}

/// In front of servers that know no idempotency keys, as the vendor's do not.
fn before(kind: Kind, upstreams: &[&Upstream]) -> Front {
    for upstream in upstreams {
        upstream.says(200, "ok");
    }
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    Front::start(front::config(kind, &addresses))
}

#[test]
fn what_got_no_answer_is_sent_again_only_where_the_row_allows_it() {
    for row in rows() {
        // Who is asked first is the one that fails: some rows stick to one upstream, and which one is nobody's choice.
        let first = Arc::new(OnceLock::new());
        let one = |place: usize| {
            let first = first.clone();
            Upstream::start(move |_| match *first.get_or_init(|| place) == place {
                true => String::new(),
                false => ok("good"),
            })
        };
        let (a, b) = (one(0), one(1));
        let front = before(row.kind, &[&a, &b]);
        let answers: Vec<_> = (0..2).map(|_| front.ask(&row.request())).collect();
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status()).collect();
        let (closes, good) = if first.get() == Some(&0) { (a, b) } else { (b, a) };
        let lost = closes.count();
        assert!(lost > 0, "{}: nobody was asked", row.name());
        match row.again {
            Again::Unanswered => assert_eq!((statuses, good.count()), (vec![200, 200], 2), "{}", row.name()),
            Again::Unsent | Again::Nowhere => {
                assert_eq!(lost + good.count(), 2, "{}: each is sent once", row.name());
                let unanswered: Vec<_> = answers.iter().filter(|answer| answer.status() == 502).collect();
                assert_eq!(unanswered.len(), lost, "{}: {statuses:?}", row.name());
                for answer in unanswered {
                    // A clean end in the client's format, and not a connection that drops.
                    assert!(answer.json().is_object(), "{}: {}", row.name(), answer.text());
                }
            }
        }
    }
}

#[test]
fn what_was_not_sent_goes_to_another_upstream_in_every_row() {
    for row in rows() {
        let (a, b) = (Upstream::start(|_| ok("good")), Upstream::start(|_| ok("good")));
        for upstream in [&a, &b] {
            upstream.says(200, "ok");
        }
        let mut config = front::config(row.kind, &[a.address, b.address]);
        // No probe finds it gone before a request does.
        config.services[0].health.interval = Duration::from_secs(60);
        let front = Front::start(config);
        // In turn, or to the same one again: who had the first has one of the next two.
        assert_eq!(front.ask(&row.request()).status(), 200, "{}", row.name());
        let (gone, good) = if a.count() > 0 { (a, b) } else { (b, a) };
        drop(gone);
        if row.again == Again::Nowhere {
            let answer = front.ask(&row.request());
            assert_eq!((answer.status(), good.count()), (503, 0), "{}: {}", row.name(), answer.text());
            continue;
        }
        for _ in 0..2 {
            let answer = front.ask(&row.request());
            assert_eq!((answer.status(), answer.text().as_str()), (200, "good"), "{}", row.name());
        }
        assert_eq!(good.count(), 2, "{}", row.name());
        let seen = good.seen.lock().unwrap();
        assert!(seen.iter().all(|seen| seen.body == row.body.as_bytes()), "{}: {seen:?}", row.name());
        let tries = |line: &serde_json::Value| line["attempts"].as_array().unwrap().len();
        assert!(front.lines(3).iter().any(|line| tries(line) == 2), "{}: it was asked first", row.name());
    }
}

#[test]
fn an_answer_may_take_as_long_as_its_row_says() {
    const LATE: Duration = Duration::from_secs(11);
    let slow = || {
        Upstream::raw(|wire, head| {
            let read = wire.body(&head, false, |_| ());
            thread::sleep(LATE);
            if read.is_err() || wire.send(ok("late")).is_err() { Then::Close } else { Then::KeepAlive }
        })
    };
    let (controller, registry) = (slow(), slow());
    let fronts = [before(Kind::Controller, &[&controller]), before(Kind::Registry, &[&registry])];
    thread::scope(|scope| {
        for row in rows() {
            let address = fronts[usize::from(row.kind == Kind::Registry)].address;
            scope.spawn(move || {
                let begun = clock::now();
                let answer = crate::raw::ask(address, &row.request());
                let took = begun.elapsed();
                let expected = if row.takes == Takes::Prompt { 502 } else { 200 };
                assert_eq!(answer.status(), expected, "{} after {took:?}: {}", row.name(), answer.text());
                assert_eq!(took < Duration::from_secs(10), expected == 502, "{} took {took:?}", row.name());
            });
        }
    });
}

#[test]
fn a_task_result_of_two_mebibytes_passes() {
    let good = Upstream::start(|_| ok("good"));
    let front = before(Kind::Controller, &[&good]);
    let result = "r".repeat(2 << 20);
    assert_eq!(front.ask(&with_body("POST", "/queue/v1/controller/task", "", &result)).status(), 200);
    assert_eq!(good.one().body.len(), result.len());
}

#[test]
fn an_upload_is_passed_on_while_it_comes() {
    let (arrived, arrives) = mpsc::channel();
    let takes = Upstream::raw(move |wire, head| {
        let read = wire.body(&head, false, |piece| arrived.send(piece.len()).unwrap_or_default());
        if read.is_err() || wire.send(ok("")).is_err() { Then::Close } else { Then::KeepAlive }
    });
    let front = before(Kind::Registry, &[&takes]);
    let mut wire = Wire::connect(front.address);
    let size = "Content-Length: 10\r\n\r\nfirst";
    wire.send(format!("PATCH /v2/a/blobs/uploads/u HTTP/1.1\r\nHost: front\r\n{size}")).unwrap();
    let mut first = 0;
    while first < 5 {
        first += arrives.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    wire.send("other").unwrap();
    assert_eq!(wire.answer(false).unwrap().status(), 200);
}
