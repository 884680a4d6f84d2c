//! What a client sends before hands are shaken (TLS 1.3 early data, 0-RTT) is never taken for a request: whoever has seen it
//! can send it again, and a start of a VM would be made twice.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned, pki_types::ServerName,
};

use crate::{
    front::Front,
    secure::{Files, server_config},
    upstream::{Upstream, ok},
};

const NAME: &str = "front.example";
const START: &str = "POST /api/v1/vm HTTP/1.1\r\nHost: front.example\r\nContent-Length: 2\r\n\r\n{}";

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from(NAME).unwrap()).unwrap()
}

fn eager(files: &Files) -> Arc<ClientConfig> {
    let mut config = (*files.client_of(None, &[&rustls::version::TLS13]).config).clone();
    config.enable_early_data = true;
    Arc::new(config)
}

/// A server under the same name that takes early data, for one visit: what it answers is one byte.
fn generous(files: &Files) -> SocketAddr {
    let mut config: ServerConfig = server_config(&files.pair("front"));
    config.max_early_data_size = 16 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), tcp);
        tls.write_all(b"x").unwrap();
        tls.read_to_end(&mut Vec::new()).ok();
    });
    address
}

#[test]
fn our_tickets_offer_none() {
    let (files, a) = (Files::new(), Upstream::start(|_| ok("well")));
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let config = eager(&files);
    for resumed in [false, true] {
        let mut session = session(&config);
        assert!(session.early_data().is_none());
        let mut tls = StreamOwned::new(session, TcpStream::connect(front.address).unwrap());
        tls.write_all(START.as_bytes()).unwrap();
        assert!(tls.read(&mut [0; 1024]).unwrap() > 0);
        let kind = tls.conn.handshake_kind();
        assert_eq!(kind == Some(rustls::HandshakeKind::Resumed), resumed);
    }
}

#[test]
fn a_request_that_comes_early_is_not_heard() {
    let (files, a) = (Files::new(), Upstream::start(|_| ok("well")));
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let config = eager(&files);
    let mut visit = StreamOwned::new(session(&config), TcpStream::connect(generous(&files)).unwrap());
    visit.read_exact(&mut [0]).unwrap();
    drop(visit);

    let (mut session, mut tcp) = (session(&config), TcpStream::connect(front.address).unwrap());
    session.early_data().expect("a ticket that offers it").write_all(START.as_bytes()).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut tcp).unwrap();
    }
    assert!(!session.is_early_data_accepted());
    let mut tls = StreamOwned::new(session, tcp);
    let ask = |tls: &mut StreamOwned<ClientConnection, TcpStream>, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: front.example\r\n\r\n");
        tls.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let read = tls.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
    };
    // The first that is answered is the first that was sent when hands were shaken.
    ask(&mut tls, "/api/v1/status");
    ask(&mut tls, "/api/v1/node");
    let seen: Vec<String> = a.seen.lock().unwrap().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(seen, ["/api/v1/status", "/api/v1/node"]);
}
