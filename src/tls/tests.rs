//! Files with faults, and handshakes in memory between our two sides.

use std::path::{Path, PathBuf};

use rustls::{
    ClientConfig, ClientConnection, ServerConnection,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
    server::danger::ClientCertVerifier,
};

use super::{
    made::{Authority, Made, Wanted, write},
    *,
};

struct World {
    folder: tempfile::TempDir,
    ca: Authority,
    clients: Authority,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
        write(folder.path(), "ca.pem", &ca.cert());
        write(folder.path(), "clients.pem", &clients.cert());
        ca.leaf(&["front.example"]).write(folder.path(), "front");
        Self { folder, ca, clients }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn setting(&self) -> ServerSetting {
        ServerSetting {
            pairs: vec![Pair { cert: self.path("front.pem"), key: self.path("front.key") }],
            client_auth: ClientAuth::Off,
            least: Least::Tls12,
            suites: Vec::new(),
            http2: false,
        }
    }

    fn trust(&self, crl: Option<&str>) -> Trust {
        Trust { ca: self.path("clients.pem"), crl: crl.map(|crl| self.path(crl)) }
    }

    fn server(&self, client_auth: ClientAuth) -> Server {
        Server::load(ServerSetting { client_auth, ..self.setting() }).unwrap()
    }

    fn client(&self, shows: Option<&Made>) -> ClientConfig {
        let setting = UpstreamSetting { ca: Some(self.path("ca.pem")), ..UpstreamSetting::default() };
        let mut config = ClientConfig::clone(&Upstream::load(setting).unwrap().config());
        if let Some(made) = shows {
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
            let builder =
                ClientConfig::builder_with_provider(provider(&[])).with_safe_default_protocol_versions();
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(rustls::pki_types::CertificateDer::from_pem_slice(self.ca.cert().as_bytes()).unwrap())
                .unwrap();
            config = builder
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![made.der.clone().into()], key)
                .unwrap();
        }
        config
    }
}

/// Shakes hands in memory; who the client is, or why not.
fn shake(server: &Server, client: &Arc<ClientConfig>) -> Result<Option<Peer>, String> {
    let (_, asks) = server.accept().unwrap();
    let name = ServerName::try_from("front.example").unwrap();
    let mut ours = ServerConnection::new(server.config_for_tests()).unwrap();
    let mut theirs = ClientConnection::new(client.clone(), name).unwrap();
    let mut wire = Vec::new();
    // With what comes after it: the ticket, which the client takes last.
    for _ in 0..4 {
        wire.clear();
        theirs.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            ours.read_tls(&mut rest).unwrap();
            ours.process_new_packets().map_err(|error| format!("{error:?}"))?;
        }
        wire.clear();
        ours.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            theirs.read_tls(&mut rest).unwrap();
            theirs.process_new_packets().map_err(|error| format!("client: {error:?}"))?;
        }
    }
    assert!(!ours.is_handshaking() && !theirs.is_handshaking());
    asks.peer(&ours).map_err(|denied| denied.to_string())
}

fn verify(peer: Result<Option<Peer>, String>) -> String {
    peer.unwrap().map_or_else(|| "not asked".into(), |peer| peer.verify.value())
}

fn problems(loaded: Result<Server, Vec<Problem>>) -> Vec<(Part, String)> {
    loaded.unwrap_err().into_iter().map(|problem| (problem.part, problem.what)).collect()
}

