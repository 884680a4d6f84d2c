//! What groups of callers may do: who is asked, and how it is changed.

use super::{Ops, OpsError};
use crate::{
    auth::keys::may_be_given,
    controller::{
        lists::{Cache, Seen},
        records::PermissionRecord,
        writes::{Draft, Outcome, Patience, RACES},
    },
    model::excerpt,
    wire::permission::{PERMISSIONS, PermissionGroup, PermissionsAsk},
};

/// Most groups of callers: every controller keeps all of them.
const GROUPS: usize = 1000;

fn shown(record: &PermissionRecord) -> PermissionGroup {
    PermissionGroup { name: record.name.clone(), permissions: record.permissions.iter().cloned().collect() }
}

impl Ops {
    /// What callers of these groups lack of what is needed; nothing if they may. By the watched copy, so that a call that may be
    /// made asks the store for nothing; whoever lacks something may have been given it a moment ago at another
    /// controller.
    pub async fn lacks(&self, groups: &[&str], needed: &[&'static str]) -> Option<&'static str> {
        let first = |cache: &Cache| {
            needed.iter().copied().find(|permission| !cache.permissions().allow(groups, permission))
        };
        let lacking = self.inner.lists.peek(first)?;
        match self.inner.lists.read(first).await {
            Ok(seen) => seen.value,
            Err(_) => Some(lacking),
        }
    }

    /// All groups of callers.
    pub async fn permission_groups(&self) -> Result<Seen<Vec<PermissionGroup>>, OpsError> {
        self.inner.lists.read(|cache| cache.permissions().all().map(shown).collect()).await
    }

    /// Says what a group may do from now on; makes it if it is not there.
    ///
    /// # Errors
    /// `BadInput`, `TooMany`, `Conflict` when a newer controller wrote it, `Unavailable`.
    pub async fn set_permissions(
        &self,
        name: &str,
        ask: PermissionsAsk,
    ) -> Result<PermissionGroup, OpsError> {
        let given = ask.permissions.ok_or_else(|| {
            OpsError::BadInput("permissions is required: a list of names, which may be empty".into())
        })?;
        if let Some(unknown) = given.iter().find(|name| !PERMISSIONS.iter().any(|(known, _)| known == name)) {
            let unknown = excerpt(unknown);
            return Err(OpsError::BadInput(format!(
                "permissions: there is no `{unknown}`; GET /switchyard/v1/permissions lists those that there are"
            )));
        }
        let set = |record: &mut PermissionRecord| record.permissions = given.iter().cloned().collect();
        Ok(shown(&self.with_permission_group(name, set).await?))
    }

    /// Forgets a group: its callers may do what their other groups may.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when a newer controller wrote it, `Unavailable`.
    pub async fn delete_permission_group(&self, name: &str) -> Result<PermissionGroup, OpsError> {
        self.loaded()?;
        let key = self.inner.keys.permission_group(name);
        for _ in 0..RACES {
            let Some((record, revision)) = self.record_at::<PermissionRecord>(&key).await? else {
                return Err(OpsError::NotFound);
            };
            let draft = Draft::new(&key).at(&key, revision).delete(&key);
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(shown(&record));
            }
        }
        Err(busy())
    }

    pub(super) async fn with_permission_group(
        &self,
        name: &str,
        change: impl Fn(&mut PermissionRecord) + Send,
    ) -> Result<PermissionRecord, OpsError> {
        self.loaded()?;
        if !may_be_given(name) {
            let why = "a group's name has 1 to 256 bytes, no control characters, no slash and no backslash, and is not \
                       `.` or `..`";
            return Err(OpsError::BadInput(why.into()));
        }
        let key = self.inner.keys.permission_group(name);
        for _ in 0..RACES {
            let (old, revision) = match self.record_at::<PermissionRecord>(&key).await? {
                Some(found) => found,
                None => {
                    if self.inner.lists.peek(|cache| cache.permissions().all().count()) >= GROUPS {
                        let why = format!("there are {GROUPS} groups of callers, which is the most");
                        return Err(OpsError::TooMany(why));
                    }
                    (PermissionRecord { name: name.into(), ..Default::default() }, 0)
                }
            };
            let mut next = old.clone();
            change(&mut next);
            if revision > 0 && next == old {
                return Ok(next);
            }
            let draft = Draft::new(&key).at(&key, revision).put(&key, &next)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(next);
            }
        }
        Err(busy())
    }
}

fn busy() -> OpsError {
    OpsError::unavailable("the group's record is changed by too many at once")
}
