//! Generations that are decided once, whoever else decides.
//!
//! One is written whole under a name of nobody else's, synced, and given its number by `link(2)`, which never replaces. What
//! that call returned counts for nothing, for a network may lose the answer: the one whose id is in the file that is there has
//! won. A registry that stood still for long could give a number anew that was used and cleaned away; it sees then that
//! there are higher ones which do not follow on its own.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::super::{
    ContentError,
    files::{Files, full_or},
};
use super::KEPT;

/// A generation that went between the list and the look is looked for anew, so often.
const LOOKS: usize = 8;

/// Whether it was its own that others followed on is not known any more.
const STOOD_STILL: &str = "others went on while this registry stood still";

/// One generation as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::registry::content) struct Written<T> {
    /// Version of this format.
    v: u32,
    /// Of this writing: no other one has it.
    pub(super) id: Uuid,
    /// The one it was made from.
    after: Option<Uuid>,
    /// The registry that wrote it.
    by: String,
    /// What was decided.
    pub(super) what: T,
}

/// The newest generation of something.
#[derive(Debug)]
pub(super) enum Newest<T> {
    /// There is none.
    None,
    /// The one that was known already.
    Known,
    /// One that was read.
    Read(u64, Box<Written<T>>),
    /// One that cannot be used.
    Damaged(u64, String),
}

/// How a publication went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It is the generation.
    Won,
    /// Another one is.
    Lost,
}

/// Cheap to clone.
#[derive(Clone)]
pub(in crate::registry::content) struct Ledger {
    files: Files,
    /// The directory of it all: what is below may be new, and is looked for from here.
    root: PathBuf,
    registry: String,
}

impl Ledger {
    pub(in crate::registry::content) fn new(files: Files, root: PathBuf, registry: String) -> Self {
        Self { files, root, registry }
    }

    /// The newest generation in this directory, which is asked for anew.
    pub(super) fn newest<T: DeserializeOwned>(
        &self,
        dir: &Path,
        known: Option<u64>,
    ) -> io::Result<Newest<T>> {
        for _ in 0..LOOKS {
            let Some(number) = self.numbers(dir)?.into_iter().max() else { return Ok(Newest::None) };
            if known == Some(number) {
                return Ok(Newest::Known);
            }
            match self.read(dir, number)? {
                None => {}
                Some(Ok(written)) => return Ok(Newest::Read(number, Box::new(written))),
                Some(Err(why)) => return Ok(Newest::Damaged(number, why)),
            }
        }
        Err(io::Error::other("it changed with each look at it"))
    }

    fn read<T: DeserializeOwned>(
        &self,
        dir: &Path,
        number: u64,
    ) -> io::Result<Option<Result<Written<T>, String>>> {
        let text = match self.files.read(&dir.join(number.to_string())) {
            Ok(text) => text,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = serde_json::from_slice::<Written<T>>(&text).map_err(|error| error.to_string());
        Ok(Some(match read {
            Ok(written) if written.v != 1 => {
                Err(format!("format {} is not known to this version", written.v))
            }
            read => read,
        }))
    }

    /// Every number that is there, in no order.
    fn numbers(&self, dir: &Path) -> io::Result<Vec<u64>> {
        let entries = match self.files.list(dir) {
            Err(error) if is_gone(&error) => {
                if !self.find_anew(dir)? {
                    return Ok(Vec::new());
                }
                self.files.list(dir)?
            }
            entries => entries?,
        };
        let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        Ok(entries.into_iter().filter_map(|entry| number(entry.file_name())).collect())
    }

    /// Whether a name is there, with every directory on the way to it opened anew.
    pub(in crate::registry::content) fn find_anew(&self, path: &Path) -> io::Result<bool> {
        let mut dirs: Vec<&Path> =
            path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root)).collect();
        dirs.reverse();
        for dir in dirs {
            match self.files.refresh(dir) {
                Err(error) if is_gone(&error) => return Ok(false),
                opened => opened?,
            }
        }
        self.files.is_there(path)
    }

    /// Makes a generation that follows on `after`; its directory is made if it is not there.
    pub(super) fn publish<T: Serialize>(
        &self,
        dir: &Path,
        number: u64,
        after: Option<Uuid>,
        what: T,
    ) -> Result<(Went, Uuid), ContentError> {
        let id = Uuid::new_v4();
        let written = Written { v: 1, id, after, by: self.registry.clone(), what };
        let text = serde_json::to_vec(&written)
            .map_err(|error| ContentError::Damaged { what: "generation".into(), why: error.to_string() })?;
        let beside = self.files.beside();
        let publish = || {
            self.files.make_dirs(dir)?;
            self.files.write(&beside, &text)?;
            let file = self.files.open(&beside)?;
            self.files.sync(&file)?;
            let linked = self.files.link(&beside, &dir.join(number.to_string()));
            let synced = self.files.sync_dir(dir);
            match self.who_won(dir, number, id)? {
                Some(Went::Lost) => Ok(Went::Lost),
                // Seen, and perhaps gone with the next power cut: not to be acknowledged.
                Some(Went::Won) => synced.map(|()| Went::Won),
                None => Err(linked
                    .err()
                    .unwrap_or_else(|| io::Error::other("it was given its number and is not there"))),
            }
        };
        let went = publish();
        if matches!(went, Ok(Went::Won)) {
            self.clean(dir, &beside);
        }
        self.files.forget(&beside);
        Ok((went.map_err(full_or("publish a generation"))?, id))
    }

    /// Who has the number, as far as can be known; nobody, if the file is not there.
    fn who_won(&self, dir: &Path, number: u64, id: Uuid) -> io::Result<Option<Went>> {
        let numbers = self.numbers(dir)?;
        match self.read::<serde::de::IgnoredAny>(dir, number)? {
            None if numbers.iter().any(|other| *other > number) => return Err(io::Error::other(STOOD_STILL)),
            None => return Ok(None),
            Some(Ok(written)) if written.id == id => {}
            Some(_) => return Ok(Some(Went::Lost)),
        }
        if numbers.iter().all(|other| *other <= number) {
            return Ok(Some(Went::Won));
        }
        // Either others have followed on it already, or its number was in use before and this one came too late.
        match self.read::<serde::de::IgnoredAny>(dir, number + 1)? {
            Some(Ok(next)) if next.after == Some(id) => Ok(Some(Went::Won)),
            Some(_) => Ok(Some(Went::Lost)),
            None => Err(io::Error::other(STOOD_STILL)),
        }
    }

    /// Removes generations that were followed by others for long enough; `now` is a file of this moment, for age goes by
    /// the storage's clock. What cannot be removed is for the next time.
    pub(super) fn clean(&self, dir: &Path, now: &Path) {
        let clean = || {
            let now = self.files.look(now)?.modified()?;
            let mut numbers = self.numbers(dir)?;
            numbers.sort_unstable();
            for pair in numbers.windows(2) {
                let next = self.files.look(&dir.join(pair[1].to_string()))?.modified()?;
                if now.duration_since(next).unwrap_or(Duration::ZERO) < KEPT {
                    break;
                }
                match self.files.remove(&dir.join(pair[0].to_string())) {
                    Err(error) if !is_gone(&error) => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        };
        if let Err(error) = clean() {
            let error: io::Error = error;
            tracing::debug!(dir = %dir.display(), error = %error, "old generations were not removed");
        }
    }
}

/// Not there (any more): a network's client may also hold something of which its server does not know any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}
