//! The client's side of TLS: towards the upstreams of one service. Certificates are checked unless a config says in so
//! many words that they are not.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        UnbufferedClientConnection, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::model::Timestamp;

use super::{
    Part, Problem, UpstreamSetting,
    files::Reader,
    kept::{Kept, Made},
    protocols, provider,
};

/// What connections to the upstreams of a service need. Cheap to clone; what one clone learns from new files, all have.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    setting: UpstreamSetting,
    /// With what was in the files.
    kept: Kept<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ClientConfig>,
    /// When the certificate that is shown ends.
    until: Option<Timestamp>,
}

/// By what the config says; not by what is in the files.
impl PartialEq for Upstream {
    fn eq(&self, other: &Self) -> bool {
        self.0.setting == other.0.setting
    }
}

impl Eq for Upstream {}

impl Upstream {
    /// Reads and checks every file. Errors hold all that is wrong.
    pub fn load(setting: UpstreamSetting) -> Result<Self, Vec<Problem>> {
        let kept = Kept::new(load(&setting)?);
        Ok(Self(Arc::new(Inner { setting, kept })))
    }

    /// What the config says.
    pub fn setting(&self) -> &UpstreamSetting {
        &self.0.setting
    }

    /// Looks at the files again; whether there was something new, which new connections take. Blocks while it reads.
    ///
    /// Errors leave everything as it was.
    pub fn refresh(&self) -> Result<bool, Vec<Problem>> {
        let Inner { setting, kept } = &*self.0;
        kept.refresh(&setting.files(), || load(setting))
    }

    /// What the last look at the files has found wrong: those before them are in use.
    pub fn trouble(&self) -> Vec<Problem> {
        self.0.kept.trouble().clone()
    }

    /// The one to go on with after a reload: `before` with what was read now, if the config says the same.
    pub fn after(self, before: Option<&Self>) -> Self {
        let other = |before: &&Self| **before == self && !Arc::ptr_eq(&before.0, &self.0);
        let Some(before) = before.filter(other) else { return self };
        before.0.kept.take(&self.0.kept, |read| read);
        before.clone()
    }

    /// As it stands now, for other libraries' clients.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.kept.now().it.config.clone()
    }

    /// When the certificate that is shown to servers ends; nothing if none is.
    pub fn certificate_until(&self) -> Option<Timestamp> {
        self.0.kept.now().it.until
    }

    #[cfg(test)]
    pub(super) fn digest_for_tests(&self) -> super::files::Digest {
        self.0.kept.now().of
    }

    /// The name that the certificate of an upstream at this host must be for.
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.0.setting.server_name.as_deref().unwrap_or(host)
    }

    /// The same, as the library wants it. An empty name is none and refused here too: it never means that no name is
    /// checked.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, Error> {
        ServerName::try_from(self.name(host).to_owned()).map_err(|_| {
            Error::General("the upstream's address is no name that a certificate could be for".into())
        })
    }

    /// Connects to a server of HTTP/2 at this host and shakes hands, with the files as they are now. Without a limit on
    /// time: the caller's covers it.
    pub async fn dial_h2(&self, host: &str, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
        let looking = self.clone();
        // Reading blocks, and may for long where files are far away. What is wrong leaves what was read before.
        let looked = tokio::task::spawn_blocking(move || looking.refresh()).await;
        if let Ok(Err(problems)) = looked {
            for problem in problems {
                tracing::warn!(file = problem.name, what = problem.what, "file of TLS could not be taken");
            }
        }
        let name = self.server_name(host).map_err(std::io::Error::other)?;
        let mut config = ClientConfig::clone(&self.config());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Begins a handshake with the upstream at this host.
    pub fn connect(&self, host: &str) -> Result<UnbufferedClientConnection, Error> {
        UnbufferedClientConnection::new(self.config(), self.server_name(host)?)
    }
}

/// For clients that speak plain HTTP only: they trust nobody, and no file is read for them.
pub fn untrusting() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider(&[])).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has suites of every version");
    builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn load(setting: &UpstreamSetting) -> Result<Made<Loaded>, Vec<Problem>> {
    let provider = provider(&[]);
    let (mut files, mut problems) = (Reader::default(), Vec::new());
    let roots = match (&setting.ca, setting.verify) {
        (Some(ca), true) => files.authorities(ca).map(|(roots, _)| Some(roots)),
        (None, true) => systems().map(Some),
        (_, false) => Ok(None),
    };
    let roots = roots.unwrap_or_else(|wrong| {
        problems.push(wrong);
        None
    });
    let identity = setting.identity.as_ref().and_then(|pair| {
        let read = files.pair(pair, 0, &provider);
        read.map_err(|mut wrong| problems.append(&mut wrong)).ok()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| {
        vec![whole(format!("cannot be used ({error})"), "use a build with its cryptography whole")]
    })?;
    let verifier: Arc<dyn ServerCertVerifier> = match (roots, &setting.server_name) {
        (Some(roots), name) => {
            let good = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let good = good.map_err(|error| {
                let right = "name the certificate of the upstreams' authority as `ca`";
                vec![whole(format!("has authorities that nothing can be checked by ({error})"), right)]
            })?;
            match name {
                None => good,
                Some(name) => Arc::new(Named { good, name: named(name).map_err(|wrong| vec![wrong])? }),
            }
        }
        (None, _) => Arc::new(Anybody(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let until = identity.as_ref().map(|identity| identity.until);
    let mut config = match identity {
        Some(identity) => {
            let shown = SingleCertAndKey::from(CertifiedKey::clone(&identity.key));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(false);
    Ok(Made { of: files.digest(), it: Loaded { config: Arc::new(config), until } })
}

fn named(name: &str) -> Result<ServerName<'static>, Problem> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let right = "write the host name in the upstreams' certificates, without scheme and port";
        whole(format!("has the `server_name` `{name}`, which is none"), right)
    })
}

fn whole(what: impl Into<String>, right: impl Into<String>) -> Problem {
    Problem { part: Part::Whole, name: "tls".into(), what: what.into(), right: right.into() }
}

/// The authorities that the system trusts.
fn systems() -> Result<RootCertStore, Problem> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old authorities of strange form are common there; those that are fine count.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        let what = format!("has no `ca`, and this system trusts no authority{why}");
        return Err(whole(what, "add `ca = \"…\"` with the certificate of the upstreams' authority"));
    }
    Ok(roots)
}

/// Takes certificates for this name alone, by whatever address their servers are reached.
#[derive(Debug)]
struct Named {
    good: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.good.verify_server_cert(leaf, rest, &self.name, stapled, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.good.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.good.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.good.supported_verify_schemes()
    }
}

/// Takes every certificate, because the config says so. That the upstream has its key is checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
