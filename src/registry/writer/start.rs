//! Before its first write, a writer asks its peers whether their history is newer than its own: one of them may have
//! been made the writer while it was away, or its own storage may be a new or an older one.

use std::time::Duration;

use super::Writes;
use crate::{
    client::{Credentials, replication::Replication},
    config::BaseUrl,
    model::Position,
    registry::journal::Journal,
    supervise::Stop,
    wire::replication::{Role, State},
};

/// Between two rounds of asking.
const EVERY: Duration = Duration::from_secs(1);

/// For a connect to a peer, and for its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks until the answer is clear: then writes are taken, or the reason why not stands in every refusal. Until then this
/// writer serves what it has, claims nothing, and moves nobody's history.
pub async fn run(
    name: String,
    journal: Journal,
    (peers, credentials): (Vec<BaseUrl>, Credentials),
    stop: Stop,
) {
    loop {
        let mut said = Vec::with_capacity(peers.len());
        for peer in &peers {
            said.push((peer, ask(peer, &credentials).await));
        }
        let own = Own {
            name: &name,
            position: journal.at().position,
            epoch: journal.epochs().last().map_or(0, |epoch| epoch.epoch),
            covers: &|position| journal.covers(position),
        };
        let verdict = judge(&own, &said);
        let writes = match &verdict {
            Verdict::Write { above } => match begin(&journal, &name, *above).await {
                Ok(()) => Writes::Taken,
                Err(why) => Writes::NotNow(why),
            },
            Verdict::Wait(why) => {
                journal.unsettle();
                Writes::NotNow(why.clone())
            }
            // What it shows is not what there is.
            Verdict::Superseded(why) => {
                journal.doubt(Some(why.clone()));
                Writes::NotNow(why.clone())
            }
        };
        let taken = writes == Writes::Taken;
        if writes != journal.writer().writes() {
            match &writes {
                Writes::Taken => tracing::info!("peers were asked: writes are taken"),
                Writes::NotNow(why) | Writes::Never(why) => tracing::error!(why, "writes are not taken"),
            }
            journal.writer().set_writes(writes);
        }
        if taken {
            return;
        }
        tokio::select! {
            () = stop.requested() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// With a peer that could not be asked, positions of this reign may have been given before: it begins another one.
async fn begin(journal: &Journal, name: &str, above: Option<u64>) -> Result<(), String> {
    if let Some(above) = above {
        journal
            .reign(name.to_owned(), above)
            .await
            .map_err(|error| format!("no epoch could be begun: {error}"))?;
    }
    journal.doubt(None);
    Ok(())
}

/// The newest epoch that any of them has seen, as far as they can be reached.
pub async fn newest_epoch(peers: &[BaseUrl], credentials: &Credentials) -> u64 {
    let mut newest = 0;
    for peer in peers {
        match ask(peer, credentials).await {
            Ok(state) => newest = newest.max(state.epoch),
            Err(error) => tracing::warn!(peer = %peer, error, "peer could not be asked for its epoch"),
        }
    }
    newest
}

async fn ask(peer: &BaseUrl, credentials: &Credentials) -> Result<State, String> {
    let client = Replication::new(peer.clone(), credentials, PATIENCE, PATIENCE);
    let client = client.map_err(|error| error.to_string())?;
    client.state(None, Duration::ZERO).await.map_err(|error| error.to_string())
}

struct Own<'j> {
    name: &'j str,
    position: Position,
    epoch: u64,
    /// Whether a position is in its history.
    covers: &'j (dyn Fn(Position) -> bool + Sync),
}

/// What the peers' words come to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It may write; in a reign above this epoch, if one is given.
    Write {
        /// Not every peer could be asked.
        above: Option<u64>,
    },
    /// Nobody can say so yet.
    Wait(String),
    /// There is a newer history: it may neither write nor be believed.
    Superseded(String),
}

/// Whether to write, by what the peers say. Pure.
fn judge(own: &Own<'_>, said: &[(&BaseUrl, Result<State, String>)]) -> Verdict {
    let answered = said.iter().filter_map(|(peer, state)| state.as_ref().ok().map(|state| (peer, state)));
    let (mut reached, mut newest_epoch) = (0, own.epoch);
    for (peer, state) in answered {
        if state.registry == own.name {
            return Verdict::Wait(format!("`{peer}` is this registry itself: take it out of `peers`"));
        }
        reached += 1;
        newest_epoch = newest_epoch.max(state.epoch);
        if state.role == Role::Writer || state.epoch > own.epoch {
            let is = if state.role == Role::Writer { "is a writer" } else { "has seen a writer" };
            return Verdict::Superseded(format!(
                "`{peer}` ({}) {is} of epoch {}, and this one is of epoch {}: write `role = \"replica\"` in the one \
                 that is not to take pushes, or start this one with `--alone` if nobody else writes",
                state.registry, state.epoch, own.epoch
            ));
        }
        // What older reigns left elsewhere was decided on when this one took its first change.
        let decided = state.epoch < own.epoch && own.position.seq > 1;
        let newest = state.position.max(state.unconfirmed).max(state.head);
        if let Some(newest) = newest.filter(|newest| !decided && !(own.covers)(*newest)) {
            return Verdict::Superseded(format!(
                "`{peer}` ({name}) has changes up to {newest}, which this one, at {}, does not have: was its storage \
                 lost or restored, or was `{name}` further when this one was made the writer? Make `{name}` the \
                 writer, or start this one with `--alone` to go on without those changes",
                own.position,
                name = state.registry,
            ));
        }
    }
    if reached == 0 {
        let why = said.iter().map(|(peer, state)| match state {
            Err(why) => format!("`{peer}`: {why}"),
            Ok(_) => format!("`{peer}`"),
        });
        return Verdict::Wait(format!(
            "none of its peers can be reached, and one of them may have been made the writer ({}); start it with \
             `--alone` if nobody else writes",
            why.collect::<Vec<_>>().join("; ")
        ));
    }
    Verdict::Write { above: (reached < said.len()).then_some(newest_epoch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::replication::Lag;

    fn state(role: Role, epoch: u64, position: &str) -> State {
        State {
            registry: "r2".into(),
            role,
            position: Some(position.parse().unwrap()),
            unconfirmed: None,
            head: None,
            epoch,
            lag: Lag::default(),
            read: true,
            write: false,
            why: Vec::new(),
            fetching: Vec::new(),
            peers: Vec::new(),
            followers: Vec::new(),
            aside: Vec::new(),
        }
    }

    fn check(said: Vec<Result<State, String>>) -> Option<String> {
        check_at("2.7", said)
    }

    fn check_at(end: &str, said: Vec<Result<State, String>>) -> Option<String> {
        let peer: BaseUrl = "http://r2:8089".parse().unwrap();
        let (end, before) = (end.parse().unwrap(), "1.50".parse().unwrap());
        let covers = |position: Position| position <= end && (position.epoch == 2 || position <= before);
        let own = Own { name: "r1", position: end, epoch: 2, covers: &covers };
        let said: Vec<_> = said.into_iter().map(|state| (&peer, state)).collect();
        match judge(&own, &said) {
            Verdict::Write { above } => above.map(|above| format!("above {above}")),
            Verdict::Wait(why) | Verdict::Superseded(why) => Some(why),
        }
    }

    #[test]
    fn one_peer_that_knows_nothing_newer_is_enough() {
        assert_eq!(check(vec![Ok(state(Role::Replica, 2, "2.7"))]), None);
        let one = check(vec![Err("refused".into()), Ok(state(Role::Replica, 1, "1.50"))]);
        assert_eq!(one.as_deref(), Some("above 2"), "not every peer was asked: a reign of its own");
    }

    #[test]
    fn what_an_older_reign_left_elsewhere_counts_until_this_one_has_changes() {
        let further = || vec![Ok(state(Role::Replica, 1, "1.51"))];
        assert!(check_at("2.1", further()).unwrap().contains("up to 1.51"));
        assert_eq!(check_at("2.2", further()), None);
        let mut silent = state(Role::Replica, 1, "1.51");
        (silent.position, silent.unconfirmed) = (None, silent.position);
        assert!(check_at("2.1", vec![Ok(silent)]).unwrap().contains("up to 1.51"));
    }

    #[test]
    fn a_newer_reign_a_second_writer_and_a_longer_history_are_named() {
        for (said, words) in [
            (Ok(state(Role::Replica, 3, "3.1")), "epoch 3"),
            (Ok(state(Role::Writer, 2, "2.1")), "is a writer of epoch 2"),
            (Ok(state(Role::Writer, 1, "1.1")), "is a writer of epoch 1"),
            (Ok(state(Role::Replica, 2, "2.9")), "up to 2.9"),
            (Err("connection refused".into()), "connection refused"),
        ] {
            let why = check(vec![said]).unwrap();
            assert!(why.contains(words) && why.contains("--alone"), "{why}");
        }
    }
}
