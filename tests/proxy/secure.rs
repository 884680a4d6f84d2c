//! Both sides of TLS for tests: certificates in a folder, clients that show them, upstreams that speak it.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use switchyard::{
    config::proxy::{Kind, Proxy},
    tls::{ClientAuth, Least, Pair, Server, ServerSetting, Trust, UpstreamSetting},
};

use crate::{
    certificates::{Authority, Made, write},
    front,
    raw::{Answer, Head},
};

/// No single read or write of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of certificates.
pub struct Files {
    pub folder: tempfile::TempDir,
    /// Of the servers.
    pub ca: Authority,
    /// Of the clients.
    pub clients: Authority,
}

impl Files {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self { folder, ca: Authority::new("servers"), clients: Authority::new("clients") };
        files.put("ca.pem", &files.ca.cert());
        files.put("clients.pem", &files.clients.cert());
        files.ca.leaf(&["front.example", "127.0.0.1"]).write(files.folder.path(), "front");
        files
    }

    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        write(self.folder.path(), name, text)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    pub fn setting(&self) -> ServerSetting {
        ServerSetting {
            pairs: vec![self.pair("front")],
            client_auth: ClientAuth::Off,
            least: Least::Tls12,
            suites: Vec::new(),
            http2: false,
        }
    }

    pub fn trust(&self, crl: Option<&str>) -> Trust {
        Trust { ca: self.path("clients.pem"), crl: crl.map(|crl| self.path(crl)) }
    }

    /// A front inside TLS over these.
    pub fn front(&self, setting: ServerSetting, upstreams: &[SocketAddr]) -> Proxy {
        let mut config = front::config(Kind::Controller, upstreams);
        config.listeners[0].tls = Some(Server::load(setting).unwrap());
        config
    }

    /// What upstreams are held against.
    pub fn upstream(&self) -> UpstreamSetting {
        UpstreamSetting { ca: Some(self.path("ca.pem")), ..UpstreamSetting::default() }
    }

    /// A client that shows a certificate, or none.
    pub fn client(&self, shows: Option<&Made>) -> Client {
        self.client_of(shows, rustls::ALL_VERSIONS)
    }

    pub fn client_of(&self, shows: Option<&Made>, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots(&self.ca.cert()));
        let config = match shows {
            Some(made) => builder.with_client_auth_cert(vec![der(&made.cert)], key(&made.key)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Client { config: Arc::new(config), name: "front.example".into(), opening: Vec::new() }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that asks clients for nothing.
pub fn server_config(pair: &Pair) -> ServerConfig {
    let read = |path| std::fs::read_to_string(path).unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_no_client_auth();
    builder.with_single_cert(vec![der(&read(&pair.cert))], key(&read(&pair.key))).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(der(pem)).unwrap();
    roots
}

/// Connects, again and again with the same memory of sessions.
#[derive(Clone)]
pub struct Client {
    pub config: Arc<ClientConfig>,
    pub name: String,
    /// What its connections begin with, before TLS.
    pub opening: Vec<u8>,
}

/// A connection of a client's.
pub struct Secure {
    pub tls: StreamOwned<ClientConnection, TcpStream>,
    held: Vec<u8>,
}

impl Client {
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<Secure> {
        let mut tcp = TcpStream::connect(to)?;
        tcp.write_all(&self.opening)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let session = ClientConnection::new(self.config.clone(), name).unwrap();
        let mut tls = StreamOwned::new(session, tcp);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Secure { tls, held: Vec::new() })
    }

    /// One request on a connection of its own.
    pub fn get(&self, to: SocketAddr, lines: &str) -> io::Result<Answer> {
        self.connect(to)?.ask(&format!("GET /api/v1/vm HTTP/1.1\r\nHost: front.example\r\n{lines}\r\n"))
    }
}

impl Secure {
    pub fn ask(&mut self, request: &str) -> io::Result<Answer> {
        self.tls.write_all(request.as_bytes())?;
        self.answer()
    }

    /// The next answer, of known length or to the end.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.held.split_off(end + 4);
                break parse(&std::mem::replace(&mut self.held, rest));
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let body = match head.get("content-length").map(|length| length.parse::<usize>().unwrap()) {
            Some(length) => {
                while self.held.len() < length {
                    if self.more()? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                let rest = self.held.split_off(length);
                std::mem::replace(&mut self.held, rest)
            }
            None => {
                while self.more()? > 0 {}
                std::mem::take(&mut self.held)
            }
        };
        Ok(Answer { head, body })
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let read = self.tls.read(&mut piece)?;
        self.held.extend_from_slice(&piece[..read]);
        Ok(read)
    }

    /// How the connection ends: 0 bytes, or that it was cut.
    pub fn end(&mut self) -> io::Result<usize> {
        self.more()
    }

    pub fn resumed(&self) -> bool {
        self.tls.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

fn parse(head: &[u8]) -> Head {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let fields =
        lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
    Head { first, fields: fields.collect() }
}

/// What an upstream does after it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It waits for the next request.
    Stays,
    /// It says that it ends, and closes.
    Closes,
    /// It closes without a word.
    Breaks,
}

/// An upstream inside TLS.
pub struct SecureUpstream {
    pub address: SocketAddr,
    /// Heads that came, but for those of probes.
    pub seen: Arc<Mutex<Vec<Head>>>,
    /// Handshakes that failed.
    pub failed: Arc<AtomicUsize>,
    /// Lines that came before TLS.
    pub openings: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl SecureUpstream {
    /// With this certificate; `clients`: who must be certified by whom.
    pub fn start(
        made: &Made,
        clients: Option<&Authority>,
        answer: impl Fn(&Head, usize) -> (String, Ends) + Send + Sync + 'static,
    ) -> Self {
        Self::behind(false, made, clients, answer)
    }

    /// The same; `opened`: each connection begins with a line, before TLS.
    pub fn behind(
        opened: bool,
        made: &Made,
        clients: Option<&Authority>,
        answer: impl Fn(&Head, usize) -> (String, Ends) + Send + Sync + 'static,
    ) -> Self {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = match clients {
            Some(clients) => {
                let roots = Arc::new(roots(&clients.cert()));
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
            None => builder.unwrap().with_no_client_auth(),
        };
        let config = Arc::new(builder.with_single_cert(vec![der(&made.cert)], key(&made.key)).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Self {
            address,
            seen: Arc::default(),
            failed: Arc::default(),
            openings: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, failed, stop) = (upstream.seen.clone(), upstream.failed.clone(), upstream.stop.clone());
        let (answer, openings) = (Arc::new(answer), upstream.openings.clone());
        thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (config, seen, failed) = (config.clone(), seen.clone(), failed.clone());
                let (answer, openings) = (answer.clone(), openings.clone());
                thread::spawn(move || {
                    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                    if opened {
                        let mut line = Vec::new();
                        while line.last() != Some(&b'\n') {
                            let mut byte = [0];
                            if (&tcp).read_exact(&mut byte).is_err() {
                                return;
                            }
                            line.extend(byte);
                        }
                        openings.lock().unwrap().push(String::from_utf8(line).unwrap());
                    }
                    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
                    if serve(&mut tls, &seen, answer.as_ref()).is_err() && tls.conn.is_handshaking() {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        upstream
    }
}

impl Drop for SecureUpstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
    }
}

fn serve(
    tls: &mut StreamOwned<ServerConnection, TcpStream>,
    seen: &Mutex<Vec<Head>>,
    answer: &(dyn Fn(&Head, usize) -> (String, Ends) + Send + Sync),
) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            let mut piece = [0; 16 * 1024];
            let read = tls.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            held.extend_from_slice(&piece[..read]);
        };
        let rest = held.split_off(end);
        let head = parse(&std::mem::replace(&mut held, rest));
        // A body is read and not kept.
        let mut left = head.get("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
        let had = left.min(held.len());
        held.drain(..had);
        left -= had;
        while left > 0 {
            let mut piece = [0; 64 * 1024];
            let most = piece.len().min(left);
            let read = tls.read(&mut piece[..most])?;
            if read == 0 {
                return Ok(());
            }
            left -= read;
        }
        if head.word(1) == "/readyz" {
            let body = crate::upstream::ABLE;
            tls.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
            )?;
            continue;
        }
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(head.clone());
            seen.len()
        };
        let (text, ends) = answer(&head, number);
        tls.write_all(text.as_bytes())?;
        tls.flush()?;
        match ends {
            Ends::Stays => {}
            Ends::Closes => {
                tls.conn.send_close_notify();
                tls.flush()?;
                return tls.sock.shutdown(std::net::Shutdown::Write);
            }
            Ends::Breaks => return tls.sock.shutdown(std::net::Shutdown::Write),
        }
    }
}

/// Takes TLS off what it passes on, so that any upstream can stand behind it. Ends with the test.
pub fn relay(made: &Made, to: SocketAddr) -> SocketAddr {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![der(&made.cert)], key(&made.key)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            let config = config.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    tcp.set_nonblocking(true).unwrap();
                    let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
                    let acceptor = tokio_rustls::TlsAcceptor::from(config);
                    let Ok(mut outside) = acceptor.accept(tcp).await else { return };
                    let Ok(mut inside) = tokio::net::TcpStream::connect(to).await else { return };
                    // However it ends, both are closed.
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok();
                });
            });
        }
    });
    address
}
