//! Catalogues of a directory that others write to as well: each answer begins with a look at which generation is the newest.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use super::super::{Catalogue, ContentError};
use super::ledger::{Ledger, Newest, Went};
use crate::model::RepositoryName;

/// The newest generation as it was read last. A number never stands for two contents.
struct Known {
    number: u64,
    id: Uuid,
    catalogue: Arc<Catalogue>,
}

pub(in crate::registry::content) struct Catalogues {
    ledger: Ledger,
    known: Mutex<HashMap<RepositoryName, Known>>,
}

impl Catalogues {
    pub(in crate::registry::content) fn new(ledger: Ledger) -> Self {
        Self { ledger, known: Mutex::default() }
    }

    pub(in crate::registry::content) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest one in this directory.
    pub(in crate::registry::content) fn newest(
        &self,
        dir: &Path,
        name: &RepositoryName,
    ) -> Result<Option<Arc<Catalogue>>, ContentError> {
        Ok(self.newest_with_id(dir, name)?.map(|(_, catalogue)| catalogue))
    }

    fn newest_with_id(
        &self,
        dir: &Path,
        name: &RepositoryName,
    ) -> Result<Option<(Uuid, Arc<Catalogue>)>, ContentError> {
        let damaged = |why| ContentError::Damaged { what: format!("catalogue of `{name}`"), why };
        let known = self.with(|known| known.get(name).map(|k| (k.number, k.id, k.catalogue.clone())));
        let newest = self.ledger.newest::<Catalogue>(dir, known.as_ref().map(|(number, ..)| *number));
        match newest.map_err(ContentError::io("look for the newest catalogue"))? {
            Newest::None => Ok(None),
            Newest::Known => Ok(known.map(|(_, id, catalogue)| (id, catalogue))),
            Newest::Damaged(number, why) => Err(damaged(format!("generation {number}: {why}"))),
            Newest::Read(number, written) => {
                if let Some(why) = written.what.fault(name) {
                    return Err(damaged(why));
                }
                if written.what.generation != number {
                    return Err(damaged(format!(
                        "generation {} has number {number}",
                        written.what.generation
                    )));
                }
                let (id, catalogue) = (written.id, Arc::new(written.what));
                self.keep(Known { number, id, catalogue: catalogue.clone() });
                Ok(Some((id, catalogue)))
            }
        }
    }

    /// Makes the next generation, if it is the next.
    pub(in crate::registry::content) fn publish(
        &self,
        dir: &Path,
        next: Catalogue,
    ) -> Result<Arc<Catalogue>, ContentError> {
        let now = self.newest_with_id(dir, &next.name)?;
        let conflict = || Err(ContentError::Conflict { repository: next.name.clone() });
        if next.generation != now.as_ref().map_or(0, |(_, now)| now.generation) + 1 {
            return conflict();
        }
        match self.ledger.publish(dir, next.generation, now.map(|(id, _)| id), &next)? {
            (Went::Lost, _) => conflict(),
            (Went::Won, id) => {
                let (number, catalogue) = (next.generation, Arc::new(next));
                self.keep(Known { number, id, catalogue: catalogue.clone() });
                Ok(catalogue)
            }
        }
    }

    /// Makes this the newest one whatever was there: under the number that is next, for numbers are never used twice.
    pub(in crate::registry::content) fn restore(
        &self,
        dir: &Path,
        mut next: Catalogue,
    ) -> Result<Arc<Catalogue>, ContentError> {
        let newest = self.ledger.newest::<Catalogue>(dir, None);
        let (number, id) = match newest.map_err(ContentError::io("look for the newest catalogue"))? {
            Newest::None | Newest::Known => (0, None),
            Newest::Read(number, written) => (number, Some(written.id)),
            Newest::Damaged(number, _) => (number, None),
        };
        next.generation = number + 1;
        match self.ledger.publish(dir, next.generation, id, &next)? {
            (Went::Lost, _) => Err(ContentError::Conflict { repository: next.name }),
            (Went::Won, id) => {
                let (number, catalogue) = (next.generation, Arc::new(next));
                self.keep(Known { number, id, catalogue: catalogue.clone() });
                Ok(catalogue)
            }
        }
    }

    fn keep(&self, read: Known) {
        self.with(|known| {
            // Two that read at once: the newer one stays.
            match known.get(&read.catalogue.name) {
                Some(there) if there.number > read.number => {}
                _ => drop(known.insert(read.catalogue.name.clone(), read)),
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<RepositoryName, Known>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
