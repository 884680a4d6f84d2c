//! A steady stream of calls, and everything that came of it.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use switchyard::clock;
use tokio::{sync::watch, task::JoinSet};

use super::api::{Answer, Api};

/// Calls that may be under way at once. More would be a pile-up, which is a failure of its own.
const UNDER_WAY: usize = 2000;

/// A call to make.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What it is, for the checks: `list`, `start`, …
    pub kind: &'static str,
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
}

impl Ask {
    pub fn get(kind: &'static str, path: impl Into<String>) -> Self {
        Self { kind, method: "GET", path: path.into(), body: None }
    }

    pub fn with(kind: &'static str, method: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self { kind, method, path: path.into(), body: Some(body) }
    }
}

/// A call that was made.
#[derive(Clone)]
pub struct Call {
    pub number: usize,
    pub ask: Ask,
    /// When it was sent, counted from the start of the load.
    pub at: Duration,
    /// `Err` when the connection gave no HTTP answer.
    pub outcome: Result<Answer, String>,
}

impl Call {
    pub fn is_ok(&self) -> bool {
        self.outcome.as_ref().is_ok_and(Answer::is_ok)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} at {:?} {} {} {:?}",
            self.number, self.at, self.ask.method, self.ask.path, self.outcome
        )
    }
}

/// A load under way. Dropping it ends it.
pub struct Load {
    sent: watch::Receiver<usize>,
    tasks: JoinSet<()>,
    calls: Arc<Mutex<Vec<Call>>>,
    total: usize,
}

impl Load {
    /// Sends `total` calls, `per_second` of them, whether or not those before are answered. `next` makes each
    /// from its number and from what is known so far.
    pub fn start(
        api: &Api,
        total: usize,
        per_second: u32,
        mut next: impl FnMut(usize, &[Call]) -> Ask + Send + 'static,
    ) -> Self {
        let (count, sent) = watch::channel(0);
        let calls = Arc::new(Mutex::new(Vec::with_capacity(total)));
        let (api, into) = (api.clone(), calls.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut under_way = JoinSet::new();
            let since = clock::now();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
            for number in 0..total {
                ticks.tick().await;
                while under_way.try_join_next().is_some() {}
                assert!(under_way.len() < UNDER_WAY, "{} calls wait for an answer", under_way.len());
                let ask = next(number, &into.lock().expect("no holder panics"));
                let (api, into) = (api.clone(), into.clone());
                under_way.spawn(async move {
                    let at = clock::now() - since;
                    let outcome = api.try_call(ask.method, &ask.path, ask.body.as_ref()).await;
                    into.lock().expect("no holder panics").push(Call { number, ask, at, outcome });
                });
                count.send_replace(number + 1);
            }
            while let Some(ended) = under_way.join_next().await {
                ended.expect("a call does not panic");
            }
        });
        Self { sent, tasks, calls, total }
    }

    /// Waits until so many calls were sent.
    pub async fn sent(&mut self, number: usize) {
        assert!(number <= self.total);
        self.sent.wait_for(|sent| *sent >= number).await.expect("the load goes on until all are sent");
    }

    /// Waits until every call has its end; gives them in the order in which they were sent.
    pub async fn end(mut self) -> Vec<Call> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("the load does not panic");
        }
        let mut calls = std::mem::take(&mut *self.calls.lock().expect("no holder panics"));
        assert_eq!(calls.len(), self.total, "each call has an end");
        calls.sort_by_key(|call| call.number);
        calls
    }
}

/// Panics if `bad` holds for any call, with the first few of them.
#[track_caller]
pub fn assert_none(calls: &[Call], what: &str, bad: impl Fn(&Call) -> bool) {
    let found: Vec<&Call> = calls.iter().filter(|c| bad(c)).collect();
    assert!(
        found.is_empty(),
        "{} of {} {what}: {:#?}",
        found.len(),
        calls.len(),
        &found[..found.len().min(5)]
    );
}
