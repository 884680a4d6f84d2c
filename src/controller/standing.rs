//! Looks how the members of the store stand, at every controller: what will bind is said before it does.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{Health, numbers::Numbers};
use crate::{
    config::controller::Upkeep,
    store::{Alarm, Standing, Store},
    supervise::Stop,
};

/// How often members are asked. A quota does not fill up in less.
const LOOK: Duration = Duration::from_secs(5);

/// The share of the quota from which on it is said.
const NEAR: f64 = 0.8;

/// What is wrong with the members of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// In words, each by itself.
    pub(super) why: Vec<String>,
    /// It takes no writes, for as long as it is so.
    pub(super) full: bool,
}

/// How full a member is, 0 to 1 and above.
pub(super) fn fill(size: u64, quota: u64) -> f64 {
    size as f64 / quota.max(1) as f64
}

/// What is wrong. `quota` is what a member has that does not tell. Pure.
pub(super) fn judge(members: &[Standing], quota: u64) -> Findings {
    let mut found = Findings::default();
    let mut raised = BTreeSet::new();
    for Standing { member, said } in members {
        let Ok(said) = said else { continue };
        raised.extend(said.alarms.iter().copied());
        let quota = said.quota.unwrap_or(quota);
        let fill = fill(said.size, quota);
        if fill >= NEAR {
            let free = said.size.saturating_sub(said.used);
            found.why.push(format!(
                "store: {member} uses {:.0} % of its quota of {}, of which {} are free after a defragmentation; at 100 % \
                 etcd takes no more writes",
                fill * 100.0,
                bytesize::ByteSize(quota),
                bytesize::ByteSize(free),
            ));
        }
    }
    for (id, alarm) in raised {
        found.full |= alarm == Alarm::NoSpace;
        let right = match alarm {
            Alarm::NoSpace => {
                "make room (compact, defragment, or a larger quota), then `etcdctl alarm disarm`"
            }
            Alarm::Corrupt => "replace that member, then `etcdctl alarm disarm`",
        };
        let whose = |standing: &&Standing| standing.said.as_ref().is_ok_and(|said| said.id == id);
        let member =
            members.iter().find(whose).map_or_else(|| format!("{id:x}"), |found| found.member.clone());
        found.why.push(format!("store: alarm {} of member {member}; {right}", alarm.as_str()));
    }
    found
}

/// Looks until `stop`.
pub(super) async fn look(
    store: std::sync::Arc<dyn Store>,
    upkeep: Upkeep,
    health: Health,
    numbers: Numbers,
    stop: Stop,
) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Findings::default();
    let mut silent = BTreeSet::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            _ = tick.tick() => {}
        }
        let members = tokio::select! {
            () = stop.requested() => return,
            members = store.standing() => members,
        };
        let now: BTreeSet<String> = members.iter().map(|one| one.member.clone()).collect();
        known.difference(&now).for_each(|gone| numbers.forget_member(gone));
        silent.retain(|member| now.contains(member));
        known = now;
        numbers.members(&members, upkeep.quota);
        let found = judge(&members, upkeep.quota);
        // The figures move; what is said once is said until it ends.
        let kind = |why: &str| {
            why.split('%')
                .next()
                .unwrap_or(why)
                .trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ')
                .to_owned()
        };
        let said: BTreeSet<String> = before.why.iter().map(|why| kind(why)).collect();
        for why in found.why.iter().filter(|why| !said.contains(&kind(why))) {
            tracing::error!(why, "store will take no more writes, or takes none");
        }
        for Standing { member, said } in &members {
            match said {
                Ok(_) => drop(silent.remove(member)),
                Err(why) if silent.insert(member.clone()) => {
                    tracing::warn!(store.member = %member, error = %why, "member of the store does not answer");
                }
                Err(_) => {}
            }
        }
        if found != before {
            health.set_store(found.clone());
            before = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Said;

    fn member(name: &str, id: u64, said: Said) -> Standing {
        Standing { member: name.into(), said: Ok(Said { id, ..said }) }
    }

    #[test]
    fn a_quota_is_told_before_it_binds_and_an_alarm_names_its_member() {
        let gib = 1 << 30;
        let roomy = Said { size: gib, used: gib, ..Said::default() };
        assert_eq!(judge(&[member("a", 1, roomy.clone())], 2 * gib), Findings::default());
        let near = Said { size: 9 * gib / 5, used: gib / 2, ..Said::default() };
        let found = judge(&[member("a", 1, near.clone())], 2 * gib);
        assert!(!found.full && found.why.len() == 1, "{found:?}");
        assert!(
            found.why[0].contains("store: a uses 90 % of its quota of 2.0 GiB, of which 1.3 GiB are free"),
            "{found:?}"
        );
        // Its own word about its quota counts.
        let found = judge(&[member("a", 1, Said { quota: Some(8 * gib), ..near })], 2 * gib);
        assert_eq!(found, Findings::default());

        let alarmed = Said { alarms: vec![(2, Alarm::NoSpace)], ..roomy };
        let members = [member("a", 1, alarmed.clone()), member("b", 2, alarmed.clone())];
        let found = judge(&members, 2 * gib);
        assert!(found.full && found.why.len() == 1, "{found:?}");
        assert!(found.why[0].starts_with("store: alarm NOSPACE of member b;"), "{found:?}");
        let corrupt = Said { alarms: vec![(255, Alarm::Corrupt)], ..alarmed };
        let away = Standing { member: "b".into(), said: Err("connection refused".into()) };
        let found = judge(&[member("a", 1, corrupt), away], 2 * gib);
        assert!(!found.full && found.why[0].starts_with("store: alarm CORRUPT of member ff;"), "{found:?}");
    }
}
