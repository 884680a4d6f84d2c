//! Links that delay, lose and repeat. A request may arrive although its asker has given up, or twice; an answer may
//! come too late for anybody.

use std::{cell::Cell, cell::RefCell, collections::BTreeSet, future::Future, rc::Rc, time::Duration};

use rand::Rng;

use super::{
    engine::{OUTSIDE, reply},
    registry::Server,
    world::World,
};

/// Who may be at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Registry(usize),
    Proxy(usize),
    Outside,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nobody listens: nothing was sent.
    Refused,
    /// It died over it.
    Closed,
    /// Nothing came in time.
    Silent,
}

/// The weather between all of them.
#[derive(Default)]
pub(super) struct Net {
    pub(super) loss: f64,
    pub(super) repeat: f64,
    /// How often a message is late, and how often it is very late.
    pub(super) late: [f64; 2],
    /// This proxy's link to the writer is slow all the time.
    pub(super) laggard: Cell<Option<usize>>,
    pub(super) cut: RefCell<BTreeSet<Node>>,
    /// Messages between proxies and registries that were lost or late: each may cost a lease.
    pub(super) hiccups: Cell<usize>,
}

/// So late is a hiccup.
const HICCUP: Duration = Duration::from_millis(200);

impl World {
    /// How long a message takes; `None`: it is lost.
    fn delay(&self, from: Node, to: Node) -> Option<Duration> {
        let engine = &self.engine;
        if self.healed.get() {
            return Some(engine.ms(1, 3));
        }
        let net = &self.net;
        let ends = [from, to];
        let delay = if ends.iter().any(|end| net.cut.borrow().contains(end)) || engine.chance(net.loss) {
            None
        } else {
            let lags = |end: &Node| matches!(end, Node::Proxy(n) if net.laggard.get() == Some(*n));
            if ends.iter().any(lags) && ends.contains(&Node::Registry(self.writer.get())) {
                return Some(engine.ms(1000, 1300));
            }
            let draw: f64 = engine.draw(|rng| rng.random());
            Some(match draw {
                d if d < net.late[1] => engine.ms(300, 1500),
                d if d < net.late[0] => engine.ms(5, 300),
                _ => engine.ms(0, 5),
            })
        };
        let counts = ends.iter().any(|end| matches!(end, Node::Proxy(_)));
        if counts && delay.is_none_or(|delay| delay > HICCUP) {
            net.hiccups.set(net.hiccups.get() + 1);
        }
        delay
    }

    /// Asks a registry; `handle` runs there, in its process.
    pub(super) async fn call<T: 'static, F: Future<Output = T> + 'static>(
        self: &Rc<Self>,
        from: Node,
        to: usize,
        within: Duration,
        handle: impl Fn(Rc<Server>) -> F + 'static,
    ) -> Result<T, Failed> {
        let (answer, awaited) = reply();
        let (world, handle) = (self.clone(), Rc::new(handle));
        if self.engine.chance(if self.healed.get() { 0.0 } else { self.net.repeat }) {
            let (world, handle) = (world.clone(), handle.clone());
            self.engine.spawn(OUTSIDE, async move {
                let again = world.engine.ms(0, 2000);
                world.engine.sleep(again).await;
                drop(world.deliver(from, to, handle).await);
            });
        }
        self.engine.spawn(OUTSIDE, async move {
            match world.deliver(from, to, handle).await {
                Some(done) => answer.send(done),
                // Nobody ever answers; who asks gives up by himself.
                None => world.engine.sleep(within + Duration::from_secs(1)).await,
            }
        });
        let answered = self.engine.within(within, awaited.get()).await;
        answered.flatten().unwrap_or(Err(Failed::Silent))
    }

    async fn deliver<T: 'static, F: Future<Output = T> + 'static>(
        self: &Rc<Self>,
        from: Node,
        to: usize,
        handle: Rc<impl Fn(Rc<Server>) -> F + 'static>,
    ) -> Option<Result<T, Failed>> {
        self.engine.sleep(self.delay(from, Node::Registry(to))?).await;
        let server = self.sites[to].server.borrow().clone();
        let done = match server {
            None => Err(Failed::Refused),
            Some(server) => {
                let (answer, awaited) = reply();
                self.engine.spawn(server.pid, async move { answer.send(handle(server).await) });
                awaited.get().await.ok_or(Failed::Closed)
            }
        };
        self.engine.sleep(self.delay(Node::Registry(to), from)?).await;
        Some(done)
    }
}
