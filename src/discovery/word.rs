//! A word that all proxies of a cloud go by, kept in etcd: who says another one says what it knew, and is refused if somebody
//! was faster. With etcd away everybody keeps what it heard last.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock,
    config::Etcd,
    store::{
        Consistency, Event, KeyValue, OpAnswer, Revision, Store, StoreError, Txn, WatchItem, etcd::EtcdStore,
        keys::Keys,
    },
    supervise::{Handle as Tasks, Stage, StopSource},
};

/// For one request to the store.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the store is asked although the watch is silent: a watch that hangs says nothing.
const ASK: Duration = Duration::from_secs(2);

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Sayings that wait. Full: the next is dropped, and said again by whoever still means it.
const WAITING: usize = 4;

/// A longer word is none of ours, and is not heard.
const LONGEST: usize = 4096;

/// What was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// When it was said, in the store's count; 0: nobody has said anything yet.
    pub revision: Revision,
    /// The word.
    pub text: String,
}

/// Why a word was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSaid {
    /// Somebody said another one first; it is heard by now.
    #[error("another proxy said something else at the same time")]
    Late,
    /// It may have been taken or not.
    #[error("etcd cannot be asked: {0}")]
    Away(String),
}

struct Saying {
    text: String,
    after: Revision,
    done: Option<oneshot::Sender<Result<(), NotSaid>>>,
}

/// One word, followed until it is dropped.
#[derive(Debug)]
pub struct Word {
    of: (Etcd, String, String),
    state: Arc<State>,
    sayings: mpsc::Sender<Saying>,
    removed: StopSource,
}

/// What is heard, and how the store stands.
#[derive(Debug)]
struct State {
    heard: watch::Sender<Option<Heard>>,
    /// Why the store cannot be asked.
    trouble: Mutex<Option<String>>,
}

