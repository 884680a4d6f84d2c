//! Readings of the store, each shared only by those who asked before it was sent.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::store::StoreError;

type Reading<T> = Shared<BoxFuture<'static, Result<T, StoreError>>>;

/// Reads one thing.
///
/// A reading that has not been sent yet may be joined; one that is under way may not, for it may have seen the
/// store before a write that the newcomer knows was acknowledged. Readings follow each other, so however many ask,
/// one is under way and one waits.
pub(super) struct Readings<T: Clone> {
    read: Arc<dyn Fn() -> BoxFuture<'static, Result<T, StoreError>> + Send + Sync>,
    waiting: Arc<Mutex<Turn<T>>>,
}

struct Turn<T: Clone> {
    /// Counts readings, so that one only takes itself away.
    number: u64,
    /// Not sent yet.
    next: Option<Reading<T>>,
    /// Sent, or waiting for the one before. One that has ended is not kept: what it read may be large.
    last: Option<Reading<T>>,
}

impl<T: Clone + Send + Sync + 'static> Readings<T> {
    /// Those that `read` makes.
    pub(super) fn new(
        read: impl Fn() -> BoxFuture<'static, Result<T, StoreError>> + Send + Sync + 'static,
    ) -> Self {
        let turn = Turn { number: 0, next: None, last: None };
        Self { read: Arc::new(read), waiting: Arc::new(Mutex::new(turn)) }
    }

    /// What there is at some moment after this call.
    ///
    /// Can be cancelled: a shared reading goes on as long as one of its readers polls it.
    pub(super) async fn read(&self) -> Result<T, StoreError> {
        let reading = {
            let mut turn = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            match &turn.next {
                Some(next) => next.clone(),
                None => {
                    turn.number += 1;
                    let reading = self.reading(turn.number, turn.last.take());
                    turn.next = Some(reading.clone());
                    reading
                }
            }
        };
        reading.await
    }

    fn reading(&self, number: u64, before: Option<Reading<T>>) -> Reading<T> {
        let (read, waiting) = (self.read.clone(), self.waiting.clone());
        async move {
            if let Some(before) = before {
                // Whatever came of it; and if its readers have all gone, this one finishes it.
                drop(before.await);
            }
            {
                let mut turn = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if turn.number == number {
                    turn.last = turn.next.take();
                }
            }
            let found = read().await;
            let own = {
                let mut turn = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if turn.number == number { turn.last.take() } else { None }
            };
            drop(own);
            found
        }
        .boxed()
        .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_that_ask_at_once_cost_two_readings_and_nothing_is_kept() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let readings = Readings::new(move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Arc::new(number))
            }
            .boxed()
        });
        let first = readings.read();
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            futures_util::future::join_all((0..100).map(|_| readings.read())).await
        };
        let (first, late) = tokio::join!(first, late);
        let first = first.unwrap();
        assert_eq!(*first, 0);
        assert!(
            late.iter().all(|one| **one.as_ref().unwrap() == 1),
            "none joins what was sent before it asked"
        );
        drop(late);
        assert_eq!((made.load(Ordering::Relaxed), Arc::strong_count(&first)), (2, 1));
    }
}
