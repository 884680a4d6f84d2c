//! `switchyard template pull NAME:TAG DIR`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Failure, Going, Printer, Reach, Target,
    files::{self, Role},
    progress::{Shown, rate, size},
    role, usage,
};
use crate::{
    cli::words::counted,
    client::transfer::{Bytes, Pull, TransferError, Wanted, Watch, place},
    clock,
    model::Digest,
    wire::oci::Manifest,
};

/// What a second pull does.
const AGAIN: &str = "pull again: it goes on where this one ended";

/// Arguments of `template pull`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which version
    #[arg(value_name = "NAME:TAG")]
    target: Target,
    /// Where to: a directory that is not there yet, or empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    reach: Reach,
    /// Replace the directory if there is something in it, once the template is here whole
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    going: Going,
}

/// What was done, for programs.
#[derive(Debug, Serialize)]
struct Outcome {
    registry: String,
    repository: String,
    tag: String,
    digest: Digest,
    dir: PathBuf,
    size: u64,
    received: u64,
    seconds: f64,
    layers: Vec<LayerLine>,
}

#[derive(Debug, Serialize)]
struct LayerLine {
    file: String,
    role: &'static str,
    digest: String,
    size: u64,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    // Where it lies is part of where the parts lie: both must be the same the next time.
    let unusable = |why: String| {
        usage(
            format!("`{}` {why}", args.dir.display()),
            "name a directory that is not there yet, or is empty",
        )
    };
    let dir = std::path::absolute(&args.dir).map_err(|error| unusable(format!("cannot be used: {error}")))?;
    match fs::read_dir(&dir) {
        Ok(mut entries) => {
            if entries.next().is_some() && !args.force {
                return Err(usage(
                    format!("`{}` has something in it", args.dir.display()),
                    "name another directory, or say `--force` to have it replaced",
                ));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(format!("cannot be used: {error}"))),
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(unusable("has no name".into()));
    };
    fs::create_dir_all(parent).map_err(|error| unusable(format!("cannot be made: {error}")))?;
    let beside = parent.join(format!(".{}.pull", name.to_string_lossy()));
    role::once(pull(args, printer, &dir, &beside))?
}

async fn pull(args: &Args, printer: Printer, dir: &Path, beside: &Path) -> Result<(), Failure> {
    let began = clock::now();
    let (registry, name, tag) = (&args.reach.registry, &args.target.name, &args.target.tag);
    let failed = |error: TransferError| args.reach.transfer(&error, AGAIN);
    let calls = args.reach.calls()?;
    let first = Shown::new("pull", &args.going, printer, Vec::new());
    let pull = Pull { calls: &calls, repository: name, patience: args.going.patience, watch: &first };
    let bytes = pull.manifest(tag).await.map_err(failed)?;
    first.end();
    let digest = Digest::of(&bytes);
    let manifest =
        read(&bytes).map_err(|why| failed(TransferError::Manifest { what: format!("{name}:{tag}"), why }))?;
    let names = files::file_names(&manifest);
    let wanted = wanted(&manifest, &names)
        .map_err(|why| failed(TransferError::Manifest { what: format!("{name}:{tag}"), why }))?;
    let blobs = wanted.iter().map(|blob| (blob.names[0].clone(), blob.size)).collect();
    let shown =
        Came { shown: Shown::new("pull", &args.going, printer, blobs), first: std::cell::RefCell::default() };
    let pull = Pull { watch: &shown, ..pull };
    // Of another manifest there may be other files under the same names.
    let whole = beside.join(&digest.hex()[..16]);
    let ran = pull.run(&wanted, &beside.join("parts"), &whole).await;
    shown.shown.end();
    ran.map_err(failed)?;
    let written = fs::write(whole.join(files::ORIGIN), &bytes);
    let written =
        written.map_err(|source| TransferError::Local { what: "write", path: whole.clone(), source });
    written.and_then(|()| place(&whole, dir, args.force)).map_err(failed)?;
    fs::remove_dir_all(beside).ok();
    let size_of: u64 = wanted.iter().map(|blob| blob.size).sum();
    let took = clock::now() - began;
    let received = size_of.saturating_sub(shown.first.borrow().values().sum());
    let line = |(layer, name): (&crate::wire::oci::Descriptor, &String)| LayerLine {
        file: name.clone(),
        role: Role::of_layer(layer).word(),
        digest: layer.digest.clone(),
        size: layer.size,
    };
    let outcome = Outcome {
        registry: registry.to_string(),
        repository: name.to_string(),
        tag: tag.to_string(),
        digest,
        dir: dir.to_owned(),
        size: size_of,
        received,
        seconds: took.as_secs_f64(),
        layers: manifest.layers.iter().zip(&names).map(line).collect(),
    };
    args.going.output.print(printer, &outcome, || {
        format!(
            "pulled {name}:{tag} into {}\n  {}, {}; received {}\n  {digest}",
            args.dir.display(),
            counted(outcome.layers.len(), "layer"),
            size(size_of),
            rate(received, took)
        )
    })
}

/// Notes what was here before the first byte came.
struct Came {
    shown: Shown,
    first: std::cell::RefCell<BTreeMap<usize, u64>>,
}

impl Watch for Came {
    fn at(&self, blob: usize, done: u64) {
        self.first.borrow_mut().entry(blob).or_insert(done);
        self.shown.at(blob, done);
    }

    fn note(&self, blob: usize, text: &str) {
        self.shown.note(blob, text);
    }
}

fn read(bytes: &Bytes) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !manifest.manifests.is_empty() {
        return Err("it is an index of several".into());
    }
    Ok(manifest)
}

/// Every blob once, with the names of its files.
fn wanted(manifest: &Manifest, names: &[String]) -> Result<Vec<Wanted>, String> {
    let config = manifest.config.iter().map(|config| (config, files::CONFIG));
    let layers = manifest.layers.iter().zip(names.iter().map(String::as_str));
    let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
    for (part, name) in config.chain(layers) {
        let digest = Digest::parse(&part.digest).map_err(|error| format!("`{}`: {error}", part.digest))?;
        if i64::try_from(part.size).is_err() {
            return Err(format!("{digest} is said to have {} bytes", part.size));
        }
        let blob = wanted.entry(digest).or_insert(Wanted { digest, size: part.size, names: Vec::new() });
        if blob.size != part.size {
            return Err(format!("it says two sizes of {digest}"));
        }
        blob.names.push(name.to_owned());
    }
    Ok(wanted.into_values().collect())
}
