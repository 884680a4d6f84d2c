//! Cipher suites by the names that the IANA gave them.

use rustls::{ProtocolVersion, SupportedCipherSuite};

/// A suite that is safe to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suite(pub(super) SupportedCipherSuite);

/// There is one of each name.
impl Eq for Suite {}

impl Suite {
    /// Finds it by its name, such as `TLS_AES_128_GCM_SHA256`.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|suite| suite.name() == name)
    }

    /// Every one that may be named.
    pub fn all() -> impl Iterator<Item = Self> {
        rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.iter().copied().map(Self)
    }

    /// Its name.
    pub fn name(self) -> String {
        // The library tells those of TLS 1.3 apart by a prefix of its own.
        let name = self.0.suite().as_str().unwrap_or_default();
        name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
    }

    /// Whether it is one of TLS 1.3; the others are of 1.2.
    pub fn is_of_13(self) -> bool {
        self.0.version().version == ProtocolVersion::TLSv1_3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_go_by_their_standard_names() {
        assert!(Suite::named("TLS_AES_128_GCM_SHA256").unwrap().is_of_13());
        assert!(!Suite::named("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256").unwrap().is_of_13());
        for unsafe_or_unknown in ["TLS13_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA", ""] {
            assert_eq!(Suite::named(unsafe_or_unknown), None, "{unsafe_or_unknown}");
        }
        for suite in Suite::all() {
            assert_eq!(Suite::named(&suite.name()), Some(suite));
        }
    }
}
