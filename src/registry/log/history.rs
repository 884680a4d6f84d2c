//! Which history a log holds, and whether another's position is in it. Pure.

use crate::{
    model::{Mark, Position},
    wire::replication::Epoch,
};

/// Where a log begins and ends, and its reigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Entries behind this are kept; what was before is in the catalogue alone.
    pub base: Position,
    /// The log's mark there.
    pub base_mark: Mark,
    /// The newest entry; the base if there is none.
    pub head: Position,
    /// The log's mark there.
    pub mark: Mark,
    /// In order; kept for ever.
    pub epochs: Vec<Epoch>,
}

/// Where an asked position lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this history as far as positions tell; its mark decides.
    Within,
    /// Older than what is kept.
    Compacted,
    /// In another history.
    Foreign {
        /// Nothing behind this is common; `None` when that cannot be told.
        common: Option<Position>,
    },
}

impl Default for History {
    fn default() -> Self {
        Self {
            base: Position::ZERO,
            base_mark: Mark::ZERO,
            head: Position::ZERO,
            mark: Mark::ZERO,
            epochs: Vec::new(),
        }
    }
}

impl History {
    /// Where `asked` lies.
    pub fn place(&self, asked: Position) -> Place {
        let end = self.end_of_reign(asked.epoch);
        if asked > end {
            return Place::Foreign { common: Some(end) };
        }
        if asked < self.base { Place::Compacted } else { Place::Within }
    }

    /// The last position of this history that is not behind that reign.
    fn end_of_reign(&self, epoch: u64) -> Position {
        let next = self.epochs.iter().find(|one| one.epoch > epoch);
        next.map_or(self.head, |next| next.after)
    }

    /// The newest reign.
    pub fn epoch(&self) -> u64 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    /// Takes one more entry into account.
    pub fn push(&mut self, position: Position, line: &[u8], opened: Option<&Epoch>) {
        self.mark = self.mark.then(line);
        self.head = position;
        self.epochs.extend(opened.cloned());
        debug_assert!(self.holds());
    }

    /// Order holds everywhere, and the head is of the newest reign.
    pub fn holds(&self) -> bool {
        let reigns =
            self.epochs.windows(2).all(|two| two[0].epoch < two[1].epoch && two[0].after <= two[1].after);
        let begun =
            self.epochs.last().is_none_or(|last| last.after <= self.head && self.head.epoch <= last.epoch);
        reigns && begun && self.base <= self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn reign(epoch: u64, after: &str) -> Epoch {
        Epoch { epoch, after: at(after), writer: "w".into(), id: epoch.to_string() }
    }

    fn history() -> History {
        History {
            base: at("1.10"),
            head: at("3.7"),
            epochs: vec![reign(1, "0.0"), reign(2, "1.50"), reign(3, "2.4")],
            ..History::default()
        }
    }

    #[test]
    fn a_position_is_within_compacted_or_of_another_history() {
        let history = history();
        assert!(history.holds());
        for (asked, place) in [
            ("3.7", Place::Within),
            ("1.50", Place::Within),
            ("2.4", Place::Within),
            ("1.10", Place::Within),
            ("1.9", Place::Compacted),
            ("0.0", Place::Compacted),
            ("3.8", Place::Foreign { common: Some(at("3.7")) }),
            ("4.1", Place::Foreign { common: Some(at("3.7")) }),
            ("1.57", Place::Foreign { common: Some(at("1.50")) }),
            ("2.5", Place::Foreign { common: Some(at("2.4")) }),
        ] {
            assert_eq!(history.place(at(asked)), place, "{asked}");
        }
    }

    #[test]
    fn an_empty_log_knows_nothing_but_its_beginning() {
        assert_eq!(History::default().place(Position::ZERO), Place::Within);
        assert_eq!(History::default().place(at("1.1")), Place::Foreign { common: Some(Position::ZERO) });
    }
}
