//! Catalogues, links and pull times: small files in one directory per repository.
//!
//! A repository's name is its path; our own files in it begin with `_`, which no part of a name does.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::super::{Catalogue, ContentError, Pulls, files::Files, shared::Catalogues};
use super::{
    full_or,
    given::{REMADE, TAKEN},
    lock,
};
use crate::model::{Digest, RepositoryName};

const CATALOGUE: &str = "_catalogue.json";
pub(super) const LINKS: &str = "_links";
const PULLS: &str = "_pulls.json";

/// Directories below directories in a name. The grammar allows 255 bytes, so this is never reached by a name.
const DEEPEST: usize = 130;

/// Shards of the publication lock: publications of different repositories rarely wait for each other.
const SHARDS: usize = 64;

/// Of a directory that others use too, instead of [`CATALOGUE`] and [`PULLS`]: a folder of each.
const GENERATIONS: &str = "_catalogue";
const ALL_PULLS: &str = "_pulls";

/// A catalogue as read, or why it cannot be used.
type Held = Result<Arc<Catalogue>, String>;

pub(super) struct Records {
    root: PathBuf,
    pub(super) files: Files,
    /// Others change them, too.
    pub(super) shared: Option<Shared>,
    /// What the files say, if this process alone changes them.
    held: Mutex<BTreeMap<RepositoryName, Held>>,
    /// Taken over the file and the map together, so that they agree.
    shards: Vec<Mutex<()>>,
    /// Taken while directories are made: one that is seen was made durable by whoever made it.
    making: Mutex<()>,
}

/// What a directory has that others use too.
pub(super) struct Shared {
    pub(super) catalogues: Catalogues,
    /// Name of the file with this registry's pull times.
    pub(super) pulls: String,
}

impl Records {
    /// Of a directory that others use too: nothing is read yet, for it may be another thing by the time somebody asks.
    pub(super) fn open_shared(root: PathBuf, files: Files, shared: Shared) -> io::Result<Self> {
        files.make_dirs(&root)?;
        Ok(Self::with(root, files, Some(shared), BTreeMap::new()))
    }

    pub(super) fn open(root: PathBuf, files: Files) -> io::Result<Self> {
        files.make_dirs(&root)?;
        let mut held = BTreeMap::new();
        read_all(&files, &root, &root, 0, &mut held)?;
        Ok(Self::with(root, files, None, held))
    }

