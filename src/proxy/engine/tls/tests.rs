//! Between our two sides over real sockets, and against sides that do not keep to the rules.

use std::{future::poll_fn, time::Duration};

use proptest::prelude::*;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::tls::made::Authority;

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn configs(version: &'static rustls::SupportedProtocolVersion) -> Configs {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let (ca, provider) = (Authority::new("ca"), Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let made = ca.leaf(&["a.example"]);
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.der.into()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert().as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Configs { server: Arc::new(server), client: Arc::new(client) }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

fn server(configs: &Configs, tcp: TcpStream) -> Tls {
    let session = UnbufferedServerConnection::new(configs.server.clone()).unwrap();
    Tls::server(tcp, session, Arc::new(Crypt::new()))
}

/// Both sides, with hands shaken.
async fn pair(version: &'static rustls::SupportedProtocolVersion) -> (Tls, Tls) {
    let (configs, (a, b)) = (configs(version), sockets().await);
    let name = ServerName::try_from("a.example").unwrap();
    let session = UnbufferedClientConnection::new(configs.client.clone(), name).unwrap();
    let (mut client, mut server) = (Tls::client(a, session, Arc::new(Crypt::new())), server(&configs, b));
    let client_side = async {
        poll_fn(|cx| client.poll_handshake(cx)).await.unwrap();
        // The end of its part comes along with the first bytes.
        let mut room = [0; 1];
        write(&mut client, b"?").await;
        assert_eq!(read(&mut client, &mut room).await.unwrap(), 1);
    };
    let server_side = async {
        poll_fn(|cx| server.poll_handshake(cx)).await.unwrap();
        let mut room = [0; 1];
        assert_eq!(read(&mut server, &mut room).await.unwrap(), 1);
        write(&mut server, b"!").await;
    };
    tokio::join!(client_side, server_side);
    (client, server)
}

async fn read(tls: &mut Tls, room: &mut [u8]) -> io::Result<usize> {
    let most = room.len();
    poll_fn(|cx| tls.poll_read(cx, room, most)).await
}

async fn write(tls: &mut Tls, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| tls.poll_write(cx, bytes)).await.unwrap();
        assert!(written > 0);
        bytes = &bytes[written..];
    }
}

#[tokio::test]
async fn every_byte_arrives_whatever_the_pieces() {
    for version in rustls::ALL_VERSIONS {
        let (mut client, mut server) = pair(version).await;
        let all: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
        for (piece, room) in [(1_500_000, 300_000), (70_000, 100), (1, 1_500_000), (16_385, 16_384)] {
            let sent = if piece == 1 { &all[..2_000] } else { &all[..] };
            let sending = async {
                for piece in sent.chunks(piece) {
                    write(&mut client, piece).await;
                }
            };
            let reading = async {
                let (mut came, mut room) = (Vec::new(), vec![0; room]);
                while came.len() < sent.len() {
                    let count = read(&mut server, &mut room).await.unwrap();
                    assert!(count > 0);
                    came.extend_from_slice(&room[..count]);
                }
                assert!(came == sent, "{version:?}, pieces of {piece}");
            };
            tokio::join!(sending, reading);
        }
        for tls in [&client, &server] {
            assert_eq!((tls.inbox.capacity(), tls.plain.capacity(), tls.out.capacity()), (0, 0, 0));
        }
    }
}

