//! Transfers as the admin API shows them.

use std::sync::PoisonError;

use tokio::time::Instant;

use super::{Transfer, Transfers};
use crate::wire::transfers as wire;

impl Transfers {
    /// Those in flight.
    pub fn view(&self, now: Instant) -> wire::Transfers {
        let transfers = self.all().iter().map(|transfer| transfer.view(now)).collect();
        wire::Transfers { transfers, full: self.is_full() }
    }
}

impl Transfer {
    pub(super) fn view(&self, now: Instant) -> wire::Transfer {
        let (up, down) = self.bytes();
        let rate =
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).rate(now, up + down, self.started);
        wire::Transfer {
            request: self.request.to_string(),
            client: self.client.to_string(),
            listener: self.listener.clone(),
            method: self.method.to_string(),
            path: self.path.clone(),
            service: self.service.name.to_string(),
            class: self.class,
            lane: self.lane.as_str().into(),
            upstream: self.upstream().map(str::to_owned),
            direction: self.direction.as_str().into(),
            bytes_received: up,
            bytes_sent: down,
            length: self.length,
            rate,
            since: self.since,
            seconds: now.saturating_duration_since(self.started).as_secs_f64(),
            waits_for: self.waits().as_str().into(),
        }
    }
}
