//! The files that a VM process has made: what makes it another VM than its template, and what is to be deleted with it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
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

/// Deletes all of them, whatever rights its scripts have left their directories with: `go` makes its cache of modules unwritable,
/// and an agent that is not root could never delete such a VM.
pub(super) fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(root);
            fs::remove_dir_all(root)
        }
        done => done,
    }
}

/// Lets their owner into all directories. One that is somebody else's stays as it is: the deletion says so.
fn open_up(root: &Path) {
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).ok();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // Not followed: a link may lead out of the VM.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
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

    #[test]
    fn what_scripts_have_left_unwritable_is_deleted_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("vm"), dir.path().join("outside"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let close = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
        let deep = root.join("go/pkg/mod/x@v1");
        for made in [&deep, &outside] {
            fs::create_dir_all(made).unwrap();
            fs::write(made.join("x.go"), "package x").unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join("go/link")).unwrap();
        for closed in [&deep, &root.join("go"), &outside] {
            close(closed);
        }
        open_up(&root);
        // Whoever runs as root is let in anyway, and sees it by the modes.
        assert_eq!((mode(&deep), mode(&root.join("go")), mode(&outside)), (0o700, 0o700, 0o555));
        close(&deep);
        remove(&root).unwrap();
        assert!(!root.exists() && outside.join("x.go").exists());
        assert_eq!(remove(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
