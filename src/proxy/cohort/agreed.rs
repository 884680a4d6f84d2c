//! The choice as proxies say it to each other in etcd, and as one keeps it in `run_dir` for its next start.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::core::{Choice, Core, Why};
use crate::{
    config::proxy::{Service, Source},
    discovery::word::Word,
    model::ServerVersion,
    proxy::kept::Kept,
    supervise::Handle as Tasks,
};

/// How long a choice that cannot wait waits for etcd: nobody of the chosen version is left, or none is chosen.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// What agents of each service are served from.
pub(in crate::proxy) const KEPT: Kept = Kept {
    file: "cohorts.json",
    longest: 1 << 20,
    unread: "what agents were served from could not be read, so it is chosen anew",
    unkept: "what agents are served from could not be kept for the next start",
};

/// The value in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    v: u32,
    /// From which agents are served.
    pub(super) version: String,
    /// Why, as [`Why::as_str`] has it.
    pub(super) why: String,
    /// What an operator has named.
    #[serde(default)]
    pub(super) pin: Option<String>,
}

impl Said {
    pub(super) fn new(choice: &Choice, pin: Option<&ServerVersion>) -> Self {
        let Choice { version, why } = choice;
        let pin = pin.map(ToString::to_string);
        Self { v: 1, version: version.to_string(), why: why.as_str().into(), pin }
    }

    /// What a core has; none while it has chosen nothing.
    pub(super) fn of(core: &Core, why: Why) -> Option<Self> {
        Some(Self::new(&Choice { version: core.chosen()?.clone(), why }, core.pin()))
    }

    /// None for what is no word of ours.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|said: &Self| said.v == 1 && said.choice().is_some())
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn choice(&self) -> Option<Choice> {
        Some(Choice { version: ServerVersion::parse(&self.version)?, why: Why::parse(&self.why) })
    }

    pub(super) fn pin(&self) -> Option<ServerVersion> {
        self.pin.as_deref().and_then(ServerVersion::parse)
    }

    /// Whether it comes to the same.
    pub(super) fn means(&self, other: &Self) -> bool {
        (&self.version, &self.pin) == (&other.version, &other.pin)
    }
}

/// Where a service's proxies agree: in the etcd in which it looks for its servers. None: it stays as it is.
#[expect(clippy::option_option, reason = "whether it changes, and to what")]
pub(super) fn word(
    service: &Service,
    before: Option<&Arc<Word>>,
    tasks: &Tasks,
) -> Option<Option<Arc<Word>>> {
    let source = service.discovery.as_ref().map(|discovery| &discovery.source);
    let Some(Source::Etcd { etcd, cluster }) = source else { return before.is_some().then_some(None) };
    let name = service.name.as_str();
    if before.is_some_and(|word| word.is_of(etcd, cluster, name)) {
        return None;
    }
    Some(Some(Arc::new(Word::start(tasks, etcd, cluster, name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::handover;

    #[test]
    fn a_word_is_read_as_it_was_said_and_nothing_else_is_one() {
        let choice = Choice { version: ServerVersion::parse("1.51").unwrap(), why: Why::Settled };
        let said = Said::new(&choice, ServerVersion::parse("1.50").as_ref());
        assert_eq!(Said::read(&said.text()), Some(said.clone()));
        assert_eq!(said.choice(), Some(choice));
        for text in [
            "",
            "{}",
            "null",
            r#"{"v":2,"version":"1","why":"first"}"#,
            r#"{"v":1,"version":"a b","why":""}"#,
        ] {
            assert_eq!(Said::read(text), None, "{text}");
        }
    }

    #[test]
    fn what_was_kept_is_recalled_and_rubbish_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(KEPT.recall::<handover::Cohort>(dir.path()).is_empty());
        let one = handover::Cohort {
            service: "controllers".into(),
            version: "1.51".into(),
            since: crate::clock::wall(),
            pin: None,
        };
        KEPT.keep(dir.path(), std::slice::from_ref(&one));
        assert_eq!(KEPT.recall::<handover::Cohort>(dir.path()), [one]);
        std::fs::write(dir.path().join(KEPT.file), "x").unwrap();
        assert!(KEPT.recall::<handover::Cohort>(dir.path()).is_empty());
    }
}
