//! What is wrong with what registries have.

use super::{Level, Wrong, services::is_well};
use crate::wire::{
    registries::{Service, Upstream},
    replication::{Role, State},
    upstreams::Upstreams,
};

/// One that has been behind for less is on its way.
const BEHIND: f64 = 30.0;

pub(super) fn of(service: &Service, pools: &Upstreams, all: &mut Vec<Wrong>) {
    let name = &service.name;
    let well = |upstream: &str| {
        let pool = pools.services.iter().find(|pool| pool.name == *name);
        pool.and_then(|pool| pool.upstreams.iter().find(|one| one.name == upstream)).is_some_and(is_well)
    };
    let writer_is_well = service.writer.as_deref().is_some_and(well);
    // If the writer is away, that is what is wrong.
    if service.lease_ms.is_none() && service.freshness == "position" && writer_is_well {
        all.push(Wrong::new(
            Level::Warning,
            format!("The log of the writer of {name} is not followed: all reads go to the writer"),
            &service.lease_why,
            "Read the writer's log and this proxy's: the writer is up, but does not tell what changes.",
        ));
    }
    for warning in &service.warnings {
        let what = format!("What registries of {name} say does not go with the config");
        all.push(Wrong::new(Level::Warning, what, warning, "The reason names what to change; then reload."));
    }
    for upstream in &service.upstreams {
        if well(&upstream.name) {
            behind(service, upstream, all);
        }
        if let Some(state) = &upstream.state {
            aside(service, upstream, state, all);
        }
    }
}

fn behind(service: &Service, upstream: &Upstream, all: &mut Vec<Wrong>) {
    let (name, pool) = (&upstream.name, &service.name);
    if let Some(catalogue) = upstream.catalogue.as_ref().filter(|catalogue| !catalogue.why.is_empty()) {
        let what = format!("The list of templates of {name} of {pool} cannot be had");
        let remedy = "Until it can, this registry is asked only for what it must have. Read its log.";
        all.push(Wrong::new(Level::Warning, what, &catalogue.why, remedy));
    }
    if upstream.role != Some(Role::Replica) {
        return;
    }
    let lag = upstream.state.as_ref().map(|state| (state, state.lag));
    match lag {
        Some((state, lag)) if lag.entries > 0 && lag.seconds >= BEHIND => {
            let what = format!("{name} of {pool} is behind the writer by {} changes", lag.entries);
            let mut why =
                vec![format!("{} bytes are to be fetched, for {:.0} s by now", lag.bytes, lag.seconds)];
            why.extend(
                state.fetching.iter().map(|blob| blob.why.clone()).filter(|why| !why.is_empty()).take(1),
            );
            why.extend(state.why.iter().take(2).cloned());
            let remedy = "If the reason names no fault, it copies: wait, others are read from. Else cure that; a slow disk or \
                          link shows in its log.";
            all.push(Wrong::new(Level::Warning, what, why.join("; "), remedy));
        }
        // It lags for a moment only.
        Some((_, lag)) if lag.entries > 0 => {}
        _ if !upstream.reads && service.lease_ms.is_some() => {
            let what = format!("{name} of {pool} is read by nobody");
            let told = lag.map(|(state, _)| state.why.join("; ")).filter(|why| !why.is_empty());
            let why = told.map_or_else(|| upstream.why.clone(), |told| format!("{}; {told}", upstream.why));
            let remedy = "`switchyard registry status` shows all of its state; docs/operating.md has what each reason asks for.";
            all.push(Wrong::new(Level::Warning, what, why, remedy));
        }
        _ => {}
    }
}

fn aside(service: &Service, upstream: &Upstream, state: &State, all: &mut Vec<Wrong>) {
    if state.aside.is_empty() {
        return;
    }
    let what =
        format!("{} of {} has set changes aside that its writer does not have", upstream.name, service.name);
    let why = format!("{} folders below `aside/` in its storage", state.aside.len());
    let remedy =
        "Look there for what is missed and push it again, then delete the folders (docs/operating.md).";
    all.push(Wrong::new(Level::Warning, what, why, remedy));
}
