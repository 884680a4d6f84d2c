//! How many connections each client has. Asked once a connection, never for a request; as large as there are clients
//! with connections, which are bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::proxy::snapshot::Apart;

/// Locks: two threads that accept at once mostly want different ones.
const SHARDS: usize = 16;

/// The clients of one scope. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<[Shard; SHARDS]>);

/// Some of them, and the connections of each.
type Shard = Apart<Mutex<HashMap<u128, usize>>>;

/// One connection of a client, in each of two scopes; leaves when dropped.
#[derive(Debug)]
pub struct Connected {
    scopes: [Clients; 2],
    client: u128,
}

impl Connected {
    /// Counts one more in both, unless the client has as many as it may have in one of them.
    pub fn enter(client: u128, scopes: [(&Clients, usize); 2]) -> Option<Self> {
        let [(all, of_all), (here, of_here)] = scopes;
        if !all.enter(client, of_all) {
            return None;
        }
        if !here.enter(client, of_here) {
            all.leave(client);
            return None;
        }
        Some(Self { scopes: [all.clone(), here.clone()], client })
    }
}

impl Clients {
    /// Counts one more, unless the client has `most` already.
    fn enter(&self, client: u128, most: usize) -> bool {
        let mut shard = self.shard(client);
        match shard.entry(client) {
            Entry::Occupied(mut count) if *count.get() < most => *count.get_mut() += 1,
            Entry::Vacant(count) if most > 0 => drop(count.insert(1)),
            _ => return false,
        }
        true
    }

    /// One has gone.
    fn leave(&self, client: u128) {
        let mut shard = self.shard(client);
        if let Entry::Occupied(mut count) = shard.entry(client) {
            match *count.get() {
                0 | 1 => drop(count.remove()),
                more => *count.get_mut() = more - 1,
            }
        }
    }

    /// How many it has.
    pub(super) fn of(&self, client: u128) -> usize {
        self.shard(client).get(&client).copied().unwrap_or_default()
    }

    fn shard(&self, client: u128) -> MutexGuard<'_, HashMap<u128, usize>> {
        // The bits in which clients differ: the last ones of IPv4, those before the host of IPv6.
        let bits = client ^ (client >> 64);
        let at = usize::try_from(bits % SHARDS as u128).unwrap_or_default();
        // A count is never half written.
        self.0[at].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        for clients in &self.scopes {
            clients.leave(self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_with_as_many_as_it_may_have_gets_another_when_one_has_gone() {
        let (all, here) = (Clients::default(), Clients::default());
        let enter = |client, most, of_here| Connected::enter(client, [(&all, most), (&here, of_here)]);
        let first = enter(7, 2, 9).unwrap();
        let _second = enter(7, 2, 9).unwrap();
        assert!(enter(7, 2, 9).is_none());
        assert!(enter(8, 2, 9).is_some(), "another client");
        assert!(enter(7, 9, 2).is_none(), "the other scope");
        assert_eq!((all.of(7), here.of(7)), (2, 2), "who is not let in has left no trace");
        drop(first);
        assert!(enter(7, 2, 9).is_some());
    }

    proptest! {
        #[test]
        fn counts_are_right_and_nothing_is_kept_of_who_has_gone(
            asks in prop::collection::vec((0u128..20, any::<bool>(), 0usize..4, 0usize..4), 1..200),
        ) {
            let (all, here, mut held) = (Clients::default(), Clients::default(), Vec::<(u128, Connected)>::new());
            for (client, comes, of_all, of_here) in asks {
                let client = client << 60 | client;
                let mine = |held: &[(u128, Connected)]| held.iter().filter(|(of, _)| *of == client).count();
                if comes {
                    let before = mine(&held);
                    let entered = Connected::enter(client, [(&all, of_all), (&here, of_here)]);
                    prop_assert_eq!(entered.is_some(), before < of_all.min(of_here));
                    held.extend(entered.map(|connected| (client, connected)));
                } else if let Some(at) = held.iter().position(|(of, _)| *of == client) {
                    held.swap_remove(at);
                }
                prop_assert_eq!((all.of(client), here.of(client)), (mine(&held), mine(&held)));
            }
            held.clear();
            prop_assert!([all, here].iter().all(|c| c.0.iter().all(|shard| shard.0.lock().unwrap().is_empty())));
        }
    }
}
