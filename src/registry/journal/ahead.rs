//! Generations that were decided and are not made yet, so that the next change of a repository need not wait for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{model::RepositoryName, registry::content::Catalogue};

/// The newest of each repository that has any. As many at most as changes wait. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Ahead {
    newest: Arc<Mutex<HashMap<RepositoryName, Arc<Catalogue>>>>,
}

impl Ahead {
    pub(super) fn newest(&self, repository: &RepositoryName) -> Option<Arc<Catalogue>> {
        self.lock().get(repository).cloned()
    }

    pub(super) fn decided(&self, next: Arc<Catalogue>) {
        self.lock().insert(next.name.clone(), next);
    }

    /// This one was made, or will not be: then those that were decided on it will not be, either. The next change is decided
    /// on what is there.
    pub(super) fn over(&self, next: &Catalogue, made: bool) {
        let mut all = self.lock();
        let last = |newest: &Arc<Catalogue>| match made {
            true => newest.generation == next.generation,
            false => newest.generation >= next.generation,
        };
        if all.get(&next.name).is_some_and(last) {
            all.remove(&next.name);
        }
    }

    /// What a panicking holder left is whole: each is replaced in one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<RepositoryName, Arc<Catalogue>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Arc<Catalogue> {
        let mut catalogue = Catalogue::new(RepositoryName::parse("a/b").unwrap());
        catalogue.generation = number;
        Arc::new(catalogue)
    }

    #[test]
    fn the_newest_is_ahead_until_it_is_made_and_none_is_behind_one_that_is_not() {
        let (ahead, all) = (Ahead::default(), [1, 2, 3].map(generation));
        let newest = || ahead.newest(&all[0].name).map(|newest| newest.generation);
        all.iter().for_each(|one| ahead.decided(one.clone()));
        ahead.over(&all[0], true);
        assert_eq!(newest(), Some(3), "those behind it still wait");
        ahead.over(&all[2], true);
        assert_eq!(newest(), None);
        all.iter().for_each(|one| ahead.decided(one.clone()));
        ahead.over(&all[1], false);
        assert_eq!(newest(), None, "nothing may be decided on what is never made");
        // Decided anew on what is there, before those that wait in vain are told.
        ahead.decided(generation(2));
        ahead.over(&all[2], false);
        assert_eq!(newest(), Some(2));
    }
}