#[test]
fn each_fault_of_a_file_is_said_with_its_key() {
    let world = World::new();
    let check = |change: &dyn Fn(&mut ServerSetting), part: Part, what: &str| {
        let mut setting = world.setting();
        change(&mut setting);
        let found = problems(Server::load(setting));
        assert!(found.iter().any(|(of, said)| *of == part && said.contains(what)), "{what}: {found:?}");
    };
    write(world.at(), "junk", "nothing of worth");
    write(world.at(), "broken", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    write(
        world.at(),
        "locked",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    world.ca.leaf(&["other.example"]).write(world.at(), "other");
    let other = world.path("other.key");
    check(&|s| s.pairs[0].cert = "/no/such".into(), Part::Cert(0), "cannot be read");
    check(&|s| s.pairs[0].cert = world.at().to_owned(), Part::Cert(0), "is no file");
    check(&|s| s.pairs[0].cert = world.path("junk"), Part::Cert(0), "no certificate in PEM");
    check(&|s| s.pairs[0].cert = world.path("broken"), Part::Cert(0), "broken PEM");
    check(&|s| s.pairs[0].key = world.path("junk"), Part::Key(0), "no private key in PEM");
    check(&|s| s.pairs[0].key = world.path("locked"), Part::Key(0), "encrypted");
    check(&|s| s.pairs[0].key.clone_from(&other), Part::Key(0), "is not the key of the certificate");
    let second = Pair { cert: world.path("front.pem"), key: other.clone() };
    check(&|s| s.pairs.push(second.clone()), Part::Key(1), "is not the key of the certificate");
    let asks = |ca: &str, crl: Option<&str>| {
        let crl = crl.map(|crl| world.path(crl));
        ClientAuth::Optional(Trust { ca: world.path(ca), crl })
    };
    check(&|s| s.client_auth = asks("junk", None), Part::Authorities, "no certificate in PEM");
    check(&|s| s.client_auth = asks("clients.pem", Some("junk")), Part::Lists, "no revocation list");
    write(world.at(), "strange.crl", &world.ca.list(&[], 30));
    check(
        &|s| s.client_auth = asks("clients.pem", Some("strange.crl")),
        Part::Lists,
        "no list of an authority",
    );
    let namesake = Authority::new("clients");
    write(world.at(), "forged.crl", &namesake.list(&[], 30));
    check(
        &|s| s.client_auth = asks("clients.pem", Some("forged.crl")),
        Part::Lists,
        "not signed by its issuer",
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let world = World::new();
    let pairs = vec![Pair { cert: "/no/cert".into(), key: "/no/key".into() }; 2];
    let client_auth = ClientAuth::Required(Trust { ca: "/no/ca".into(), crl: None });
    let found = problems(Server::load(ServerSetting { pairs, client_auth, ..world.setting() }));
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn optional_takes_everybody_and_says_who_is_good() {
    let world = World::new();
    let (good, revoked) = (world.clients.client("ci"), world.clients.client("old"));
    write(world.at(), "clients.crl", &world.clients.list(&[revoked.serial], 30));
    let server = world.server(ClientAuth::Optional(world.trust(Some("clients.crl"))));
    let of = |made: Option<&Made>| verify(shake(&server, &Arc::new(world.client(made))));
    assert_eq!(of(None), "NONE");
    assert_eq!(of(Some(&good)), "SUCCESS");
    assert_eq!(of(Some(&revoked)), "FAILED:certificate revoked");
    assert_eq!(of(Some(&world.clients.expired_client("late"))), "FAILED:certificate has expired");
    assert_eq!(of(Some(&world.ca.client("ci"))), "FAILED:unable to get local issuer certificate");
    assert_eq!(of(Some(&world.clients.leaf(&["a.example"]))), "FAILED:unsuitable certificate purpose");
    let early =
        Wanted { days: 2..9, purpose: rcgen::ExtendedKeyUsagePurpose::ClientAuth, ..Wanted::default() };
    assert_eq!(of(Some(&world.clients.make(&early))), "FAILED:certificate is not yet valid");

    let peer = shake(&server, &Arc::new(world.client(Some(&good)))).unwrap().unwrap();
    assert_eq!(peer.subject.as_deref(), Some("CN=ci, O=builders"));
    assert_eq!(peer.escaped, Some(pass::escaped(&good.der)));
    let bad = shake(&server, &Arc::new(world.client(Some(&revoked)))).unwrap().unwrap();
    assert_eq!((bad.escaped, bad.subject.as_deref()), (None, Some("CN=old, O=builders")));
}

#[test]
fn required_lets_nobody_else_in() {
    let world = World::new();
    let (good, revoked) = (world.clients.client("ci"), world.clients.client("old"));
    write(world.at(), "clients.crl", &world.clients.list(&[revoked.serial], 30));
    let server = world.server(ClientAuth::Required(world.trust(Some("clients.crl"))));
    let of = |made: Option<&Made>| shake(&server, &Arc::new(world.client(made)));
    assert_eq!(verify(of(Some(&good))), "SUCCESS");
    assert!(of(None).unwrap_err().contains("NoCertificatesPresented"));
    assert!(of(Some(&revoked)).unwrap_err().contains("Revoked"));
    assert!(of(Some(&world.clients.expired_client("late"))).unwrap_err().contains("Expired"));
    assert!(of(Some(&world.ca.client("ci"))).unwrap_err().contains("UnknownIssuer"));
}

#[test]
fn a_list_that_is_too_old_fails_certificates_and_nothing_else() {
    let world = World::new();
    write(world.at(), "clients.crl", &world.clients.list(&[], -1));
    let server = world.server(ClientAuth::Optional(world.trust(Some("clients.crl"))));
    let good = world.clients.client("ci");
    assert_eq!(verify(shake(&server, &Arc::new(world.client(Some(&good))))), "FAILED:CRL has expired");
    assert_eq!(verify(shake(&server, &Arc::new(world.client(None)))), "NONE");
    assert!(server.facts().list_until.unwrap() < crate::clock::wall());
}

#[test]
fn what_was_revoked_since_cannot_resume() {
    let world = World::new();
    let made = world.clients.client("ci");
    write(world.at(), "clients.crl", &world.clients.list(&[], 30));
    for required in [false, true] {
        write(world.at(), "clients.crl", &world.clients.list(&[], 30));
        let trust = world.trust(Some("clients.crl"));
        let auth = if required { ClientAuth::Required(trust) } else { ClientAuth::Optional(trust) };
        let server = world.server(auth);
        let client = Arc::new(world.client(Some(&made)));
        assert_eq!(verify(shake(&server, &client)), "SUCCESS");
        assert_eq!(verify(shake(&server, &client)), "SUCCESS");
        write(world.at(), "clients.crl", &world.clients.list(&[made.serial], 30));
        assert!(server.refresh().unwrap());
        match shake(&server, &client) {
            Err(why) => assert!(required && why == "certificate revoked", "{why}"),
            ok => assert_eq!((required, verify(ok)), (false, "FAILED:certificate revoked".into())),
        }
    }
}

#[test]
fn new_files_are_taken_and_bad_ones_are_not() {
    let world = World::new();
    let server = world.server(ClientAuth::Off);
    let until = server.facts().certificate_until;
    assert!(!server.refresh().unwrap());
    world
        .ca
        .make(&Wanted { names: &["front.example"], days: -1..90, ..Wanted::default() })
        .write(world.at(), "front");
    assert!(server.refresh().unwrap());
    assert!(server.facts().certificate_until > until);
    let until = server.facts().certificate_until;
    world.ca.leaf(&["front.example"]).write(world.at(), "other");
    std::fs::copy(world.path("other.key"), world.path("front.key")).unwrap();
    assert!(server.refresh().unwrap_err()[0].what.contains("is not the key"));
    assert_eq!(server.facts().certificate_until, until);
    assert_eq!(verify(shake(&server, &Arc::new(world.client(None)))), "not asked");
}

#[test]
fn every_file_is_looked_at_in_the_order_in_which_it_is_read() {
    let world = World::new();
    write(world.at(), "clients.crl", &world.clients.list(&[], 30));
    world.ca.leaf(&["other.example"]).write(world.at(), "other");
    let pair = |name: &str| Pair {
        cert: world.path(&format!("{name}.pem")),
        key: world.path(&format!("{name}.key")),
    };
    let setting = ServerSetting {
        pairs: vec![pair("front"), pair("other")],
        client_auth: ClientAuth::Required(world.trust(Some("clients.crl"))),
        ..world.setting()
    };
    assert_eq!(setting.files().len(), 6);
    let server = Server::load(setting.clone()).unwrap();
    assert_eq!(super::files::digest(&setting.files()), Some(server.digest_for_tests()));
    for verify in [true, false] {
        let setting = UpstreamSetting {
            ca: Some(world.path("ca.pem")),
            identity: Some(pair("other")),
            server_name: None,
            verify,
        };
        assert_eq!(setting.files().len(), if verify { 3 } else { 2 });
        let upstream = Upstream::load(setting.clone()).unwrap();
        assert_eq!(super::files::digest(&setting.files()), Some(upstream.digest_for_tests()));
    }
}

#[test]
fn a_reload_with_the_same_words_keeps_sessions_and_takes_new_files() {
    let world = World::new();
    let before = world.server(ClientAuth::Off);
    let client = Arc::new(world.client(None));
    shake(&before, &client).unwrap();
    world.ca.leaf(&["front.example"]).write(world.at(), "front");
    let after = world.server(ClientAuth::Off).after(Some(&before));
    assert!(Arc::ptr_eq(&after.config_for_tests().ticketer, &before.config_for_tests().ticketer));
    assert!(!after.refresh().unwrap(), "it has what was read last");
    let other = world.server(ClientAuth::Optional(world.trust(None))).after(Some(&before));
    assert!(!Arc::ptr_eq(&other.config_for_tests().ticketer, &before.config_for_tests().ticketer));
}

#[test]
fn versions_and_suites_are_what_the_config_says() {
    let world = World::new();
    let suite = |name: &str| Suite::named(name).unwrap();
    let with = |least: Least, suites: &[Suite]| {
        let server =
            Server::load(ServerSetting { least, suites: suites.to_vec(), ..world.setting() }).unwrap();
        let only12 = {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(rustls::pki_types::CertificateDer::from_pem_slice(world.ca.cert().as_bytes()).unwrap())
                .unwrap();
            let builder = ClientConfig::builder_with_provider(provider(&[]));
            builder
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth()
        };
        let both = shake(&server, &Arc::new(world.client(None))).is_ok();
        (both, shake(&server, &Arc::new(only12)).is_ok())
    };
    assert_eq!(with(Least::Tls12, &[]), (true, true));
    assert_eq!(with(Least::Tls13, &[]), (true, false));
    assert_eq!(with(Least::Tls12, &[suite("TLS_AES_128_GCM_SHA256")]), (true, false));
    assert_eq!(with(Least::Tls12, &[suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]), (true, true));
    // The certificate's key is no RSA key.
    assert_eq!(with(Least::Tls12, &[suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]), (false, false));
}

#[test]
fn an_upstream_is_checked_whatever_is_left_out() {
    let world = World::new();
    let server = world.server(ClientAuth::Off);
    let check = |setting: UpstreamSetting, host: &str| {
        let upstream = Upstream::load(setting).map_err(|problems| in_words(&problems))?;
        let name = ServerName::try_from(upstream.name(host).to_owned()).map_err(|_| "no name".to_owned())?;
        upstream.connect(host).map_err(|error| error.to_string())?;
        let mut ours = ServerConnection::new(server.config_for_tests()).unwrap();
        let mut theirs = ClientConnection::new(upstream.config(), name).unwrap();
        let mut wire = Vec::new();
        theirs.write_tls(&mut wire).unwrap();
        ours.read_tls(&mut wire.as_slice()).unwrap();
        ours.process_new_packets().unwrap();
        wire.clear();
        ours.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            theirs.read_tls(&mut rest).unwrap();
            theirs.process_new_packets().map_err(|error| error.to_string())?;
        }
        Ok::<(), String>(())
    };
    let ours = || UpstreamSetting { ca: Some(world.path("ca.pem")), ..UpstreamSetting::default() };
    let named = |name: &str| UpstreamSetting { server_name: Some(name.into()), ..ours() };
    assert_eq!(check(ours(), "front.example"), Ok(()));
    assert_eq!(check(named("front.example"), "10.0.0.1"), Ok(()));
    for (setting, host) in [
        (ours(), "other.example"),
        (ours(), "10.0.0.1"),
        (ours(), ""),
        (named(""), "front.example"),
        (named("other.example"), "front.example"),
        (
            UpstreamSetting { ca: Some(world.path("clients.pem")), ..UpstreamSetting::default() },
            "front.example",
        ),
    ] {
        assert!(check(setting.clone(), host).is_err(), "{setting:?} {host}");
    }
    let anybody = UpstreamSetting { verify: false, ..UpstreamSetting::default() };
    assert_eq!(check(anybody, "other.example"), Ok(()));
}

#[test]
fn a_judge_says_of_the_schemes_what_its_verifier_does() {
    let world = World::new();
    let server = world.server(ClientAuth::Optional(world.trust(None)));
    let judge = server.judge_for_tests().unwrap();
    assert!(!judge.client_auth_mandatory() && judge.offer_client_auth());
    assert!(!judge.supported_verify_schemes().is_empty());
    assert_eq!(judge.root_hint_subjects().len(), 1);
}

/// Answers every request with 200 and no body, inside this TLS, until it is dropped.
async fn answering(server: Server) -> (u16, tokio::task::JoinSet<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, mut work) = (listener.local_addr().unwrap().port(), tokio::task::JoinSet::new());
    work.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok((mut stream, _)) = server.secure(tcp).await else { continue };
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok() {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await
                    .ok();
                stream.shutdown().await.ok();
            }
        }
    });
    (port, work)
}

