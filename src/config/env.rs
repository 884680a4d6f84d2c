//! Variables that override keys: ours by rule, the vendor's by table.

use std::collections::BTreeMap;

/// The environment, given as a value so that a test can make one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// That of this process. Variables that are no UTF-8 cannot be ours and are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// One variable, trimmed.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// All variables whose name begins so.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(move |(name, _)| name.starts_with(prefix)).map(|(n, v)| (n.as_str(), v.trim()))
    }
}

impl FromIterator<(String, String)> for Env {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Variables that the command line reads, where it asks others; they set no key of a role.
pub(super) const OF_COMMANDS: [&str; 8] = [
    "SWITCHYARD_ADMIN_TOKEN",
    "SWITCHYARD_CA",
    "SWITCHYARD_CERT",
    "SWITCHYARD_CONTROLLER",
    "SWITCHYARD_KEY",
    "SWITCHYARD_REGISTRY",
    "SWITCHYARD_ROOT_TOKEN",
    "SWITCHYARD_SERVER_NAME",
];

/// What became of a variable; logged at start. It never holds the value: some are secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvNote {
    /// The variable.
    pub variable: String,
    /// Whether it had an effect.
    pub honoured: bool,
    /// Which key it set, or why it was ignored.
    pub text: String,
}

/// `SWITCHYARD_<SECTION>_<KEY>`.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}_{}", section.to_ascii_uppercase(), key.to_ascii_uppercase())
}

/// What our own variables begin with.
pub(super) const PREFIX: &str = "SWITCHYARD_";
