//! What repositories were given, and since when no push asked for it.

use std::{io, path::Path, time::SystemTime};

use super::super::{ContentError, files::Files, trash::Given};
use super::{
    lock,
    records::{LINKS, Records, name_of},
};
use crate::model::{Digest, RepositoryName};

impl Records {
    /// Marks that a push counts on this having been given; tells whether it was.
    pub(super) fn keep_link(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, ContentError> {
        // With it held, nobody takes the link away between the look and the mark.
        let _order = lock(self.shard(repository));
        let path = self.link_path(repository, blob);
        let mark = || match self.is_seen(&path)? {
            true => self.files.open(&path).and_then(|file| self.files.touch(&file)).map(|()| true),
            false => Ok(false),
        };
        match mark() {
            Ok(marked) => Ok(marked),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ContentError::Io { what: "touch a link", source }),
        }
    }

    pub(super) fn given(&self, repository: &RepositoryName) -> Result<Vec<Given>, ContentError> {
        let mut given = Vec::new();
        for digest in self.links(repository)? {
            match self.files.look(&self.link_path(repository, &digest)).and_then(|meta| meta.modified()) {
                Ok(touched) => given.push(Given { digest, touched }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ContentError::Io { what: "look at a link", source }),
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
            if self.files.look(&path)?.modified()? > untouched_since {
                return Ok::<_, io::Error>(false);
            }
            self.files.remove(&path)?;
            // While directories are made nobody removes one that is about to get something.
            let _alone = self.making();
            if let Some(links) = path.parent() {
                // Not empty: then it stays, and so does what is above it.
                let above = |()| links.parent().map_or(Ok(()), |dir| self.files.remove_dir(dir));
                drop(self.files.remove_dir(links).and_then(above));
            }
            Ok(true)
        };
        match take() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            taken => taken.map_err(ContentError::io("take a link away")),
        }
    }

    pub(super) fn receivers(&self) -> Result<Vec<RepositoryName>, ContentError> {
        let mut found = Vec::new();
        collect(&self.files, self.root(), self.root(), &mut found)
            .map_err(ContentError::io("list repositories"))?;
        found.sort();
        Ok(found)
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
        if entry.file_name() == LINKS {
            found.extend(name_of(root, dir));
        } else if !entry.file_name().to_string_lossy().starts_with('_') {
            // As deep as a name may be: its grammar bounds it, for nothing else makes directories here.
            collect(files, root, &entry.path(), found)?;
        }
    }
    Ok(())
}
