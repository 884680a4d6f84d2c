//! What was made of files, kept until other files make something else of it.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::{ArcSwap, Guard};

use super::{
    Problem,
    files::{self, Digest},
};

/// It, and how the files stand. What is swapped is swapped whole.
#[derive(Debug)]
pub(super) struct Kept<T> {
    current: ArcSwap<Made<T>>,
    /// What the last look at the files has found wrong; one look at a time.
    trouble: Mutex<Vec<Problem>>,
}

/// What was made of files with these contents.
#[derive(Debug, Clone)]
pub(super) struct Made<T> {
    pub(super) of: Digest,
    pub(super) it: T,
}

impl<T: Clone> Kept<T> {
    pub(super) fn new(first: Made<T>) -> Self {
        Self { current: ArcSwap::from_pointee(first), trouble: Mutex::default() }
    }

    /// As it is now.
    pub(super) fn now(&self) -> Guard<Arc<Made<T>>> {
        self.current.load()
    }

    /// Looks at these files, and if there is something new in them, makes of them what is used from now on; whether
    /// there was. Blocks while it reads.
    ///
    /// Errors leave everything as it was.
    pub(super) fn refresh(
        &self,
        paths: &[&Path],
        make: impl FnOnce() -> Result<Made<T>, Vec<Problem>>,
    ) -> Result<bool, Vec<Problem>> {
        let mut trouble = self.trouble();
        // Nearly always: then there is nothing to be made, and nothing can be wrong with it.
        let same = files::digest(paths) == Some(self.now().of);
        let made = if same { None } else { Some(make().inspect_err(|wrong| trouble.clone_from(wrong))?) };
        trouble.clear();
        Ok(made.is_some_and(|made| self.put(made)))
    }

    /// What the last look at the files has found wrong: those before them are in use.
    pub(super) fn trouble(&self) -> MutexGuard<'_, Vec<Problem>> {
        // A list of words cannot be left half changed.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what another has read just now, as `adapt` makes it fit.
    pub(super) fn take(&self, read: &Self, adapt: impl FnOnce(T) -> T) {
        let mut trouble = self.trouble();
        trouble.clear();
        let Made { of, it } = Made::clone(&read.now());
        self.put(Made { of, it: adapt(it) });
    }

    /// Puts it in place, if it is new.
    fn put(&self, made: Made<T>) -> bool {
        let new = made.of != self.now().of;
        if new {
            self.current.store(Arc::new(made));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Part;

    #[test]
    fn nothing_is_made_of_files_that_are_as_they_were() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let paths = [path.as_path()];
        let made = |it| Made { of: files::digest(&paths).unwrap(), it };
        std::fs::write(&path, "one").unwrap();
        let kept = Kept::new(made(1));
        assert_eq!(kept.refresh(&paths, || unreachable!("they are the same")), Ok(false));
        std::fs::write(&path, "two").unwrap();
        let wrong = Problem { part: Part::Whole, name: "f".into(), what: "w".into(), right: "r".into() };
        assert_eq!(kept.refresh(&paths, || Err(vec![wrong.clone()])), Err(vec![wrong.clone()]));
        assert_eq!((kept.now().it, kept.trouble().clone()), (1, vec![wrong]));
        // Put back, they are those in use, and nothing is wrong any more.
        std::fs::write(&path, "one").unwrap();
        assert_eq!(kept.refresh(&paths, || unreachable!("they are the same")), Ok(false));
        assert!(kept.trouble().is_empty());
        std::fs::write(&path, "three").unwrap();
        assert_eq!(kept.refresh(&paths, || Ok(made(3))), Ok(true));
        assert_eq!(kept.now().it, 3);
    }
}