#[tokio::test]
async fn a_client_of_any_server_takes_new_files_and_says_why_it_does_not_take_a_server() {
    let world = World::new();
    let made = world.clients.client("agent");
    world.clients.expired_client("agent").write(world.at(), "agent");
    let (port, _work) = answering(world.server(ClientAuth::Required(world.trust(None)))).await;
    let pair = Pair { cert: world.path("agent.pem"), key: world.path("agent.key") };
    let by = |ca: &str, name: Option<&str>, identity: Option<Pair>| {
        let server_name = name.map(str::to_owned);
        let setting = UpstreamSetting { ca: Some(world.path(ca)), server_name, identity, verify: true };
        Upstream::load(setting).unwrap()
    };
    let ask = async |http: &Http, scheme: &str, port: u16| {
        let asked = http.client().get(format!("{scheme}://127.0.0.1:{port}/")).send().await;
        asked.map(|answer| answer.status().as_u16()).map_err(|error| distrust(&error).unwrap_or_default())
    };
    let any = |tls| Http::any(Some(tls), reqwest::Client::builder).unwrap();

    let named = by("ca.pem", Some("front.example"), Some(pair.clone()));
    let http = any(named.clone());
    let refused = ask(&http, "https", port).await.unwrap_err();
    assert!(refused.starts_with("it refused the certificate that was shown"), "{refused}");
    made.write(world.at(), "agent");
    assert_eq!(named.refresh(), Ok(true));
    assert_eq!(ask(&http, "https", port).await, Ok(200), "by its name, at its address");
    assert!(named.certificate_until().is_some());

    for (tls, told) in [
        (by("ca.pem", None, Some(pair.clone())), "not for `127.0.0.1` but for `front.example`"),
        (by("ca.pem", Some("other.example"), Some(pair.clone())), "not for `other.example`"),
        (by("clients.pem", Some("front.example"), Some(pair)), "from no authority that is trusted here"),
        (by("ca.pem", Some("front.example"), None), "and none was shown"),
    ] {
        let why = ask(&any(tls), "https", port).await.unwrap_err();
        assert!(why.contains(told), "{why}");
    }
    let over = Wanted { names: &["127.0.0.1"], days: -9..-2, ..Wanted::default() };
    world.ca.make(&over).write(world.at(), "over");
    let pair = Pair { cert: world.path("over.pem"), key: world.path("over.key") };
    let expired = Server::load(ServerSetting { pairs: vec![pair], ..world.setting() }).unwrap();
    let (of_expired, _other) = answering(expired).await;
    let why = ask(&any(by("ca.pem", None, None)), "https", of_expired).await.unwrap_err();
    assert!(why.starts_with("its certificate has expired"), "{why}");
    // Who trusts nobody asks plainly alone.
    let nobody = Http::any(None, reqwest::Client::builder).unwrap();
    let why = ask(&nobody, "https", port).await.unwrap_err();
    assert!(why.contains("from no authority"), "{why}");
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = plain.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut tcp, _) = plain.accept().unwrap();
        std::io::Write::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let why = ask(&http, "https", at).await.unwrap_err();
    thread.join().unwrap();
    assert!(why.contains("write `http://`"), "{why}");
    // What is no matter of TLS is none of its words.
    assert_eq!(ask(&http, "http", 1).await, Err(String::new()));
}
