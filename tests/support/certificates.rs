//! Certificates made for tests: good ones, and ones that are wrong on purpose.

#![allow(dead_code, reason = "each test binary includes the whole file and uses its own part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what tests may use; a test binary has no outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![allow(clippy::disallowed_methods, reason = "what is made is valid from now on")]

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// An authority that issues certificates and lists of what it has revoked.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    serial: AtomicU64,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Made {
    pub cert: String,
    pub key: String,
    pub der: Vec<u8>,
    pub serial: u64,
}

/// What a certificate is to be.
pub struct Wanted<'a> {
    /// Names or addresses it is for.
    pub names: &'a [&'a str],
    /// Its subject's name.
    pub cn: &'a str,
    /// From now on, in days.
    pub days: std::ops::Range<i64>,
    /// Server's or client's.
    pub purpose: ExtendedKeyUsagePurpose,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { names: &[], cn: "nobody", days: -1..30, purpose: ExtendedKeyUsagePurpose::ServerAuth }
    }
}

fn in_days(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(days)
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, serial: AtomicU64::new(1) }
    }

    /// Its own certificate.
    pub fn cert(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for these names.
    pub fn leaf(&self, names: &[&str]) -> Made {
        self.make(&Wanted { names, cn: names.first().unwrap_or(&"nobody"), ..Wanted::default() })
    }

    /// A client's certificate.
    pub fn client(&self, cn: &str) -> Made {
        self.make(&Wanted { cn, purpose: ExtendedKeyUsagePurpose::ClientAuth, ..Wanted::default() })
    }

    /// A client's whose time is over.
    pub fn expired_client(&self, cn: &str) -> Made {
        self.make(&Wanted {
            cn,
            days: -9..-2,
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            ..Wanted::default()
        })
    }

    pub fn make(&self, wanted: &Wanted<'_>) -> Made {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, wanted.cn);
        params.distinguished_name.push(DnType::OrganizationName, "builders");
        let name = |name: &&str| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = wanted.names.iter().map(name).collect();
        params.extended_key_usages = vec![wanted.purpose.clone()];
        (params.not_before, params.not_after) = (in_days(wanted.days.start), in_days(wanted.days.end));
        let serial = self.serial.fetch_add(1, Ordering::SeqCst);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Made { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().to_vec(), serial }
    }

    /// A client's certificate in PEM, with this subject; a name may be given twice.
    pub fn subject(&self, names: &[(&str, &str)]) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (place, (kind, value)) in names.iter().enumerate() {
            let again = names[..place].iter().any(|(before, _)| before == kind);
            // Of each kind there is one; by its number there is another.
            params.distinguished_name.push(
                match (*kind, again) {
                    ("CN", _) => DnType::CommonName,
                    ("O", false) => DnType::OrganizationName,
                    ("O", true) => DnType::CustomDnType(vec![2, 5, 4, 10]),
                    ("OU", false) => DnType::OrganizationalUnitName,
                    _ => DnType::CustomDnType(vec![2, 5, 4, 11]),
                },
                *value,
            );
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (in_days(-1), in_days(30));
        params.serial_number = Some(SerialNumber::from(self.serial.fetch_add(1, Ordering::SeqCst)));
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem()
    }

    /// A list of what it has revoked, good for so many days.
    pub fn list(&self, revoked: &[u64], days: i64) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: in_days(-1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: in_days(-30),
            next_update: in_days(days),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Made {
    /// Writes both into a folder: where they are.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        (write(folder, &format!("{name}.pem"), &self.cert), write(folder, &format!("{name}.key"), &self.key))
    }
}

/// Writes a file the way tools that renew certificates do: whole, under its name.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (path, aside) = (folder.join(name), folder.join(format!(".{name}.new")));
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    path
}
