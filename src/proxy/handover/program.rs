//! What is started as the successor: the binary now on disk, with the same arguments.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Program {
    /// This process' own. To be asked early: later the file may be another one, and the system knows the old one only.
    pub fn of_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let called = arguments.next().unwrap_or_default();
        let path = find(Path::new(&called), env::var_os("PATH").as_deref());
        let path = match path {
            Some(path) => std::path::absolute(path)?,
            None => undeleted(env::current_exe()?),
        };
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has this process become it, under the same pid. Comes back only if that fails.
    pub fn become_it(&self) -> io::Error {
        use std::os::unix::process::CommandExt;
        std::process::Command::new(&self.path).args(&self.arguments).exec()
    }
}

/// As it was called, so that a link that is set to a newer version leads there.
fn find(called: &Path, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    if called.components().count() > 1 {
        return called.exists().then(|| called.to_owned());
    }
    env::split_paths(path?).map(|dir| dir.join(called)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// proc(5): the link to a file that was replaced since says so in its name.
fn undeleted(path: PathBuf) -> PathBuf {
    let text = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    text.map(PathBuf::from).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_it_was_called() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("switchyard");
        std::fs::write(&file, "").unwrap();
        let path = env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert_eq!(find(Path::new("switchyard"), Some(&path)), None, "it may not be run");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Path::new("switchyard"), Some(&path)), Some(file.clone()));
        assert_eq!(find(&file, None), Some(file.clone()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(find(&file, None), None);
        assert_eq!(undeleted("/a/switchyard (deleted)".into()), Path::new("/a/switchyard"));
    }
}
