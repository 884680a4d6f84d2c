//! The registry of metrics, and how a room makes its own from [`super::names`].

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::names::{Kind, Name};

/// A metric was made twice, or its name is not one Prometheus takes: a mistake of ours, found at start.
#[derive(Debug, thiserror::Error)]
#[error("metric `{name}` could not be registered")]
pub struct MetricsError {
    name: &'static str,
    #[source]
    source: prometheus::Error,
}

/// Whether a metric is made as what its name says that it is.
fn is(name: Name, kind: Kind) -> Result<(), MetricsError> {
    if name.kind == kind {
        return Ok(());
    }
    let why = format!("it is called a {} and made as a {}", name.kind.as_str(), kind.as_str());
    Err(MetricsError { name: name.name, source: prometheus::Error::Msg(why) })
}

/// The metrics of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter, one per combination of labels.
    pub fn counters(&self, name: Name) -> Result<IntCounterVec, MetricsError> {
        is(name, Kind::Counter)?;
        let made = IntCounterVec::new(Opts::new(name.name, name.help), name.labels);
        self.add(name, made)
    }

    /// A whole-number gauge, one per combination of labels.
    pub fn gauges(&self, name: Name) -> Result<IntGaugeVec, MetricsError> {
        is(name, Kind::Gauge)?;
        let made = IntGaugeVec::new(Opts::new(name.name, name.help), name.labels);
        self.add(name, made)
    }

    /// A gauge with fractions, one per combination of labels.
    pub fn float_gauges(&self, name: Name) -> Result<GaugeVec, MetricsError> {
        is(name, Kind::Gauge)?;
        let made = GaugeVec::new(Opts::new(name.name, name.help), name.labels);
        self.add(name, made)
    }

    /// One gauge without labels.
    pub fn gauge(&self, name: Name) -> Result<Gauge, MetricsError> {
        is(name, Kind::Gauge)?;
        let made = Gauge::new(name.name, name.help);
        self.add(name, made)
    }

    /// A histogram with these upper bounds.
    pub fn histograms(&self, name: Name, bounds: &[f64]) -> Result<HistogramVec, MetricsError> {
        is(name, Kind::Histogram)?;
        let made =
            HistogramVec::new(HistogramOpts::new(name.name, name.help).buckets(bounds.to_vec()), name.labels);
        self.add(name, made)
    }

    /// Everything, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory fails only on a metric family without metrics, which the encoder skips.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(error = %error, "metrics could not be encoded");
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The content type of [`Metrics::text`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    fn add<M>(&self, name: Name, made: Result<M, prometheus::Error>) -> Result<M, MetricsError>
    where
        M: prometheus::core::Collector + Clone + 'static,
    {
        let fail = |source| MetricsError { name: name.name, source };
        let metric = made.map_err(fail)?;
        self.registry.register(Box::new(metric.clone())).map_err(fail)?;
        Ok(metric)
    }
}
