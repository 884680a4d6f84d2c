//! Step 7: nothing is eligible, so the request waits, unsent and unread, until something is.
//!
//! Clients of a build cloud take any status of 400 or more for a failed job; a wait of two seconds while a
//! controller restarts is what saves the build.

mod line;
mod pace;

use std::{future::Future, time::Duration};

use futures_util::future::select_all;
use tokio::{sync::watch, time::Instant};

pub use self::{
    line::{Full, Line, Place, Queue, Spot, Wants},
    pace::delay,
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
    /// The configuration is another, or others were found.
    Config,
    /// Nothing came.
    Over,
    /// The client has closed.
    ClientGone,
}

/// What one that waits follows.
#[derive(Debug)]
pub struct Changes<'a> {
    /// What probes say of the upstreams.
    pub verdicts: &'a mut [watch::Receiver<()>],
    /// What the registries have.
    pub news: Option<&'a mut watch::Receiver<()>>,
    /// The configuration.
    pub config: &'a mut watch::Receiver<()>,
    /// Its place in the line.
    pub place: &'a Place,
}

/// Waits for the first of: a change of what it follows, a call to room at an upstream, `until`, `gone`. Cancel-safe: a call goes to the next one when the place is left.
pub async fn wait(
    changes: Changes<'_>,
    until: Instant,
    now: Instant,
    gone: impl Future<Output = ()>,
) -> Ended {
    if until <= now {
        return Ended::Over;
    }
    let Changes { verdicts, news, config, place } = changes;
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
    let renewed = async {
        // Whoever makes the next one is gone with the process.
        if config.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = gone => Ended::ClientGone,
        () = changed => Ended::Verdict,
        () = told => Ended::News,
        () = renewed => Ended::Config,
        () = place.called() => Ended::Room,
        () = tokio::time::sleep_until(until) => Ended::Over,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::clock;

    /// One place in a line, and a config that does not change.
    struct Case {
        line: Line,
        place: Place,
        config: (watch::Sender<()>, watch::Receiver<()>),
    }

    impl Case {
        fn new() -> Self {
            let line = Line::default();
            let place = line.enter(0, 9, 9, Default::default()).unwrap();
            Self { line, place, config: watch::channel(()) }
        }

        fn changes<'a>(
            &'a mut self,
            verdicts: &'a mut [watch::Receiver<()>],
            news: Option<&'a mut watch::Receiver<()>>,
        ) -> Changes<'a> {
            Changes { verdicts, news, config: &mut self.config.1, place: &self.place }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_any_verdict_ends_the_wait_at_once() {
        let ((_a, follow_a), (b, follow_b)) = (watch::channel(()), watch::channel(()));
        let (now, mut case) = (clock::now(), Case::new());
        let mut follow = [follow_a, follow_b];
        let waiting = wait(case.changes(&mut follow, None), now + Duration::from_secs(2), now, pending());
        let change = async { b.send_modify(|()| {}) };
        let (ended, ()) = tokio::join!(waiting, change);
        assert_eq!((ended, clock::now() - now), (Ended::Verdict, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_the_registries_end_the_wait_at_once() {
        let (news, mut follow) = watch::channel(());
        let (now, mut case) = (clock::now(), Case::new());
        let changes = case.changes(&mut [], Some(&mut follow));
        let waiting = wait(changes, now + Duration::from_secs(2), now, pending());
        let (ended, ()) = tokio::join!(waiting, async { news.send_modify(|()| {}) });
        assert_eq!((ended, clock::now() - now), (Ended::News, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn another_config_ends_the_wait_at_once() {
        let (now, mut case) = (clock::now(), Case::new());
        case.config.0.send_modify(|()| {});
        let ended = wait(case.changes(&mut [], None), now + Duration::from_secs(2), now, pending()).await;
        assert_eq!((ended, clock::now() - now), (Ended::Config, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn room_wakes_who_came_first_and_not_the_others() {
        let (now, mut first, queue) = (clock::now(), Case::new(), Queue::default());
        let mut second =
            Case { place: first.line.enter(0, 9, 9, Default::default()).unwrap(), ..Case::new() };
        for place in [&second.place, &first.place] {
            place.want([((1, None), queue.clone())].into_iter().collect());
        }
        let (until, line) = (now + Duration::from_secs(2), first.line.clone());
        let freed = async { line.freed((1, None), &queue) };
        let (ended, other, ()) = tokio::join!(
            wait(first.changes(&mut [], None), until, now, pending()),
            wait(second.changes(&mut [], None), until, now, pending()),
            freed
        );
        assert_eq!((ended, other), (Ended::Room, Ended::Over));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_it_is_over_at_its_end() {
        let (start, mut case) = (clock::now(), Case::new());
        let until = start + Duration::from_millis(600);
        let ended = wait(case.changes(&mut [], None), until, start, pending()).await;
        assert_eq!((ended, clock::now() - start), (Ended::Over, Duration::from_millis(600)));
        assert_eq!(wait(case.changes(&mut [], None), start, clock::now(), pending()).await, Ended::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_is_dropped() {
        let (now, mut case) = (clock::now(), Case::new());
        let ended = wait(case.changes(&mut [], None), now + Duration::from_secs(2), now, async {}).await;
        assert_eq!(ended, Ended::ClientGone);
    }
}
