//! Which controllers may work on a store.
//!
//! A version whose records older controllers cannot work beside (not one that merely has more of them: those they leave
//! alone) writes this before it writes anything else. This one is such a version of none, so it only reads it.

use serde::Deserialize;

/// What the key holds, of any version. What else a newer controller writes there is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Schema {
    /// The oldest version of records that a controller has to know; see [`super::VERSION`].
    pub needs: u32,
}

impl Schema {
    /// What a stored value says; what cannot be read needs more than anybody knows.
    pub fn read(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or(Self { needs: u32::MAX })
    }

    /// Why a controller that knows records up to `version` must leave the store alone, if it must.
    pub fn forbids(self, version: u32) -> Option<String> {
        let needs = match self.needs {
            needs if needs <= version => return None,
            u32::MAX => "records that this one cannot even read the version of".to_owned(),
            needs => format!("version {needs} of its records"),
        };
        Some(format!(
            "the store was written by a newer version and needs controllers that know {needs}; this one knows version \
             {version}, reads and writes nothing there, and serves nothing: install the newer version here as well"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_newer_version_is_left_alone_and_says_what_it_needs() {
        assert_eq!(Schema::read(br#"{"v":1,"needs":1}"#).forbids(1), None);
        assert_eq!(Schema::read(br#"{"needs":0}"#).forbids(1), None);
        let why = Schema::read(br#"{"v":2,"w":"x","needs":2,"more":[]}"#).forbids(1).unwrap();
        assert!(why.contains("know version 2 of its records; this one knows version 1"), "{why}");
        for strange in [&b""[..], b"{}", b"null", br#"{"needs":"2"}"#, b"\xff"] {
            assert!(
                Schema::read(strange).forbids(1).is_some_and(|why| why.contains("cannot even read")),
                "{strange:?}"
            );
        }
    }
}
