//! The tree itself.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use super::{Stop, StopSource};
use crate::clock;

/// When a task is stopped, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Listeners and the requests on them.
    Edge,
    /// Reconcilers, watchers, probers.
    Loops,
    /// Keep-alives of leases, so that a lease outlives what it guards.
    Leases,
    /// The store and what must outlive everything else.
    Store,
}

const STAGES: [Stage; 4] = [Stage::Edge, Stage::Loops, Stage::Leases, Stage::Store];

/// What the end of a task means while nobody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The process cannot go on without it.
    StopAll,
    /// Start it again after this pause; after a panic too.
    Restart(Duration),
    /// It was to end some time.
    Ignore,
}

/// Why the tree came down by itself.
#[derive(Debug, Clone, thiserror::Error)]
#[error("task `{task}` ended: {why}")]
pub struct Ended {
    /// Its name.
    pub task: String,
    /// Its error, or that it panicked.
    pub why: String,
}

struct Running {
    stage: Stage,
    name: String,
    join: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    running: Mutex<Vec<Running>>,
    stops: [StopSource; STAGES.len()],
    ended: Mutex<Option<Ended>>,
    down: StopSource,
}

/// The tasks of one process. Dropping it does not stop them: call [`Tree::shut_down`].
#[derive(Default)]
pub struct Tree {
    inner: Arc<Inner>,
}

/// One run of a task: its end, or its error in words.
type Run = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What begins each run of a task.
type Task = Box<dyn FnMut(Stop) -> Run + Send>;

/// Starts tasks in somebody else's tree. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking holder left is a list of joins, whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for parts that start tasks of their own.
    pub fn handle(&self) -> Handle {
        Handle { inner: self.inner.clone() }
    }

    /// See [`Handle::start`].
    pub fn start<F, Fut, E>(&self, stage: Stage, name: impl Into<String>, on_end: OnEnd, task: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        self.handle().start(stage, name, on_end, task);
    }

    /// Completes when a task whose end means [`OnEnd::StopAll`] has ended.
    pub async fn ended(&self) -> Ended {
        self.inner.down.stop().requested().await;
        lock(&self.inner.ended)
            .clone()
            .unwrap_or_else(|| Ended { task: "unknown".into(), why: "ended".into() })
    }

    /// Stops everything, stage by stage, within `grace`; what is late is logged by name and aborted.
    pub async fn shut_down(&self, grace: Duration) {
        let deadline = clock::now() + grace;
        for (stage, stop) in STAGES.into_iter().zip(&self.inner.stops) {
            stop.request();
            // Tasks may start tasks while they end, so look until none is left.
            loop {
                let next = {
                    let mut running = lock(&self.inner.running);
                    running.iter().position(|r| r.stage == stage).map(|at| running.swap_remove(at))
                };
                let Some(mut task) = next else { break };
                if tokio::time::timeout_at(deadline, &mut task.join).await.is_err() {
                    warn!(task.name = %task.name, "task did not stop within the grace and was aborted");
                    task.join.abort();
                }
            }
        }
        debug!("all tasks stopped");
    }
}

impl Handle {
    /// Starts a task. It is given a [`Stop`] and ends soon after that is requested.
    ///
    /// The closure is called again for each restart. A panic counts as an error.
    pub fn start<F, Fut, E>(&self, stage: Stage, name: impl Into<String>, on_end: OnEnd, mut task: F)
    where
        F: FnMut(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let run = move |stop| {
            let run = task(stop);
            Box::pin(async move { run.await.map_err(|error| error.to_string()) }) as Run
        };
        self.spawn(stage, name.into(), on_end, Box::new(run));
    }

