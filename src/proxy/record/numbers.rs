//! Counters of one service and of one upstream, each looked up at its first use and kept: finding one by its labels
//! costs more than counting.

use std::sync::OnceLock;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::model::{RouteClass, ServiceName, UpstreamName};

const CLASSES: usize = RouteClass::ALL.len();

/// `none`, then `1xx` to `5xx`.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The place of a status in [`STATUSES`].
fn place(status: Option<u16>) -> usize {
    status.map(|status| usize::from(status / 100)).filter(|place| *place < STATUSES.len()).unwrap_or(0)
}

/// Of one service.
#[derive(Debug)]
pub struct ServiceNumbers {
    service: String,
    requests: IntCounterVec,
    first_byte: HistogramVec,
    requests_by: [[OnceLock<IntCounter>; STATUSES.len()]; CLASSES],
    first_byte_by: [OnceLock<Histogram>; CLASSES],
}

impl ServiceNumbers {
    pub(super) fn new(service: &ServiceName, requests: &IntCounterVec, first_byte: &HistogramVec) -> Self {
        Self {
            service: service.to_string(),
            requests: requests.clone(),
            first_byte: first_byte.clone(),
            requests_by: Default::default(),
            first_byte_by: Default::default(),
        }
    }

    /// A request is over, with this status if it had an answer.
    pub(super) fn done(&self, class: RouteClass, status: Option<u16>) {
        let place = place(status);
        let kept = self.requests_by.get(class as usize).and_then(|by| by.get(place));
        let make = || {
            let status = STATUSES.get(place).copied().unwrap_or_default();
            self.requests.with_label_values(&[self.service.as_str(), class.as_str(), status])
        };
        if let Some(kept) = kept {
            kept.get_or_init(make).inc();
        }
    }

    /// The head of an answer went out so many seconds after that of its request came.
    pub(super) fn first_byte(&self, class: RouteClass, seconds: f64) {
        let make = || self.first_byte.with_label_values(&[self.service.as_str(), class.as_str()]);
        if let Some(kept) = self.first_byte_by.get(class as usize) {
            kept.get_or_init(make).observe(seconds);
        }
    }
}

/// Of one upstream.
#[derive(Debug)]
pub struct UpstreamNumbers {
    service: String,
    upstream: String,
    answers: IntCounterVec,
    answers_by: [OnceLock<IntCounter>; STATUSES.len()],
}

impl UpstreamNumbers {
    pub(super) fn new(service: &ServiceName, upstream: &UpstreamName, answers: &IntCounterVec) -> Self {
        let (service, upstream) = (service.to_string(), upstream.to_string());
        Self { service, upstream, answers: answers.clone(), answers_by: Default::default() }
    }

    /// It has answered with this status.
    pub fn answered(&self, status: u16) {
        let place = place(Some(status));
        let make = || {
            let status = STATUSES.get(place).copied().unwrap_or_default();
            self.answers.with_label_values(&[self.service.as_str(), self.upstream.as_str(), status])
        };
        if let Some(kept) = self.answers_by.get(place) {
            kept.get_or_init(make).inc();
        }
    }
}
