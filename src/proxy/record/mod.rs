//! Step 10: what is kept of a request: one access line, and numbers.

pub mod access;
pub mod metrics;
pub mod numbers;
pub mod spans;
mod totals;
pub mod underway;

pub use access::AccessLog;
pub use metrics::ProxyMetrics;
pub use numbers::{ServiceNumbers, UpstreamNumbers};
pub use spans::Spans;
pub use totals::{OfService, OfUpstream, Totals};

use std::net::IpAddr;

use super::{answer::Answer, ctx::Ctx};
use crate::{clock, model::RequestId};

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
    metrics: &ProxyMetrics,
    log: &AccessLog,
) {
    metrics.refused(listener, answer.code());
    log.write(|| access::refused(listener, client, answer, request, clock::wall()), metrics);
}

/// Records a request that is over.
pub fn done(ctx: &mut Ctx, bytes: Bytes, metrics: &ProxyMetrics, log: &AccessLog) {
    let listed = ctx.transfer.take();
    let counted = listed.map(|listed| listed.end(bytes.received, bytes.sent)).unwrap_or_default();
    metrics.request_done(ctx, bytes, counted);
    if let Some(service) = ctx.service() {
        service.pins.over(ctx, clock::now());
    }
    if let (Some(trace), Some(tracing)) = (&ctx.trace, &ctx.snapshot.tracing)
        && let (true, Some(spans)) = (trace.sampled, &tracing.spans)
    {
        spans.record(ctx, bytes, metrics);
    }
    log.write(|| access::line(ctx, bytes, clock::now(), clock::wall()), metrics);
}