impl Word {
    /// Follows the word about this service in this cluster.
    pub fn start(tasks: &Tasks, etcd: &Etcd, cluster: &str, service: &str) -> Self {
        let of = (etcd.clone(), cluster.to_owned(), service.to_owned());
        let trouble = Mutex::new(Some("it was not asked yet".into()));
        let state = Arc::new(State { heard: watch::Sender::new(None), trouble });
        let (sayings, waiting) = mpsc::channel(WAITING);
        let removed = StopSource::new();
        let (gone, told, asked) = (removed.stop(), state.clone(), of.clone());
        tasks.finish_at(Stage::Loops, format!("word about {service}"), move |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = gone.requested() => {}
                () = keep(asked, waiting, &told) => {}
            }
        });
        Self { of, state, sayings, removed }
    }

    /// Whether it is this one.
    pub fn is_of(&self, etcd: &Etcd, cluster: &str, service: &str) -> bool {
        self.of.0 == *etcd && self.of.1 == cluster && self.of.2 == service
    }

    /// What was heard last; none before the store has answered once.
    pub fn heard(&self) -> Option<Heard> {
        self.state.heard.borrow().clone()
    }

    /// Why the store cannot be asked; none when it can.
    pub fn trouble(&self) -> Option<String> {
        self.state.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says this in place of what was heard at that revision. Whether it was taken is heard.
    pub fn say(&self, text: String, after: Revision) {
        // Full: it is said again by whoever still means it.
        drop(self.sayings.try_send(Saying { text, after, done: None }));
    }

    /// The same, and waits for what comes of it: a few seconds at most.
    pub async fn say_and_wait(&self, text: String, after: Revision) -> Result<(), NotSaid> {
        let (done, result) = oneshot::channel();
        let gone = || NotSaid::Away("the proxy is about to stop".into());
        self.sayings.send(Saying { text, after, done: Some(done) }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        self.removed.request();
    }
}

impl State {
    fn hear(&self, kv: Option<&KeyValue>) {
        let text = kv
            .filter(|kv| kv.value.len() <= LONGEST)
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        let heard = Heard { revision: kv.map_or(0, |kv| kv.mod_revision), text: text.unwrap_or_default() };
        self.heard.send_if_modified(|known| {
            // An answer that was under way may be older than an event. A word that was deleted is as good as none.
            let news =
                known.as_ref().is_none_or(|known| heard.revision == 0 || heard.revision > known.revision);
            let changed = news && known.as_ref() != Some(&heard);
            if changed {
                *known = Some(heard);
            }
            changed
        });
    }

    fn stands(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

async fn keep(
    (etcd, cluster, service): (Etcd, String, String),
    mut waiting: mpsc::Receiver<Saying>,
    state: &State,
) {
    let store = match EtcdStore::open(&etcd, PATIENCE).await {
        Ok(store) => store,
        Err(error) => {
            // It opens nothing: this is for ever.
            state.stands(Some(error.to_string()));
            return pending().await;
        }
    };
    let key = Keys::new(&cluster).cohort(&service);
    loop {
        if let Err(error) = follow(&store, &key, &mut waiting, state).await {
            let why = error.to_string();
            state.stands(Some(why.clone()));
            let until = clock::now() + PAUSE;
            while let Ok(Some(saying)) = tokio::time::timeout_at(until, waiting.recv()).await {
                answer(saying.done, Err(NotSaid::Away(why.clone())));
            }
        }
    }
}

async fn follow(
    store: &impl Store,
    key: &str,
    waiting: &mut mpsc::Receiver<Saying>,
    state: &State,
) -> Result<(), StoreError> {
    let first = store.get(key, Consistency::Linearizable).await?;
    state.hear(first.kv.as_ref());
    let mut watch = store.watch(key, first.revision + 1).await?;
    state.stands(None);
    let mut ask = clock::now() + ASK;
    loop {
        tokio::select! {
            item = watch.next() => match item {
                Some(Ok(WatchItem::Events { events, .. })) => {
                    for event in events.iter().filter(|event| event.key() == key) {
                        match event {
                            Event::Put(kv) => state.hear(Some(kv)),
                            Event::Deleted { .. } => state.hear(None),
                        }
                    }
                }
                Some(Ok(WatchItem::Progress(_))) => {}
                // From the start.
                Some(Ok(WatchItem::Compacted { .. })) | None => return Ok(()),
                Some(Err(error)) => return Err(error),
            },
            saying = waiting.recv() => {
                let Some(Saying { text, after, done }) = saying else { return pending().await };
                match say(store, key, text, after).await {
                    Ok((kv, taken)) => {
                        state.hear(kv.as_ref());
                        answer(done, if taken { Ok(()) } else { Err(NotSaid::Late) });
                    }
                    Err(error) => {
                        answer(done, Err(NotSaid::Away(error.to_string())));
                        return Err(error);
                    }
                }
            }
            () = tokio::time::sleep_until(ask) => {
                state.hear(store.get(key, Consistency::Linearizable).await?.kv.as_ref());
                ask = clock::now() + ASK;
            }
        }
    }
}

/// What is said then, and whether that is ours.
async fn say(
    store: &impl Store,
    key: &str,
    text: String,
    after: Revision,
) -> Result<(Option<KeyValue>, bool), StoreError> {
    let txn = if after == 0 { Txn::new().absent(key) } else { Txn::new().at_revision(key, after) };
    let done = store.txn(txn.put(key, text).or_get(key)).await?;
    if done.succeeded {
        return Ok((store.get(key, Consistency::Linearizable).await?.kv, true));
    }
    let now = done.answers.into_iter().find_map(|answer| match answer {
        OpAnswer::Got(kv) => kv,
        _ => None,
    });
    Ok((now, false))
}

fn answer(done: Option<oneshot::Sender<Result<(), NotSaid>>>, result: Result<(), NotSaid>) {
    if let Some(done) = done {
        // Who asked may have left.
        drop(done.send(result));
    }
}
