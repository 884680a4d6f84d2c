//! That something ends, and until when what still runs may go on.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::{sync::watch, time::Instant};

/// The end of a process' work, or of one listener's. Asked for once; may be brought forward.
#[derive(Debug)]
pub(in crate::proxy) struct Ending {
    /// Beside `until`, because it is looked at with every request.
    asked: AtomicU8,
    until: watch::Sender<Option<Instant>>,
}

/// Nobody has asked.
const NO: u8 = 0;
/// Somebody else goes on: each connection may be used once more, and learns with the answer that it was the last time.
const GENTLY: u8 = 1;
/// Nothing new is begun.
const AT_ONCE: u8 = 2;

impl Default for Ending {
    fn default() -> Self {
        Self { asked: AtomicU8::new(NO), until: watch::Sender::new(None) }
    }
}

impl Ending {
    /// Asks for it: what runs may go on until then, and nothing is begun. Asked again it can only come earlier.
    pub(in crate::proxy) fn ask(&self, until: Instant) {
        self.ask_as(AT_ONCE, until);
    }

    /// The same, but a connection that waits for a request may have one more: a client that sends it just now would see a
    /// connection that breaks, although the service goes on.
    pub(in crate::proxy) fn ask_gently(&self, until: Instant) {
        self.ask_as(GENTLY, until);
    }

    fn ask_as(&self, how: u8, until: Instant) {
        self.asked.fetch_max(how, Ordering::AcqRel);
        self.until.send_if_modified(|held| {
            let earlier = held.is_none_or(|held| until < held);
            if earlier {
                *held = Some(until);
            }
            earlier
        });
    }

    /// Whether it was asked for: every answer is then the last of its connection.
    pub(in crate::proxy) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) != NO
    }

    /// Whether connections that wait for a request are closed now.
    pub(in crate::proxy) fn is_at_once(&self) -> bool {
        self.asked.load(Ordering::Acquire) == AT_ONCE
    }

    /// Until when what runs may go on, if it was asked for.
    pub(in crate::proxy) fn until(&self) -> Option<Instant> {
        *self.until.borrow()
    }

    /// Completes when it was asked for.
    pub(in crate::proxy) async fn asked(&self) {
        // The sender lives as long as `self`.
        drop(self.until.subscribe().wait_for(Option::is_some).await);
    }

    /// Completes when what runs may go on no longer.
    pub(in crate::proxy) async fn over(&self) {
        let mut follow = self.until.subscribe();
        loop {
            let until = *follow.borrow_and_update();
            let reached = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = reached => return,
                changed = follow.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[tokio::test(start_paused = true)]
    async fn it_can_be_brought_forward_and_never_put_off() {
        let (ending, begun) = (Ending::default(), clock::now());
        let second = Duration::from_secs(1);
        assert!(!ending.is_asked());
        let asking = async {
            tokio::time::sleep(second).await;
            ending.ask_gently(begun + 100 * second);
            ending.asked().await;
            assert!(ending.is_asked() && !ending.is_at_once());
            tokio::time::sleep(second).await;
            ending.ask(begun + 10 * second);
            ending.ask_gently(begun + 50 * second);
        };
        tokio::join!(asking, ending.over());
        assert!(ending.is_at_once());
        assert_eq!((clock::now() - begun, ending.until()), (10 * second, Some(begun + 10 * second)));
    }
}
