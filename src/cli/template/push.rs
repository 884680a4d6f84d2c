//! `switchyard template push DIR|FILE… NAME:TAG`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::{
    Failure, Going, Printer, Reach, Target,
    files::{self, File, Found, Layer},
    progress::{Shown, rate, size},
    role, state_folder, usage,
};
use crate::{
    cli::words::counted,
    client::transfer::{Bytes, Push, Sessions, Source, Watch, hash_file},
    clock,
    model::{Digest, RepositoryName},
};

/// What a second push does.
const AGAIN: &str = "push again: it goes on where this one ended";

/// How often the progress of hashing is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `template push`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Roles come from names: `nvram` and `*.nvram` are the NVRAM, `*.state` and what is in `state/` suspend \
    states, `config.json` is the config, the rest are images, base layer first: in the order given, or, of a directory, by \
    name. What begins with a dot is left out."
)]
pub(super) struct Args {
    /// A directory, or files, base layer first; then NAME:TAG
    #[arg(required = true, num_args = 1.., value_name = "DIR|FILE… NAME:TAG")]
    what: Vec<String>,
    #[command(flatten)]
    reach: Reach,
    /// Its architecture
    #[arg(long, value_parser = ["arm64", "amd64"])]
    arch: Option<String>,
    /// The VM's config, a JSON object; before a `config.json` among the files
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Shown with the version
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Move the tag if it is there and has something else
    #[arg(long)]
    force: bool,
    /// A template that may have some of the layers: they are taken over from it and not sent. May be given again
    #[arg(long, value_name = "NAME")]
    from: Vec<RepositoryName>,
    #[command(flatten)]
    going: Going,
}

/// What was done, for programs.
#[derive(Debug, Serialize)]
struct Outcome {
    registry: String,
    repository: RepositoryName,
    tag: String,
    digest: Digest,
    size: u64,
    sent: u64,
    seconds: f64,
    layers: Vec<LayerLine>,
}

#[derive(Debug, Serialize)]
struct LayerLine {
    file: String,
    role: &'static str,
    digest: Digest,
    size: u64,
    sent: bool,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let (target, paths) = split(&args.what)?;
    let found = files::find(&paths)?;
    if found.files.is_empty() && found.config.is_none() && args.config.is_none() {
        return Err(usage(
            "there is nothing to push".into(),
            "name a directory with files in it; a template without layers needs `--config FILE`",
        ));
    }
    let config = Bytes::from(files::config(args.config.as_deref(), &found)?);
    role::once(push(args, printer, &target, &found, config))?
}

fn split(what: &[String]) -> Result<(Target, Vec<PathBuf>), Failure> {
    let hint = "write `switchyard template push DIR NAME:TAG`, or `… push FILE FILE NAME:TAG`";
    let Some((target, paths @ [_, ..])) = what.split_last() else {
        return Err(usage("what is to be pushed, or where to, is missing".into(), hint));
    };
    let parsed = target.parse().map_err(|why| usage(format!("`{target}` is no target: {why}"), hint))?;
    Ok((parsed, paths.iter().map(PathBuf::from).collect()))
}

