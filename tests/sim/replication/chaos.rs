//! What goes wrong: crashes at any step, frozen and restarted processes, cut links; and, in some runs, an operator who
//! makes another registry the writer, or gives it an empty or an older storage.

use std::{rc::Rc, time::Duration};

use rand::Rng;
use switchyard::{
    model::Position,
    registry::{
        content::Catalogue,
        journal::LEASED,
        log::{self, Read},
    },
};

use super::{
    engine::OUTSIDE,
    link::Node,
    proxy::Proxy,
    registry::{Disk, Role},
    request::DEADLINE,
    world::World,
};

/// What an operator does once, in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Nothing,
    /// The writer is lost, a replica becomes the writer, and the old one returns as a replica.
    Promotes,
    /// The writer's storage is lost, and it goes on with an empty one.
    Wipes,
    /// The writer goes on with a backup of its storage.
    Restores,
}

impl World {
    fn fault(&self) {
        self.faults.set(self.faults.get() + 1);
    }

    fn any(&self, of: usize) -> usize {
        self.engine.draw(|rng| rng.random_range(0..of))
    }

    /// Something else every second.
    pub(super) async fn chaos(self: Rc<Self>) {
        loop {
            self.engine.sleep(self.engine.ms(100, 1500)).await;
            if self.healed.get() {
                return;
            }
            self.fault();
            let (site, seat) = (self.any(self.sites.len()), self.any(self.seats.len()));
            match self.any(12) {
                0..3 => self.sites[site].fuse.set(Some(self.engine.draw(|rng| rng.random_range(0..40)))),
                3 => self.sites[self.writer.get()]
                    .fuse
                    .set(Some(self.engine.draw(|rng| rng.random_range(0..12)))),
                4 => self.kill(site),
                5 | 6 => self.freeze_proxy(seat),
                7 => self.freeze(site),
                8 => self.restart_proxy(seat, false),
                9 => self.restart_proxy(seat, true),
                10 => self.cut(Node::Registry(site)),
                _ => self.cut(Node::Proxy(seat)),
            }
        }
    }

    fn later(self: &Rc<Self>, after: Duration, then: impl FnOnce(&Rc<Self>) + 'static) {
        let world = self.clone();
        self.engine.spawn(OUTSIDE, async move {
            world.engine.sleep(after).await;
            then(&world);
        });
    }

    fn freeze(self: &Rc<Self>, place: usize) {
        let Some(pid) = self.sites[place].pid.get() else { return };
        self.trace(|| format!("{} is frozen", self.sites[place].name));
        self.engine.freeze(pid);
        self.later(self.engine.ms(200, 4000), move |world| world.engine.thaw(pid));
    }

    fn freeze_proxy(self: &Rc<Self>, seat: usize) {
        let Some(proxy) = self.seats[seat].proxy.borrow().clone() else { return };
        self.trace(|| format!("{} is frozen", proxy.name()));
        self.engine.freeze(proxy.pid);
        self.later(self.engine.ms(200, 6000), move |world| {
            world.trace(|| format!("{} goes on", proxy.name()));
            world.engine.thaw(proxy.pid);
        });
    }

    fn restart_proxy(self: &Rc<Self>, seat: usize, gently: bool) {
        let Some(proxy) = self.seats[seat].proxy.borrow().clone() else { return };
        let back = move |world: &Rc<Self>| {
            world.kill_proxy(seat);
            world.later(world.engine.ms(0, 2000), move |world| {
                if world.seats[seat].proxy.borrow().is_none() {
                    world.boot_proxy(seat);
                }
            });
        };
        if !gently {
            return back(self);
        }
        // Its requests go on while it gives its lease up.
        let world = self.clone();
        self.engine.spawn(proxy.pid, async move {
            let follow = proxy.follow.borrow().clone();
            proxy.release(&follow).await;
            world.later(Duration::ZERO, back);
        });
    }

    fn cut(self: &Rc<Self>, node: Node) {
        self.trace(|| format!("{node:?} is cut off"));
        self.net.cut.borrow_mut().insert(node);
        self.later(self.engine.ms(200, 5000), move |world| {
            world.net.cut.borrow_mut().remove(&node);
        });
    }

    /// Whoever is dead is started again after a while.
    pub(super) async fn caretaker(self: Rc<Self>, place: usize) {
        loop {
            self.engine.sleep(Duration::from_millis(100)).await;
            if self.sites[place].pid.get().is_none() && !self.retired(place) {
                let longest = if self.healed.get() { 1 } else { 2500 };
                self.engine.sleep(self.engine.ms(0, longest)).await;
                if !self.retired(place) {
                    self.boot(place);
                }
            }
        }
    }

