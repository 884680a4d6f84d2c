//! What a directory is: this kind's, the other kind's, half of one, or somebody else's. Only what is ours is opened.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::super::files::Files;
use super::OpenError;

const MARKER: &str = "layout.json";
const VERSION: u32 = 1;

/// Names that directories of either kind have, also those of before there was a marker.
const OURS: [&str; 12] = [
    "aside",
    "blobs",
    "fills",
    "ids",
    "leases",
    "lock",
    "log",
    "quarantine",
    "repositories",
    "tmp",
    "trash",
    "uploads",
];

/// Where the vendor's registry keeps its templates.
const VENDORS: [&str; 3] = ["vm_dir", "images_dir", "state_file_dir"];

/// Without these nothing is left of a storage.
const MUST: [&str; 2] = ["blobs", "repositories"];

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    v: u32,
    kind: String,
}

fn kind(shared: bool) -> &'static str {
    if shared { "shared" } else { "disk" }
}

/// Refuses what is not to be opened, in words.
pub(super) fn check(files: &Files, root: &Path, shared: bool) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: root.to_owned(), what: "look what it is", source };
    let refuse = |why: String, right: String| Err(OpenError::Layout { path: root.to_owned(), why, right });
    let names: Vec<String> = files
        .list(root)
        .map_err(io)?
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "lost+found")
        .collect();
    let has = |name: &str| names.iter().any(|there| there == name);
    if has(MARKER) {
        let text = files.read(&root.join(MARKER)).map_err(io)?;
        let Ok(marker) = serde_json::from_slice::<Marker>(&text) else {
            return refuse(format!("its `{MARKER}` cannot be read"), "restore it, or choose another".into());
        };
        if marker.v != VERSION {
            return refuse(
                format!("it is of layout {}, and this version knows {VERSION}", marker.v),
                "use the version that wrote it".into(),
            );
        }
        if marker.kind != kind(shared) {
            let right = format!(
                "write `{} = …` in `[storage]`, or choose an empty directory and push the templates there",
                marker.kind
            );
            let why = match shared {
                true => "it is the directory of one registry, and others cannot write to it as well",
                false => {
                    "it is a directory that several registries share, and none of them may have it alone"
                }
            };
            return refuse(why.into(), right);
        }
        if let Some(gone) = MUST.into_iter().find(|name| !has(name)) {
            return refuse(
                format!("it was a registry's, and `{gone}` is missing: half of it is gone"),
                format!("see whether everything is mounted; to begin anew, delete `{MARKER}` too"),
            );
        }
        return Ok(());
    }
    if let Some(vendors) = VENDORS.into_iter().find(|name| has(name)) {
        return refuse(
            format!("the vendor's registry keeps its templates in it (`{vendors}`)"),
            "choose an empty directory, and push the templates through the vendor's registry once more"
                .into(),
        );
    }
    let foreign: Vec<&str> = names.iter().map(String::as_str).filter(|name| !OURS.contains(name)).collect();
    if !foreign.is_empty() {
        let shown = foreign.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = if foreign.len() > 3 { " and more" } else { "" };
        return refuse(
            format!("it is not empty and not a registry's: {shown}{more}"),
            "choose an empty directory, one below it for example".into(),
        );
    }
    if shared && (has("lock") || has("log")) {
        return refuse(
            "it is the directory of one registry, and others cannot write to it as well".into(),
            "write `disk = …` in `[storage]`, or choose an empty directory and push the templates there"
                .into(),
        );
    }
    Ok(())
}

/// Says whose the directory is from now on. Last of all, so that a start which was cut off begins once more.
pub(super) fn mark(files: &Files, root: &Path, shared: bool) -> io::Result<()> {
    let path = root.join(MARKER);
    if files.is_there(&path)? {
        return Ok(());
    }
    let text = serde_json::to_vec(&Marker { v: VERSION, kind: kind(shared).to_owned() })?;
    // Of several that start at once the first one does it, and the others would have written the same.
    files.place(&path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dir: &Path, shared: bool) -> String {
        let files = Files::new(&dir.join("tmp"));
        check(&files, dir, shared).map_or_else(|error| error.to_string(), |()| "ours".into())
    }

    #[test]
    fn what_is_not_ours_is_explained_and_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for shared in [false, true] {
            assert_eq!(said(root, shared), "ours", "empty");
            std::fs::create_dir_all(root.join("lost+found")).unwrap();
            std::fs::write(root.join("notes.txt"), "").unwrap();
            assert!(said(root, shared).contains("not a registry's: `notes.txt`"));
            std::fs::create_dir(root.join("vm_dir")).unwrap();
            assert!(said(root, shared).contains("the vendor's registry keeps"));
            std::fs::remove_dir(root.join("vm_dir")).unwrap();
            std::fs::remove_file(root.join("notes.txt")).unwrap();
            for name in ["blobs", "tmp", "repositories"] {
                std::fs::create_dir(root.join(name)).unwrap();
            }
            assert_eq!(said(root, shared), "ours", "a start that was cut off");
            mark(&Files::new(&root.join("tmp")), root, shared).unwrap();
            assert_eq!(said(root, shared), "ours");
            assert!(said(root, !shared).contains(&format!("write `{} = …`", kind(shared))));
            std::fs::remove_dir(root.join("repositories")).unwrap();
            assert!(said(root, shared).contains("`repositories` is missing"));
            std::fs::remove_dir(root.join("blobs")).unwrap();
            std::fs::remove_dir(root.join("tmp")).unwrap();
            std::fs::remove_file(root.join(MARKER)).unwrap();
        }
        // Of a version that had no marker.
        for name in ["blobs", "repositories", "lock", "log"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        assert_eq!(said(root, false), "ours");
        assert!(said(root, true).contains("write `disk = …`"));
    }
}
