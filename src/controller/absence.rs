//! Who is silent, and what may be concluded from it. Pure: time comes in as an argument.
//!
//! Absence is only a hint from a presence key. It counts from the later of the last report and the moment since
//! when this controller could hear: the store in reach, the cache following it, this process running. Every
//! controller listens, so that a new leader of the duty knows at once what the old one knew.

use std::{collections::HashMap, time::Duration};

use crate::{controller::records::Absence, model::NodeId};

/// A pause between two looks that is longer than this was no looking: a suspended or starved process.
const DEAF_AFTER: Duration = Duration::from_secs(5);

/// Fewer silent nodes than this are no mass absence, whatever their share.
const MASS_AT_LEAST: usize = 3;

/// What this controller heard. Moments are times since boot, suspend included.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// How long a presence outlives the last report.
    ttl: Duration,
    since: Option<Duration>,
    looked: Duration,
    absent: HashMap<NodeId, Duration>,
}

impl Hearing {
    /// With presences that outlive the last report by `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, ..Self::default() }
    }

    /// Looks at all nodes: who has a presence. `live`: the cache shows what the store has.
    pub(super) fn look<'a>(
        &mut self,
        now: Duration,
        live: bool,
        nodes: impl Iterator<Item = (&'a NodeId, bool)>,
    ) {
        if !live {
            self.since = None;
        } else if self.since.is_none() || now.saturating_sub(self.looked) > DEAF_AFTER {
            self.since = Some(now);
            self.absent.clear();
        }
        self.looked = now;
        if !live {
            return;
        }
        let mut absent = HashMap::new();
        for (id, _) in nodes.filter(|(_, present)| !present) {
            let since = self.absent.get(id).copied().unwrap_or(now);
            absent.insert(id.clone(), since);
        }
        self.absent = absent;
    }

    /// Whether the node has no presence now, as far as was heard.
    pub(super) fn is_absent(&self, node: &NodeId) -> bool {
        self.since.is_some() && self.absent.contains_key(node)
    }

    /// How long the node has been silent for sure; zero while nothing can be heard.
    pub(super) fn silent_for(&self, node: &NodeId, now: Duration) -> Duration {
        let (Some(since), Some(absent)) = (self.since, self.absent.get(node)) else { return Duration::ZERO };
        (now.saturating_sub(*absent) + self.ttl).min(now.saturating_sub(since))
    }
}

/// A node as the judgement sees it.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    pub(super) node: NodeId,
    /// It has no presence.
    pub(super) absent: bool,
    /// Silent for so long, for sure.
    pub(super) silent_for: Duration,
    /// What was decided about it before.
    pub(super) decided: Option<Absence>,
}

/// What to decide now about nodes that have been silent for the whole `timeout`.
///
/// Nodes that are absent but not for so long yet count into the mass: those who fall silent together do not do so
/// in the same instant, and the first must not be failed before the others are seen.
pub(super) fn judge(nodes: &[Silence], timeout: Duration, share: f64) -> Vec<(NodeId, Absence)> {
    let open: Vec<&Silence> = nodes.iter().filter(|node| node.decided != Some(Absence::Lost)).collect();
    let absent = open.iter().filter(|node| node.absent).count();
    let mass = absent >= MASS_AT_LEAST && absent as f64 > share * open.len() as f64;
    let decision = if mass { Absence::Held } else { Absence::Lost };
    open.iter()
        .filter(|node| node.decided.is_none() && node.absent && node.silent_for >= timeout)
        .map(|node| (node.node.clone(), decision))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(120);
    const TTL: Duration = Duration::from_secs(40);

    fn node(n: usize) -> NodeId {
        NodeId::parse(format!("n{n}")).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    /// Looks every second from `from` to `to`; all nodes but these have a presence.
    fn listen(hearing: &mut Hearing, from: u64, to: u64, count: usize, absent: &[usize]) {
        let ids: Vec<NodeId> = (0..count).map(node).collect();
        for second in from..=to {
            let nodes = ids.iter().enumerate().map(|(n, id)| (id, !absent.contains(&n)));
            hearing.look(at(second), true, nodes);
        }
    }

    #[test]
    fn silence_counts_from_the_last_report() {
        let mut hearing = Hearing::new(TTL);
        listen(&mut hearing, 0, 200, 2, &[]);
        listen(&mut hearing, 201, 281, 2, &[1]);
        assert_eq!(hearing.silent_for(&node(0), at(281)), Duration::ZERO);
        assert_eq!(hearing.silent_for(&node(1), at(281)), Duration::from_secs(80) + TTL);
    }

    #[test]
    fn silence_never_counts_from_before_the_cluster_could_hear() {
        let mut hearing = Hearing::new(TTL);
        listen(&mut hearing, 0, 10, 1, &[0]);
        assert_eq!(hearing.silent_for(&node(0), at(10)), Duration::from_secs(10), "counted from our start");
        hearing.look(at(11), false, [].into_iter());
        assert_eq!(hearing.silent_for(&node(0), at(11)), Duration::ZERO, "deaf");
        listen(&mut hearing, 500, 505, 1, &[0]);
        assert_eq!(hearing.silent_for(&node(0), at(505)), Duration::from_secs(5), "counted from the return");
    }

    #[test]
    fn a_suspended_controller_has_not_listened() {
        let mut hearing = Hearing::new(TTL);
        listen(&mut hearing, 0, 100, 1, &[]);
        listen(&mut hearing, 4000, 4003, 1, &[0]);
        assert_eq!(hearing.silent_for(&node(0), at(4003)), Duration::from_secs(3));
    }

    fn silences(count: usize, absent: usize, silent: usize) -> Vec<Silence> {
        let one = |n| Silence {
            node: node(n),
            absent: n < absent,
            silent_for: if n < silent { TIMEOUT } else { Duration::ZERO },
            decided: None,
        };
        (0..count).map(one).collect()
    }

    fn decisions(nodes: &[Silence]) -> (usize, usize) {
        let decided = judge(nodes, TIMEOUT, 0.3);
        let count = |what| decided.iter().filter(|(_, absence)| *absence == what).count();
        (count(Absence::Lost), count(Absence::Held))
    }

    #[test]
    fn a_single_silent_node_is_lost_and_most_at_once_are_held() {
        assert_eq!(decisions(&silences(10, 1, 1)), (1, 0));
        assert_eq!(decisions(&silences(10, 3, 3)), (3, 0), "30 % are not more than 30 %");
        assert_eq!(decisions(&silences(10, 4, 4)), (0, 4));
        assert_eq!(decisions(&silences(2, 2, 2)), (2, 0), "two are not at least three");
        assert_eq!(decisions(&silences(3, 3, 3)), (0, 3));
    }

    #[test]
    fn the_first_of_many_is_not_lost_before_the_others_are_counted() {
        assert_eq!(decisions(&silences(10, 8, 1)), (0, 1));
    }

    #[test]
    fn nodes_given_up_long_ago_count_neither_way() {
        let mut nodes = silences(10, 5, 1);
        for gone in &mut nodes[1..5] {
            gone.decided = Some(Absence::Lost);
        }
        assert_eq!(decisions(&nodes), (1, 0));
    }

    #[test]
    fn held_nodes_stay_held_until_somebody_decides() {
        let mut nodes = silences(10, 4, 4);
        for held in &mut nodes[..4] {
            held.decided = Some(Absence::Held);
        }
        assert_eq!(decisions(&nodes), (0, 0));
    }
}
