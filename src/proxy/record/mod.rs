//! Step 10: what is kept of a request: one access line, and numbers.

pub mod access;
pub mod decisions;
pub mod metrics;
pub mod numbers;
pub mod spans;
mod totals;
pub mod underway;

pub use decisions::Decisions;
pub use metrics::ProxyMetrics;
pub use numbers::{ServiceNumbers, UpstreamNumbers};
pub use spans::Spans;
pub use totals::{OfService, OfUpstream, Totals};

use std::net::IpAddr;

use super::{answer::Answer, ctx::Ctx, snapshot::Snapshot};
use crate::{clock, http::AccessLog, model::RequestId};

/// Bytes of the two bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of the request.
    pub received: u64,
    /// Of the answer.
    pub sent: u64,
}

/// Records an answer of ours to what never became a request.
pub fn refused(
    listener: &str,
    client: IpAddr,
    answer: &Answer,
    request: &RequestId,
    snapshot: &Snapshot,
    to: To<'_>,
) {
    let To { metrics, log, decisions } = to;
    metrics.refused(listener, answer.code());
    log.write(
        || access::refused(listener, client, answer, request, clock::wall()),
        || metrics.access_dropped(),
    );
    decisions.refused(listener, client, answer, request.clone(), (snapshot.decisions, clock::now()));
}

/// Where it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    /// Numbers.
    pub metrics: &'a ProxyMetrics,
    /// Lines.
    pub log: &'a AccessLog,
    /// What was decided, for whoever asks.
    pub decisions: &'a Decisions,
}

/// Records a request that is over.
pub fn done(mut ctx: Box<Ctx>, bytes: Bytes, to: To<'_>) {
    let (To { metrics, log, decisions }, now) = (to, clock::now());
    let listed = ctx.transfer.take();
    let counted = listed.map(|listed| listed.end(bytes.received, bytes.sent)).unwrap_or_default();
    metrics.request_done(&ctx, bytes, counted);
    if let Some(service) = ctx.service() {
        service.pins.over(&ctx, now);
    }
    if let (Some(trace), Some(tracing)) = (&ctx.trace, &ctx.snapshot.tracing)
        && let (true, Some(spans)) = (trace.sampled, &tracing.spans)
    {
        spans.record(&ctx, bytes, metrics);
    }
    log.write(|| access::line(&ctx, bytes, now, clock::wall()), || metrics.access_dropped());
    let most = ctx.snapshot.decisions;
    decisions.keep(ctx, most, now);
}
