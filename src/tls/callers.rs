//! Certificates of callers that a proxy in front has seen, and passes on in headers. They are looked at again here: what
//! stands in a header is believed of nobody.

use std::sync::Arc;

use rustls::{
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::danger::ClientCertVerifier,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::{
    Denied, Problem, Trust, client,
    files::Reader,
    kept::{Kept, Made},
    pass, provider,
};
use crate::{clock, model::Timestamp};

/// Longest text of one name.
const NAME: usize = 256;

/// Most groups of one certificate.
const GROUPS: usize = 100;

/// Whose certificates are good. Cheap to clone; what one clone learns from new files, all have.
#[derive(Debug, Clone)]
pub struct Callers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    trust: Trust,
    kept: Kept<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    verifier: Arc<dyn ClientCertVerifier>,
    list_until: Option<Timestamp>,
}

/// By what the config says; not by what is in the files.
impl PartialEq for Callers {
    fn eq(&self, other: &Self) -> bool {
        self.0.trust == other.0.trust
    }
}

impl Eq for Callers {}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its common name.
    pub name: String,
    /// Its organizational units; its organizations if it has none.
    pub groups: Vec<String>,
}

/// Why a certificate in a header says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It is none.
    #[error("no certificate in PEM, percent-encoded")]
    Unreadable,
    /// It is not good.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It lacks a common name or an organization.
    #[error("certificate has no common name (CN), or no organization (O)")]
    Nameless,
}

impl Callers {
    /// Reads and checks the files. Errors hold all that is wrong.
    pub fn load(trust: Trust) -> Result<Self, Vec<Problem>> {
        let first = load(&trust)?;
        Ok(Self(Arc::new(Inner { trust, kept: Kept::new(first) })))
    }

    /// Looks at the files again, and takes what is new in them; whether anything was. Blocks while it reads. Errors leave
    /// everything as it was.
    pub fn refresh(&self) -> Result<bool, Vec<Problem>> {
        let Inner { trust, kept } = &*self.0;
        let paths: Vec<_> = std::iter::once(&*trust.ca).chain(trust.crl.as_deref()).collect();
        kept.refresh(&paths, || load(trust))
    }

    /// What the last look at the files has found wrong: those before them are in use.
    pub fn trouble(&self) -> Vec<Problem> {
        self.0.kept.trouble().clone()
    }

    /// When the first of the revocation lists is too old to be believed; from then on no certificate is good.
    pub fn list_until(&self) -> Option<Timestamp> {
        self.0.kept.now().it.list_until
    }

    /// Whose certificate this value of `Ssl-Client-Cert` is, if it is good now.
    pub fn look(&self, escaped: &str) -> Result<Caller, Unknown> {
        let pem = pass::unescaped(escaped).ok_or(Unknown::Unreadable)?;
        let leaf = CertificateDer::from_pem_slice(&pem).map_err(|_| Unknown::Unreadable)?;
        let seconds = u64::try_from(clock::wall().unix_seconds()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verified = self.0.kept.now().it.verifier.verify_client_cert(&leaf, &[], now);
        verified.map_err(|error| Denied::try_from(&error).unwrap_or(Denied::Other))?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| Unknown::Unreadable)?;
        caller(parsed.subject()).ok_or(Unknown::Nameless)
    }
}

pub(super) fn caller(subject: &X509Name<'_>) -> Option<Caller> {
    let text = |value: &str| value.chars().filter(|c| !c.is_control()).take(NAME).collect::<String>();
    let name = subject.iter_common_name().find_map(|cn| cn.as_str().ok()).map(text)?;
    let organizations: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(text).take(GROUPS).collect();
    let units: Vec<String> =
        subject.iter_organizational_unit().filter_map(|ou| ou.as_str().ok()).map(text).take(GROUPS).collect();
    if name.is_empty() || organizations.is_empty() {
        return None;
    }
    Some(Caller { name, groups: if units.is_empty() { organizations } else { units } })
}

fn load(trust: &Trust) -> Result<Made<Loaded>, Vec<Problem>> {
    let mut files = Reader::default();
    let (verifier, list_until) =
        client::verifier(&mut files, trust, provider(&[])).map_err(|one| vec![one])?;
    Ok(Made { of: files.digest(), it: Loaded { verifier, list_until } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::made::{Authority, write};

    /// `Ssl-Client-Cert` with this PEM.
    fn escaped(pem: &str) -> String {
        pass::escaped(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
    }

    #[test]
    fn a_good_certificate_names_its_holder_and_any_other_says_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
        let path = write(place.path(), "ca.pem", &ca.cert());
        let callers = Callers::load(Trust { ca: path, crl: None }).unwrap();
        let with = |of: &Authority, names: &[(&str, &str)]| escaped(&of.subject(names));
        let plain = with(&ca, &[("CN", "mac-07"), ("O", "node"), ("O", "team a")]);
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = Caller { name: "mac-07".into(), groups: groups(&["node", "team a"]) };
        assert_eq!(callers.look(&plain), Ok(expected));
        let units = with(&ca, &[("CN", "a"), ("O", "node"), ("OU", "x"), ("OU", "y")]);
        assert_eq!(callers.look(&units).unwrap().groups, groups(&["x", "y"]));
        for nameless in [&[("CN", "a")][..], &[("O", "node")], &[("CN", "a"), ("OU", "x")]] {
            assert_eq!(callers.look(&with(&ca, nameless)), Err(Unknown::Nameless), "{nameless:?}");
        }
        let forged = with(&other, &[("CN", "mac-07"), ("O", "node")]);
        assert!(matches!(callers.look(&forged), Err(Unknown::Denied(_))));
        let expired = escaped(&ca.expired_client("mac-07").cert);
        assert_eq!(callers.look(&expired), Err(Unknown::Denied(Denied::Expired)));
        for bad in ["", "x", "%", "%zz", &plain[..100]] {
            assert_eq!(callers.look(bad).unwrap_err(), Unknown::Unreadable, "{bad}");
        }
        // Another authority takes its place, as the file is.
        write(place.path(), "ca.pem", &other.cert());
        assert_eq!(callers.refresh(), Ok(true));
        assert!(callers.look(&forged).is_ok() && callers.look(&plain).is_err());
    }
}
