//! What has to be looked at from time to time: free space, idle uploads, pull times; what is garbage ([`gc`]), and
//! what is damaged ([`scrub`], [`fsck`]).

pub mod gc;
pub mod examine;
pub mod fsck;
pub mod scrub;

use std::{convert::Infallible, time::Duration};

use super::{repositories::RepositoryError, state::App};
use crate::{clock, supervise::Stop};

/// Between two looks at the free space: `/readyz` is at most so old.
const SPACE_EVERY: Duration = Duration::from_secs(2);

/// Between two sweeps of upload sessions.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Pull times are written so often; a kill loses at most so much of them.
const PULLS_EVERY: Duration = Duration::from_secs(30);

/// The change log is compacted so often.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// Runs until stopped; writes what is unsaved before it ends.
pub(super) async fn run(app: App, stop: Stop) -> Result<(), Infallible> {
    // The first listing reads every manifest once: better now than in the first request.
    list(&app).await;
    if let Err(error) = app.quotas.count_if_due().await {
        tracing::warn!(error = %error, "what is stored was not counted");
    }
    let sweep_every = SWEEP_EVERY.min(app.limits.upload_idle).min(app.limits.upload_age);
    // Of changes that others make as well there is no log.
    let shared = app.repositories.content().is_shared();
    let (mut swept, mut saved, mut compacted) = (clock::now(), clock::now(), clock::now());
    loop {
        let dropped = tokio::select! {
            () = stop.requested() => break,
            () = app.repositories.content().upload_dropped() => true,
            () = tokio::time::sleep(SPACE_EVERY.min(sweep_every)) => false,
        };
        let now = clock::now();
        look(&app).await;
        if dropped || now - swept >= sweep_every {
            swept = now;
            sweep(&app).await;
        }
        if !shared && now - compacted >= COMPACT_EVERY {
            compacted = now;
            compact(&app).await;
        }
        if let Err(error) = app.quotas.count_if_due().await {
            tracing::warn!(error = %error, "what is stored was not counted");
        }
        if now - saved >= PULLS_EVERY {
            saved = now;
            app.repositories.save_pulls().await;
            app.metrics.broken.set(app.repositories.broken().len() as f64);
        }
    }
    app.repositories.save_pulls().await;
    Ok(())
}

async fn look(app: &App) {
    let seen = app.repositories.content().space().await.map_err(|error| error.to_string());
    if let Ok(space) = &seen {
        app.metrics.free.set(space.free as f64);
    }
    app.health.saw(seen, app.repositories.content().condition().await);
}

/// Forgets the oldest entries, but none that a replica which still asks has not applied.
async fn compact(app: &App) {
    let journal = app.repositories.journal();
    let needed = journal.writer().replicas().into_iter().map(|replica| replica.applied).min();
    let (keep, needed) = (app.log_keep, needed.unwrap_or(journal.at().position));
    match journal.blocking(move |log| log.compact(keep, needed)).await {
        Ok(0) => {}
        Ok(entries) => tracing::info!(entries, "change log compacted"),
        Err(error) => tracing::warn!(error = %error, "change log could not be compacted"),
    }
}

async fn sweep(app: &App) {
    match app.repositories.content().expire_uploads().await {
        Ok(swept) => {
            app.metrics.uploads.set(swept.open as f64);
            for (why, count) in [("idle", swept.idle), ("age", swept.aged)] {
                app.metrics.uploads_expired.with_label_values(&[why]).inc_by(count as u64);
            }
        }
        Err(error) => tracing::warn!(error = %error, "idle uploads were not swept"),
    }
}

async fn list(app: &App) {
    match app.repositories.templates().await {
        Ok(list) => {
            app.metrics.broken.set(list.broken.len() as f64);
            tracing::info!(templates = list.templates.len(), broken = list.broken.len(), "templates read");
        }
        // A new replica: the first request reads them.
        Err(RepositoryError::NotYet(_)) => {}
        Err(error) => tracing::error!(error = %error, "templates could not be listed"),
    }
}
