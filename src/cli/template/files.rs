//! Files on disk as parts of a template, and parts of a template as names of files.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde_json::{Value, json};

use super::usage;
use crate::{
    cli::Failure,
    model::Digest,
    wire::{
        oci::{self, Descriptor, Manifest},
        template,
    },
};

/// The VM's config among the files.
pub(super) const CONFIG: &str = "config.json";

/// The manifest that a pulled directory came with: a push of it keeps the order.
pub(super) const ORIGIN: &str = ".switchyard-template.json";

/// Annotation of a layer: the name of its file.
const TITLE: &str = "org.opencontainers.image.title";

/// A registry takes no more layers in one manifest.
const MOST: usize = 8192;

/// Folders in folders.
const DEPTH: usize = 8;

/// Longest config.
const CONFIG_LIMIT: u64 = 1024 * 1024;

/// What a file is to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Image,
    State,
    Nvram,
}

impl Role {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::State => "state",
            Self::Nvram => "nvram",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Image => template::IMAGE_LAYER,
            Self::State => template::STATE_LAYER,
            Self::Nvram => template::NVRAM_LAYER,
        }
    }

    /// By the file's name.
    fn of(name: &str) -> Self {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = folder.rsplit('/').next().unwrap_or_default();
        if file == "nvram" || file.ends_with(".nvram") || file == "nvram.bin" {
            Self::Nvram
        } else if file.ends_with(".state") || matches!(folder, "state" | "states" | "state_files") {
            Self::State
        } else {
            Self::Image
        }
    }

    /// Of a layer, as registries read it.
    pub(super) fn of_layer(layer: &Descriptor) -> Self {
        match layer.annotations.get(template::ROLE).unwrap_or(&layer.media_type).as_str() {
            "state" | template::STATE_LAYER => Self::State,
            "nvram" | template::NVRAM_LAYER => Self::Nvram,
            _ => Self::Image,
        }
    }
}

/// One file to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// As it is shown, and as it is called where it is pulled to.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) role: Role,
}

/// What was named to be pushed.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Base first.
    pub(super) files: Vec<File>,
    /// The config that lies among them.
    pub(super) config: Option<PathBuf>,
}

/// One directory, or files in the order given.
pub(super) fn find(paths: &[PathBuf]) -> Result<Found, Failure> {
    let mut found = Found::default();
    if let [folder] = paths
        && folder.is_dir()
    {
        let mut names = Vec::new();
        walk(folder, "", 0, &mut names)?;
        names.sort_by_key(|name| natural(name));
        keep_order(&mut names, folder);
        for name in names {
            let path = folder.join(&name);
            if name == CONFIG {
                found.config = Some(path);
            } else {
                found.files.push(File { role: Role::of(&name), name, path });
            }
        }
    } else {
        for path in paths {
            let is = fs::metadata(path).map_err(|error| {
                usage(format!("`{}` cannot be read: {error}", path.display()), "name a directory, or files")
            })?;
            if !is.is_file() {
                let error = format!("`{}` is no file", path.display());
                return Err(usage(error, "name one directory, or files, base layer first"));
            }
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.filter(|name| sound(name)).ok_or_else(|| strange_name(path))?;
            if name == CONFIG {
                found.config = Some(path.clone());
            } else {
                found.files.push(File { role: Role::of(&name), name, path: path.clone() });
            }
        }
    }
    let names: BTreeSet<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
    if names.len() < found.files.len() {
        return Err(usage(
            "two of the files have the same name".into(),
            "each is pulled under its own name: rename one",
        ));
    }
    if found.files.len() > MOST {
        return Err(usage(
            format!("there are {} files", found.files.len()),
            "a template has at most 8192 layers",
        ));
    }
    // Images, then states, then the NVRAM; within them as they came.
    found.files.sort_by_key(|file| file.role);
    Ok(found)
}

fn walk(folder: &Path, below: &str, depth: usize, names: &mut Vec<String>) -> Result<(), Failure> {
    let wrong = |error: io::Error| {
        usage(format!("`{}` cannot be read: {error}", folder.display()), "name a directory, or files")
    };
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| strange_name(&path))?;
        if name.starts_with('.') {
            continue;
        }
        if !sound(name) {
            return Err(strange_name(&path));
        }
        let name = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let is = fs::metadata(&path).map_err(wrong)?;
        if is.is_dir() && depth < DEPTH {
            walk(&path, &name, depth + 1, names)?;
        } else if is.is_file() {
            names.push(name);
        } else {
            let error = format!("`{}` is neither a file nor a directory that can be pushed", path.display());
            return Err(usage(error, "take it away, or name the files that are meant"));
        }
        if names.len() > MOST {
            return Err(usage(
                format!("`{}` has too many files", folder.display()),
                "is it the one that is meant?",
            ));
        }
    }
    Ok(())
}

fn strange_name(path: &Path) -> Failure {
    usage(
        format!("`{}` has a name that cannot be pulled everywhere", path.display()),
        "use UTF-8 without control characters and backslashes, not beginning with a dot",
    )
}

/// A directory that was pulled and is pushed again keeps the order of its layers: that of names may be another.
fn keep_order(names: &mut [String], folder: &Path) {
    let origin = fs::read(folder.join(ORIGIN)).ok();
    let Some(manifest) = origin.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok()) else {
        return;
    };
    let order = file_names(&manifest);
    names.sort_by_key(|name| order.iter().position(|known| known == name).unwrap_or(usize::MAX));
}

/// Digits by their value: `disk-2` before `disk-10`.
fn natural(name: &str) -> Vec<(u64, String)> {
    let (mut parts, mut rest) = (Vec::new(), name);
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, digits) = rest.split_at(text);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (number, behind) = digits.split_at(end);
        // The text goes first, then the number behind it.
        parts.push((0, word.to_owned()));
        parts.push((number.parse().unwrap_or(u64::MAX), number.to_owned()));
        rest = behind;
    }
    parts
}

