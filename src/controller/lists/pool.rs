//! What the cache knows of the pool of MAC addresses, and of who may work on the store.

use super::{Cache, Item};
use crate::{controller::records::MacRecord, model::MacAddress};

impl Cache {
    /// Why this controller must leave the store alone, if it must: a newer version has written it.
    pub fn forbidden(&self) -> Option<&str> {
        self.forbidden.as_deref()
    }

    /// MAC addresses that instances have.
    pub fn macs(&self) -> impl Iterator<Item = (&MacAddress, &Item<MacRecord>)> {
        self.macs.iter()
    }

    /// Who has this address.
    pub fn mac(&self, mac: &MacAddress) -> Option<&Item<MacRecord>> {
        self.macs.get(mac)
    }

    /// Whether somebody has this address, known or not.
    pub fn has_mac(&self, mac: &MacAddress) -> bool {
        self.macs.contains_key(mac)
    }
}
