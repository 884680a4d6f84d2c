//! What a config says about TLS. Compared to see whether a reload changes anything.

use std::path::{Path, PathBuf};

use super::Suite;

/// The server's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSetting {
    /// Certificates with their keys; at least one. The first is for clients that ask for no name that any is for.
    pub pairs: Vec<Pair>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub least: Least,
    /// Cipher suites, best first; all that are safe, in the client's order, if there are none.
    pub suites: Vec<Suite>,
    /// HTTP/2 is offered, before HTTP/1.1.
    pub http2: bool,
}

impl ServerSetting {
    /// The files that it names, in the order in which they are read.
    pub(super) fn files(&self) -> Vec<&Path> {
        let trust = self.client_auth.trust();
        let pairs = self.pairs.iter().flat_map(Pair::files);
        let trusted = trust.into_iter().flat_map(|trust| [Some(&*trust.ca), trust.crl.as_deref()]);
        pairs.chain(trusted.flatten()).collect()
    }
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and behind it those of the authorities between it and the one that clients know.
    pub cert: PathBuf,
    /// The key of the first of them.
    pub key: PathBuf,
}

impl Pair {
    fn files(&self) -> [&Path; 2] {
        [&self.cert, &self.key]
    }
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked for one.
    Off,
    /// They may; whoever shows none or a bad one is served as a nobody.
    Optional(Trust),
    /// Without a good one there is no connection.
    Required(Trust),
}

impl ClientAuth {
    /// The authorities, if certificates are asked for.
    pub fn trust(&self) -> Option<&Trust> {
        match self {
            Self::Off => None,
            Self::Optional(trust) | Self::Required(trust) => Some(trust),
        }
    }
}

/// Whose certificates are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Certificates of the authorities.
    pub ca: PathBuf,
    /// Their lists of what they have revoked.
    pub crl: Option<PathBuf>,
}

/// The oldest version that is spoken; never one below 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The client's side: towards the upstreams of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSetting {
    /// Authorities that the upstreams' certificates must come from; those that the system trusts if not given.
    pub ca: Option<PathBuf>,
    /// The name that the certificates must be for; that of the address if not given. Never empty.
    pub server_name: Option<String>,
    /// What is shown to upstreams that ask for a certificate.
    pub identity: Option<Pair>,
    /// Whether certificates are looked at.
    pub verify: bool,
}

impl UpstreamSetting {
    /// The files that it names, in the order in which they are read.
    pub(super) fn files(&self) -> Vec<&Path> {
        let ca = self.ca.as_deref().filter(|_| self.verify);
        ca.into_iter().chain(self.identity.iter().flat_map(Pair::files)).collect()
    }
}

impl Default for UpstreamSetting {
    fn default() -> Self {
        Self { ca: None, server_name: None, identity: None, verify: true }
    }
}
