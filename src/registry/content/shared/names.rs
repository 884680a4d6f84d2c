//! Which repository has a template id, when two registries may give it away at once.

use std::path::{Path, PathBuf};

use super::super::{
    ContentError,
    files::{Files, full_or},
};
use super::KEPT;
use super::ledger::{Ledger, Newest, Went};
use crate::model::{RepositoryName, TemplateId};

/// Others may be faster; then theirs counts, so a second look is all that is needed as a rule.
const ATTEMPTS: usize = 8;

pub(in crate::registry::content) struct Names {
    root: PathBuf,
    files: Files,
    ledger: Ledger,
}

impl Names {
    pub(in crate::registry::content) fn new(root: PathBuf, files: Files, ledger: Ledger) -> Self {
        Self { root, files, ledger }
    }

    /// Gives the id to this repository, unless another has it: one that was given it within the last minute, whose first
    /// version may be on its way, or one that `carries` it.
    pub(in crate::registry::content) fn give(
        &self,
        id: &TemplateId,
        name: &RepositoryName,
        carries: impl Fn(&RepositoryName) -> Result<bool, ContentError>,
    ) -> Result<RepositoryName, ContentError> {
        let dir = self.root.join(super::folder(id.as_str()));
        for _ in 0..ATTEMPTS {
            let newest = self.ledger.newest::<RepositoryName>(&dir, None);
            let (number, before) = match newest.map_err(ContentError::io("look who has a template id"))? {
                Newest::None | Newest::Known => (0, None),
                // Nobody can be held to what cannot be read.
                Newest::Damaged(number, _) => (number, None),
                Newest::Read(_, written) if written.what == *name => return Ok(written.what),
                Newest::Read(number, written) => {
                    if self.is_new(&dir, number)? || carries(&written.what)? {
                        return Ok(written.what);
                    }
                    (number, Some(written.id))
                }
            };
            if let (Went::Won, _) = self.ledger.publish(&dir, number + 1, before, name)? {
                return Ok(name.clone());
            }
        }
        Err(ContentError::Conflict { repository: name.clone() })
    }

    /// By the storage's clock.
    fn is_new(&self, dir: &Path, number: u64) -> Result<bool, ContentError> {
        let beside = self.files.beside();
        let age = || {
            self.files.write(&beside, b"")?;
            let now = self.files.look(&beside)?.modified()?;
            let given = self.files.look(&dir.join(number.to_string()))?.modified()?;
            Ok(now.duration_since(given).unwrap_or_default())
        };
        let age = age();
        self.files.forget(&beside);
        Ok(age.map_err(full_or("look at a template id's age"))? < KEPT)
    }
}
