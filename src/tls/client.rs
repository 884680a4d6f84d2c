//! Whether a client's certificate is good, and what servers behind a proxy are told of it.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Timestamp;

use super::{Part, Problem, Trust, files::Reader, pass};

/// What looks at certificates of these authorities, and until when their lists are good.
pub(super) fn verifier(
    files: &mut Reader,
    trust: &Trust,
    provider: Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Option<Timestamp>), Problem> {
    let (roots, authorities) = files.authorities(&trust.ca)?;
    let lists = trust.crl.as_ref().map(|crl| files.lists(crl, &authorities)).transpose()?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut list_until = None;
    if let Some((lists, until)) = lists {
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        list_until = until;
    }
    let verifier = builder.build().map_err(|error| Problem {
        part: Part::Lists,
        name: trust.crl.as_ref().unwrap_or(&trust.ca).display().to_string(),
        what: format!("cannot be used ({error})"),
        right: "fetch it again from the authority".into(),
    })?;
    Ok((verifier, list_until))
}

/// Why a client's certificate is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is none.
    #[error("no certificate was shown")]
    Missing,
    /// Its time is over.
    #[error("certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("certificate is not yet valid")]
    NotYetValid,
    /// It stands on a list.
    #[error("certificate revoked")]
    Revoked,
    /// It is from no authority that is known here.
    #[error("unable to get local issuer certificate")]
    UnknownIssuer,
    /// There is no list of its authority.
    #[error("unable to get certificate CRL")]
    NoList,
    /// The list of its authority is too old to say anything.
    #[error("CRL has expired")]
    ListExpired,
    /// Its authority has not signed it, or has not signed the list.
    #[error("certificate signature failure")]
    BadSignature,
    /// It is no client's.
    #[error("unsuitable certificate purpose")]
    WrongPurpose,
    /// Something else is wrong with it.
    #[error("certificate verification failed")]
    Other,
}

impl Denied {
    /// The label of metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "tls-no-certificate",
            Self::Expired => "tls-certificate-expired",
            Self::NotYetValid => "tls-certificate-not-yet-valid",
            Self::Revoked => "tls-certificate-revoked",
            Self::UnknownIssuer => "tls-certificate-of-unknown-issuer",
            Self::NoList => "tls-no-revocation-list",
            Self::ListExpired => "tls-revocation-list-expired",
            Self::BadSignature => "tls-certificate-bad-signature",
            Self::WrongPurpose => "tls-certificate-wrong-purpose",
            Self::Other => "tls-certificate-bad",
        }
    }
}

/// What is wrong with a certificate, if that is what an error says.
impl TryFrom<&Error> for Denied {
    type Error = ();

    fn try_from(error: &Error) -> Result<Self, ()> {
        use CertificateError as Bad;
        let bad = match error {
            Error::NoCertificatesPresented => return Ok(Self::Missing),
            Error::InvalidCertRevocationList(_) => return Ok(Self::BadSignature),
            Error::InvalidCertificate(bad) => bad,
            _ => return Err(()),
        };
        Ok(match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => Self::Expired,
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => Self::NotYetValid,
            Bad::Revoked => Self::Revoked,
            Bad::UnknownIssuer => Self::UnknownIssuer,
            Bad::UnknownRevocationStatus => Self::NoList,
            Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. } => Self::ListExpired,
            Bad::BadSignature => Self::BadSignature,
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => Self::WrongPurpose,
            _ => Self::Other,
        })
    }
}

/// What became of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// There was none.
    None,
    /// It is not good.
    Failed(Denied),
    /// It is good.
    Success,
}

impl Verify {
    /// The value of `Ssl-Client-Verify`, as nginx writes it.
    pub fn value(self) -> String {
        match self {
            Self::None => "NONE".into(),
            Self::Failed(why) => format!("FAILED:{why}"),
            Self::Success => "SUCCESS".into(),
        }
    }
}

/// Who a client is by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What became of it.
    pub verify: Verify,
    /// The value of `Ssl-Client-Cert`; only of a good one.
    pub escaped: Option<String>,
    /// Whose it says it is, for logs.
    pub subject: Option<String>,
}

/// Asks clients for certificates.
#[derive(Debug)]
pub(super) struct Judge {
    verifier: Arc<dyn ClientCertVerifier>,
    required: bool,
}

impl Judge {
    /// By this verifier. Not `required`: the handshake goes on whatever comes of it, and [`Judge::peer`] says what that
    /// is.
    pub(super) fn new(verifier: Arc<dyn ClientCertVerifier>, required: bool) -> Self {
        Self { verifier, required }
    }

    /// Who it is whose handshake is over. `resumed`: its certificate was looked at in an earlier one, and may have been
    /// revoked since.
    pub(super) fn peer(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<Peer, Denied> {
        let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else {
            let none = Peer { verify: Verify::None, escaped: None, subject: None };
            return if self.required { Err(Denied::Missing) } else { Ok(none) };
        };
        let known_good = self.required && !resumed;
        let verify = match if known_good { Ok(()) } else { self.verify(leaf, rest, now) } {
            Ok(()) => Verify::Success,
            Err(why) if self.required => return Err(why),
            Err(why) => Verify::Failed(why),
        };
        let escaped = (verify == Verify::Success).then(|| pass::escaped(leaf));
        Ok(Peer { verify, escaped, subject: subject(leaf) })
    }

    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Denied> {
        match self.verifier.verify_client_cert(leaf, rest, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(Denied::try_from(&error).unwrap_or(Denied::Other)),
        }
    }
}

/// The subject, without what could end a line of a log.
fn subject(leaf: &CertificateDer<'_>) -> Option<String> {
    /// A longer one is cut.
    const LONGEST: usize = 256;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let text = parsed.subject().to_string();
    Some(text.chars().map(|c| if c.is_control() { '?' } else { c }).take(LONGEST).collect())
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.required {
            self.verifier.verify_client_cert(leaf, rest, now)
        } else {
            // Looked at when the handshake is over. That the client has its key is checked in the handshake all the same.
            Ok(ClientCertVerified::assertion())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
