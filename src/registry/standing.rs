//! How this registry stands as a whole: what `GET state`, `switchyard registry status`, `/readyz` and the metrics say.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    journal::Claim,
    replicate::{fetch, status::Status},
    state::App,
    writer::Writer,
};
use crate::wire::replication::{Follower, Lag, Role, State};

/// What a replica has beside what every registry has.
#[derive(Clone)]
pub(super) struct Copying {
    pub(super) status: Arc<Status>,
    pub(super) fetcher: fetch::FetchHandle,
}

/// Cheap to clone. `None` for a writer.
#[derive(Clone)]
pub(super) struct Standing(pub(super) Option<Copying>);

impl Standing {
    /// All of it.
    pub(super) fn state(&self, app: &App) -> State {
        let journal = app.repositories.journal();
        let (at, can) = (journal.at(), app.health.can());
        let (mut fetching, mut peers) = (Vec::new(), Vec::new());
        let (mut why, mut head, mut lag, mut aside) =
            (can.why, Some(at.position), Lag::default(), Vec::new());
        if let Some(copying) = &self.0 {
            let view = copying.fetcher.view();
            why.extend(copying.status.why());
            let stuck: BTreeSet<&str> =
                view.fetching.iter().map(|blob| blob.why.as_str()).filter(|why| !why.is_empty()).collect();
            why.extend(stuck.into_iter().map(|why| format!("what it lacks does not come: {why}")));
            head = copying.status.head();
            lag = copying.status.lag(at.position, view.missing);
            aside = copying.status.asides();
            (fetching, peers) = (view.fetching, view.peers);
        }
        State {
            registry: app.name.clone(),
            role: app.role,
            position: at.claimed(),
            unconfirmed: (at.claim == Claim::Unconfirmed).then_some(at.position),
            head,
            epoch: journal.epochs().last().map_or(0, |epoch| epoch.epoch),
            lag,
            read: can.read,
            write: can.write,
            why,
            fetching,
            peers,
            followers: followers(journal.writer(), app.role),
            aside,
        }
    }
}

fn followers(writer: &Writer, role: Role) -> Vec<Follower> {
    let replicas = writer.replicas().into_iter().map(|reader| Follower {
        name: reader.name,
        kind: "replica".into(),
        position: reader.applied,
        seen: reader.ago.as_secs_f64(),
        standing: "follows".into(),
    });
    let proxies = writer.proxies().into_iter().map(|proxy| Follower {
        standing: match (proxy.left.is_zero(), proxy.probation) {
            (false, _) => format!("lease {:.1} s", proxy.left.as_secs_f64()),
            (true, true) => "no lease: it was too slow and has to keep pace for a while".into(),
            (true, false) => "no lease".into(),
        },
        name: proxy.name,
        kind: "proxy".into(),
        position: proxy.confirmed,
        seen: proxy.ago.as_secs_f64(),
    });
    match role {
        Role::Writer => replicas.chain(proxies).collect(),
        Role::Replica => replicas.collect(),
    }
}
