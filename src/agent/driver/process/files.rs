//! The files that a VM process has made: what makes it another VM than its template.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{super::DriverError, leftover};

/// Folders in folders that are looked into.
const DEPTH: usize = 8;

/// Files that are listed, at most: more than any template may have.
const MOST: usize = 10_000;

/// All of them with their names below the VM's directory, in the order of names. What is no plain file is left out, and
/// what has a name that not every disk could have.
pub(super) fn of(root: &Path) -> Result<Vec<(String, PathBuf)>, DriverError> {
    let mut all = Vec::new();
    walk(root, "", 0, &mut all).map_err(|source| DriverError::Files { path: root.to_owned(), source })?;
    all.sort();
    Ok(all)
}

fn walk(dir: &Path, below: &str, depth: usize, all: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let strange = name.starts_with('.') || name.chars().any(|c| c.is_control() || c == '\\');
        if strange || below.is_empty() && name == leftover::NAME || all.len() >= MOST {
            continue;
        }
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        // Not followed: a link may lead out of the VM.
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEPTH {
            walk(&entry.path(), &name, depth + 1, all)?;
        } else if kind.is_file() {
            all.push((name, entry.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_are_found_in_the_order_of_their_names_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        for name in ["z.img", "a.img", "b/c/d", leftover::NAME, ".hidden"] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let names: Vec<String> = of(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.img", "b/c/d", "z.img"]);
        assert!(of(&at("nowhere")).is_err());
    }
}
