//! What a storage promises, by the parts of this one.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Disk, filling, reading, uploads};
use crate::{
    model::{Algorithm, Digest, RepositoryName, TemplateId},
    registry::content::{
        BlobBody, Catalogue, ChunkList, Condition, Content, ContentError, Fill, FillError, Pulls, Shown,
        Space, Staged, Swept, Upload, files::full_or,
    },
    wire::replication::BlobRef,
};

#[async_trait]
impl Content for Disk {
    async fn condition(&self) -> Condition {
        let seen = self.reading(|disk| Ok(disk.condition())).await;
        seen.unwrap_or_else(|error| {
            let why = Some(error.to_string());
            Condition { read: why.clone(), write: why }
        })
    }

    async fn space(&self) -> Result<Space, ContentError> {
        self.reading(|disk| disk.room.space()).await
    }

    async fn find(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        let blob = *blob;
        self.reading(move |disk| disk.blobs.find(&blob)).await
    }

    async fn keep(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        let blob = *blob;
        self.reading(move |disk| disk.blobs.keep(&blob)).await
    }

    async fn keep_given(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
    ) -> Result<Option<u64>, ContentError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.reading(move |disk| match disk.records.keep_link(&repository, &blob)? {
            true => disk.blobs.keep(&blob),
            false => Ok(None),
        })
        .await
    }

    async fn read(&self, blob: &Digest, range: Option<Range<u64>>) -> Result<Option<BlobBody>, ContentError> {
        let blob = *blob;
        let open = self.reading(move |disk| {
            let Some(open) = disk.blobs.open_blob(&blob)? else { return Ok(None) };
            let size = open.size;
            let range = range.map_or(0..size, |range| range.start.min(size)..range.end.min(size));
            open.advise(&range);
            Ok(Some((open, range)))
        });
        let Some((open, range)) = open.await? else { return Ok(None) };
        let (verified, turns) = (self.inner.blobs.verified.clone(), self.inner.readers.clone());
        Ok(Some(BlobBody { size: open.size, parts: reading::parts(open, range, verified, turns) }))
    }

    async fn chunks(&self, blob: &Digest) -> Result<Option<ChunkList>, ContentError> {
        let blob = *blob;
        self.reading(move |disk| disk.blobs.chunks(&blob)).await
    }

    async fn put(&self, algorithm: Algorithm, bytes: Bytes) -> Result<Digest, ContentError> {
        self.writing(move |disk| {
            disk.room.check(bytes.len() as u64)?;
            let blob = algorithm.of(&bytes);
            disk.blobs.put(&blob, &bytes)?;
            Ok(blob)
        })
        .await
    }

    async fn begin(
        &self,
        repository: &RepositoryName,
        owner: &str,
        algorithm: Algorithm,
        declared: u64,
    ) -> Result<Box<dyn Upload>, ContentError> {
        let (repository, owner) = (repository.clone(), owner.to_owned());
        let (claim, reservation) = self
            .writing(move |disk| {
                let reservation = disk.room.reserve(declared)?;
                Ok((disk.uploads.begin(repository, owner, algorithm)?, reservation))
            })
            .await?;
        Ok(Box::new(uploads::DiskUpload::new(self.clone(), claim, reservation)))
    }

    async fn resume(
        &self,
        repository: &RepositoryName,
        id: &str,
        ends_by: Option<Algorithm>,
        declared: u64,
    ) -> Result<Box<dyn Upload>, ContentError> {
        let session = self.inner.uploads.find(repository, id)?;
        let (claim, reservation) = self
            .writing(move |disk| {
                let reservation = disk.room.reserve(declared)?;
                Ok((session.claim(ends_by)?, reservation))
            })
            .await?;
        Ok(Box::new(uploads::DiskUpload::new(self.clone(), claim, reservation)))
    }

    async fn received(&self, repository: &RepositoryName, id: &str) -> Result<u64, ContentError> {
        Ok(self.inner.uploads.find(repository, id)?.received())
    }

    async fn cancel(&self, repository: &RepositoryName, id: &str) -> Result<(), ContentError> {
        let session = self.inner.uploads.find(repository, id)?;
        self.writing(move |disk| disk.uploads.remove(&session)).await
    }

    async fn fill(&self, blob: &BlobRef, list: Option<ChunkList>) -> Result<Box<dyn Fill>, FillError> {
        filling::open(self, blob, list).await
    }

    async fn expire_uploads(&self) -> Result<Swept, ContentError> {
        self.writing(|disk| {
            disk.fills.expire(&disk.blobs);
            disk.clean_after_others();
            Ok(disk.uploads.expire())
        })
        .await
    }

    async fn upload_dropped(&self) {
        self.inner.uploads.dropped.notified().await;
    }

    async fn linked(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, ContentError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.reading(move |disk| disk.records.linked(&repository, &blob)).await
    }

    async fn link(&self, repository: &RepositoryName, blob: &Digest) -> Result<(), ContentError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.writing(move |disk| {
            disk.room.check(0)?;
            disk.records.link(&repository, &blob).map_err(full_or("link a blob"))
        })
        .await
    }

    async fn unlink(&self, repository: &RepositoryName, blob: &Digest) -> Result<(), ContentError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.writing(move |disk| disk.records.unlink(&repository, &blob)).await
    }

    async fn links(&self, repository: &RepositoryName) -> Result<Vec<Digest>, ContentError> {
        let repository = repository.clone();
        self.reading(move |disk| disk.records.links(&repository)).await
    }

    fn is_shared(&self) -> bool {
        self.inner.names.is_some()
    }

    async fn name(
        &self,
        id: &TemplateId,
        repository: &RepositoryName,
    ) -> Result<RepositoryName, ContentError> {
        if !self.is_shared() {
            return Ok(repository.clone());
        }
        let (id, repository) = (id.clone(), repository.clone());
        self.writing(move |disk| {
            let carries = |name: &RepositoryName| {
                let catalogue = disk.records.catalogue(name)?;
                Ok(catalogue.is_some_and(|catalogue| catalogue.template.as_ref() == Some(&id)))
            };
            let Some(names) = &disk.names else { return Ok(repository) };
            names.give(&id, &repository, carries)
        })
        .await
    }

    async fn repositories(&self) -> Result<Vec<RepositoryName>, ContentError> {
        if self.is_shared() {
            return self.reading(|disk| disk.records.names()).await;
        }
        self.inner.records.names()
    }

    async fn catalogue(&self, repository: &RepositoryName) -> Result<Option<Arc<Catalogue>>, ContentError> {
        if self.is_shared() {
            let repository = repository.clone();
            return self.reading(move |disk| disk.records.catalogue(&repository)).await;
        }
        self.inner.records.catalogue(repository)
    }

    async fn publish(&self, next: Catalogue) -> Result<Arc<Catalogue>, ContentError> {
        self.writing(move |disk| disk.records.publish(next)).await
    }

    async fn stage(&self, next: Vec<Arc<Catalogue>>) -> Result<Staged, ContentError> {
        self.stage_all(next).await
    }

    async fn show(&self, staged: Staged) -> Shown {
        self.show_all(staged).await
    }

    async fn restore(&self, whole: Catalogue) -> Result<Arc<Catalogue>, ContentError> {
        self.writing(move |disk| disk.records.restore(whole)).await
    }

    async fn remove(&self, repository: &RepositoryName) -> Result<(), ContentError> {
        let repository = repository.clone();
        self.writing(move |disk| disk.records.remove(&repository)).await
    }

    async fn put_aside(&self, folder: &str, file: &str, bytes: Bytes) -> Result<String, ContentError> {
        let (folder, file) = (folder.to_owned(), file.to_owned());
        self.writing(move |disk| {
            let dir = disk.aside.put(&folder, &file, &bytes).map_err(full_or("put history aside"))?;
            Ok(dir.display().to_string())
        })
        .await
    }

    async fn asides(&self, file: &str) -> Result<Vec<(String, Bytes)>, ContentError> {
        let file = file.to_owned();
        self.reading(move |disk| {
            let all = disk.aside.all(&file).map_err(ContentError::io("look at what was put aside"))?;
            Ok(all.into_iter().map(|(dir, bytes)| (dir.display().to_string(), bytes.into())).collect())
        })
        .await
    }

    async fn pulls(&self, repository: &RepositoryName) -> Result<Pulls, ContentError> {
        let repository = repository.clone();
        self.reading(move |disk| Ok(disk.records.pulls(&repository))).await
    }

    async fn save_pulls(&self, repository: &RepositoryName, pulls: Pulls) -> Result<(), ContentError> {
        let repository = repository.clone();
        self.writing(move |disk| disk.records.save_pulls(&repository, &pulls)).await
    }
}
