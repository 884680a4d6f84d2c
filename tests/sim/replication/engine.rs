//! Simulated time, and the processes that live in it. Each process is a set of tasks; a task that waits is woken by a
//! timer or a signal, in an order that the seed alone decides. A process can be frozen (its tasks stand still, its
//! clocks run on) or killed (its tasks are dropped where they wait: that is how it crashes between any two steps).

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// One run of one process; its successor is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pid(u64);

/// Network, operator and clients: it is never killed nor frozen.
pub(super) const OUTSIDE: Pid = Pid(0);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine(Rc<Inner>);

struct Inner {
    now: Cell<Duration>,
    steps: Cell<u64>,
    ids: Cell<u64>,
    timers: RefCell<BinaryHeap<Reverse<(Duration, u64)>>>,
    sleepers: RefCell<BTreeMap<u64, Waker>>,
    /// `None` while it runs.
    tasks: RefCell<BTreeMap<u64, (Pid, Option<Task>)>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    frozen: RefCell<BTreeMap<Pid, Vec<u64>>>,
    rng: RefCell<StdRng>,
}

struct Wakes {
    task: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push_back(self.task);
    }
}

impl Engine {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            now: Cell::default(),
            steps: Cell::default(),
            ids: Cell::default(),
            timers: RefCell::default(),
            sleepers: RefCell::default(),
            tasks: RefCell::default(),
            ready: Arc::default(),
            frozen: RefCell::default(),
            rng: RefCell::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// Since the run began; no process knows it.
    pub(super) fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Tasks that were woken so far.
    pub(super) fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    pub(super) fn id(&self) -> u64 {
        self.0.ids.set(self.0.ids.get() + 1);
        self.0.ids.get()
    }

    pub(super) fn process(&self) -> Pid {
        Pid(self.id())
    }

    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.rng.borrow_mut())
    }

    pub(super) fn chance(&self, of: f64) -> bool {
        self.draw(|rng| rng.random_bool(of))
    }

    /// Evenly between the two, in milliseconds.
    pub(super) fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.draw(|rng| rng.random_range(from * 1000..=to * 1000)))
    }

    pub(super) fn spawn(&self, pid: Pid, work: impl Future<Output = ()> + 'static) {
        let id = self.id();
        self.0.tasks.borrow_mut().insert(id, (pid, Some(Box::pin(work))));
        self.0.ready.lock().unwrap().push_back(id);
    }

    /// Everything it did and waited for is gone.
    pub(super) fn kill(&self, pid: Pid) {
        let mut tasks = self.0.tasks.borrow_mut();
        let its: Vec<u64> = tasks.iter().filter(|(_, (of, _))| *of == pid).map(|(id, _)| *id).collect();
        let gone: Vec<_> = its.iter().map(|id| tasks.remove(id)).collect();
        drop(tasks);
        self.0.frozen.borrow_mut().remove(&pid);
        // Outside of the borrow: what is dropped may wake others.
        drop(gone);
    }

    pub(super) fn freeze(&self, pid: Pid) {
        self.0.frozen.borrow_mut().entry(pid).or_default();
    }

    pub(super) fn thaw(&self, pid: Pid) {
        let held = self.0.frozen.borrow_mut().remove(&pid);
        self.0.ready.lock().unwrap().extend(held.into_iter().flatten());
    }

    /// Drops all that is left.
    pub(super) fn clear(&self) {
        let pids: BTreeSet<Pid> = self.0.tasks.borrow().values().map(|(pid, _)| *pid).collect();
        pids.into_iter().for_each(|pid| self.kill(pid));
    }

    pub(super) fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.now() + time)
    }

    pub(super) fn sleep_until(&self, until: Duration) -> Sleep {
        Sleep { engine: self.clone(), until, id: None }
    }

    /// `None` when the time is over first.
    pub(super) async fn within<T>(&self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut over) = (pin!(work), pin!(self.sleep(time)));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => over.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Runs until this moment, or until `done`.
    pub(super) fn run(&self, until: Duration, done: impl Fn() -> bool) {
        while !done() {
            let next = self.0.ready.lock().unwrap().pop_front();
            if let Some(id) = next {
                self.poll(id);
                continue;
            }
            let next = self.0.timers.borrow().peek().map(|Reverse(next)| *next);
            match next {
                Some((at, id)) if at <= until => {
                    self.0.timers.borrow_mut().pop();
                    self.0.now.set(at.max(self.now()));
                    let sleeper = self.0.sleepers.borrow_mut().remove(&id);
                    sleeper.into_iter().for_each(Waker::wake);
                }
                _ => {
                    self.0.now.set(until.max(self.now()));
                    return;
                }
            }
        }
    }

    fn poll(&self, id: u64) {
        let mut tasks = self.0.tasks.borrow_mut();
        let Some((pid, task)) = tasks.get_mut(&id) else { return };
        if let Some(held) = self.0.frozen.borrow_mut().get_mut(pid) {
            return held.push(id);
        }
        let Some(mut running) = task.take() else { return };
        drop(tasks);
        self.0.steps.set(self.0.steps.get() + 1);
        let waker = Waker::from(Arc::new(Wakes { task: id, ready: self.0.ready.clone() }));
        let done = running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.0.tasks.borrow_mut();
        if done {
            tasks.remove(&id);
        } else if let Some((_, task)) = tasks.get_mut(&id) {
            return *task = Some(running);
        }
        drop(tasks);
        drop(running);
    }
}

