//! How clients speak: in plain text or inside TLS, HTTP/1.1 or HTTP/2.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{
    certificates::{Authority, Made},
    h2::peer::Peer,
    raw::Wire,
    support::place::Place,
};

/// What certificates are for.
const NAME: &str = "front.example";

/// An authority, and the certificate that the proxy has of it at the moment.
pub struct Certificates {
    authority: Authority,
    shown: Mutex<Made>,
}

/// One way.
#[derive(Clone)]
pub struct Way {
    tls: Option<Arc<ClientConfig>>,
}

impl Certificates {
    pub fn new(place: &Place) -> Self {
        let authority = Authority::new("servers");
        let shown = authority.leaf(&[NAME]);
        shown.write(place.dir(), "front");
        Self { authority, shown: Mutex::new(shown) }
    }

    /// Others in the same files. A reload that comes between the two of them would be refused.
    pub fn renew(&self, place: &Place) {
        let made = self.authority.leaf(&[NAME]);
        made.write(place.dir(), "front");
        *self.shown.lock().unwrap() = made;
    }

    /// The certificate that is in the files now.
    pub fn shown(&self) -> Vec<u8> {
        self.shown.lock().unwrap().der.clone()
    }

    /// Inside TLS; each client with a memory of its sessions of its own.
    pub fn way(&self, http2: bool) -> Way {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.cert().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Way { tls: Some(Arc::new(config)) }
    }
}

impl Way {
    pub fn plain() -> Self {
        Self { tls: None }
    }

    /// A connection of HTTP/1.1.
    pub fn wire(&self, to: SocketAddr) -> io::Result<Wire> {
        let tcp = TcpStream::connect(to)?;
        match self.session(&tcp)? {
            None => Ok(Wire::new(tcp)),
            Some(session) => {
                let half = Half(Arc::new(Mutex::new((session, tcp.try_clone()?))));
                Ok(Wire::over(tcp, half.clone(), half))
            }
        }
    }

    /// A connection of HTTP/2, before its first byte.
    pub fn peer(&self, to: SocketAddr) -> io::Result<Peer> {
        let tcp = TcpStream::connect(to)?;
        let session = self.session(&tcp)?;
        Ok(Peer::over(tcp, session))
    }

    /// Shakes hands; the certificate that was shown, and whether a session went on.
    pub fn shake(&self, to: SocketAddr) -> io::Result<(Vec<u8>, bool)> {
        let tcp = TcpStream::connect(to)?;
        let session = self.session(&tcp)?.ok_or(io::ErrorKind::Unsupported)?;
        let shown = session.peer_certificates().and_then(|all| all.first()).map(|cert| cert.to_vec());
        Ok((shown.unwrap_or_default(), session.handshake_kind() == Some(HandshakeKind::Resumed)))
    }

    fn session(&self, tcp: &TcpStream) -> io::Result<Option<ClientConnection>> {
        let Some(config) = &self.tls else { return Ok(None) };
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut tcp = tcp;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        Ok(Some(session))
    }
}

/// One of the two halves of a connection inside TLS; a client reads or writes, and never both at once.
#[derive(Clone)]
struct Half(Arc<Mutex<(ClientConnection, TcpStream)>>);

impl Read for Half {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let (session, tcp) = &mut *self.0.lock().unwrap();
        rustls::Stream::new(session, tcp).read(room)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (session, tcp) = &mut *self.0.lock().unwrap();
        rustls::Stream::new(session, tcp).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (session, tcp) = &mut *self.0.lock().unwrap();
        rustls::Stream::new(session, tcp).flush()
    }
}
