//! Blobs that nobody needed for a while: in the trash, under the name that they had.
//!
//! Everything is one rename or one removal, so that whoever is faster decides and nobody sees half of it: a blob that
//! is taken out of the trash while it is deleted is either out or gone, and its taker knows which.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::super::{
    ContentError,
    trash::{Given, Stored, Trash},
};
use super::{Disk, blobs::Blobs};
use crate::model::{Algorithm, Digest, RepositoryName};
use async_trait::async_trait;

#[async_trait]
impl Trash for Disk {
    async fn now(&self) -> Result<SystemTime, ContentError> {
        self.writing(|disk| disk.blobs.now()).await
    }

    async fn stored(&self, part: u16) -> Result<Vec<Stored>, ContentError> {
        self.reading(move |disk| disk.blobs.stored(part)).await
    }

    async fn discard(&self, blob: &Digest, untouched_since: SystemTime) -> Result<bool, ContentError> {
        let blob = *blob;
        self.writing(move |disk| disk.blobs.discard(&blob, untouched_since)).await
    }

    async fn discarded(&self) -> Result<Vec<Stored>, ContentError> {
        self.reading(|disk| disk.blobs.list(&disk.blobs.trash)).await
    }

    async fn put_back(&self, blob: &Digest) -> Result<bool, ContentError> {
        let blob = *blob;
        self.writing(move |disk| disk.blobs.put_back(&blob)).await
    }

    async fn purge(&self, blob: &Digest, since: SystemTime) -> Result<bool, ContentError> {
        let blob = *blob;
        self.writing(move |disk| disk.blobs.purge(&blob, since)).await
    }

    async fn receivers(&self) -> Result<Vec<RepositoryName>, ContentError> {
        self.reading(|disk| disk.records.receivers()).await
    }

    async fn given(&self, repository: &RepositoryName) -> Result<Vec<Given>, ContentError> {
        let repository = repository.clone();
        self.reading(move |disk| disk.records.given(&repository)).await
    }

    async fn take_away(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        untouched_since: SystemTime,
    ) -> Result<bool, ContentError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.writing(move |disk| disk.records.take_away(&repository, &blob, untouched_since)).await
    }
}

impl Blobs {
    /// Where it is, looked at once more at the end: it may have been put back in between.
    pub(super) fn places(&self, blob: &Digest) -> [PathBuf; 3] {
        [self.path(blob), self.trash_path(blob), self.path(blob)]
    }

    pub(super) fn trash_path(&self, blob: &Digest) -> PathBuf {
        self.trash.join(blob.hex())
    }

    /// The storage's clock is what it writes when it is told to write the time. That takes no space, even of a full disk.
    fn now(&self) -> Result<SystemTime, ContentError> {
        let now = || {
            let dir = self.files.open(&self.trash)?;
            self.files.touch(&dir)?;
            dir.metadata()?.modified()
        };
        now().map_err(ContentError::io("read the storage's clock"))
    }

    fn stored(&self, part: u16) -> Result<Vec<Stored>, ContentError> {
        let Ok(part) = u8::try_from(part) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            found.extend(self.list(&self.root.join(algorithm.word()).join(hex::encode([part])))?);
        }
        Ok(found)
    }

    /// Its time is set to now before it goes: that is when its second grace begins, whatever stops us here.
    fn discard(&self, blob: &Digest, untouched_since: SystemTime) -> Result<bool, ContentError> {
        let path = self.path(blob);
        let moved = || {
            let file = self.files.open(&path)?;
            if file.metadata()?.modified()? > untouched_since {
                return Ok(false);
            }
            self.files.touch(&file)?;
            match self.files.rename(&path, &self.trash_path(blob)) {
                // A network repeated what it had done already, or another one moved it.
                Err(error) if self.shared && error.kind() == io::ErrorKind::NotFound => {
                    self.files.refresh(&self.trash)?;
                    self.files.is_there(&self.trash_path(blob))
                }
                moved => moved.map(|()| true),
            }
        };
        let moved = absent_is(false, moved()).map_err(ContentError::io("move a blob to the trash"))?;
        if moved {
            self.move_list(&path, &self.trash_path(blob)).map_err(ContentError::io("move a chunk list"))?;
        }
        Ok(moved)
    }

    pub(super) fn put_back(&self, blob: &Digest) -> Result<bool, ContentError> {
        let (from, to) = (self.trash_path(blob), self.path(blob));
        let back = || {
            if self.shared {
                // Another registry may have moved it there, and this machine not know it yet.
                self.files.refresh(&self.trash)?;
            }
            self.files.rename(&from, &to)
        };
        let back = back().map(|()| true);
        let back = absent_is(false, back).map_err(ContentError::io("take a blob out of the trash"))?;
        if back {
            let rest = self
                .move_list(&from, &to)
                .and_then(|()| to.parent().map_or(Ok(()), |dir| self.files.sync_dir(dir)));
            rest.map_err(ContentError::io("take a blob out of the trash"))?;
        }
        Ok(back)
    }

    fn purge(&self, blob: &Digest, since: SystemTime) -> Result<bool, ContentError> {
        let (path, kept) = (self.trash_path(blob), self.path(blob));
        self.look_anew(&kept)?;
        let purged = || {
            // Opened, for a network's client may remember a time of it that was before it came here.
            if self.files.open(&path)?.metadata()?.modified()? > since {
                return Ok(false);
            }
            if self.files.is_there(&kept)? && !self.files.is_there(&list_of(&kept))? {
                // It came anew while the old one was moved, and its list went with that.
                self.move_list(&path, &kept)?;
            }
            self.files.remove(&path)?;
            absent_is((), self.files.remove(&list_of(&path)))?;
            Ok(true)
        };
        absent_is(false, purged()).map_err(ContentError::io("delete a blob from the trash"))
    }

    fn move_list(&self, from: &Path, to: &Path) -> io::Result<()> {
        absent_is((), self.files.rename(&list_of(from), &list_of(to)))
    }

    /// Blobs in a directory; whatever else is in it is not ours to count.
    fn list(&self, dir: &Path) -> Result<Vec<Stored>, ContentError> {
        let entries = absent_is(Vec::new(), self.files.list(dir));
        let mut found = Vec::new();
        for entry in entries.map_err(ContentError::io("list blobs"))? {
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) else { continue };
            // One that is gone again was moved.
            let meta = absent_is(None, self.files.look(&entry.path()).map(Some));
            let meta = meta.map_err(ContentError::io("look at a blob"))?;
            if let Some(meta) = meta.filter(fs::Metadata::is_file) {
                let touched = meta.modified().map_err(ContentError::io("look at a blob"))?;
                found.push(Stored { digest, size: meta.len(), touched });
            }
        }
        Ok(found)
    }
}

fn list_of(blob: &Path) -> PathBuf {
    blob.with_extension("chunks")
}

fn absent_is<T>(value: T, result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(value),
        other => other,
    }
}
