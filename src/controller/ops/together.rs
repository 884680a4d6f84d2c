//! Asks a question once for all who want its answer at the same time.
//!
//! Whoever joins must have come before the question was *sent*: an answer that was on its way already may be
//! older than what the newcomer was just told (a push that was acknowledged a moment ago). So those who come
//! while one is under way share the next.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

type Asking<A> = BoxFuture<'static, A>;

struct Lane<A: Clone> {
    /// Held by the question under way; the next one waits for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The question that was not sent yet. Weak: it lives as long as somebody waits for it.
    next: Option<WeakShared<Asking<A>>>,
}

impl<A: Clone> Lane<A> {
    fn waiting(&self) -> Option<Shared<Asking<A>>> {
        self.next.as_ref()?.upgrade()
    }
}

/// Questions of one kind, told apart by `K`. At most two per key exist: one under way, one waiting.
pub(super) struct Together<K, A: Clone> {
    lanes: Arc<Mutex<HashMap<K, Lane<A>>>>,
}

impl<K, A> Together<K, A>
where
    K: Clone + Eq + Hash + Send + 'static,
    A: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { lanes: Arc::default() }
    }

    /// The answer to `key`, from a question that is sent after this call. `ask` is used if no unsent one exists.
    ///
    /// Cancelling leaves the question to the others who wait for it; with the last of them it ends.
    pub(super) async fn ask<F>(&self, key: K, ask: F) -> A
    where
        F: Future<Output = A> + Send + 'static,
    {
        self.join(key, ask).await
    }

    fn join<F>(&self, key: K, ask: F) -> Shared<Asking<A>>
    where
        F: Future<Output = A> + Send + 'static,
    {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = lanes.get(&key).and_then(Lane::waiting) {
            return waiting;
        }
        // What nobody waits for any more leaves its lane behind; they go here, so there are never more lanes
        // than questions.
        lanes.retain(|_, lane| Arc::strong_count(&lane.turn) > 1 || lane.waiting().is_some());
        let turn = lanes.get(&key).map_or_else(Arc::default, |lane| lane.turn.clone());
        let (all, mine, held) = (self.lanes.clone(), key.clone(), turn.clone());
        let question = async move {
            let _turn = held.lock().await;
            // From here on it counts as sent: who comes now makes the next one.
            if let Some(lane) = all.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&mine) {
                lane.next = None;
            }
            ask.await
        };
        let question = question.boxed().shared();
        lanes.insert(key, Lane { turn, next: question.downgrade() });
        question
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    /// A server whose answer is how often it was asked, one second after it was.
    #[derive(Clone, Default)]
    struct Slow(Arc<AtomicUsize>);

    impl Slow {
        fn ask(&self) -> impl Future<Output = usize> + Send + 'static {
            let asked = self.0.clone();
            async move {
                let count = asked.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
                count
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_question_is_under_way_shares_the_next_one() {
        let (together, slow) = (Together::new(), Slow::default());
        let first = async { together.ask("t", slow.ask()).await };
        let later = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (a, b) = tokio::join!(together.ask("t", slow.ask()), together.ask("t", slow.ask()));
            (a, b)
        };
        assert_eq!(tokio::join!(first, later), (1, (2, 2)));
        assert_eq!(slow.0.load(Ordering::SeqCst), 2, "two questions for three callers");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_takes_nothing_from_the_others() {
        let (together, slow) = (Together::new(), Slow::default());
        let under_way = together.ask("t", slow.ask());
        // Both wait for the next question; the one who asked first leaves while it is under way.
        let impatient = tokio::time::timeout(Duration::from_millis(1500), together.ask("t", slow.ask()));
        let patient = together.ask("t", slow.ask());
        let (_, left, stayed) = tokio::join!(under_way, impatient, patient);
        assert!(left.is_err());
        assert_eq!(stayed, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_questions_leave_no_lane_behind() {
        let (together, slow) = (Together::new(), Slow::default());
        for key in 0..50 {
            let asked = tokio::time::timeout(Duration::from_millis(1), together.ask(key, slow.ask()));
            assert!(asked.await.is_err());
        }
        assert_eq!(together.ask(99, slow.ask()).await, 51);
        assert_eq!(together.lanes.lock().unwrap().len(), 1);
    }
}
