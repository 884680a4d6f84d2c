//! Linearizable reads of `head`, each shared only by those who asked before it was sent.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::store::{Consistency, Revision, Store, StoreError};

type Reading = Shared<BoxFuture<'static, Result<Revision, StoreError>>>;

/// Reads `head`.
///
/// A reading that has not been sent yet may be joined; one that is under way may not, for it may have seen the
/// store before a write that the newcomer knows was acknowledged. Readings follow each other, so however many ask,
/// one is under way and one waits.
pub(super) struct Heads {
    store: Arc<dyn Store>,
    key: String,
    waiting: Arc<Mutex<Turn>>,
}

#[derive(Default)]
struct Turn {
    /// Counts readings, so that one only takes itself away.
    number: u64,
    /// Not sent yet.
    next: Option<Reading>,
    /// Sent, or waiting for the one before.
    last: Option<Reading>,
}

impl Heads {
    pub(super) fn new(store: Arc<dyn Store>, key: String) -> Self {
        Self { store, key, waiting: Arc::default() }
    }

    /// The `mod_revision` of `head`, at some moment after this call; 0 when nothing was ever written.
    ///
    /// Can be cancelled: a shared reading goes on as long as one of its readers polls it.
    pub(super) async fn read(&self) -> Result<Revision, StoreError> {
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

    fn reading(&self, number: u64, before: Option<Reading>) -> Reading {
        let (store, key, waiting) = (self.store.clone(), self.key.clone(), self.waiting.clone());
        async move {
            if let Some(before) = before {
                // Whatever came of it; and if its readers have all gone, this one finishes it.
                before.await.ok();
            }
            {
                let mut turn = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if turn.number == number {
                    turn.last = turn.next.take();
                }
            }
            let got = store.get(&key, Consistency::Linearizable).await?;
            Ok(got.kv.map_or(0, |kv| kv.mod_revision))
        }
        .boxed()
        .shared()
    }
}