    fn with(
        root: PathBuf,
        files: Files,
        shared: Option<Shared>,
        held: BTreeMap<RepositoryName, Held>,
    ) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(())).collect();
        Self { root, files, shared, held: Mutex::new(held), shards, making: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Held while directories are made or removed.
    pub(super) fn making(&self) -> MutexGuard<'_, ()> {
        lock(&self.making)
    }

    pub(super) fn dir(&self, repository: &RepositoryName) -> PathBuf {
        self.root.join(repository.as_str())
    }

    pub(super) fn names(&self) -> Result<Vec<RepositoryName>, ContentError> {
        if self.shared.is_none() {
            return Ok(lock(&self.held).keys().cloned().collect());
        }
        let mut names = Vec::new();
        self.walk(&self.root, 0, &mut names).map_err(ContentError::io("list the repositories"))?;
        names.sort_unstable();
        Ok(names)
    }

    fn walk(&self, dir: &Path, depth: usize, names: &mut Vec<RepositoryName>) -> io::Result<()> {
        for entry in self.files.list(dir)? {
            let name = entry.file_name();
            if name == GENERATIONS {
                names.extend(name_of(&self.root, dir));
            } else if !name.as_encoded_bytes().starts_with(b"_")
                && depth < DEEPEST
                && entry.file_type()?.is_dir()
            {
                self.walk(&entry.path(), depth + 1, names)?;
            }
        }
        Ok(())
    }

    pub(super) fn catalogue(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<Arc<Catalogue>>, ContentError> {
        if let Some(shared) = &self.shared {
            return shared.catalogues.newest(&self.dir(repository).join(GENERATIONS), repository);
        }
        match lock(&self.held).get(repository) {
            None => Ok(None),
            Some(Ok(catalogue)) => Ok(Some(catalogue.clone())),
            Some(Err(why)) => {
                Err(ContentError::Damaged { what: format!("catalogue of `{repository}`"), why: why.clone() })
            }
        }
    }

    pub(super) fn publish(&self, next: Catalogue) -> Result<Arc<Catalogue>, ContentError> {
        let repository = next.name.clone();
        let _order = lock(self.shard(&repository));
        if let Some(shared) = &self.shared {
            return shared.catalogues.publish(&self.dir(&repository).join(GENERATIONS), next);
        }
        if next.generation != self.generation(&repository)? + 1 {
            return Err(ContentError::Conflict { repository });
        }
        self.write(next)
    }

    /// What there is by now must be older. With the repository's shard held.
    pub(super) fn check_newer(&self, next: &Catalogue) -> Result<(), ContentError> {
        if next.generation > self.generation(&next.name)? {
            return Ok(());
        }
        Err(ContentError::Conflict { repository: next.name.clone() })
    }

    /// The one that counts; zero if there is none. With the repository's shard held.
    fn generation(&self, repository: &RepositoryName) -> Result<u64, ContentError> {
        match self.catalogue(repository)? {
            Some(catalogue) => Ok(catalogue.generation),
            None => self.unknown_yet(repository),
        }
    }

    /// The file of a catalogue.
    pub(super) fn path(&self, repository: &RepositoryName) -> PathBuf {
        self.dir(repository).join(CATALOGUE)
    }

    /// Whether this is what the file says.
    pub(super) fn is_there(&self, next: &Catalogue) -> bool {
        let there = read_one(&self.files, &self.path(&next.name), &next.name);
        matches!(there, Some(Ok(there)) if *there == *next)
    }

    /// Shows what was written.
    pub(super) fn hold(&self, shown: Vec<Arc<Catalogue>>) {
        let mut held = lock(&self.held);
        for next in shown {
            held.insert(next.name.clone(), Ok(next));
        }
    }

    /// Whatever was there; but what another repository has, on a storage that folds case, stays.
    pub(super) fn restore(&self, whole: Catalogue) -> Result<Arc<Catalogue>, ContentError> {
        let damaged = |why| ContentError::Damaged { what: format!("catalogue of `{}`", whole.name), why };
        if let Some(why) = whole.fault(&whole.name) {
            return Err(damaged(why));
        }
        let _order = lock(self.shard(&whole.name));
        if let Some(shared) = &self.shared {
            return shared.catalogues.restore(&self.dir(&whole.name).join(GENERATIONS), whole);
        }
        let there = self.files.read(&self.dir(&whole.name).join(CATALOGUE)).ok();
        let there = there.and_then(|text| serde_json::from_slice::<Catalogue>(&text).ok());
        if let Some(other) = there.filter(|there| there.name != whole.name) {
            return Err(damaged(format!("its place has the one of `{}`", other.name)));
        }
        self.write(whole)
    }

    /// Forgets a repository, durably. The catalogue goes first: without it, the rest is nothing.
    pub(super) fn remove(&self, repository: &RepositoryName) -> Result<(), ContentError> {
        if self.shared.is_none() {
            return self.remove_own(repository).map_err(full_or("remove a repository"));
        }
        // Its generations go on: a number that was used is never used again.
        if self.catalogue(repository)?.is_some() {
            self.restore(Catalogue::new(repository.clone()))?;
        }
        let dir = self.dir(repository);
        let forget = || {
            self.files.remove_all(&dir.join(ALL_PULLS))?;
            self.files.remove_all(&dir.join(LINKS))?;
            self.files.remove_all(&dir.join(TAKEN))
        };
        forget().map_err(full_or("remove a repository"))
    }

    fn remove_own(&self, repository: &RepositoryName) -> io::Result<()> {
        let dir = self.dir(repository);
        let _order = lock(self.shard(repository));
        match self.files.remove(&dir.join(CATALOGUE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed?;
                self.files.sync_dir(&dir)?;
            }
        }
        lock(&self.held).remove(repository);
        self.files.forget(&dir.join(PULLS));
        self.files.remove_all(&dir.join(LINKS))?;
        // Below it may be other repositories: then the directory stays.
        drop(self.files.remove_dir(&dir));
        Ok(())
    }

    /// Replaces the file, with the repository's shard held.
    fn write(&self, next: Catalogue) -> Result<Arc<Catalogue>, ContentError> {
        let repository = next.name.clone();
        let text = serde_json::to_vec(&next)
            .map_err(|error| ContentError::Damaged { what: "catalogue".into(), why: error.to_string() })?;
        let dir = self.dir(&repository);
        self.make(&dir).map_err(full_or("make a repository"))?;
        let next = Arc::new(next);
        let written = self.files.replace(&dir.join(CATALOGUE), &text, true);
        if let Err(error) = written {
            // The rename may have happened although its sync failed: what the file says now is what counts.
            if let Some(Ok(there)) = read_one(&self.files, &dir.join(CATALOGUE), &repository) {
                lock(&self.held).insert(repository, Ok(there));
            }
            return Err(full_or("publish a catalogue")(error));
        }
        lock(&self.held).insert(repository, Ok(next.clone()));
        Ok(next)
    }

    /// A first generation never replaces a file: one that the start could not reach, or that a name written
    /// in other case leads to, is taken for what it is. Tells the generation that counts, with its shard held.
    fn unknown_yet(&self, repository: &RepositoryName) -> Result<u64, ContentError> {
        let text = match self.files.read(&self.path(repository)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            // Of this moment: nothing is known of it, and the next one looks again.
            Err(source) => return Err(ContentError::Io { what: "look for a catalogue", source }),
        };
        lock(&self.held).insert(repository.clone(), parse(&text, repository));
        Ok(self.catalogue(repository)?.map_or(0, |catalogue| catalogue.generation))
    }

    pub(super) fn make(&self, dir: &Path) -> io::Result<()> {
        let _alone = lock(&self.making);
        self.files.make_dirs(dir)
    }

    pub(super) fn shard(&self, repository: &RepositoryName) -> &Mutex<()> {
        let sum =
            repository.as_str().bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        &self.shards[sum % SHARDS]
    }

    pub(super) fn link_path(&self, repository: &RepositoryName, blob: &Digest) -> PathBuf {
        self.dir(repository).join(LINKS).join(blob.hex())
    }

    pub(super) fn linked(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, ContentError> {
        let seen = || {
            let path = self.link_path(repository, blob);
            if self.is_seen(&path)? {
                return Ok(true);
            }
            // Looked at once more at the end: it may have been taken out of the trash in between.
            Ok(self.shared.is_some() && (self.is_taken(repository, blob)? || self.is_seen(&path)?))
        };
        seen().map_err(ContentError::io("look for a link"))
    }

    pub(super) fn link(&self, repository: &RepositoryName, blob: &Digest) -> io::Result<()> {
        let path = self.link_path(repository, blob);
        // A link that is seen is durable: whoever makes one holds this until it is, or takes it back.
        let _order = lock(self.shard(repository));
        if self.shared.is_some() {
            return self.link_beside_others(&path);
        }
        match self.files.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            there => return self.files.touch(&there?),
        }
        let links = self.dir(repository).join(LINKS);
        self.make(&links)?;
        self.files.create(&path)?;
        self.files.sync_dir(&links).inspect_err(|_| self.files.forget(&path))
    }

    /// Where others push and collect as well: a link that is there may be on its way to the trash, its directory may be removed for
    /// being empty, and how far another process is nobody knows. So it is made, marked, synced, and looked at.
    fn link_beside_others(&self, path: &Path) -> io::Result<()> {
        let links = path.parent().ok_or(io::ErrorKind::NotFound)?;
        for _ in 0..REMADE {
            let make = || {
                self.make(links)?;
                self.files.touch(&self.files.create(path)?)?;
                self.files.sync_dir(links)?;
                self.files.is_there(path)
            };
            match make() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(false) => {}
                made => return made.map(drop),
            }
        }
        Err(io::Error::other("others take it away as soon as it is made"))
    }

    /// Whether a file is there; one that is not seen is looked for anew, if another registry may have made it.
    pub(super) fn is_seen(&self, path: &Path) -> io::Result<bool> {
        match (self.files.is_there(path)?, &self.shared) {
            (false, Some(shared)) => shared.catalogues.ledger().find_anew(path),
            (seen, _) => Ok(seen),
        }
    }

    fn sync_above(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |dir| self.files.sync_dir(dir))
    }

    pub(super) fn unlink(&self, repository: &RepositoryName, blob: &Digest) -> Result<(), ContentError> {
        let path = self.link_path(repository, blob);
        let _order = lock(self.shard(repository));
        let remove = || {
            // In this order: what goes to the trash meanwhile is found there.
            let taken = self.shared.is_some().then(|| self.taken_path(repository, blob));
            for path in std::iter::once(&path).chain(&taken) {
                match self.files.remove(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            // Also when it is gone already: an earlier call may have failed to make that durable.
            match self.sync_above(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                synced => synced,
            }
        };
        remove().map_err(ContentError::io("remove a link"))
    }

    /// Sorted. What is no link is not ours and is left alone.
    pub(super) fn links(&self, repository: &RepositoryName) -> Result<Vec<Digest>, ContentError> {
        self.links_in(&self.dir(repository).join(LINKS))
    }

    pub(super) fn links_in(&self, dir: &Path) -> Result<Vec<Digest>, ContentError> {
        let entries = match self.files.list(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(ContentError::Io { what: "list links", source }),
        };
        let digest = |entry: &fs::DirEntry| Digest::from_hex(entry.file_name().to_str()?);
        let mut links: Vec<Digest> = entries.iter().filter_map(digest).collect();
        links.sort_unstable();
        Ok(links)
    }

    /// What cannot be read is not worth an error: at worst a template looks as if it had not been pulled.
    pub(super) fn pulls(&self, repository: &RepositoryName) -> Pulls {
        let lost = |why: String| {
            tracing::warn!(%repository, error = %why, "pull times were lost");
            Pulls::new()
        };
        let read = |path: &Path| match self.files.read(path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| lost(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Pulls::new(),
            Err(error) => lost(error.to_string()),
        };
        let dir = self.dir(repository);
        if self.shared.is_none() {
            return read(&dir.join(PULLS));
        }
        // Each registry knows of its own pulls: the last one of all of them counts.
        let mut all = Pulls::new();
        for entry in self.files.list(&dir.join(ALL_PULLS)).into_iter().flatten() {
            for (tag, at) in read(&entry.path()) {
                let last = all.entry(tag).or_insert(at);
                *last = at.max(*last);
            }
        }
        all
    }

    fn pulls_path(&self, repository: &RepositoryName) -> PathBuf {
        let dir = self.dir(repository);
        match &self.shared {
            None => dir.join(PULLS),
            Some(shared) => dir.join(ALL_PULLS).join(&shared.pulls),
        }
    }

    pub(super) fn save_pulls(&self, repository: &RepositoryName, pulls: &Pulls) -> Result<(), ContentError> {
        let path = self.pulls_path(repository);
        if pulls.is_empty() {
            self.files.forget(&path);
            return Ok(());
        }
        let text = serde_json::to_vec(pulls)
            .map_err(|error| ContentError::Damaged { what: "pull times".into(), why: error.to_string() })?;
        let save = || {
            if let Some(dir) = path.parent().filter(|_| self.shared.is_some()) {
                self.make(dir)?;
            }
            self.files.replace(&path, &text, false)
        };
        save().map_err(full_or("save pull times"))
    }
}

/// Finds every catalogue. One that cannot be used is kept as its fault: it must not be overwritten, and must
/// not stop the others.
fn read_all(
    files: &Files,
    root: &Path,
    dir: &Path,
    depth: usize,
    held: &mut BTreeMap<RepositoryName, Held>,
) -> io::Result<()> {
    let entries = match files.list(dir) {
        Ok(entries) => entries,
        Err(error) if depth > 0 => {
            // One bad directory must not keep the registry from starting. What is below is not overwritten.
            tracing::error!(dir = %dir.display(), error = %error, "directory could not be read and was skipped");
            if let Some(repository) = name_of(root, dir) {
                held.insert(repository, Err(format!("its directory cannot be read: {error}")));
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == CATALOGUE && depth > 0 {
            let Some(repository) = name_of(root, dir) else {
                tracing::error!(dir = %dir.display(), "directory is no repository name and was skipped");
                continue;
            };
            if let Some(read) = read_one(files, &entry.path(), &repository) {
                if let Err(why) = &read {
                    tracing::error!(%repository, error = %why, "damaged catalogue was skipped");
                }
                held.insert(repository, read);
            }
        } else if !name.starts_with('_')
            && depth < DEEPEST
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            read_all(files, root, &entry.path(), depth + 1, held)?;
        }
    }
    Ok(())
}

pub(super) fn name_of(root: &Path, dir: &Path) -> Option<RepositoryName> {
    RepositoryName::parse(dir.strip_prefix(root).ok()?.to_str()?).ok()
}

fn read_one(files: &Files, path: &Path, repository: &RepositoryName) -> Option<Held> {
    let text = match files.read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(parse(&text, repository))
}

fn parse(text: &[u8], repository: &RepositoryName) -> Held {
    let catalogue: Catalogue = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match catalogue.fault(repository) {
        Some(why) => Err(why),
        None => Ok(Arc::new(catalogue)),
    }
}