async fn push(
    args: &Args,
    printer: Printer,
    target: &Target,
    found: &Found,
    config: Bytes,
) -> Result<(), Failure> {
    let began = clock::now();
    let (registry, name, tag) = (&args.reach.registry, &target.name, &target.tag);
    let calls = args.reach.calls()?;
    let sessions = Sessions::open(state_folder().as_deref(), &format!("{registry}/{name}:{tag}"));
    let sessions = sessions.map_err(|error| args.reach.transfer(&error, AGAIN))?;
    let hashed = hash(args, printer, &found.files, &sessions).await?;
    let layers: Vec<Layer<'_>> = found
        .files
        .iter()
        .zip(&hashed)
        .map(|(file, (digest, size))| Layer { file, digest: *digest, size: *size })
        .collect();
    let manifest = files::manifest(&config, &layers, args.arch.as_deref(), args.description.as_deref());
    let mut sources = BTreeMap::new();
    for layer in &layers {
        let source = Source::File { path: layer.file.path.clone(), digest: layer.digest, size: layer.size };
        sources.entry(layer.digest).or_insert((layer.file.name.clone(), source));
    }
    sources.entry(Digest::of(&config)).or_insert((files::CONFIG.to_owned(), Source::Bytes(config)));
    let (names, sources): (Vec<String>, Vec<Source>) = sources.into_values().unzip();
    let shown = names.into_iter().zip(sources.iter().map(Source::size)).collect();
    let shown = Shown::new("push", &args.going, printer, shown);
    let push = Push {
        calls: &calls,
        repository: name,
        tag,
        sources: &sources,
        manifest: manifest.into(),
        force: args.force,
        from: &args.from,
        sessions: &sessions,
        patience: args.going.patience,
        watch: &shown,
    };
    let pushed = push.run().await;
    shown.end();
    let pushed = pushed.map_err(|error| args.reach.transfer(&error, AGAIN))?;
    let sent: BTreeMap<Digest, bool> =
        sources.iter().map(Source::digest).zip(pushed.sent.iter().copied()).collect();
    let bytes_sent = sources.iter().zip(&pushed.sent).filter(|(_, sent)| **sent).map(|(s, _)| s.size()).sum();
    let took = clock::now() - began;
    let outcome = Outcome {
        registry: registry.to_string(),
        repository: name.clone(),
        tag: tag.to_string(),
        digest: pushed.digest,
        size: sources.iter().map(Source::size).sum(),
        sent: bytes_sent,
        seconds: took.as_secs_f64(),
        layers: layers
            .iter()
            .map(|layer| LayerLine {
                file: layer.file.name.clone(),
                role: layer.file.role.word(),
                digest: layer.digest,
                size: layer.size,
                sent: sent.get(&layer.digest).copied().unwrap_or(false),
            })
            .collect(),
    };
    args.going.output.print(printer, &outcome, || {
        format!(
            "pushed {name}:{tag} to {registry}\n  {}, {}; sent {}\n  {}",
            counted(outcome.layers.len(), "layer"),
            size(outcome.size),
            rate(outcome.sent, took),
            outcome.digest
        )
    })
}

/// What each file is hashed as: read once, and not again by a later run while it looks the same.
async fn hash(
    args: &Args,
    printer: Printer,
    files: &[File],
    sessions: &Sessions,
) -> Result<Vec<(Digest, u64)>, Failure> {
    let unreadable = |file: &File, error: std::io::Error| {
        usage(
            format!("`{}` cannot be read: {error}", file.path.display()),
            "it must be a file that you may read",
        )
    };
    let sized = |file: &File| {
        let is = std::fs::metadata(&file.path).map_err(|error| unreadable(file, error))?;
        Ok((format!("hash {}", file.name), is.len()))
    };
    let shown = Shown::new("hash", &args.going, printer, files.iter().map(sized).collect::<Result<_, _>>()?);
    let mut all = Vec::with_capacity(files.len());
    for (at, file) in files.iter().enumerate() {
        let path = std::path::absolute(&file.path).map_err(|error| unreadable(file, error))?;
        if let Some(known) = sessions.hashed(&path) {
            shown.at(at, known.1);
            all.push(known);
            continue;
        }
        let done = Arc::new(AtomicU64::new(0));
        let (read, told) = (path.clone(), done.clone());
        let mut hashing =
            tokio::task::spawn_blocking(move || hash_file(&read, |at| told.store(at, Ordering::Relaxed)));
        let hashed = loop {
            tokio::select! {
                hashed = &mut hashing => break hashed,
                () = tokio::time::sleep(LOOK) => shown.at(at, done.load(Ordering::Relaxed)),
            }
        };
        let (digest, looked) = hashed
            .map_err(|gone| Failure::runtime("hashing ended", &gone))?
            .map_err(|error| unreadable(file, error))?;
        sessions.remember(&path, digest, looked);
        shown.at(at, looked.0);
        all.push((digest, looked.0));
    }
    shown.end();
    Ok(all)
}
