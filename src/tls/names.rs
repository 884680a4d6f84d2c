//! Which certificate a client gets: the one for the name that it asks for.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// A listener's certificates by the names in them.
#[derive(Debug)]
pub(super) struct ByName {
    /// In config order.
    pairs: Vec<Arc<CertifiedKey>>,
    /// Places of those for a name, lower case; a wildcard's stand under what is behind its `*`, with the dot.
    names: HashMap<String, Vec<usize>>,
}

impl ByName {
    /// Of these, each with the names in its certificate; at least one.
    pub(super) fn new(pairs: Vec<(Arc<CertifiedKey>, Vec<String>)>) -> Self {
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        let mut kept = Vec::with_capacity(pairs.len());
        for (place, (pair, of)) in pairs.into_iter().enumerate() {
            for name in of {
                let name = name.to_ascii_lowercase();
                let key = name.strip_prefix('*').map_or(name.as_str(), |behind| behind);
                let places = names.entry(key.to_owned()).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
            kept.push(pair);
        }
        Self { pairs: kept, names }
    }

    /// Places of the certificates for a name, the one in config order first: those that have the name itself before
    /// wildcards, and the first of all if there are none.
    fn places(&self, name: Option<&str>) -> &[usize] {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let whole = self.names.get(name.as_str());
            // RFC 6125 §6.4.3: a wildcard is one whole label, the leftmost.
            whole.or_else(|| self.names.get(name.get(name.find('.')?..)?))
        });
        found.map_or(&[0], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let places = self.places(hello.server_name());
        let pairs = || places.iter().filter_map(|place| self.pairs.get(*place));
        // Of several for one name the first that the client can check: keys of two kinds may stand side by side.
        let fits = pairs().find(|pair| pair.key.choose_scheme(hello.signature_schemes()).is_some());
        fits.or_else(|| pairs().next()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

    use super::*;
    use crate::tls::made::{Authority, Made};

    fn certified(made: &Made) -> Arc<CertifiedKey> {
        let provider = crate::tls::provider(&[]);
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        Arc::new(CertifiedKey::from_der(vec![made.der.clone().into()], key, &provider).unwrap())
    }

    fn check(name: Option<&str>, expected: &[usize]) {
        let ca = Authority::new("ca");
        let pair = |names: &[&str]| (certified(&ca.leaf(names)), names.iter().map(|n| (*n).into()).collect());
        let by_name = ByName::new(vec![
            pair(&["front.example"]),
            pair(&["*.ci.example", "ci.example"]),
            pair(&["Exact.ci.example"]),
            pair(&["exact.ci.example"]),
        ]);
        assert_eq!(by_name.places(name), expected, "{name:?}");
    }

    #[test]
    fn the_name_decides_and_wildcards_stand_for_one_label() {
        check(Some("front.example"), &[0]);
        check(Some("a.ci.example"), &[1]);
        check(Some("A.CI.example"), &[1]);
        check(Some("ci.example"), &[1]);
        check(Some("exact.ci.example"), &[2, 3]);
    }

    #[test]
    fn whoever_asks_for_no_known_name_gets_the_first() {
        for name in [None, Some("other.example"), Some("a.b.ci.example"), Some("example"), Some("")] {
            check(name, &[0]);
        }
    }
}
