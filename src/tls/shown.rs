//! Connections that a role serves itself: hands are shaken here, and what a client has shown is looked at again for each
//! of its requests, for a connection lives longer than some certificates.

use std::{io, sync::Arc};

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Caller, Denied, Server, Unknown, callers::caller};

/// A certificate that the client of a connection has shown, and whose key it has. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shown {
    server: Server,
    chain: Arc<[CertificateDer<'static>]>,
}

impl Shown {
    /// Whose it is, if it is good now, with the authorities and lists as they are now.
    pub fn caller(&self) -> Result<Caller, Unknown> {
        self.server.judge(&self.chain)?;
        let leaf = self.chain.first().ok_or(Unknown::Denied(Denied::Missing))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Unknown::Unreadable)?;
        caller(parsed.subject()).ok_or(Unknown::Nameless)
    }
}

/// A connection inside TLS.
pub type SecuredStream = TlsStream<TcpStream>;

/// Why a connection was not secured.
#[derive(Debug, thiserror::Error)]
pub enum NotSecured {
    /// Hands were not shaken.
    #[error("no handshake")]
    Handshake(#[source] io::Error),
    /// The client's certificate is not good, and without a good one it may not come.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl NotSecured {
    /// The label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.reason(),
            Self::Handshake(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner.map(|inner| (inner, Denied::try_from(inner))) {
                    Some((_, Ok(denied))) => denied.reason(),
                    Some((rustls::Error::AlertReceived(_), _)) => "tls-refused-by-client",
                    Some((rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol, _)) => {
                        "tls-nothing-in-common"
                    }
                    Some(_) => "tls-bad",
                    None => "tls-gone",
                }
            }
        }
    }
}

impl Server {
    /// Shakes hands with the client of a connection; also what it has shown, if it has. Without a limit on time: the
    /// caller's covers it.
    pub async fn secure(&self, tcp: TcpStream) -> Result<(SecuredStream, Option<Shown>), NotSecured> {
        let (config, asks) = self.parts();
        let stream = TlsAcceptor::from(config).accept(tcp).await.map_err(NotSecured::Handshake)?;
        let state = stream.get_ref().1;
        asks.peer(state)?;
        let chain = state.peer_certificates().filter(|chain| !chain.is_empty());
        let shown = chain.map(|chain| Shown {
            server: self.clone(),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        });
        Ok((stream, shown))
    }
}
