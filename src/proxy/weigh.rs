//! Step 8, on the way back: whether what a registry answered may be passed on. Decides; reads no body.

use std::time::Duration;

use super::{choose::Stale, classify::Needs};
use crate::model::Position;

/// With what an attempt was sent off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What the request is about.
    pub needs: Needs,
    /// When it was chosen, on the clock that leases run on.
    pub at: Duration,
    /// The position that was needed then, if that was known for sure.
    pub needed: Option<Position>,
    /// Its answer may miss the last pushes, and is marked so.
    pub stale: Option<Stale>,
    /// The writer was asked: whatever it says is so.
    pub of_writer: bool,
    /// Registries are known by their lists.
    pub listing: bool,
    /// It shows a session, which may be known to the registry that made it alone.
    pub session: bool,
}

/// What the head of an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    /// It may be passed on.
    Good,
    /// It is older than what is needed, or does not say how old it is.
    Behind,
    /// What was asked for is not there, which only the writer can say of all registries: one that has every change of
    /// the repository may still be fetching a blob that was acknowledged.
    NotHere,
}

/// Weighs an answer by its status and the position that it is not older than.
pub fn weigh(asked: &Asked, status: u16, has: Option<Position>) -> Weighed {
    // An error says nothing about what the registry has.
    let shows = matches!(status, 200..=399 | 404);
    if asked.listing && asked.session && status == 401 && !asked.of_writer {
        return Weighed::NotHere;
    }
    if asked.of_writer || !shows {
        return Weighed::Good;
    }
    if asked.listing {
        // Lists are compared every few seconds, and files are copied one by one: only the writer says that something is
        // not there.
        let absent = status == 404 && !matches!(asked.needs, Needs::Nothing | Needs::Keys | Needs::Logs);
        return if absent { Weighed::NotHere } else { Weighed::Good };
    }
    let covers = asked.needed.is_some_and(|needed| has.is_some_and(|has| has >= needed));
    match (asked.needs, asked.stale) {
        (Needs::Nothing | Needs::Unsaid | Needs::Keys | Needs::Logs, _) => Weighed::Good,
        (Needs::Blob, _) if status == 404 => Weighed::NotHere,
        (Needs::Blob, _) => Weighed::Good,
        (Needs::Repository | Needs::All, Some(_)) if status == 404 => Weighed::NotHere,
        (Needs::Repository | Needs::All, Some(_)) => Weighed::Good,
        (Needs::Repository | Needs::All, None) if covers => Weighed::Good,
        (Needs::Repository | Needs::All, None) => Weighed::Behind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<Position> {
        text.parse().ok()
    }

    fn asked(needs: Needs, needed: &str) -> Asked {
        Asked {
            needs,
            at: Duration::ZERO,
            needed: at(needed),
            stale: None,
            of_writer: false,
            listing: false,
            session: false,
        }
    }

    #[test]
    fn an_answer_is_weighed_by_what_it_covers() {
        use Needs::{All, Blob, Nothing, Repository};
        use Weighed::{Behind, Good, NotHere};
        for (needs, needed, status, has, weighed) in [
            (Repository, "1.5", 200, "1.5", Good),
            (Repository, "1.5", 200, "2.1", Good),
            (Repository, "1.5", 200, "1.4", Behind),
            (Repository, "1.5", 200, "-", Behind),
            (Repository, "1.5", 404, "1.5", Good),
            (Repository, "1.5", 404, "1.4", Behind),
            (Repository, "1.5", 304, "1.4", Behind),
            (Repository, "1.5", 503, "-", Good),
            (All, "1.5", 200, "1.4", Behind),
            (Blob, "1.5", 200, "1.4", Good),
            (Blob, "1.5", 206, "-", Good),
            (Blob, "1.5", 404, "1.4", NotHere),
            (Blob, "1.5", 404, "1.5", NotHere),
            (Blob, "-", 404, "1.5", NotHere),
            (Nothing, "-", 404, "-", Good),
        ] {
            assert_eq!(
                weigh(&asked(needs, needed), status, at(has)),
                weighed,
                "{needs:?} {needed} {status} {has}"
            );
        }
    }

    #[test]
    fn by_lists_only_the_writer_says_that_something_is_not_there() {
        use Needs::{All, Blob, Keys, Logs, Nothing, Unsaid};
        for (needs, status, session, weighed) in [
            (All, 404, false, Weighed::NotHere),
            (Blob, 404, false, Weighed::NotHere),
            (Unsaid, 404, false, Weighed::NotHere),
            (Unsaid, 200, false, Weighed::Good),
            (All, 401, false, Weighed::Good),
            (All, 401, true, Weighed::NotHere),
            (Nothing, 401, true, Weighed::NotHere),
            (Nothing, 404, true, Weighed::Good),
            (Keys, 404, false, Weighed::Good),
            (Logs, 404, false, Weighed::Good),
            (All, 500, true, Weighed::Good),
        ] {
            let mut asked = Asked { listing: true, session, ..asked(needs, "-") };
            assert_eq!(weigh(&asked, status, None), weighed, "{needs:?} {status} {session}");
            asked.of_writer = true;
            assert_eq!(weigh(&asked, status, None), Weighed::Good, "{needs:?} {status} {session}");
        }
    }

    #[test]
    fn the_writer_is_always_right_and_a_stale_answer_never_says_not_found() {
        let mut writer = asked(Needs::Repository, "1.5");
        writer.of_writer = true;
        assert_eq!(weigh(&writer, 404, None), Weighed::Good);
        let mut stale = asked(Needs::Repository, "-");
        stale.stale = Some(Stale::Unknown);
        assert_eq!(weigh(&stale, 200, None), Weighed::Good);
        assert_eq!(weigh(&stale, 404, at("1.5")), Weighed::NotHere);
    }
}
