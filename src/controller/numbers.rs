//! The controller's metrics that are not about its HTTP server: the queue, placements, the store, duties.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounterVec, IntGaugeVec};

use super::{ops::Census, standing::fill};
use crate::{
    store::{Alarm, Standing},
    telemetry::{Metrics, MetricsError, names},
    wire::ready::Ready,
};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Numbers {
    ready: IntGaugeVec,
    instances: IntGaugeVec,
    nodes: IntGaugeVec,
    held: Gauge,
    unreadable: Gauge,
    macs: IntGaugeVec,
    queued: Gauge,
    oldest: Gauge,
    placed: Histogram,
    store_seconds: HistogramVec,
    store_failed: IntCounterVec,
    lag: Gauge,
    skew: Gauge,
    leads: IntGaugeVec,
    passes: HistogramVec,
    changes: IntCounterVec,
    cut_short: IntCounterVec,
    upkeep: IntCounterVec,
    up: IntGaugeVec,
    bytes: GaugeVec,
    quota: GaugeVec,
    alarms: IntGaugeVec,
}

impl Numbers {
    /// # Errors
    /// A metric that exists already: this was called twice for one [`Metrics`].
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        const SHORT: &[f64] =
            &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        const LONG: &[f64] =
            &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0];
        let placed = metrics.histograms(names::CONTROLLER_PLACEMENT, LONG)?;
        Ok(Self {
            ready: metrics.gauges(names::CONTROLLER_READY)?,
            instances: metrics.gauges(names::CONTROLLER_INSTANCES)?,
            nodes: metrics.gauges(names::CONTROLLER_NODES)?,
            held: metrics.gauge(names::CONTROLLER_NODES_HELD)?,
            unreadable: metrics.gauge(names::CONTROLLER_UNREADABLE)?,
            macs: metrics.gauges(names::CONTROLLER_MACS)?,
            queued: metrics.gauge(names::CONTROLLER_QUEUED)?,
            oldest: metrics.gauge(names::CONTROLLER_QUEUE_AGE)?,
            placed: placed.with_label_values::<&str>(&[]),
            store_seconds: metrics.histograms(names::CONTROLLER_STORE_SECONDS, SHORT)?,
            store_failed: metrics.counters(names::CONTROLLER_STORE_FAILURES)?,
            lag: metrics.gauge(names::CONTROLLER_WATCH_LAG)?,
            skew: metrics.gauge(names::CONTROLLER_CLOCK_SKEW)?,
            leads: metrics.gauges(names::CONTROLLER_DUTY_LEADS)?,
            passes: metrics.histograms(names::CONTROLLER_DUTY_SECONDS, LONG)?,
            changes: metrics.counters(names::CONTROLLER_DUTY_CHANGES)?,
            cut_short: metrics.counters(names::CONTROLLER_DUTY_FAILURES)?,
            upkeep: metrics.counters(names::CONTROLLER_STORE_UPKEEP)?,
            up: metrics.gauges(names::CONTROLLER_STORE_UP)?,
            bytes: metrics.float_gauges(names::CONTROLLER_STORE_BYTES)?,
            quota: metrics.float_gauges(names::CONTROLLER_STORE_QUOTA)?,
            alarms: metrics.gauges(names::CONTROLLER_STORE_ALARM)?,
        })
    }

    /// What this controller can do.
    pub(super) fn ready(&self, ready: &Ready) {
        for (class, can) in [("read", ready.read), ("write", ready.write), ("poll", ready.poll)] {
            self.ready.with_label_values(&[class]).set(i64::from(can == Some(true)));
        }
    }

    /// How many there are of what, as the cache shows it now.
    pub(super) fn census(&self, census: &Census) {
        for (state, count) in &census.instances {
            self.instances.with_label_values(&[state.as_str()]).set(*count);
        }
        for (state, count) in &census.nodes {
            self.nodes.with_label_values(&[state.as_str()]).set(*count);
        }
        self.held.set(census.held as f64);
        self.unreadable.set(census.unreadable as f64);
        if let Some(counts) = census.macs {
            for (part, count) in ["free", "taken", "held"].into_iter().zip(counts) {
                self.macs.with_label_values(&[part]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Starts that wait now, and for how long the oldest of them has.
    pub(super) fn queue(&self, waiting: usize, oldest: Duration) {
        self.queued.set(waiting as f64);
        self.oldest.set(oldest.as_secs_f64());
    }

    /// So far another controller's clock is from this one's.
    pub(super) fn skew(&self, seconds: f64) {
        self.skew.set(seconds);
    }

    /// A start was offered to a node, so long after it was accepted.
    pub(super) fn placed(&self, after: Duration) {
        self.placed.observe(after.as_secs_f64());
    }

    /// A call to the store has ended.
    pub(super) fn called(&self, call: &'static str, took: Duration, failed: bool) {
        self.store_seconds.with_label_values(&[call]).observe(took.as_secs_f64());
        if failed {
            self.store_failed.with_label_values(&[call]).inc();
        }
    }

    /// The cache has been behind the store for so long.
    pub(super) fn behind(&self, lag: Duration) {
        self.lag.set(lag.as_secs_f64());
    }

    /// Whether this controller leads a duty.
    pub(super) fn leads(&self, duty: &'static str, leads: bool) {
        self.leads.with_label_values(&[duty]).set(i64::from(leads));
    }

    /// A pass of a duty has ended: how many changes it made, or that it was cut short.
    pub(super) fn passed(&self, duty: &'static str, took: Duration, changes: Option<usize>) {
        self.passes.with_label_values(&[duty]).observe(took.as_secs_f64());
        match changes {
            Some(changes) => self.changes.with_label_values(&[duty]).inc_by(changes as u64),
            None => self.cut_short.with_label_values(&[duty]).inc(),
        }
    }

    /// History was forgotten.
    pub(super) fn compacted(&self) {
        self.upkeep.with_label_values(&["compacted"]).inc();
    }

    /// A member has made its file anew.
    pub(super) fn defragmented(&self) {
        self.upkeep.with_label_values(&["defragmented"]).inc();
    }

    /// A member is no more among those of the store.
    pub(super) fn forget_member(&self, member: &str) {
        // What was never told of it is not there to be taken away.
        self.up.remove_label_values(&[member]).ok();
        self.quota.remove_label_values(&[member]).ok();
        for part in ["file", "used"] {
            self.bytes.remove_label_values(&[member, part]).ok();
        }
        for alarm in Alarm::ALL {
            self.alarms.remove_label_values(&[member, alarm.as_str()]).ok();
        }
    }

    /// How the members of the store stand.
    pub(super) fn members(&self, members: &[Standing], quota: u64) {
        for Standing { member, said } in members {
            let of = [member.as_str()];
            self.up.with_label_values(&of).set(i64::from(said.is_ok()));
            let Ok(said) = said else { continue };
            self.bytes.with_label_values(&[member, "file"]).set(said.size as f64);
            self.bytes.with_label_values(&[member, "used"]).set(said.used as f64);
            self.quota.with_label_values(&of).set(fill(said.size, said.quota.unwrap_or(quota)));
            for alarm in Alarm::ALL {
                let raised = said.alarms.iter().any(|(id, raised)| *id == said.id && *raised == alarm);
                self.alarms.with_label_values(&[member, alarm.as_str()]).set(i64::from(raised));
            }
        }
    }
}
