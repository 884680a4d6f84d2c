//! What repositories were given, and since when no push asked for it.
//!
//! Where this process alone takes links away, a lock stands between its look at one and its removal. Where others push as well no
//! lock does: there a link is moved to a trash of its repository first, where reads find it and pushes take it out again, and is
//! removed when it lay there long enough, as blobs are.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::super::{ContentError, files::Files, trash::Given};
use super::{
    lock,
    records::{LINKS, Records, name_of},
};
use crate::model::{Digest, RepositoryName};

/// Links that are about to be taken away from a repository, where others push as well.
pub(super) const TAKEN: &str = "_taken";

/// Times that a directory is made anew which another registry removed because it was empty.
pub(super) const REMADE: usize = 8;

impl Records {
    /// Marks that a push counts on this having been given; tells whether it was.
    pub(super) fn keep_link(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, ContentError> {
        // With it held, nobody of this process takes the link away between the look and the mark.
        let _order = lock(self.shard(repository));
        let path = self.link_path(repository, blob);
        let touch = || self.files.open(&path).and_then(|file| self.files.touch(&file));
        let mark = || {
            loop {
                let marked = self.is_seen(&path)? && is_there(touch())?;
                // One that is not there any more was moved since, and marked where it is now.
                if self.shared.is_none() || (marked && self.is_there_anew(&path)?) {
                    return Ok(marked);
                }
                if !self.give_back(repository, blob)? && !self.is_there_anew(&path)? {
                    return Ok(false);
                }
            }
        };
        mark().map_err(ContentError::io("touch a link"))
    }

    /// Takes a link out of the trash of its repository; tells whether it was there.
    fn give_back(&self, repository: &RepositoryName, blob: &Digest) -> io::Result<bool> {
        let (from, to) = (self.taken_path(repository, blob), self.link_path(repository, blob));
        for _ in 0..REMADE {
            if !self.is_there_anew(&from)? {
                return Ok(false);
            }
            let Some(links) = to.parent() else { return Ok(false) };
            let back = || {
                self.make(links)?;
                self.files.rename(&from, &to)?;
                self.files.sync_dir(links)
            };
            // The link may be gone, or its directory; and what was just taken out may be moved there once more.
            if is_there(back())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a link lies in the trash of its repository.
    pub(super) fn is_taken(&self, repository: &RepositoryName, blob: &Digest) -> io::Result<bool> {
        self.is_there_anew(&self.taken_path(repository, blob))
    }

    pub(super) fn taken_path(&self, repository: &RepositoryName, blob: &Digest) -> PathBuf {
        self.dir(repository).join(TAKEN).join(blob.hex())
    }

    /// Whether a name is there, every directory on the way to it asked anew: another registry may have made the trash just now.
    fn is_there_anew(&self, path: &Path) -> io::Result<bool> {
        match &self.shared {
            Some(shared) => shared.catalogues.ledger().find_anew(path),
            None => self.files.is_there(path),
        }
    }

    /// Of a link in its place and in the trash the time in its place counts.
    pub(super) fn given(&self, repository: &RepositoryName) -> Result<Vec<Given>, ContentError> {
        let mut given: Vec<Given> = Vec::new();
        for dir in [LINKS, TAKEN] {
            let dir = self.dir(repository).join(dir);
            for digest in self.links_in(&dir)? {
                if given.iter().any(|given| given.digest == digest) {
                    continue;
                }
                match self.files.look(&dir.join(digest.hex())).and_then(|meta| meta.modified()) {
                    Ok(touched) => given.push(Given { digest, touched }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(ContentError::Io { what: "look at a link", source }),
                }
            }
            if self.shared.is_none() {
                break;
            }
        }
        Ok(given)
    }

    pub(super) fn take_away(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        untouched_since: SystemTime,
    ) -> Result<bool, ContentError> {
        let path = self.link_path(repository, blob);
        let take = || {
            let _order = lock(self.shard(repository));
            if self.shared.is_some() {
                return self.take_from_all(repository, blob, untouched_since);
            }
            if self.files.look(&path)?.modified()? > untouched_since {
                return Ok::<_, io::Error>(false);
            }
            self.files.remove(&path)?;
            self.forget_empty(&path);
            Ok(true)
        };
        match take() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            taken => taken.map_err(ContentError::io("take a link away")),
        }
    }

    /// Where others push as well: to the trash, or out of it for good. Tells whether it is gone.
    fn take_from_all(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        untouched_since: SystemTime,
    ) -> io::Result<bool> {
        let (path, taken) = (self.link_path(repository, blob), self.taken_path(repository, blob));
        // Opened, for a network's client may remember an older time of it.
        if let Some(file) = there(self.files.open(&path))? {
            if file.metadata()?.modified()? > untouched_since {
                return Ok(false);
            }
            // From now on its second grace runs, whatever stops us here.
            self.files.touch(&file)?;
            if let Some(dir) = taken.parent() {
                self.make(dir)?;
            }
            self.files.rename(&path, &taken)?;
            self.forget_empty(&path);
            return Ok(false);
        }
        if self.files.open(&taken)?.metadata()?.modified()? > untouched_since {
            return Ok(false);
        }
        self.files.remove(&taken)?;
        self.forget_empty(&taken);
        Ok(true)
    }

    /// Removes the directory of a link that is gone, and its repository's, if nothing is in them.
    fn forget_empty(&self, link: &Path) {
        // While directories are made nobody of this process removes one that is about to get something; others make it anew.
        let _alone = self.making();
        if let Some(links) = link.parent() {
            // Not empty: then it stays, and so does what is above it.
            let above = |()| links.parent().map_or(Ok(()), |dir| self.files.remove_dir(dir));
            drop(self.files.remove_dir(links).and_then(above));
        }
    }

    pub(super) fn receivers(&self) -> Result<Vec<RepositoryName>, ContentError> {
        let mut found = Vec::new();
        collect(&self.files, self.root(), self.root(), &mut found)
            .map_err(ContentError::io("list repositories"))?;
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Absence is an answer, not an error.
fn is_there<T>(result: io::Result<T>) -> io::Result<bool> {
    there(result).map(|found| found.is_some())
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn collect(files: &Files, root: &Path, dir: &Path, found: &mut Vec<RepositoryName>) -> io::Result<()> {
    let entries = match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.file_name() == LINKS || entry.file_name() == TAKEN {
            found.extend(name_of(root, dir));
        } else if !entry.file_name().to_string_lossy().starts_with('_') {
            // As deep as a name may be: its grammar bounds it, for nothing else makes directories here.
            collect(files, root, &entry.path(), found)?;
        }
    }
    Ok(())
}
