//! From files to certificates, keys and lists, and to what is wrong with them.

use std::{fs, io::Read, path::Path, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use super::Pair;
use crate::model::Timestamp;

/// A longer file is not read: lists of large authorities have a few MiB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What a problem is with: the key that names the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of the pair at this place.
    Cert(usize),
    /// Of the pair at this place.
    Key(usize),
    /// The authorities: `client_ca` of a listener, `ca` of a service.
    Authorities,
    /// The lists of what was revoked.
    Lists,
    /// All of it together.
    Whole,
}

/// What is wrong with a file, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` {what}: {right}")]
pub struct Problem {
    /// With which one.
    pub part: Part,
    /// The file.
    pub name: String,
    /// Follows the file's name.
    pub what: String,
    /// What would be right.
    pub right: String,
}

/// All of them in one line.
pub fn in_words(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Files that are in use are looked at so often, for renewed ones.
pub const LOOK: Duration = Duration::from_secs(5);

/// So many looks are a day: between two words in the log about what ends soon.
pub const LOOKS_A_DAY: u32 = 24 * 3600 / LOOK.as_secs() as u32;

/// Whether it is to be said now that something ends then, or has ended: a week before.
pub fn ends_soon(until: Timestamp, now: Timestamp) -> bool {
    until < now.plus(Duration::from_secs(7 * 24 * 3600))
}

/// What tells the contents of files from any other.
pub(super) type Digest = [u8; 32];

/// Of these files, in this order; `None` if one of them cannot be read.
pub(super) fn digest(paths: &[&Path]) -> Option<Digest> {
    let mut files = Reader::default();
    let whole = paths.iter().all(|path| files.read(path, Part::Whole).is_ok());
    whole.then(|| files.digest())
}

/// Reads files, and remembers what was in them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    digest: Sha256,
}

/// A certificate as it is used, and what is told of it.
#[derive(Debug)]
pub(super) struct Certified {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    pub(super) until: Timestamp,
}

impl Reader {
    /// Of what was read so far.
    pub(super) fn digest(self) -> Digest {
        self.digest.finalize().into()
    }

    fn read(&mut self, path: &Path, part: Part) -> Result<Vec<u8>, Problem> {
        let at = At { path, part };
        let failed = |error: std::io::Error| {
            at.problem(format!("cannot be read ({error})"), "check its path and its permissions")
        };
        let about = fs::metadata(path).map_err(failed)?;
        if !about.is_file() {
            return Err(at.problem("is no file", "name a file"));
        }
        let mut bytes = Vec::new();
        // Bounded also if it grows while it is read.
        fs::File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST {
            return Err(at.problem("has more than 16 MiB", "name a file of certificates in PEM"));
        }
        self.digest.update(Sha256::digest(&bytes));
        Ok(bytes)
    }