pub(super) struct Sleep {
    engine: Engine,
    until: Duration,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.engine.now() >= self.until {
            return Poll::Ready(());
        }
        let id = match self.id {
            Some(id) => id,
            None => {
                let id = self.engine.id();
                self.engine.0.timers.borrow_mut().push(Reverse((self.until, id)));
                self.id = Some(id);
                id
            }
        };
        self.engine.0.sleepers.borrow_mut().insert(id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.engine.0.sleepers.borrow_mut().remove(&id);
        }
    }
}

/// Something that others wait for has moved.
#[derive(Default)]
pub(super) struct Signal {
    version: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    pub(super) fn tell(&self) {
        self.version.set(self.version.get() + 1);
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until it has moved past what was seen.
    pub(super) async fn past(&self, seen: u64) {
        poll_fn(|cx| {
            if self.version.get() > seen {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One answer, for one who waits. Dropping the sender without one ends the wait with `None`.
pub(super) fn reply<T>() -> (Reply<T>, Awaited<T>) {
    let inner = Rc::new((RefCell::new(None), Cell::new(false), Signal::default()));
    (Reply(inner.clone()), Awaited(inner))
}

type Slot<T> = Rc<(RefCell<Option<T>>, Cell<bool>, Signal)>;

pub(super) struct Reply<T>(Slot<T>);

impl<T> Reply<T> {
    pub(super) fn send(self, value: T) {
        self.0.0.replace(Some(value));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0.1.set(true);
        self.0.2.tell();
    }
}

pub(super) struct Awaited<T>(Slot<T>);

impl<T> Awaited<T> {
    pub(super) async fn get(self) -> Option<T> {
        while !self.0.1.get() {
            self.0.2.past(self.0.2.version()).await;
        }
        self.0.0.take()
    }
}

/// Boot clock of one machine: it began at another moment than the others', and drifts.
#[derive(Clone)]
pub(super) struct Machine {
    engine: Engine,
    offset: Duration,
    rate: f64,
}

impl Machine {
    pub(super) fn new(engine: &Engine) -> Self {
        let offset = engine.ms(10_000, 10_000_000);
        // At most one in a hundred between any two.
        let rate = engine.draw(|rng| rng.random_range(0.995..=1.005));
        Self { engine: engine.clone(), offset, rate }
    }

    /// What `clock::boot` says there.
    pub(super) fn boot(&self) -> Duration {
        self.offset + self.engine.now().mul_f64(self.rate)
    }

    /// So long by its own clock.
    pub(super) fn sleep(&self, time: Duration) -> Sleep {
        self.engine.sleep(time.div_f64(self.rate))
    }

    pub(super) fn real(&self, time: Duration) -> Duration {
        time.div_f64(self.rate)
    }
}
