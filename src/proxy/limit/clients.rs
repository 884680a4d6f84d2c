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

/// One connection of a client; leaves when dropped.
#[derive(Debug)]
pub struct Connected {
    clients: Clients,
    client: u128,
}

impl Clients {
    /// Counts one more, unless the client has `most` already.
    pub fn enter(&self, client: u128, most: usize) -> Option<Connected> {
        let mut shard = self.shard(client);
        match shard.entry(client) {
            Entry::Occupied(mut count) if *count.get() < most => *count.get_mut() += 1,
            Entry::Vacant(count) if most > 0 => drop(count.insert(1)),
            _ => return None,
        }
        drop(shard);
        Some(Connected { clients: self.clone(), client })
    }

    /// How many it has.
    #[cfg(test)]
    fn of(&self, client: u128) -> usize {
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
        let mut shard = self.clients.shard(self.client);
        if let Entry::Occupied(mut count) = shard.entry(self.client) {
            match *count.get() {
                0 | 1 => drop(count.remove()),
                more => *count.get_mut() = more - 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_with_as_many_as_it_may_have_gets_another_when_one_has_gone() {
        let clients = Clients::default();
        let first = clients.enter(7, 2).unwrap();
        let _second = clients.enter(7, 2).unwrap();
        assert!(clients.enter(7, 2).is_none());
        assert!(clients.enter(8, 2).is_some(), "another client");
        drop(first);
        assert!(clients.enter(7, 2).is_some());
    }

    proptest! {
        #[test]
        fn counts_are_right_and_nothing_is_kept_of_who_has_gone(
            asks in prop::collection::vec((0u128..20, any::<bool>(), 0usize..4), 1..200),
        ) {
            let (clients, mut held) = (Clients::default(), Vec::<(u128, Connected)>::new());
            for (client, comes, most) in asks {
                let client = client << 60 | client;
                let mine = |held: &[(u128, Connected)]| held.iter().filter(|(of, _)| *of == client).count();
                if comes {
                    let before = mine(&held);
                    let entered = clients.enter(client, most);
                    prop_assert_eq!(entered.is_some(), before < most);
                    held.extend(entered.map(|connected| (client, connected)));
                } else if let Some(at) = held.iter().position(|(of, _)| *of == client) {
                    held.swap_remove(at);
                }
                prop_assert_eq!(clients.of(client), mine(&held));
            }
            held.clear();
            prop_assert!(clients.0.iter().all(|shard| shard.0.lock().unwrap().is_empty()));
        }
    }
}
