//! What operators have said of upstreams and services, beside the config: drained, of another weight, in maintenance.
//!
//! It is known by names, so it goes on over reloads, upgrades and starts, and while an upstream that was found is not there.
//! What a request needs of it is one word at each upstream and one at its service ([`word`]), read anew at each choice:
//! whoever holds an older snapshot, for a transfer that goes on elsewhere, heeds it too.

mod word;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use self::word::{OfService, OfUpstream};
use super::{
    kept::Kept,
    snapshot::{Service, Snapshot},
};
use crate::wire::orders::{Order, What};

/// They are in `run_dir` for the next start: a proxy that was killed must not send requests to a server that an operator is
/// working on.
pub(super) const KEPT: Kept = Kept {
    file: "orders.json",
    longest: 4 << 20,
    unread: "what operators had said could not be read, so the config alone counts",
    unkept: "what an operator has said could not be kept for the next start",
};

/// Orders that are kept at most. Past it a new one is refused: somebody forgot to take theirs back.
const MOST: usize = 1024;

/// All that was said and not taken back. Goes on over reloads.
#[derive(Debug, Default)]
pub struct Orders {
    said: Mutex<Vec<Order>>,
    /// Where they are kept for the next start.
    dir: Option<PathBuf>,
}

/// There are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MOST} orders are kept already: take back those that are not needed any more")]
pub struct TooMany;

/// Why nothing can be said to this process just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// What is said goes to a successor, which was told already.
    #[error("an upgrade is under way: say it again when it is over")]
    Upgrading,
    /// There is a successor.
    #[error("this process was replaced and only ends what it has begun: ask its successor")]
    Replaced,
}

/// What an order is about: a later one about the same takes its place.
fn subject(what: What) -> u8 {
    match what {
        What::Drained => 0,
        What::Weight(_) => 1,
        What::Maintenance(_) => 2,
    }
}

fn is_about(order: &Order, service: &str, upstream: Option<&str>, what: What) -> bool {
    order.service == service && order.upstream.as_deref() == upstream && subject(order.what) == subject(what)
}

impl Orders {
    /// Those that were known before.
    pub(super) fn new(mut said: Vec<Order>, dir: Option<PathBuf>) -> Self {
        said.truncate(MOST);
        Self { said: Mutex::new(said), dir }
    }

    /// Takes one; whether it changes anything. The first `since` of one that is only said again stays.
    pub(super) fn say(&self, order: Order) -> Result<bool, TooMany> {
        let mut said = self.said();
        let full = said.len() >= MOST;
        let upstream = order.upstream.as_deref();
        let same = said.iter_mut().find(|known| is_about(known, &order.service, upstream, order.what));
        let changed = match same {
            Some(known) => {
                let changed = known.what != order.what;
                let since = if changed { order.since } else { known.since };
                *known = Order { since, ..order };
                changed
            }
            None if full => return Err(TooMany),
            None => {
                said.push(order);
                true
            }
        };
        self.keep(&said);
        Ok(changed)
    }

    /// Takes one back; the one that held.
    pub(super) fn take_back(&self, service: &str, upstream: Option<&str>, what: What) -> Option<Order> {
        let mut said = self.said();
        let at = said.iter().position(|known| is_about(known, service, upstream, what))?;
        let taken = said.remove(at);
        self.keep(&said);
        Some(taken)
    }

    /// Everything.
    pub fn all(&self) -> Vec<Order> {
        self.said().clone()
    }

    /// What was said of this service, or of this upstream of it, and whether the config says something else.
    pub fn of(&self, service: &Service, upstream: Option<&str>) -> Vec<Order> {
        let said = self.said();
        let of =
            |order: &&Order| order.service == service.name.as_str() && order.upstream.as_deref() == upstream;
        said.iter().filter(of).map(|order| shown(order, service)).collect()
    }

    /// What was said of upstreams that this service does not have now.
    pub fn of_absent(&self, service: &Service) -> Vec<Order> {
        let said = self.said();
        let absent = |order: &&Order| {
            let there = |name: &str| service.upstreams.iter().any(|known| known.name.as_str() == name);
            order.service == service.name.as_str()
                && order.upstream.as_deref().is_some_and(|name| !there(name))
        };
        said.iter().filter(absent).map(|order| shown(order, service)).collect()
    }

