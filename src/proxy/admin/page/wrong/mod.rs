//! What is wrong, why, and what to do about it. Pure: a function of what the page shows, so a light is never red without
//! its reason and its remedy.

mod registries;
mod services;

use super::seen::Seen;
use crate::model::Timestamp;

/// How bad it is; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Requests fail, or are about to.
    Broken,
    /// Nobody notices yet, but the next fault may hurt.
    Warning,
    /// Good to know.
    Note,
}

impl Level {
    /// The word beside the colour.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) level: Level,
    /// What it is, in one sentence.
    pub(super) what: String,
    /// What shows it: mostly in words of others.
    pub(super) why: String,
    /// What helps.
    pub(super) remedy: String,
    pub(super) since: Option<Timestamp>,
}

impl Wrong {
    fn new(level: Level, what: String, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, what, why: why.into(), remedy: remedy.into(), since: None }
    }

    fn since(self, since: Timestamp) -> Self {
        Self { since: Some(since), ..self }
    }
}

/// Everything that is wrong, the worst first.
pub(super) fn wrong(seen: &Seen) -> Vec<Wrong> {
    let mut all = Vec::new();
    for service in &seen.upstreams.services {
        services::of(service, seen.at, &mut all);
    }
    for service in &seen.registries.services {
        registries::of(service, &seen.upstreams, &mut all);
    }
    certificates(seen, &mut all);
    process(seen, &mut all);
    all.sort_by_key(|wrong| wrong.level);
    all
}

fn certificates(seen: &Seen, all: &mut Vec<Wrong>) {
    for of in &seen.certificates {
        let whose = &of.of;
        for (what, until) in &of.ending {
            let (level, verb) =
                if *until <= seen.at { (Level::Broken, "has ended") } else { (Level::Warning, "ends soon") };
            all.push(Wrong::new(
                level,
                format!("The {what} of {whose} {verb}"),
                format!("it is good until {until}"),
                "Renew the file that the config names; it is taken within seconds, without a reload.",
            ));
        }
        if !of.refused.is_empty() {
            all.push(Wrong::new(
                Level::Warning,
                format!("New certificates of {whose} were refused; those before them are in use"),
                of.refused.clone(),
                "Correct the file; it is looked at every 5 s. `switchyard check FILE` says what is wrong with it.",
            ));
        }
    }
}

fn process(seen: &Seen, all: &mut Vec<Wrong>) {
    if let Some((since, why)) = &seen.refused {
        let remedy = "Correct the file (`switchyard check FILE`) and reload. Until then the old config is in use, and a \
                      restart would fail.";
        let what = "The last reload was refused: the config in use is not the one on disk".to_owned();
        all.push(Wrong::new(Level::Warning, what, why, remedy).since(*since));
    }
    if seen.upgrade_failed {
        all.push(Wrong::new(
            Level::Warning,
            "The last upgrade came to nothing: this process goes on".into(),
            "the binary on disk, or its config, did not come to serve",
            "The log says why (`switchyard upgrade` too); correct that and upgrade again.",
        ));
    }
    // Two are as many as there may be.
    let level = if seen.process.old.len() > 1 { Level::Warning } else { Level::Note };
    for old in &seen.process.old {
        let what = format!("Process {}, which this one has replaced, is still there", old.pid);
        let why =
            format!("it has {} connections; what is left of them is cut at {}", old.connections, old.until);
        let remedy = format!(
            "Nothing, if transfers may end in their own time. `kill {}` gives them `[shutdown] grace`.",
            old.pid
        );
        all.push(Wrong::new(level, what, why, remedy).since(old.since));
    }
    if seen.transfers.full {
        all.push(Wrong::new(
            Level::Note,
            "There are more transfers than are listed".into(),
            format!("{} are", seen.transfers.transfers.len()),
            "Nothing: they are served as ever, and each has its line of the access log at its end.",
        ));
    }
}

#[cfg(test)]
pub(super) mod tests;