/// One part of a path, fit for every disk.
fn sound(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.chars().any(|c| c.is_control() || c == '\\' || c == '/')
}

/// The config: what `--config` names, else what lies among the files, else nothing but `{}`.
pub(super) fn config(named: Option<&Path>, found: &Found) -> Result<Vec<u8>, Failure> {
    let Some(path) = named.or(found.config.as_deref()) else { return Ok(b"{}".to_vec()) };
    let hint = "a config is one JSON object of at most 1 MiB";
    let wrong = |why: String| usage(format!("config `{}` {why}", path.display()), hint);
    let is = fs::metadata(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if is.len() > CONFIG_LIMIT {
        return Err(wrong(format!("has {} bytes", is.len())));
    }
    let bytes = fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_)) => Ok(bytes),
        Ok(_) => Err(wrong("is no JSON object".into())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}

/// A layer of the manifest.
pub(super) struct Layer<'a> {
    pub(super) file: &'a File,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The manifest. The same files give the same bytes, so that a second push finds its own.
pub(super) fn manifest(
    config: &[u8],
    layers: &[Layer<'_>],
    arch: Option<&str>,
    description: Option<&str>,
) -> Vec<u8> {
    let notes = [(template::ARCH, arch), (template::DESCRIPTION, description)];
    let notes: serde_json::Map<String, Value> =
        notes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))).collect();
    let layer = |layer: &Layer<'_>| {
        json!({
            "mediaType": layer.file.role.media_type(), "digest": layer.digest, "size": layer.size,
            "annotations": { template::ROLE: layer.file.role.word(), TITLE: layer.file.name },
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": oci::IMAGE_MANIFEST,
        "artifactType": template::ARTIFACT,
        "config": { "mediaType": template::CONFIG, "digest": Digest::of(config), "size": config.len() },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        "annotations": notes,
    });
    manifest.to_string().into_bytes()
}

/// What each layer's file is called, in order: as it was pushed if that is safe, else by role and place. No two are alike.
pub(super) fn file_names(manifest: &Manifest) -> Vec<String> {
    let mut taken = BTreeSet::from([CONFIG.to_owned()]);
    let mut names = Vec::with_capacity(manifest.layers.len());
    for (n, layer) in manifest.layers.iter().enumerate() {
        let title = layer.annotations.get(TITLE).filter(|title| safe(title) && free(title, &taken));
        let name = title.cloned().unwrap_or_else(|| {
            let short: String =
                layer.digest.chars().filter(char::is_ascii_alphanumeric).skip(6).take(12).collect();
            let end = match Role::of_layer(layer) {
                Role::Image => "img",
                Role::State => "state",
                Role::Nvram => "nvram",
            };
            format!("layer-{n:02}-{short}.{end}")
        });
        taken.insert(name.clone());
        names.push(name);
    }
    names
}

/// Below the directory, whatever the manifest says.
fn safe(title: &str) -> bool {
    let parts = Path::new(title).components();
    title.len() <= 1024
        && title.split('/').count() <= DEPTH
        && title.split('/').all(sound)
        && parts.into_iter().all(|part| matches!(part, Component::Normal(_)))
}

/// Neither taken, nor a folder of one that is, nor below one.
fn free(title: &str, taken: &BTreeSet<String>) -> bool {
    taken.iter().all(|other| {
        other != title && !other.starts_with(&format!("{title}/")) && !title.starts_with(&format!("{other}/"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(title: &str) -> Descriptor {
        let text =
            json!({ "digest": Digest::of(title.as_bytes()), "size": 1, "annotations": { TITLE: title } });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn no_name_in_a_manifest_leads_out_of_the_directory() {
        for bad in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "a/../../b",
            "../b",
            "a//b",
            "a\\b",
            "a\nb",
            ".ssh/x",
            "a/.x",
            "config.json",
        ] {
            let manifest = Manifest { layers: vec![layer(bad)], ..Manifest::default() };
            let names = file_names(&manifest);
            assert!(names[0].starts_with("layer-00-"), "{bad:?} became {names:?}");
        }
    }

    #[test]
    fn names_that_are_taken_or_in_each_others_way_are_made_up() {
        let titles = ["disk.img", "disk.img", "disk.img/x", "a/b", "a"];
        let manifest = Manifest { layers: titles.map(layer).to_vec(), ..Manifest::default() };
        let names = file_names(&manifest);
        assert_eq!((names[0].as_str(), names[3].as_str()), ("disk.img", "a/b"));
        assert!([1, 2, 4].iter().all(|n| names[*n].starts_with("layer-")), "{names:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn a_directory_is_read_with_roles_base_first_and_numbers_by_value() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["disk-10.img", "disk-2.img", "nvram", "state/mem.bin", "cpu.state", "config.json", ".hidden"]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let found = find(&[dir.path().to_owned()]).unwrap();
        let shown: Vec<_> = found.files.iter().map(|file| (file.name.as_str(), file.role)).collect();
        let expected = [
            ("disk-2.img", Role::Image),
            ("disk-10.img", Role::Image),
            ("cpu.state", Role::State),
            ("state/mem.bin", Role::State),
            ("nvram", Role::Nvram),
        ];
        assert_eq!(shown, expected);
        assert!(found.config.is_some());
    }

    #[test]
    fn what_was_pulled_is_pushed_in_the_order_it_had() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.img", "b.img"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let origin = json!({ "layers": [layer("b.img"), layer("a.img")] });
        fs::write(dir.path().join(ORIGIN), origin.to_string()).unwrap();
        let found = find(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> = found.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["b.img", "a.img"]);
    }
}