    fn retired(&self, place: usize) -> bool {
        self.retired.borrow().contains(&place)
    }

    /// All that was wrong is right again.
    pub(super) fn heal(self: &Rc<Self>) {
        self.trace(|| "nothing goes wrong any more".to_owned());
        self.healed.set(true);
        self.net.cut.borrow_mut().clear();
        self.sites.iter().for_each(|site| site.fuse.set(None));
        self.sites.iter().filter_map(|site| site.pid.get()).for_each(|pid| self.engine.thaw(pid));
        self.proxies().iter().for_each(|proxy| self.engine.thaw(proxy.pid));
    }

    pub(super) async fn operator(self: Rc<Self>, operator: Operator) {
        if operator == Operator::Nothing {
            return;
        }
        let (before, after) = (self.chaos.mul_f64(0.3), self.chaos.mul_f64(0.6));
        self.engine.sleep(before).await;
        let backup = self.log(self.writer.get()).head().0;
        self.engine.sleep(self.engine.ms(0, u64::try_from((after - before).as_millis()).unwrap())).await;
        self.trace(|| format!("the operator {operator:?}"));
        self.fault();
        let old = self.writer.get();
        if operator == Operator::Promotes {
            return self.promote(old).await;
        }
        let restored = if operator == Operator::Restores { self.restored(old, backup) } else { Disk::new() };
        self.retired.borrow_mut().insert(old);
        self.kill(old);
        self.sites[old].disk.replace(restored);
        self.sites[old].role.set(Role::Writer { alone: true });
        self.succession.set(true);
        self.engine.sleep(self.engine.ms(0, 3000)).await;
        self.retired.borrow_mut().remove(&old);
        self.boot(old);
    }

    async fn promote(self: Rc<Self>, old: usize) {
        self.retired.borrow_mut().insert(old);
        self.kill(old);
        self.engine.sleep(self.engine.ms(0, 3000)).await;
        let others: Vec<usize> = (0..self.sites.len()).filter(|place| *place != old).collect();
        let furthest = others.iter().copied().max_by_key(|place| self.log(*place).head().0).unwrap();
        let new = if self.engine.chance(0.5) { furthest } else { others[self.any(others.len())] };
        self.writer.set(new);
        self.sites[old].role.set(Role::Replica { writer: new });
        self.sites[new].role.set(Role::Writer { alone: true });
        self.succession.set(true);
        self.kill(new);
        self.boot(new);
        for other in others.into_iter().filter(|other| *other != new) {
            self.later(self.engine.ms(0, 4000), move |world| {
                world.sites[other].role.set(Role::Replica { writer: new });
                world.kill(other);
            });
        }
        for seat in 0..self.seats.len() {
            self.later(self.engine.ms(0, 4000), move |world| {
                if let Some(proxy) = world.seats[seat].proxy.borrow().clone() {
                    world.engine.spawn(proxy.pid, async move { proxy.reload() });
                }
            });
        }
        // While a proxy's config names the old one as the writer, that one must not come back as anything else: it would
        // be taken at its word.
        let named = |proxy: &Rc<Proxy>| proxy.follow.borrow().writer == old;
        while self.proxies().iter().any(named) {
            self.engine.sleep(Duration::from_millis(50)).await;
        }
        // Nor while requests are held that began under that config.
        self.engine.sleep(DEADLINE + self.engine.ms(0, 3000)).await;
        self.retired.borrow_mut().remove(&old);
    }

    /// The storage as it was when its log ended there; what it is now, if that cannot be made any more.
    fn restored(&self, place: usize, upto: Position) -> Disk {
        let (mut disk, log) = (Disk::new(), self.log(place));
        let Ok(Read::Lines { lines, .. }) = log.read(Position::ZERO, None, upto) else { return Disk::new() };
        for line in lines {
            let entry = log::entry(&line).unwrap();
            if let (Some(name), Some(patch)) = (&entry.repository, &entry.patch) {
                let now = disk.catalogues.get(name).map(|now| (**now).clone());
                let mut next = now.unwrap_or_else(|| Catalogue::new(name.clone()));
                next.apply(patch).unwrap();
                disk.catalogues.insert(name.clone(), Rc::new(next));
            }
            disk.log.append(&[(entry, line)]).unwrap();
        }
        disk.log.put_note("role", Some(b"writer")).unwrap();
        disk.log.put_note(LEASED, Some(b"1")).unwrap();
        disk.blobs = self.sites[place].disk.borrow().blobs.clone();
        disk
    }
}
