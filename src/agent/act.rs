//! What to do about one VM: wanted × seen → action, one table. Pure.
//!
//! The table has no `_` arm: a new state does not compile until every pair is answered. Carrying an action out
//! changes what is seen, and the table is asked again, so a restart and a normal run take the same path.

use crate::model::Attempt;

/// What should become of a VM here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It should run: an offer was taken.
    Running,
    /// It should be stopped and deleted, and its end be told until the controller has noted it.
    Gone,
    /// It is not ours, or its end has been noted: nothing of it should be left, and nobody waits to hear.
    Forgotten,
}

/// What there is of a VM here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// An offer, not yet claimed.
    Offered,
    /// Claimed; its template may be missing.
    Claimed,
    /// Claimed, and its template is on disk and pinned.
    Pulled,
    /// The controller let us start it; no process yet.
    Granted,
    /// It runs; its script does not.
    Booted,
    /// It runs, and its script, if monitored, has succeeded.
    Running,
    /// It failed, and this is left of it.
    Failed(Left),
    /// Stopped and deleted, as asked.
    Gone,
}

/// What is left of a failed VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// Its files; it does not run.
    Stopped,
    /// It runs: its script failed and it was to be kept.
    Running,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Wait for something to change.
    Nothing,
    /// Ask for the offer.
    Claim,
    /// Bring the template here.
    Pull,
    /// Ask whether it may be started now.
    AskToStart,
    /// Start it.
    Boot,
    /// Run its script, or go on without one.
    Script,
    /// Stop it, delete it, unpin its template.
    Delete,
    /// Strike it from the journal and from all lists.
    Forget,
}

/// The table.
pub(super) fn act(wanted: Wanted, seen: Seen) -> Action {
    match (wanted, seen) {
        (Wanted::Running, Seen::Offered) => Action::Claim,
        (Wanted::Running, Seen::Claimed) => Action::Pull,
        (Wanted::Running, Seen::Pulled) => Action::AskToStart,
        (Wanted::Running, Seen::Granted) => Action::Boot,
        (Wanted::Running, Seen::Booted) => Action::Script,
        (Wanted::Running, Seen::Running) => Action::Nothing,
        // A failed start is told, never tried again: whoever started it decides.
        (Wanted::Running, Seen::Failed(Left::Nothing | Left::Stopped | Left::Running) | Seen::Gone) => {
            Action::Nothing
        }
        (
            Wanted::Gone | Wanted::Forgotten,
            Seen::Offered
            | Seen::Claimed
            | Seen::Pulled
            | Seen::Granted
            | Seen::Booted
            | Seen::Running
            | Seen::Failed(Left::Stopped | Left::Running),
        ) => Action::Delete,
        // Its disk is clean already, but what must be told now is that it is gone.
        (Wanted::Gone, Seen::Failed(Left::Nothing)) => Action::Delete,
        (Wanted::Gone, Seen::Gone) => Action::Nothing,
        (Wanted::Forgotten, Seen::Failed(Left::Nothing) | Seen::Gone) => Action::Forget,
    }
}

/// What an offer means beside what there is of the same instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnOffer {
    /// Take it.
    Take,
    /// Clear the older attempt away first, then take it.
    After,
    /// Known already, or older than what is here.
    Ignore,
}

/// Weighs an offer against the attempt that is here, if one is.
pub(super) fn on_offer(here: Option<Attempt>, offered: Attempt) -> OnOffer {
    match here {
        None => OnOffer::Take,
        Some(here) if here < offered => OnOffer::After,
        Some(_) => OnOffer::Ignore,
    }
}

/// What an order to stop means for what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnStop {
    /// Want it gone.
    Stop,
    /// It is not here: tell that.
    TellGone,
    /// What is here is newer than what was meant.
    Ignore,
}

/// Weighs an order to stop against the attempt that is here, if one is.
pub(super) fn on_stop(here: Option<Attempt>, asked: Attempt) -> OnStop {
    match here {
        None => OnStop::TellGone,
        Some(here) if here <= asked => OnStop::Stop,
        Some(_) => OnStop::Ignore,
    }
}

