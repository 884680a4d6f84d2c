//! `[service.NAME.timeouts]`, checked: how long an upstream, and who waits for it, may take.

use std::time::Duration;

/// Timeouts towards upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// TCP connect.
    pub connect: Duration,
    /// The handshake behind it, of a service with `tls`.
    pub tls: Duration,
    /// From the last byte of a request to the head of its answer, for what has no deadline: downloads, pages, followed logs.
    /// `None`: as long as a body may stand still.
    pub first_byte: Option<Duration>,
    /// The same of a parked poll.
    pub poll: Duration,
    /// The same of an upload or a publication, which the server makes durable first.
    pub commit: Duration,
    /// No byte in either direction of a body for so long.
    pub idle: Duration,
    /// How slow transfers may be; without it only standing still is limited.
    pub floor: Option<Floor>,
    /// An unused connection is kept for so long; below the upstream's own limit.
    pub keep_alive: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            tls: Duration::from_secs(1),
            first_byte: None,
            // A poll is answered within its server's time-out (10 s, up to 60 s by config) or its server is gone.
            poll: Duration::from_secs(90),
            // On several machines, if they are told so.
            commit: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(60),
            floor: Some(Floor { rate: Floor::RATE, window: Floor::WINDOW }),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// `floor_rate` and `floor_window`: for each `rate × window` bytes of a transfer either side is waited for `window` at
/// most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Bytes a second.
    pub rate: u64,
    /// Longer than any pause of one that is well.
    pub window: Duration,
}

impl Floor {
    /// Sixteen layers at once over half a megabit are above it, and an image of 60 GB takes half a year at it.
    pub const RATE: u64 = 4 * 1024;
    /// As long as a body may stand still.
    pub const WINDOW: Duration = Duration::from_secs(60);
}
