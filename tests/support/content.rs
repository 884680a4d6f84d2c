//! What lies on a registry's disk: to compare two registries byte for byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Of each file its size and, once asked for, its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    root: PathBuf,
    /// Catalogues and links; without the pull times, which each registry counts for itself.
    pub repositories: BTreeMap<String, String>,
    /// Blobs and their chunk lists, by size alone.
    pub blobs: BTreeMap<String, u64>,
}

impl Content {
    /// Of a storage directory. Files that come and go meanwhile are seen or not.
    pub fn of(root: &Path) -> Self {
        let mut found = Self { root: root.to_owned(), repositories: BTreeMap::new(), blobs: BTreeMap::new() };
        for path in files(&root.join("repositories")) {
            if path.file_name().is_some_and(|name| name != "_pulls.json") {
                found.repositories.insert(below(root, &path), hash(&path));
            }
        }
        for path in files(&root.join("blobs")) {
            found.blobs.insert(below(root, &path), fs::metadata(&path).map_or(0, |is| is.len()));
        }
        found
    }

    /// The blobs that some repository has or names: their hexadecimal digests.
    pub fn needed(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for name in self.repositories.keys() {
            let path = self.root.join(name);
            let file = name.rsplit('/').next().unwrap_or_default();
            if is_hex(file) {
                needed.insert(file.to_owned());
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let digests = text.split("sha256:").skip(1).filter_map(|rest| rest.get(..64));
            needed.extend(digests.filter(|hex| is_hex(hex)).map(str::to_owned));
        }
        needed
    }

    /// Why the other one does not hold the same, in words; nothing when it does.
    ///
    /// Repositories must be equal. Of the blobs all that are needed must be equal, with their chunk lists: a
    /// killed registry may have others that nobody knows of, and none is deleted with its template.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let differs = |name: &String| self.repositories.get(name) != other.repositories.get(name);
        let names: BTreeSet<&String> = self.repositories.keys().chain(other.repositories.keys()).collect();
        let different: Vec<&&String> = names.iter().filter(|name| differs(name)).take(5).collect();
        if !different.is_empty() {
            return Some(format!("not the same in both: {different:?}"));
        }
        self.needed().into_iter().find_map(|hex| {
            let (blob, list) = paths(&hex);
            if !other.blobs.contains_key(&blob) {
                return Some(format!("{blob} is missing in {}", other.root.display()));
            }
            let differs = [blob, list].into_iter().find(|name| self.blobs.get(name) != other.blobs.get(name));
            differs
                .map(|name| format!("{name} is {:?} and {:?}", self.blobs.get(&name), other.blobs.get(&name)))
        })
    }

    /// Blobs whose bytes are not those of their name.
    pub fn corrupt(&self) -> Vec<String> {
        let whole = |name: &&String| name.rsplit('/').next().is_some_and(is_hex);
        let blobs = self.blobs.keys().filter(whole);
        blobs.filter(|name| !name.ends_with(&hash(&self.root.join(name)))).cloned().collect()
    }

    /// The same as a listing: each file's path and the hash of its bytes.
    pub fn hashed(&self) -> BTreeMap<String, String> {
        let blobs = self.blobs.keys().map(|name| (name.clone(), hash(&self.root.join(name))));
        self.repositories.clone().into_iter().chain(blobs).collect()
    }
}

/// Where a blob and its chunk list lie.
fn paths(hex: &str) -> (String, String) {
    let blob = format!("blobs/sha256/{}/{hex}", &hex[..2]);
    let list = format!("{blob}.chunks");
    (blob, list)
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// The hash of a file's bytes; empty when it cannot be read.
fn hash(path: &Path) -> String {
    let Ok(mut file) = fs::File::open(path) else { return String::new() };
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return hex::encode(hash.finalize()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(_) => return String::new(),
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|is| is.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
