//! Those who push, one a repository, and those who read, each through one proxy.

use std::{rc::Rc, time::Duration};

use rand::Rng;
use switchyard::model::{Digest, RepositoryName, Tag};

use super::{
    engine::{OUTSIDE, reply},
    link::Node,
    proxy::Proxy,
    request::Given,
    truth::Memory,
    world::World,
    writer::{self, Made, Order, Question, Shown},
};

/// A client gives up then; what it asked for may still happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn latest() -> Tag {
    Tag::parse("latest").unwrap()
}

impl World {
    /// Asks a proxy; `None` when it is gone, or takes too long.
    async fn through<T: 'static, F: Future<Output = T> + 'static>(
        self: &Rc<Self>,
        seat: usize,
        ask: impl FnOnce(Rc<Proxy>) -> F,
    ) -> Option<T> {
        self.engine.sleep(self.engine.ms(0, 4)).await;
        let proxy = self.seats[seat].proxy.borrow().clone()?;
        let (answer, awaited) = reply();
        let work = ask(proxy.clone());
        self.engine.spawn(proxy.pid, async move { answer.send(work.await) });
        let answer = self.engine.within(PATIENCE, awaited.get()).await.flatten();
        self.engine.sleep(self.engine.ms(0, 4)).await;
        answer
    }

    async fn upload(self: &Rc<Self>, via: Option<usize>, name: &RepositoryName, blob: Digest) -> bool {
        let name = name.clone();
        match via {
            Some(seat) => self.through(seat, |proxy| proxy.upload(name, blob)).await == Some(true),
            None => {
                let ask = move |server| writer::upload(server, name.clone(), blob);
                self.call(Node::Outside, self.writer.get(), PATIENCE, ask).await == Ok(true)
            }
        }
    }

    /// A change: acknowledged, refused, or, with `None`, unknown.
    pub(super) async fn change(
        self: &Rc<Self>,
        via: Option<usize>,
        name: &RepositoryName,
        order: Order,
    ) -> Option<Made> {
        let name = name.clone();
        match via {
            Some(seat) => self.through(seat, |proxy| proxy.change(name, order)).await.flatten(),
            None => {
                let ask = move |server| writer::change(server, name.clone(), order.clone());
                self.call(Node::Outside, self.writer.get(), PATIENCE, ask).await.ok()
            }
        }
    }

    /// Pushes a new image and its tag.
    pub(super) async fn push(
        self: &Rc<Self>,
        via: Option<usize>,
        name: &RepositoryName,
        tag: Tag,
    ) -> Option<Made> {
        let manifest = self.image(name);
        for blob in self.parts(&manifest) {
            if !self.upload(via, name, blob).await {
                return Some(Made::Refused);
            }
        }
        self.change(via, name, Order::Publish(manifest, tag)).await
    }

    pub(super) async fn read(
        self: &Rc<Self>,
        seat: usize,
        memory: &mut Memory,
        question: Question,
    ) -> Option<Given> {
        let asked = self.truth.borrow().ask(self.engine.now());
        let given = self.through(seat, |proxy| proxy.read(question.clone())).await?;
        if let Given::Passed { shown, stale, by } = &given {
            let who = format!("a reader of proxy {seat}, answered by {}", self.sites[*by].name);
            self.reads.set(self.reads.get() + usize::from(stale.is_none()));
            self.trace(|| {
                format!(
                    "{who}: {question:?} is {}{}",
                    told(shown.as_ref()),
                    if stale.is_some() { ", stale" } else { "" }
                )
            });
            self.check(&who, &asked, memory, stale.is_some(), &question, shown.as_ref());
        }
        Some(given)
    }
}

fn told(shown: Option<&Shown>) -> String {
    match shown {
        None => "not found".into(),
        Some(Shown::Tags(catalogue)) => format!("as of {}", catalogue.changed),
        Some(Shown::All(all)) => {
            all.iter().map(|(name, it)| format!("{name} as of {}", it.changed)).collect::<Vec<_>>().join(", ")
        }
        Some(Shown::Manifest(digest)) => digest.to_string().chars().skip(7).take(8).collect(),
        Some(Shown::Blob) => "here".into(),
    }
}

/// One image after the other, and now and then something goes.
pub(super) async fn pusher(world: Rc<World>, name: RepositoryName) {
    while !world.healed.get() {
        world.engine.sleep(world.engine.ms(20, 1200)).await;
        let via = world.engine.draw(|rng| rng.random_range(0..=world.seats.len()));
        let via = (via < world.seats.len()).then_some(via);
        let made = match world.engine.draw(|rng| rng.random_range(0..20)) {
            0 | 1 => world.change(via, &name, Order::Untag(latest())).await,
            2 => world.change(via, &name, Order::Clear).await,
            n => {
                let tag = if n < 14 { latest() } else { Tag::parse(format!("t{n}")).unwrap() };
                world.push(via, &name, tag).await
            }
        };
        world.trace(|| format!("who pushes to {name} is told {made:?}"));
    }
}

pub(super) async fn reader(world: Rc<World>, seat: usize) {
    let mut memory = Memory::default();
    while !world.over.get() {
        world.engine.sleep(world.engine.ms(5, 250)).await;
        let names = &world.repositories;
        let name = names[world.engine.draw(|rng| rng.random_range(0..names.len()))].clone();
        let question = match world.engine.draw(|rng| rng.random_range(0..10)) {
            0 => Question::All,
            1..6 => Question::Tags(name.clone()),
            _ => Question::Manifest(name.clone(), latest()),
        };
        let given = world.read(seat, &mut memory, question).await;
        if let Some(Given::Passed { shown: Some(Shown::Manifest(digest)), .. }) = given {
            let mut blobs = world.parts(&digest);
            let blob = blobs.swap_remove(world.engine.draw(|rng| rng.random_range(0..blobs.len())));
            world.read(seat, &mut memory, Question::Blob(name, blob)).await;
        }
    }
}

/// When nothing fails any more, a push is acknowledged soon, and everybody sees it.
pub(super) fn last_words(world: &Rc<World>, within: Duration) {
    for name in world.repositories.clone() {
        let world = world.clone();
        let busy = world.busy.clone();
        busy.set(busy.get() + 1);
        world.engine.clone().spawn(OUTSIDE, async move {
            let pushed = world.engine.within(within, world.push(None, &name, latest())).await.flatten();
            if !matches!(pushed, Some(Made::Acknowledged(_))) {
                world.breaks(format!(
                    "LIVENESS: a push to {name} ended as {pushed:?}, with nothing in its way"
                ));
            }
            for seat in 0..world.seats.len() {
                let (mut memory, mut given) = (Memory::default(), None);
                // One that may not ask the writer waits for a replica.
                for _ in 0..if world.write_only { 250 } else { 1 } {
                    let question = Question::Manifest(name.clone(), latest());
                    given = world.read(seat, &mut memory, question).await;
                    if !matches!(given, None | Some(Given::Error)) {
                        break;
                    }
                    world.engine.sleep(Duration::from_millis(100)).await;
                }
                if !matches!(given, Some(Given::Passed { stale: None, .. })) {
                    world.breaks(format!("LIVENESS: proxy {seat} answers about {name}: {given:?}"));
                }
            }
            busy.set(busy.get() - 1);
        });
    }
}