#[tokio::test]
async fn an_end_that_was_said_is_an_end_and_any_other_is_an_error() {
    for version in rustls::ALL_VERSIONS {
        let mut room = [0; 8];
        let (client, mut server) = pair(version).await;
        drop(client);
        assert_eq!(read(&mut server, &mut room).await.unwrap(), 0);
        assert!(server.has_ended());
        let (mut client, mut server) = pair(version).await;
        client.set_cut(true);
        drop(client);
        assert_eq!(read(&mut server, &mut room).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // One side may have said all it has to say, and still listen.
        let (mut client, mut server) = pair(version).await;
        poll_fn(|cx| client.poll_shut(cx)).await.unwrap();
        assert_eq!(read(&mut server, &mut room).await.unwrap(), 0);
        write(&mut server, b"still").await;
        assert_eq!(read(&mut client, &mut room).await.unwrap(), 5);
    }
}

#[tokio::test]
async fn what_is_not_taken_is_promised_and_never_lost() {
    let (mut client, mut server) = pair(&rustls::version::TLS13).await;
    // More than both sockets hold.
    let all: Vec<u8> = (0..32_000_000u32).map(|n| (n % 239) as u8).collect();
    let mut written = 0;
    // Until the socket takes no more.
    while let Ok(more) =
        timeout(Duration::from_millis(50), poll_fn(|cx| client.poll_write(cx, &all[written..]))).await
    {
        written += more.unwrap();
    }
    assert!(written > 0 && written < all.len());
    assert!(client.promised <= SEALED && client.out.len() <= SEALED + 8 * 64);
    let reading = async {
        let (mut came, mut room) = (Vec::new(), vec![0; 100_000]);
        while came.len() < all.len() {
            let count = read(&mut server, &mut room).await.unwrap();
            came.extend_from_slice(&room[..count]);
        }
        assert!(came == all);
    };
    tokio::join!(write(&mut client, &all[written..]), reading);
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_the_connection_and_nothing_of_it_is_used() {
    let (mut client, mut server) = pair(&rustls::version::TLS13).await;
    let mut record = vec![23, 3, 3, 0, 40];
    record.extend([7; 40]);
    client.tcp.write_all(&record).await.unwrap();
    let mut room = [0; 64];
    assert_eq!(read(&mut server, &mut room).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(poll_fn(|cx| server.poll_write(cx, b"more")).await.is_err());
    drop(server);
    // The other side was told why.
    let error = read(&mut client, &mut room).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[tokio::test]
async fn a_message_that_comes_in_pieces_does_not_disturb_what_is_written_in_between() {
    // Tickets in records of a few bytes: the library keeps places in what came first.
    let configs = configs(&rustls::version::TLS13);
    let mut config = ServerConfig::clone(&configs.server);
    config.max_fragment_size = Some(40);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let mut theirs = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    let (a, mut b) = sockets().await;
    let name = ServerName::try_from("a.example").unwrap();
    let session = UnbufferedClientConnection::new(configs.client.clone(), name).unwrap();
    let mut client = Tls::client(a, session, Arc::new(Crypt::new()));
    let mut tickets = Vec::new();
    let shaking = async {
        poll_fn(|cx| client.poll_handshake(cx)).await.unwrap();
        write(&mut client, b"?").await;
    };
    let answering = async {
        let mut room = [0; 4096];
        while theirs.is_handshaking() {
            let count = b.read(&mut room).await.unwrap();
            let mut came = &room[..count];
            while !came.is_empty() {
                theirs.read_tls(&mut came).unwrap();
                theirs.process_new_packets().unwrap();
            }
            tickets.clear();
            while theirs.wants_write() {
                theirs.write_tls(&mut tickets).unwrap();
            }
            if theirs.is_handshaking() {
                b.write_all(&tickets).await.unwrap();
            }
        }
    };
    tokio::join!(shaking, answering);
    assert!(tickets.len() > 200);
    let mut room = [0; 64];
    let mut wrote = 1;
    for piece in tickets.chunks(33) {
        b.write_all(piece).await.unwrap();
        assert!(timeout(Duration::from_millis(5), read(&mut client, &mut room)).await.is_err());
        write(&mut client, b"x").await;
        wrote += 1;
    }
    let mut plain = Vec::new();
    while plain.len() < wrote {
        let count = if plain.is_empty() { 0 } else { b.read(&mut room).await.unwrap() };
        let mut came = &room[..count];
        while !came.is_empty() {
            theirs.read_tls(&mut came).unwrap();
        }
        theirs.process_new_packets().unwrap();
        let mut some = [0; 64];
        match std::io::Read::read(&mut theirs.reader(), &mut some) {
            Ok(count) => plain.extend_from_slice(&some[..count]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(plain.first(), Some(&b'?'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes instead of a handshake, or of the rest of one, is an error or waited for; never more than that.
    #[test]
    fn nothing_that_comes_breaks_more_than_its_connection(
        begin in any::<bool>(),
        cut in 0..600usize,
        flips in proptest::collection::vec((0..600usize, any::<u8>()), 0..4),
        junk in proptest::collection::vec(any::<u8>(), 0..300),
        piece in 1..700usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let configs = configs(&rustls::version::TLS13);
            let mut bytes = Vec::new();
            if begin {
                let name = ServerName::try_from("a.example").unwrap();
                let mut hello = rustls::ClientConnection::new(configs.client.clone(), name).unwrap();
                hello.write_tls(&mut bytes).unwrap();
                for (at, flip) in &flips {
                    let length = bytes.len();
                    bytes[at % length] ^= flip;
                }
                bytes.truncate(bytes.len().saturating_sub(cut % 50));
            }
            bytes.extend_from_slice(&junk);
            let (mut theirs, ours) = sockets().await;
            let mut server = server(&configs, ours);
            let sending = async {
                for piece in bytes.chunks(piece) {
                    if theirs.write_all(piece).await.is_err() {
                        break;
                    }
                }
                theirs.shutdown().await.ok();
                let mut said = Vec::new();
                theirs.read_to_end(&mut said).await.ok();
            };
            let shaking = async {
                // It cannot end well: nobody finishes it.
                assert!(poll_fn(|cx| server.poll_handshake(cx)).await.is_err());
                server.give_up();
                drop(server);
            };
            timeout(Duration::from_secs(20), async { tokio::join!(sending, shaking) }).await.unwrap();
        });
    }
}
