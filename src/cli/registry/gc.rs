//! `switchyard registry gc`: deletes what nothing needs, now, or tells what that is.

use std::{path::PathBuf, time::Duration};

use super::status::{client, failure};
use crate::{
    cli::{Failure, Printer, admin::Output, login::Credential, role, table, trust::Trust},
    client::replication::Replication,
    config::{self, BaseUrl, Env},
    registry::content::size,
    registry::upkeep::gc::{self, GcError, OfflineError},
    wire::upkeep::{Collected, NAMED, Sum},
};

/// For a connect to a registry.
const DIAL: Duration = Duration::from_secs(5);

/// For a collection: every manifest and every blob is looked at.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Arguments of `registry gc`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct From {
    /// The config file of a registry that does not run
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address of one that runs
    #[arg(long, value_name = "URL")]
    registry: Option<BaseUrl>,
}

/// Arguments of `registry gc`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    from: From,
    /// Touch nothing: tell what would go, and its size
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    shown: Credential,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let collected = match (&args.from.registry, &args.from.config) {
        (Some(url), _) => role::once(async {
            let credentials = args.trust.credentials(&args.shown, [url])?;
            let registry = client(Replication::new(url.clone(), &credentials, DIAL, PATIENCE))?;
            registry.collect(args.dry_run, PATIENCE).await.map_err(failure)
        })??,
        (None, file) => {
            // Clap has made sure of it.
            let file = file.clone().unwrap_or_default();
            let (config, _) =
                config::load_registry(&file, &Env::of_process()).map_err(|f| printer.refused(&f))?;
            role::once(gc::offline(&config, args.dry_run))?.map_err(|error| offline_failure(&error))?
        }
    };
    args.output.print(printer, &collected, || text(&collected))
}

fn offline_failure(error: &OfflineError) -> Failure {
    let mut failure = Failure::runtime("garbage was not collected", error);
    if let (Failure::Runtime { hint, .. }, OfflineError::Storage(_)) = (&mut failure, error) {
        *hint =
            Some("of a registry that runs, ask it itself: `switchyard registry gc --registry URL`".into());
    }
    if let (Failure::Runtime { hint, .. }, OfflineError::Gc(GcError::Unknown(_))) = (&mut failure, error) {
        *hint = Some("nothing is deleted while it is not known what is needed".into());
    }
    failure
}

fn text(collected: &Collected) -> String {
    let Collected { discarded, purged, put_back, waiting, kept, .. } = collected;
    let mut lines: Vec<String> = Vec::new();
    let rows: Vec<_> = collected
        .blobs
        .iter()
        .map(|blob| ([blob.what.as_str().to_owned(), size(blob.size), blob.digest.to_string()], Vec::new()))
        .collect();
    if !rows.is_empty() {
        lines.push(table::table(&["WHAT", "SIZE", "BLOB"], &rows));
    }
    let listed = discarded.blobs + purged.blobs + put_back.blobs;
    if listed > collected.blobs.len() as u64 {
        lines.push(format!(
            "… and {} more (the first {NAMED} are listed)",
            listed - collected.blobs.len() as u64
        ));
    }
    let would = if collected.dry_run { "would be " } else { "" };
    let of = |sum: &Sum| format!("{} ({} blobs)", size(sum.bytes), sum.blobs);
    lines.push(format!("{would}deleted: {}", of(purged)));
    lines.push(format!("{would}moved to the trash: {}", of(discarded)));
    lines.push(format!("{would}taken back out of it, for something needs them: {}", of(put_back)));
    lines.push(format!("in the trash, not for long enough yet: {}", of(waiting)));
    lines.push(format!("all others: {}", of(kept)));
    if collected.taken_away > 0 {
        let blobs = collected.taken_away;
        lines.push(format!("{blobs} times a repository {would}lost a blob that none of its manifests needs"));
    }
    for unread in &collected.unread {
        lines.push(format!(
            "warning: manifest {} of `{}` cannot be read, so all that it was given is kept: {}",
            unread.manifest, unread.repository, unread.why
        ));
    }
    lines.join("\n")
}
