//! Catalogues of several repositories, written beside each other and shown in one go.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::join_all;

use super::super::{
    Catalogue, ContentError,
    staged::{One, Shown, Staged},
};
use super::{Disk, full_or, lock, records::Records};

impl Disk {
    /// Of all, however many fail: what was written of the others goes with it.
    pub(super) async fn stage_all(&self, next: Vec<Arc<Catalogue>>) -> Result<Staged, ContentError> {
        let mut staged = Staged { files: self.inner.files.clone(), each: Vec::with_capacity(next.len()) };
        let all = next.into_iter().map(|next| self.writing(move |disk| disk.records.stage(next)));
        let mut fault = None;
        for one in join_all(all).await {
            match one {
                Ok(one) => staged.each.push(one),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        fault.map_or(Ok(staged), Err)
    }

    pub(super) async fn show_all(&self, staged: Staged) -> Shown {
        if self.inner.records.shared.is_some() {
            return self.publish_each(staged).await;
        }
        let renamed = self.writing(move |disk| {
            let (shown, error) = disk.records.rename_all(staged);
            Ok((shown, error.map(|error| disk.room.explain(error))))
        });
        let (shown, error) = match renamed.await {
            Ok(renamed) => renamed,
            Err(error) => return Shown { count: 0, error: Some(error), unsure: None },
        };
        let dirs = shown.iter().map(|one| self.inner.records.dir(&one.name));
        let synced = dirs.map(|dir: PathBuf| {
            self.writing(move |disk| disk.files.sync_dir(&dir).map_err(full_or("publish a catalogue")))
        });
        let unsure = join_all(synced).await.into_iter().find_map(Result::err);
        let count = shown.len();
        self.inner.records.hold(shown);
        Shown { count, error, unsure }
    }

    /// Where others change them, too, each is given its number when it is shown.
    async fn publish_each(&self, staged: Staged) -> Shown {
        for (count, one) in staged.each.iter().enumerate() {
            let next = (*one.next).clone();
            if let Err(error) = self.writing(move |disk| disk.records.publish(next)).await {
                return Shown { count, error: Some(error), unsure: None };
            }
        }
        Shown { count: staged.each.len(), error: None, unsure: None }
    }
}

impl Records {
    fn stage(&self, next: Arc<Catalogue>) -> Result<One, ContentError> {
        if self.shared.is_some() {
            return Ok(One { next, file: None });
        }
        {
            let _order = lock(self.shard(&next.name));
            self.check_newer(&next)?;
        }
        let text = serde_json::to_vec(&*next)
            .map_err(|error| ContentError::Damaged { what: "catalogue".into(), why: error.to_string() })?;
        self.make(&self.dir(&next.name)).map_err(full_or("make a repository"))?;
        let file = self.files.write_beside(&text).map_err(full_or("publish a catalogue"))?;
        Ok(One { next, file: Some(file) })
    }

    /// One after the other, up to the first that cannot be: tells those that are there. They are not durable yet, and nothing
    /// shows them before [`Records::hold`].
    fn rename_all(&self, mut staged: Staged) -> (Vec<Arc<Catalogue>>, Option<ContentError>) {
        let mut shown = Vec::with_capacity(staged.each.len());
        for one in &mut staged.each {
            let _order = lock(self.shard(&one.next.name));
            if let Err(error) = self.check_newer(&one.next) {
                return (shown, Some(error));
            }
            let Some(file) = one.file.take() else { continue };
            if let Err(error) = self.files.rename(&file, &self.path(&one.next.name)) {
                // What the call said counts for nothing; what is there then does.
                if !self.is_there(&one.next) {
                    one.file = Some(file);
                    return (shown, Some(full_or("publish a catalogue")(error)));
                }
            }
            shown.push(one.next.clone());
        }
        (shown, None)
    }
}
