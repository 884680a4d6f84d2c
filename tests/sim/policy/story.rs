//! What goes wrong, and when.

use rand::{Rng, seq::SliceRandom};

use super::{
    plan::{MS, Story},
    server::{WAYS, Way},
    world::{Due, Event, World, versions},
};

impl World {
    /// What is known of the story at its beginning.
    pub(super) fn begin(&mut self) {
        self.after(if self.plan.story == Story::Upgrade { 500 } else { 2000 }, Due::Turn);
        if self.plan.story == Story::Upgrade {
            let mut order: Vec<usize> = (0..self.servers.len()).collect();
            order.shuffle(&mut self.rng);
            let mut at = 30_000;
            for place in order {
                self.after(at, Due::Upgrade(place));
                at += self.rng.random_range(5_000..80_000);
            }
        }
    }

    /// It goes on.
    pub(super) fn turn(&mut self) -> Vec<Event> {
        let place = self.rng.random_range(0..self.servers.len());
        let peace = self.at >= self.plan.trouble;
        if peace {
            // Those that are away come back by themselves.
            if self.plan.story == Story::Siege {
                (0..self.servers.len()).for_each(|place| self.set(place, Way::Well));
            }
            return Vec::new();
        }
        let pause = match self.plan.story {
            Story::Crowd => self.crowd(place),
            Story::Siege => self.siege(place),
            Story::Upgrade => self.blip(place),
            Story::Unrest => return self.unrest(place),
        };
        self.after(pause, Due::Turn);
        Vec::new()
    }

    fn crowd(&mut self, place: usize) -> u64 {
        match self.rng.random_range(0..10) {
            0 | 1 => self.set(place, Way::Dead),
            2..=5 => (0..self.servers.len()).for_each(|place| self.set(place, Way::Well)),
            6 => {
                let takes = MS * self.rng.random_range(1..4000);
                self.servers[place].takes(takes);
            }
            7 => {
                for place in 0..self.servers.len() {
                    if self.servers[place].zone == 0 {
                        self.set(place, Way::Dead);
                    }
                }
            }
            _ => {
                let way = WAYS[self.rng.random_range(0..WAYS.len())];
                self.set(place, way);
            }
        }
        self.rng.random_range(50..1200)
    }

    fn siege(&mut self, place: usize) -> u64 {
        let way = WAYS[self.rng.random_range(0..WAYS.len())];
        if self.rng.random_bool(0.1) {
            (0..self.servers.len()).for_each(|place| self.set(place, way));
        } else {
            self.set(place, way);
        }
        self.rng.random_range(500..20_000)
    }

    fn blip(&mut self, place: usize) -> u64 {
        if self.servers[place].way == Way::Well {
            self.set(place, Way::Hangs);
            let lasts = self.rng.random_range(200..4000);
            self.after(lasts, Due::Mend(place));
        }
        self.rng.random_range(20_000..180_000)
    }

    /// Its connections break; after a while it is back, as the new version. Longer than the time between two probes: shorter,
    /// and a proxy without a connection there could not notice.
    pub(super) fn upgrade(&mut self, place: usize) {
        self.set(place, Way::Dead);
        let away = self.rng.random_range(3_000..20_000);
        self.after(away, Due::Back(place, versions()[2].clone()));
    }

    fn unrest(&mut self, place: usize) -> Vec<Event> {
        let pause = self.rng.random_range(500..15_000);
        self.after(pause, Due::Turn);
        match self.rng.random_range(0..10) {
            0 => {
                let pin = self.rng.random_bool(0.5).then(|| versions()[self.rng.random_range(0..3)].clone());
                self.proxies.iter_mut().for_each(|proxy| proxy.core.set_pin(pin.clone()));
                return vec![Event::Pinned];
            }
            1..4 => {
                let version = versions()[self.rng.random_range(0..3)].clone();
                for place in 0..self.servers.len() {
                    if self.servers[place].way == Way::Well && self.rng.random_bool(0.7) {
                        self.set(place, Way::Dead);
                        let away = self.rng.random_range(500..80_000);
                        self.after(away, Due::Back(place, version.clone()));
                    }
                }
            }
            _ if self.servers[place].way == Way::Well => {
                self.set(place, Way::Dead);
                let away = self.rng.random_range(500..60_000);
                let version = versions()[self.rng.random_range(0..3)].clone();
                self.after(away, Due::Back(place, version));
            }
            _ => {}
        }
        Vec::new()
    }
}
