//! Traces: what upstreams are told, what is logged, and what a collector gets. The collector is one of ours that records; it
//! reads the messages with OpenTelemetry's own definitions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use switchyard::config::proxy::{Kind, Proxy, Trace};

use crate::{
    front::{self, Front, eventually},
    raw::with_body,
    upstream::{Then, Upstream, ok},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn given(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: vendor=1\r\n")
}

fn with(method: &str, path: &str, fields: &str) -> String {
    match method {
        "GET" => format!("GET {path} HTTP/1.1\r\nHost: front\r\n{fields}\r\n"),
        method => with_body(method, path, fields, "{}"),
    }
}

fn get(path: &str) -> String {
    with("GET", path, "")
}

/// Records what it is sent, and answers as it is told to.
struct Collector {
    upstream: Upstream,
    messages: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    answers: Arc<Mutex<&'static str>>,
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const LATER: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

impl Collector {
    fn start() -> Self {
        let messages: Arc<Mutex<Vec<_>>> = Arc::default();
        let answers = Arc::new(Mutex::new(TAKEN));
        let (noted, said) = (messages.clone(), answers.clone());
        let upstream = Upstream::start(move |seen| {
            assert_eq!(seen.path(), "/v1/traces");
            assert_eq!(seen.head.get("content-type"), Some("application/x-protobuf"));
            let answer = *said.lock().unwrap();
            if answer == TAKEN {
                noted.lock().unwrap().push(ExportTraceServiceRequest::decode(seen.body.as_slice()).unwrap());
            }
            answer.to_owned()
        });
        Self { upstream, messages, answers }
    }

    fn says(&self, answer: &'static str) {
        *self.answers.lock().unwrap() = answer;
    }

    /// Waits for so many spans.
    fn spans(&self, count: usize) -> Vec<Span> {
        let all = || -> Vec<Span> {
            let messages = self.messages.lock().unwrap();
            let scopes = messages.iter().flat_map(|m| &m.resource_spans).flat_map(|r| &r.scope_spans);
            scopes.flat_map(|scope| scope.spans.clone()).collect()
        };
        eventually("the spans are sent", || all().len() >= count);
        all()
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<&str, String> {
    let value = |one: &KeyValue| match one.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    list.iter().map(|one| (one.key.as_str(), value(one))).collect()
}

fn joining(upstream: &Upstream, sample: f64, collector: Option<&Collector>) -> Proxy {
    let otlp = collector.map(|collector| format!("http://{}", collector.upstream.address).parse().unwrap());
    let trace = Some(Trace { sample, otlp, service: "front-1".into() });
    Proxy { trace, ..front::config(Kind::Controller, &[upstream.address]) }
}

/// Trace, parent and flags that the last request to the upstream came with.
fn told(upstream: &Upstream) -> (String, String, String) {
    let seen = upstream.seen.lock().unwrap();
    let head = &seen.last().unwrap().head;
    assert_eq!(
        head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent")).count(),
        1,
        "{head:?}"
    );
    let value = head.get("traceparent").unwrap();
    let parts: Vec<&str> = value.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{value}");
    (parts[1].into(), parts[2].into(), parts[3].into())
}

#[test]
fn without_the_setting_a_trace_passes_and_is_logged() {
    let upstream = Upstream::start(|_| ok("x"));
    let front = Front::controllers(&[upstream.address]);
    assert_eq!(front.ask(&get("/api/v1/vm")).status(), 200);
    assert_eq!(upstream.seen.lock().unwrap()[0].head.get("traceparent"), None);
    assert_eq!(front.ask(&with("GET", "/api/v1/vm", &given("01"))).status(), 200);
    assert_eq!(told(&upstream), (TRACE.into(), PARENT.into(), "01".into()));
    assert_eq!(upstream.seen.lock().unwrap()[1].head.get("tracestate"), Some("vendor=1"));
    let lines = front.lines(2);
    assert_eq!((&lines[0]["trace"], &lines[0]["span"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((lines[1]["trace"].as_str(), &lines[1]["span"]), (Some(TRACE), &serde_json::Value::Null));
}

#[test]
fn a_request_is_a_part_of_its_own_between_caller_and_upstream() {
    let upstream = Upstream::start(|seen| if seen.path().contains("node") { String::new() } else { ok("x") });
    let collector = Collector::start();
    let front = Front::start(joining(&upstream, 0.0, Some(&collector)));
    // Recorded, for the caller says so.
    assert_eq!(front.ask(&with("GET", "/api/v1/vm?secret=1", &given("01"))).status(), 200);
    let (trace, span, flags) = told(&upstream);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_ne!(span, PARENT);
    assert_eq!(upstream.seen.lock().unwrap()[0].head.get("tracestate"), Some("vendor=1"));
    // Not recorded: neither the caller nor the share of none asks for it.
    assert_eq!(front.ask(&with("GET", "/api/v1/vm", &given("00"))).status(), 200);
    assert_eq!(told(&upstream).2, "00");
    assert_eq!(front.ask(&with("GET", "/api/v1/vm", "tracestate: vendor=1\r\n")).status(), 200);
    let (begun, _, flags) = told(&upstream);
    assert_ne!(begun, TRACE);
    assert_eq!(flags, "00");
    assert_eq!(upstream.seen.lock().unwrap()[2].head.get("tracestate"), None, "of another trace");
    // One that fails.
    assert_eq!(front.ask(&with("POST", "/api/v1/node/config", &given("01"))).status(), 502);

    let spans = collector.spans(2);
    assert_eq!(spans.len(), 2, "{spans:?}");
    let good = &spans[0];
    assert_eq!(hex::encode(&good.trace_id), TRACE);
    assert_eq!(hex::encode(&good.parent_span_id), PARENT);
    assert_eq!(hex::encode(&good.span_id), span);
    assert_eq!((good.name.as_str(), good.kind()), ("GET controller-api", SpanKind::Server));
    assert!(good.status.is_none() && good.start_time_unix_nano < good.end_time_unix_nano);
    let said = attributes(&good.attributes);
    let lines = front.lines(4);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/api/v1/vm"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("switchyard.service", "pool"),
        ("switchyard.upstream", "u0"),
        ("switchyard.attempts", "1"),
        ("switchyard.request", lines[0]["request"].as_str().unwrap()),
        ("switchyard.why", lines[0]["why"].as_str().unwrap()),
    ] {
        assert_eq!(said.get(key).map(String::as_str), Some(value), "{key} in {said:?}");
    }
    assert_eq!(lines[0]["span"].as_str(), Some(span.as_str()));
    let bad = &spans[1];
    assert_eq!(bad.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(attributes(&bad.attributes)["error.type"], lines[3]["reason"].as_str().unwrap());
    let messages = collector.messages.lock().unwrap();
    let resource = attributes(&messages[0].resource_spans[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource["service.name"], "front-1");
}

#[test]
fn a_trace_begins_here_where_there_is_none_that_can_be_read() {
    let upstream = Upstream::start(|_| ok("x"));
    let collector = Collector::start();
    let front = Front::start(joining(&upstream, 1.0, Some(&collector)));
    let twice = format!("{}{}", given("01"), given("01"));
    let requests = ["", "traceparent: 00-zz\r\n", twice.as_str()];
    for fields in requests {
        assert_eq!(front.ask(&with("GET", "/api/v1/vm", fields)).status(), 200);
        let (trace, _, flags) = told(&upstream);
        assert_eq!(flags, "01", "{fields}");
        assert_ne!(trace, TRACE);
        assert_eq!(front.lines(1).last().unwrap()["trace"].as_str().map(str::len), Some(32));
    }
    let spans = collector.spans(requests.len());
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty()), "{spans:?}");
}

#[test]
fn a_collector_that_is_slow_or_gone_delays_nobody_and_gets_what_waited() {
    let upstream = Upstream::start(|_| ok("x"));
    let collector = Collector::start();
    collector.says(LATER);
    let front = Front::start(joining(&upstream, 1.0, Some(&collector)));
    for _ in 0..50 {
        assert_eq!(front.ask(&get("/api/v1/vm")).status(), 200);
    }
    eventually("the collector was asked in vain", || collector.upstream.count() > 0);
    collector.says(TAKEN);
    assert_eq!(collector.spans(50).len(), 50);

    // And one that accepts and says nothing, under more than the queue takes.
    let silent = Upstream::raw(|_, _| {
        thread::sleep(Duration::from_secs(30));
        Then::Close
    });
    let mut next = front.config.clone();
    next.trace.as_mut().unwrap().otlp = Some(format!("http://{}", silent.address).parse().unwrap());
    front.reload(&next).unwrap();
    let mut wire = crate::raw::Wire::connect(front.address);
    for _ in 0..5_500 {
        assert_eq!(wire.ask(&get("/api/v1/vm")).unwrap().status(), 200);
    }
    let counted = front.metrics();
    let dropped = "switchyard_proxy_trace_spans_total{outcome=\"dropped\"} ";
    let dropped = counted.lines().find_map(|line| line.strip_prefix(dropped)).unwrap_or("0");
    assert!(dropped.parse::<u64>().unwrap() > 0, "{counted}");
    assert!(counted.contains("switchyard_proxy_trace_spans_total{outcome=\"sent\"} 50\n"), "{counted}");
}