    /// A certificate with its chain, and the key that fits it.
    pub(super) fn pair(
        &mut self,
        pair: &Pair,
        place: usize,
        provider: &CryptoProvider,
    ) -> Result<Certified, Vec<Problem>> {
        let (cert_at, key_at) = (
            At { path: &pair.cert, part: Part::Cert(place) },
            At { path: &pair.key, part: Part::Key(place) },
        );
        let chain = self.read(&pair.cert, cert_at.part).and_then(|bytes| certificates(&bytes, cert_at));
        let key = self.read(&pair.key, key_at.part).and_then(|bytes| key(&bytes, key_at));
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err([chain.err(), key.err()].into_iter().flatten().collect()),
        };
        let facts =
            chain.first().map(|leaf| facts(leaf, cert_at)).transpose().map_err(|wrong| vec![wrong])?;
        let (names, until) = facts.unwrap_or((Vec::new(), Timestamp::NEVER));
        let signing = provider.key_provider.load_private_key(key).map_err(|error| {
            vec![key_at.problem(
                format!("has a key that cannot be used ({error})"),
                "use an ECDSA key (P-256, P-384), an Ed25519 key, or an RSA key of 2048 bits or more",
            )]
        })?;
        let certified = CertifiedKey::new(chain, signing);
        // A key that cannot tell what it fits would be an error as well, and none of ours is one.
        certified.keys_match().map_err(|_| {
            let cert = pair.cert.display();
            vec![key_at.problem(
                format!("is not the key of the certificate in `{cert}`"),
                "name the key that the certificate was made with; the server's own certificate stands first in its file",
            )]
        })?;
        Ok(Certified { key: Arc::new(certified), names, until })
    }

    /// Authorities to trust.
    pub(super) fn authorities(
        &mut self,
        path: &Path,
    ) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Problem> {
        let at = At { path, part: Part::Authorities };
        let found = certificates(&self.read(path, at.part)?, at)?;
        let mut roots = RootCertStore::empty();
        for (place, one) in found.iter().enumerate() {
            roots.add(one.clone()).map_err(|error| {
                let what = format!(
                    "has a certificate, number {}, that nothing can be checked by ({error})",
                    place + 1
                );
                at.problem(what, "name certificates of authorities (X.509 version 3)")
            })?;
        }
        Ok((roots, found))
    }

    /// Lists of what these authorities have revoked; and until when they are good.
    pub(super) fn lists(
        &mut self,
        path: &Path,
        authorities: &[CertificateDer<'static>],
    ) -> Result<(Vec<CertificateRevocationListDer<'static>>, Option<Timestamp>), Problem> {
        let at = At { path, part: Part::Lists };
        let bytes = self.read(path, at.part)?;
        let found: Result<Vec<_>, pem::Error> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| at.broken(&error))?;
        if found.is_empty() {
            let right = "name a file with `-----BEGIN X509 CRL-----` in it; \
                         `openssl crl -inform der` makes one of a list in DER";
            return Err(at.problem("has no revocation list in PEM", right));
        }
        let known: Vec<X509Certificate<'_>> = authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        let (mut until, mut ours) = (None::<Timestamp>, false);
        for list in &found {
            let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| {
                at.problem("has a list that is none (X.509)", "fetch it again from the authority")
            })?;
            let mut issuers = known.iter().filter(|ca| ca.subject() == list.issuer()).peekable();
            if issuers.peek().is_some() {
                // One from another authority may be an intermediate's, whose certificate the client brings.
                ours = true;
                if !issuers.any(|ca| list.verify_signature(ca.public_key()).is_ok()) {
                    let what = format!("has a list that was not signed by its issuer, `{}`", list.issuer());
                    return Err(at.problem(what, "fetch it again from the authority"));
                }
            }
            let next = list.next_update().map(|next| Timestamp::from_unix_seconds(next.timestamp()));
            until = [until, next].into_iter().flatten().min();
        }
        if !ours {
            let right = "a list must be signed by one of the authorities whose certificates are good here";
            return Err(at.problem("has no list of an authority of `client_ca`", right));
        }
        Ok((found, until))
    }
}

/// Where a problem is.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    path: &'a Path,
    part: Part,
}

impl At<'_> {
    fn problem(self, what: impl Into<String>, right: impl Into<String>) -> Problem {
        let name = self.path.display().to_string();
        Problem { part: self.part, name, what: what.into(), right: right.into() }
    }

    fn broken(self, error: &pem::Error) -> Problem {
        self.problem(format!("has broken PEM in it ({error:?})"), "copy it again, whole")
    }
}

fn certificates(bytes: &[u8], at: At<'_>) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| at.broken(&error))?;
    if found.is_empty() {
        let right = "name a file with `-----BEGIN CERTIFICATE-----` in it; \
                     `openssl x509 -inform der` makes one of a certificate in DER";
        return Err(at.problem("has no certificate in PEM", right));
    }
    Ok(found)
}

fn key(bytes: &[u8], at: At<'_>) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if bytes.windows(9).any(|word| word == b"ENCRYPTED") => {
            let right =
                "a server cannot ask for its password: `openssl pkey -in it -out new` writes it without";
            at.problem("has an encrypted key", right)
        }
        pem::Error::NoItemsFound => {
            at.problem("has no private key in PEM", "name a file with `-----BEGIN PRIVATE KEY-----` in it")
        }
        error => at.broken(&error),
    })
}

/// The names that a certificate is for, and until when it is good.
fn facts(der: &CertificateDer<'_>, at: At<'_>) -> Result<(Vec<String>, Timestamp), Problem> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| {
        at.problem(format!("has a certificate that is none ({error})"), "name an X.509 certificate")
    })?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    Ok((names.collect(), Timestamp::from_unix_seconds(parsed.validity().not_after.timestamp())))
}
