//! Step 7: nothing is eligible, so the request waits, unsent and unread, until something is.
//!
//! Clients of a build cloud take any status of 400 or more for a failed job; a wait of two seconds while a
//! controller restarts is what saves the build.

use std::{future::Future, time::Duration};

use futures_util::future::select_all;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// One that could not be connected to is tried again so often: its verdict changes only after several
/// probes, and it may be back before that.
pub const TICK: Duration = Duration::from_millis(250);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A verdict changed.
    Verdict,
    /// What a registry has changed, or what is needed.
    News,
    /// An upstream can take one more.
    Room,
    /// Nothing came.
    Over,
    /// The client has closed.
    ClientGone,
}

/// Waits for the first of: a change of a verdict, news of what the registries have, room at an upstream, `until`, `gone`.
/// Cancel-safe: room that was given to one that does not take it goes to the next.
pub async fn wait(
    verdicts: &mut [watch::Receiver<()>],
    news: Option<&mut watch::Receiver<()>>,
    room: &Notify,
    until: Instant,
    now: Instant,
    gone: impl Future<Output = ()>,
) -> Ended {
    if until <= now {
        return Ended::Over;
    }
    let changed = async {
        if verdicts.is_empty() {
            return std::future::pending().await;
        }
        let changes = verdicts.iter_mut().map(|verdict| Box::pin(verdict.changed()));
        // A prober that is gone tells nothing any more; the tick goes on.
        if select_all(changes).await.0.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let told = async {
        let told = match news {
            Some(news) => news.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = gone => Ended::ClientGone,
        () = changed => Ended::Verdict,
        () = told => Ended::News,
        () = room.notified() => Ended::Room,
        () = tokio::time::sleep_until(until) => Ended::Over,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::clock;

    #[tokio::test(start_paused = true)]
    async fn a_change_of_any_verdict_ends_the_wait_at_once() {
        let ((_a, follow_a), (b, follow_b)) = (watch::channel(()), watch::channel(()));
        let now = clock::now();
        let mut follow = [follow_a, follow_b];
        let room = Notify::new();
        let waiting = wait(&mut follow, None, &room, now + Duration::from_secs(2), now, pending());
        let change = async { b.send_modify(|()| {}) };
        let (ended, ()) = tokio::join!(waiting, change);
        assert_eq!((ended, clock::now() - now), (Ended::Verdict, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_the_registries_end_the_wait_at_once() {
        let ((news, mut follow), room) = (watch::channel(()), Notify::new());
        let now = clock::now();
        let waiting = wait(&mut [], Some(&mut follow), &room, now + Duration::from_secs(2), now, pending());
        let (ended, ()) = tokio::join!(waiting, async { news.send_modify(|()| {}) });
        assert_eq!((ended, clock::now() - now), (Ended::News, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn room_wakes_one_of_those_that_wait_and_not_the_others() {
        let (room, now) = (Notify::new(), clock::now());
        let until = now + Duration::from_secs(2);
        let (first, second) = (
            wait(&mut [], None, &room, until, now, pending()),
            wait(&mut [], None, &room, until, now, pending()),
        );
        let (first, second, ()) = tokio::join!(first, second, async { room.notify_one() });
        assert_eq!((first, second), (Ended::Room, Ended::Over));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_it_is_over_at_its_end() {
        let start = clock::now();
        let ended =
            wait(&mut [], None, &Notify::new(), start + Duration::from_millis(600), start, pending()).await;
        assert_eq!((ended, clock::now() - start), (Ended::Over, Duration::from_millis(600)));
        assert_eq!(wait(&mut [], None, &Notify::new(), start, clock::now(), pending()).await, Ended::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_is_dropped() {
        let now = clock::now();
        let ended = wait(&mut [], None, &Notify::new(), now + Duration::from_secs(2), now, async {}).await;
        assert_eq!(ended, Ended::ClientGone);
    }
}
