//! Whether the registry that the config calls the writer is the writer, by what the registries say of themselves. Pure.

use crate::wire::replication::Role;

/// What each registry of a service said last.
#[derive(Debug)]
pub(super) struct Reign {
    /// Place of the one that is configured.
    writer: usize,
    names: Vec<String>,
    says: Vec<Option<Says>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Says {
    role: Role,
    epoch: u64,
}

impl Reign {
    /// Nobody has said anything.
    pub(super) fn new(writer: usize, names: Vec<String>) -> Self {
        Self { writer, says: vec![None; names.len()], names }
    }

    /// One says what it is, and in which reign.
    pub(super) fn told(&mut self, place: usize, role: Role, epoch: u64) {
        if let Some(says) = self.says.get_mut(place) {
            *says = Some(Says { role, epoch });
        }
    }

    /// Why the configured one is not believed, and what to do; `None` while it is. It says itself that it is a
    /// replica, or another one says that it has opened a later reign.
    pub(super) fn deposed(&self) -> Option<String> {
        let configured = self.says.get(self.writer).copied().flatten()?;
        let of = |place: usize| self.names.get(place).map_or("", String::as_str);
        let name = of(self.writer);
        let others = self.says.iter().enumerate().filter(|(place, _)| *place != self.writer);
        let writers = others
            .filter_map(|(place, says)| says.filter(|s| s.role == Role::Writer).map(|s| (s.epoch, place)));
        let newest = writers.max();
        match (configured.role, newest) {
            (Role::Replica, None) => Some(format!(
                "`{name}` is configured as the writer and says that it is a replica: name the registry that takes \
                 writes as `writer`, and reload"
            )),
            (Role::Replica, Some((_, other))) => Some(format!(
                "`{name}` is configured as the writer and says that it is a replica, and `{0}` says that it is the \
                 writer: reload with `writer = \"{0}\"`",
                of(other)
            )),
            (Role::Writer, Some((epoch, other))) if epoch > configured.epoch => Some(format!(
                "`{name}` is configured as the writer, and `{0}` says that it has become the writer since (reign \
                 {epoch}, and {1} is that of `{name}`): reload with `writer = \"{0}\"`",
                of(other),
                configured.epoch
            )),
            (Role::Writer, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By place: `w2` says that it is the writer in reign 2, `r2` that it is a replica, `-` nothing.
    fn check(says: &[&str], expected: Option<&str>) {
        let mut reign = Reign::new(0, (0..says.len()).map(|place| format!("u{place}")).collect());
        for (place, says) in says.iter().enumerate().filter(|(_, says)| **says != "-") {
            let role = if says.starts_with('w') { Role::Writer } else { Role::Replica };
            reign.told(place, role, says[1..].parse().unwrap());
        }
        let deposed = reign.deposed();
        assert_eq!(deposed.is_some(), expected.is_some(), "{says:?}: {deposed:?}");
        assert!(deposed.unwrap_or_default().contains(expected.unwrap_or_default()), "{says:?}");
    }

    #[test]
    fn the_configured_writer_is_believed_until_it_or_a_later_one_says_otherwise() {
        check(&["-", "w9"], None);
        check(&["w1", "r1"], None);
        check(&["w1", "r2"], None);
        check(&["w2", "w2"], None);
        check(&["w3", "w2"], None);
        check(&["r1", "r1"], Some("says that it is a replica: name"));
        check(&["r2", "r2", "w2"], Some("reload with `writer = \"u2\"`"));
        check(&["w1", "w2", "w3"], Some("(reign 3, and 1 is that of `u0`): reload with `writer = \"u2\"`"));
    }
}
