//! What has been counted since the start, put together: two of these tell a rate.

use std::collections::BTreeMap;

use prometheus::{IntCounterVec, core::Collector};

use super::ProxyMetrics;
use crate::proxy::{snapshot::Snapshot, transfers::Transfers};

/// What has been counted.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// By service.
    pub services: BTreeMap<String, OfService>,
    /// By service and upstream.
    pub upstreams: BTreeMap<(String, String), OfUpstream>,
}

/// Of one service: counts, or so many a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OfService<T = u64> {
    /// Requests that are over.
    pub requests: T,
    /// Those of them that were answered 5xx.
    pub failed: T,
    /// Bytes to upstreams.
    pub up: T,
    /// Bytes to clients.
    pub down: T,
}

/// Of one upstream: counts, or so many a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OfUpstream<T = u64> {
    /// Answers.
    pub answers: T,
    /// Attempts that failed.
    pub failures: T,
}

impl ProxyMetrics {
    /// Everything that was counted by now of what is there.
    pub fn totals(&self, snapshot: &Snapshot, transfers: &Transfers) -> Totals {
        for transfer in transfers.all() {
            transfer.count();
        }
        let mut totals = Totals::default();
        for service in &snapshot.services {
            service.numbers.put_together();
            totals.services.entry(service.name.to_string()).or_default();
            for upstream in &service.upstreams {
                upstream.numbers.put_together();
                let name = (service.name.to_string(), upstream.name.to_string());
                totals.upstreams.entry(name).or_default();
            }
        }
        each(&self.requests, ["service", "status"], |[service, status], count| {
            let Some(of) = totals.services.get_mut(service) else { return };
            of.requests += count;
            // A request that got no answer because its client had gone is nobody's failure.
            of.failed += if status == "5xx" { count } else { 0 };
        });
        each(&self.body_bytes, ["service", "direction"], |[service, direction], count| {
            let Some(of) = totals.services.get_mut(service) else { return };
            *(if direction == "up" { &mut of.up } else { &mut of.down }) += count;
        });
        each(&self.upstream_requests, ["service", "upstream"], |[service, upstream], count| {
            let name = (service.to_owned(), upstream.to_owned());
            totals.upstreams.entry(name).and_modify(|of| of.answers += count);
        });
        each(&self.upstream_failures, ["service", "upstream"], |[service, upstream], count| {
            let name = (service.to_owned(), upstream.to_owned());
            totals.upstreams.entry(name).and_modify(|of| of.failures += count);
        });
        totals
    }
}

/// Each series, with the values of these labels.
fn each<const N: usize>(counters: &IntCounterVec, labels: [&str; N], mut take: impl FnMut([&str; N], u64)) {
    for family in counters.collect() {
        for metric in family.get_metric() {
            let value = |label: &str| {
                let pair = metric.get_label().iter().find(|pair| pair.name() == label);
                pair.map_or("", |pair| pair.value())
            };
            take(labels.map(value), metric.get_counter().get_value() as u64);
        }
    }
}
