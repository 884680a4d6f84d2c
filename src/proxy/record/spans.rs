//! Requests as parts of traces, sent to a collector: OTLP over HTTP, in protobuf
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), with the attributes of OpenTelemetry's conventions for HTTP
//! servers, and ours with a `switchyard.` before them.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message;
use reqwest::header;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Bytes, ProxyMetrics};
use crate::{
    client::http_client,
    clock,
    config::BaseUrl,
    model,
    proxy::{
        answer::Answer,
        ctx::{Ctx, End},
        trace::Trace,
    },
    supervise::{Handle as Tasks, Stage, Stop},
    telemetry::chain,
};

/// Spans that wait for the collector: a slow one must not slow requests, nor take their memory.
const QUEUE: usize = 4096;

/// Spans of one message at most.
const BATCH: usize = 512;

/// What is there is sent after so long.
const PAUSE: Duration = Duration::from_secs(1);

/// For connecting, and for one message.
const CONNECT: Duration = Duration::from_secs(2);
const SEND: Duration = Duration::from_secs(5);

/// Pauses before a message is sent again that the collector could not take just now.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Takes spans.
#[derive(Debug)]
pub struct Spans {
    waiting: mpsc::Sender<Span>,
}

impl Spans {
    /// Begins to send to this collector, until the value is dropped and all is sent.
    pub fn export(to: &BaseUrl, service: &str, tasks: &Tasks, metrics: &ProxyMetrics) -> Self {
        let (waiting, spans) = mpsc::channel(QUEUE);
        let exporter = Exporter {
            spans,
            url: to.join("/v1/traces"),
            resource: resource(service),
            metrics: metrics.clone(),
            well: true,
        };
        tasks.finish_at(Stage::Store, "traces", |stop| exporter.run(stop));
        Self { waiting }
    }

    /// Queues a request that is over; drops it when the queue is full.
    pub(super) fn record(&self, ctx: &Ctx, bytes: Bytes, metrics: &ProxyMetrics) {
        let Some(trace) = ctx.trace.as_deref() else { return };
        match self.waiting.try_reserve() {
            Ok(place) => place.send(span(ctx, trace, bytes)),
            Err(_) => metrics.spans("dropped", 1),
        }
    }
}

struct Exporter {
    spans: mpsc::Receiver<Span>,
    url: String,
    resource: Resource,
    metrics: ProxyMetrics,
    /// The last message was taken.
    well: bool,
}

impl Exporter {
    async fn run(mut self, stop: Stop) {
        let http = match http_client(CONNECT) {
            Ok(http) => http,
            Err(error) => {
                warn!(error = %chain(&error), "no traces: there is no HTTP client");
                return;
            }
        };
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                count = self.spans.recv_many(&mut batch, BATCH) => if count == 0 {
                    return;
                },
                () = stop.requested() => while batch.len() < BATCH && let Ok(span) = self.spans.try_recv() {
                    batch.push(span);
                },
            }
            if batch.is_empty() {
                return;
            }
            // A message for each request would be a request for each request.
            let full = clock::now() + PAUSE;
            while batch.len() < BATCH && !stop.is_requested() {
                let left = BATCH - batch.len();
                tokio::select! {
                    count = self.spans.recv_many(&mut batch, left) => if count == 0 {
                        break;
                    },
                    () = tokio::time::sleep_until(full) => break,
                    () = stop.requested() => break,
                }
            }
            self.send(&http, batch, &stop).await;
        }
    }

    async fn send(&mut self, http: &reqwest::Client, batch: Vec<Span>, stop: &Stop) {
        let count = batch.len();
        let scope = InstrumentationScope {
            name: "switchyard".into(),
            version: model::OURS.into(),
            ..Default::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: batch, ..Default::default() }];
        let spans =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..Default::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec();
        let message: Arc<[u8]> = message.into();
        for pause in AGAIN.map(Some).into_iter().chain([None]) {
            let why = match self.post(http, &message).await {
                Ok(()) => {
                    if !std::mem::replace(&mut self.well, true) {
                        info!(collector.url = %self.url, "the collector takes traces again");
                    }
                    return self.metrics.spans("sent", count);
                }
                Err(why) => why,
            };
            if std::mem::replace(&mut self.well, false) {
                warn!(collector.url = %self.url, error = %why.text, "the collector takes no traces");
            }
            match pause {
                Some(pause) if why.passes && !stop.is_requested() => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.requested() => {}
                },
                _ => break,
            }
        }
        self.metrics.spans("refused", count);
    }

    async fn post(&self, http: &reqwest::Client, message: &Arc<[u8]>) -> Result<(), Refused> {
        let request = http
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .timeout(SEND)
            .body(message.to_vec());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status().as_u16();
                Err(Refused {
                    text: format!("it answers {status}"),
                    passes: [429, 502, 503, 504].contains(&status),
                })
            }
            Err(error) => Err(Refused { text: chain(&error).to_string(), passes: true }),
        }
    }
}

/// Why a message was not taken.
struct Refused {
    text: String,
    /// It may be taken later.
    passes: bool,
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: impl TryInto<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

fn resource(service: &str) -> Resource {
    let attributes = vec![text("service.name", service), text("service.version", model::full_version())];
    Resource { attributes, ..Default::default() }
}

/// A request that is over, as a span.
fn span(ctx: &Ctx, trace: &Trace, bytes: Bytes) -> Span {
    let took = clock::now().saturating_duration_since(ctx.started);
    let end = clock::wall().unix_nanos();
    let begin = end.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    let class = ctx.route.class.as_str();
    let mut attributes = vec![
        text("http.request.method", ctx.method.as_str()),
        text("url.path", ctx.path.to_string()),
        text("client.address", ctx.client.ip.to_string()),
        text("network.protocol.version", ctx.protocol.as_str().trim_start_matches("HTTP/")),
        text("switchyard.listener", ctx.listener_name()),
        text("switchyard.class", class),
        text("switchyard.request", ctx.request.as_str()),
        text("switchyard.end", ctx.end.as_str()),
        number("switchyard.attempts", ctx.attempts.len()),
        number("http.request.body.size", bytes.received),
        number("http.response.body.size", bytes.sent),
    ];
    if let Some(status) = ctx.status() {
        attributes.push(number("http.response.status_code", status));
    }
    if let Some(service) = ctx.service() {
        attributes.push(text("switchyard.service", service.name.as_str()));
    }
    if let Some(note) = ctx.attempts.last() {
        attributes.push(text("switchyard.upstream", ctx.upstream_name(note.place)));
        attributes.push(text("switchyard.why", note.why.to_string()));
    }
    let failed = match (&ctx.ours, ctx.status()) {
        (Some(ours), Some(500..)) => Some(ours.code().to_owned()),
        (None, Some(status @ 500..)) => Some(status.to_string()),
        _ => (ctx.end != End::Done).then(|| ctx.end.as_str().to_owned()),
    };
    let status = failed.map(|why| {
        attributes.push(text("error.type", why));
        let message = ctx.ours.as_ref().map(Answer::to_string).unwrap_or_default();
        Status { message, code: StatusCode::Error.into() }
    });
    Span {
        trace_id: trace.id.get().to_be_bytes().to_vec(),
        span_id: trace.span.map(|span| span.get().to_be_bytes().to_vec()).unwrap_or_default(),
        parent_span_id: trace.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        name: format!("{} {class}", ctx.method),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: begin,
        end_time_unix_nano: end,
        attributes,
        status,
        ..Default::default()
    }
}