    /// Not generic: what follows stands once in the program, and not for each of a hundred kinds of task.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    fn spawn(&self, stage: Stage, name: String, on_end: OnEnd, mut task: Task) {
        let index = STAGES.iter().position(|s| *s == stage).unwrap_or(0);
        let stop = self.inner.stops[index].stop();
        let inner = self.inner.clone();
        let title = name.clone();
        let join = tokio::spawn(async move {
            loop {
                let end = AssertUnwindSafe(async { task(stop.clone()).await }).catch_unwind().await;
                let why = match end {
                    Ok(Ok(())) => "it returned".to_owned(),
                    Ok(Err(error)) => error,
                    Err(panic) => panic_text(panic.as_ref()),
                };
                if stop.is_requested() {
                    debug!(task.name = %title, "task stopped");
                    return;
                }
                match on_end {
                    OnEnd::Ignore => return,
                    OnEnd::StopAll => {
                        error!(task.name = %title, error = %why, "task ended, and the process with it");
                        lock(&inner.ended).get_or_insert(Ended { task: title.clone(), why });
                        inner.down.request();
                        return;
                    }
                    OnEnd::Restart(pause) => {
                        warn!(task.name = %title, error = %why, "task ended and is started again");
                        tokio::select! {
                            () = stop.requested() => return,
                            () = tokio::time::sleep(pause) => info!(task.name = %title, "task restarted"),
                        }
                    }
                }
            }
        });
        let mut running = lock(&self.inner.running);
        running.retain(|r| !r.join.is_finished());
        running.push(Running { stage, name, join });
    }

    /// Starts a task that runs once and without which the process cannot go on: its end stops everything.
    pub fn start_vital<F, Fut, E>(&self, stage: Stage, name: impl Into<String>, work: F)
    where
        F: FnOnce(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let mut work = Some(work);
        self.start(stage, name, OnEnd::StopAll, move |stop| {
            let work = work.take();
            async move {
                match work {
                    Some(work) => work(stop).await,
                    None => Ok(()),
                }
            }
        });
    }

    /// Starts something short that must not be cut off with the request that caused it: giving an offer back,
    /// say. It is waited for at shutdown like any other task.
    pub fn finish<Fut>(&self, name: impl Into<String>, work: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.finish_at(Stage::Loops, name, move |_stop| work);
    }

    /// Starts a task that runs once and whose end means nothing; it is waited for in its stage.
    pub fn finish_at<F, Fut>(&self, stage: Stage, name: impl Into<String>, work: F)
    where
        F: FnOnce(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut work = Some(work);
        self.start(stage, name, OnEnd::Ignore, move |stop| {
            let work = work.take();
            async move {
                if let Some(work) = work {
                    work(stop).await;
                }
                Ok::<_, std::convert::Infallible>(())
            }
        });
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("it panicked: {text}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Plain = Result<(), String>;

    #[tokio::test(start_paused = true)]
    async fn stages_stop_edge_first() {
        let tree = Tree::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (stage, name) in [(Stage::Store, "store"), (Stage::Edge, "edge"), (Stage::Loops, "loop")] {
            let order = order.clone();
            tree.start(stage, name, OnEnd::StopAll, move |stop| {
                let order = order.clone();
                async move {
                    stop.requested().await;
                    lock(&order).push(name);
                    Plain::Ok(())
                }
            });
        }
        tree.shut_down(Duration::from_secs(5)).await;
        assert_eq!(*lock(&order), ["edge", "loop", "store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_is_restarted() {
        let tree = Tree::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let seen = runs.clone();
        tree.start(Stage::Loops, "shaky", OnEnd::Restart(Duration::from_secs(1)), move |stop| {
            let seen = seen.clone();
            async move {
                if seen.fetch_add(1, Ordering::SeqCst) < 2 {
                    panic!("again");
                }
                stop.requested().await;
                Plain::Ok(())
            }
        });
        while runs.load(Ordering::SeqCst) < 3 {
            tokio::time::advance(Duration::from_millis(500)).await;
            tokio::task::yield_now().await;
        }
        tree.shut_down(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_task_is_aborted_at_the_end_of_the_grace() {
        let tree = Tree::new();
        tree.start(Stage::Loops, "stuck", OnEnd::StopAll, |_| std::future::pending::<Plain>());
        let before = clock::now();
        tree.shut_down(Duration::from_secs(3)).await;
        assert_eq!(clock::now() - before, Duration::from_secs(3));
    }

    #[tokio::test]
    async fn the_end_of_a_vital_task_is_told_with_its_error() {
        let tree = Tree::new();
        tree.start(Stage::Edge, "api", OnEnd::StopAll, |_| async { Plain::Err("port taken".into()) });
        let ended = tree.ended().await;
        assert_eq!((ended.task.as_str(), ended.why.as_str()), ("api", "port taken"));
    }
}