/// What follows from the controller's word that it has noted an end.
pub(super) fn on_noted(wanted: Wanted, seen: Seen) -> Wanted {
    match seen {
        Seen::Gone | Seen::Failed(Left::Nothing) => Wanted::Forgotten,
        // Something is left of it: it stays listed until it is to be deleted.
        Seen::Failed(Left::Stopped | Left::Running) => wanted,
        // The word is about an end, and this has not ended.
        Seen::Offered | Seen::Claimed | Seen::Pulled | Seen::Granted | Seen::Booted | Seen::Running => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [Wanted; 3] = [Wanted::Running, Wanted::Gone, Wanted::Forgotten];
    const SEEN: [Seen; 10] = [
        Seen::Offered,
        Seen::Claimed,
        Seen::Pulled,
        Seen::Granted,
        Seen::Booted,
        Seen::Running,
        Seen::Failed(Left::Nothing),
        Seen::Failed(Left::Stopped),
        Seen::Failed(Left::Running),
        Seen::Gone,
    ];

    #[test]
    fn every_pair_has_the_action_it_should_have() {
        use Action::*;
        let expected = [
            [Claim, Pull, AskToStart, Boot, Script, Nothing, Nothing, Nothing, Nothing, Nothing],
            [Delete, Delete, Delete, Delete, Delete, Delete, Delete, Delete, Delete, Nothing],
            [Delete, Delete, Delete, Delete, Delete, Delete, Forget, Delete, Delete, Forget],
        ];
        for (wanted, row) in WANTED.into_iter().zip(expected) {
            for (seen, action) in SEEN.into_iter().zip(row) {
                assert_eq!(act(wanted, seen), action, "{wanted:?} × {seen:?}");
            }
        }
    }

    /// What an action that went well leaves behind.
    fn after(action: Action, seen: Seen) -> Option<Seen> {
        Some(match action {
            Action::Nothing => seen,
            Action::Claim => Seen::Claimed,
            Action::Pull => Seen::Pulled,
            Action::AskToStart => Seen::Granted,
            Action::Boot => Seen::Booted,
            Action::Script => Seen::Running,
            Action::Delete => Seen::Gone,
            Action::Forget => return None,
        })
    }

    #[test]
    fn from_everywhere_the_wish_is_reached_and_then_there_is_rest() {
        for wanted in WANTED {
            for start in SEEN {
                let mut seen = Some(start);
                for _ in 0..SEEN.len() {
                    seen = seen.and_then(|seen| after(act(wanted, seen), seen));
                }
                match wanted {
                    Wanted::Forgotten => assert_eq!(seen, None, "{start:?}"),
                    Wanted::Gone => assert_eq!(seen, Some(Seen::Gone), "{start:?}"),
                    Wanted::Running => {
                        let seen = seen.unwrap();
                        assert_eq!(act(wanted, seen), Action::Nothing);
                        assert_eq!(seen == Seen::Running, !matches!(start, Seen::Failed(_) | Seen::Gone));
                    }
                }
            }
        }
    }

    #[test]
    fn an_older_attempt_gives_way_and_a_newer_one_is_never_touched() {
        assert_eq!(on_offer(None, 1), OnOffer::Take);
        assert_eq!(on_offer(Some(1), 2), OnOffer::After);
        assert_eq!(on_offer(Some(2), 2), OnOffer::Ignore);
        assert_eq!(on_offer(Some(3), 2), OnOffer::Ignore);

        assert_eq!(on_stop(None, 2), OnStop::TellGone);
        assert_eq!(on_stop(Some(1), 2), OnStop::Stop);
        assert_eq!(on_stop(Some(2), 2), OnStop::Stop);
        assert_eq!(on_stop(Some(3), 2), OnStop::Ignore);
    }

    #[test]
    fn an_end_that_was_noted_is_forgotten_only_when_nothing_is_left() {
        for wanted in WANTED {
            for seen in SEEN {
                let over = matches!(seen, Seen::Gone | Seen::Failed(Left::Nothing));
                let expected = if over { Wanted::Forgotten } else { wanted };
                assert_eq!(on_noted(wanted, seen), expected, "{seen:?}");
            }
        }
    }
}
