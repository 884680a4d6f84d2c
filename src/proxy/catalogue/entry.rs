//! What a list says of one template, and what its versions are, kept as short as comparing needs.

use sha2::{Digest as _, Sha256};

/// Stands for a text of any length. Two texts with the same one are the same: nobody finds another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum([u8; 16]);

impl Sum {
    /// Of these parts, each for itself.
    pub fn of<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut short = [0; 16];
        short.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(short)
    }
}

/// One template of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Of everything in it but the dates: name, size, architecture.
    pub sum: Sum,
    /// When its newest version was pushed, in seconds; 0 if the list does not say. Older registries and the older list do
    /// not, and then an entry tells too little to compare by.
    pub pushed: i64,
}

impl Entry {
    /// Whether both are surely entries of the same.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self == other && self.pushed > 0
    }
}

/// The versions of a template. When it was pulled last is no part of them: each registry counts its own pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Of name, architecture, and each version's number, tag, files and sizes.
    pub sum: Sum,
    /// Of when each was pushed; `None` if the registry does not say it of every one.
    pub dates: Option<Sum>,
}

impl Versions {
    /// Whether both are the same versions. A tag that was pushed anew with the same layers has another date.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        let dated = self.dates.zip(other.dates);
        self.sum == other.sum && dated.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_summed_each_for_itself() {
        assert_eq!(Sum::of(["ab", "c"]), Sum::of(["ab", "c"]));
        assert_ne!(Sum::of(["ab", "c"]), Sum::of(["a", "bc"]));
        assert_ne!(Sum::of(["a", ""]), Sum::of(["a"]));
    }

    #[test]
    fn an_entry_without_a_date_says_too_little() {
        let entry = |pushed| Entry { sum: Sum::of(["x"]), pushed };
        assert!(entry(7).says_the_same(&entry(7)));
        assert!(!entry(7).says_the_same(&entry(8)));
        assert!(!entry(0).says_the_same(&entry(0)));
    }

    #[test]
    fn dates_count_where_both_say_them() {
        let versions =
            |date: &str| Versions { sum: Sum::of(["x"]), dates: (!date.is_empty()).then(|| Sum::of([date])) };
        for (ours, theirs, same) in [("1", "1", true), ("1", "2", false), ("", "2", true), ("1", "", true)] {
            assert_eq!(versions(ours).are_those_of(&versions(theirs)), same, "{ours} {theirs}");
        }
    }
}