    /// Tells the upstreams and services of a snapshot; to be done before it is put in place, and after each change.
    pub(super) fn apply(&self, snapshot: &Snapshot) {
        let said = self.said();
        for service in &snapshot.services {
            let name = service.name.as_str();
            let what = |upstream: Option<&str>| {
                let of = said
                    .iter()
                    .filter(move |order| order.service == name && order.upstream.as_deref() == upstream);
                of.map(|order| order.what).collect::<Vec<_>>()
            };
            service.ordered.set(&what(None));
            for upstream in &service.upstreams {
                upstream.ordered.set(&what(Some(upstream.name.as_str())));
            }
        }
    }

    fn keep(&self, said: &[Order]) {
        if let Some(dir) = &self.dir {
            KEPT.keep(dir, said);
        }
    }

    fn said(&self) -> MutexGuard<'_, Vec<Order>> {
        // Whole before and after each step of a holder that panicked.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(order: &Order, service: &Service) -> Order {
    let place = order.upstream.as_deref().and_then(|name| service.place_of(name));
    let differs = match order.what {
        What::Drained => true,
        What::Weight(weight) => {
            place.and_then(|place| service.shares.get(place)).is_none_or(|share| share.configured != weight)
        }
        What::Maintenance(on) => on != service.maintenance,
    };
    Order { differs, ..order.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn order(upstream: &str, what: What) -> Order {
        Order {
            service: "s".into(),
            upstream: Some(upstream.into()),
            what,
            since: clock::wall(),
            by: None,
            from: None,
            reason: None,
            differs: false,
        }
    }

    #[test]
    fn a_later_order_about_the_same_takes_the_place_of_the_one_before() {
        let orders = Orders::default();
        assert_eq!(orders.say(order("u", What::Weight(3))), Ok(true));
        assert_eq!(orders.say(order("u", What::Drained)), Ok(true));
        let since = orders.all()[1].since;
        let again = Order {
            since: since.plus(std::time::Duration::from_secs(9)),
            by: Some("b".into()),
            ..order("u", What::Drained)
        };
        assert_eq!(orders.say(again), Ok(false));
        assert_eq!((orders.all()[1].since, orders.all()[1].by.as_deref()), (since, Some("b")));
        assert_eq!(orders.say(order("u", What::Weight(4))), Ok(true));
        assert_eq!(
            orders.all().iter().map(|order| order.what).collect::<Vec<_>>(),
            [What::Weight(4), What::Drained]
        );
        assert_eq!(
            orders.take_back("s", Some("u"), What::Weight(0)).map(|order| order.what),
            Some(What::Weight(4))
        );
        assert_eq!(orders.take_back("s", Some("v"), What::Drained), None);
        assert_eq!(orders.all().len(), 1);
    }

    #[test]
    fn there_is_a_bound_and_what_is_kept_may_still_change() {
        let orders = Orders::default();
        for at in 0..MOST {
            orders.say(order(&at.to_string(), What::Drained)).unwrap();
        }
        assert_eq!(orders.say(order("one more", What::Drained)), Err(TooMany));
        assert_eq!(orders.say(order("7", What::Drained)), Ok(false));
        assert_eq!(Orders::new([orders.all(), orders.all()].concat(), None).all().len(), MOST);
    }

    #[test]
    fn orders_are_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let orders = Orders::new(Vec::new(), Some(dir.path().to_owned()));
        orders.say(order("u", What::Weight(3))).unwrap();
        orders.say(order("v", What::Drained)).unwrap();
        assert_eq!(KEPT.recall::<Order>(dir.path()), orders.all());
        orders.take_back("s", Some("u"), What::Weight(3)).unwrap();
        assert_eq!(
            KEPT.recall::<Order>(dir.path()),
            [order("v", What::Drained)].map(|o| Order { since: orders.all()[0].since, ..o })
        );
    }
}
