//! Controllers with TLS of their own: who gets a connection, whose certificate is a credential, and what becomes of both
//! while files are renewed. The client is curl, as an operator's would be.

use std::path::{Path, PathBuf};

use switchyard::{
    config::{
        auth::{Auth, Certificates},
        proxy::Network,
    },
    tls::{Callers, ClientAuth, Least, Pair, Server, ServerSetting, Trust},
};

use crate::{
    auth::{REQUIRED, TOKEN, asked},
    certificates::{self, Authority, Made, Wanted},
    cloud::{Cloud, PATIENCE, Plan},
    support::eventually::eventually,
};

/// An authority, and what it has made.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ca: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Authority::new("ca"));
        certificates::write(folder.path(), "ca.pem", &ca.cert());
        certificates::write(folder.path(), "ca.crl", &ca.list(&[], 30));
        ca.leaf(&["127.0.0.1"]).write(folder.path(), "server");
        Self { folder, ca }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust { ca: self.path("ca.pem"), crl: Some(self.path("ca.crl")) }
    }

    pub(crate) fn server(&self, client_auth: ClientAuth) -> Server {
        let pair = Pair { cert: self.path("server.pem"), key: self.path("server.key") };
        let (least, suites) = (Least::Tls12, Vec::new());
        Server::load(ServerSetting { pairs: vec![pair], client_auth, least, suites, http2: false }).unwrap()
    }

    /// A client's pair, written: what curl is told.
    fn client(&self, made: &Made, name: &str) -> Vec<String> {
        let (cert, key) = made.write(self.folder.path(), name);
        ["--cert", &shown(&cert), "--key", &shown(&key)].map(str::to_owned).to_vec()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What curl got: its exit code, the status, the body.
async fn curl(files: &Files, cloud: &Cloud, path: &str, more: &[String]) -> (i32, String, String) {
    let url = format!("{}{path}", cloud.api().base().replace("http://", "https://"));
    let ran = tokio::process::Command::new("curl")
        .args(["--silent", "--max-time", "10", "--write-out", "\n%{http_code}", "--cacert"])
        .arg(files.path("ca.pem"))
        .args(more)
        .arg(url)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (ran.status.code().unwrap(), status.to_owned(), body.to_owned())
}

async fn ready(files: &Files, cloud: &Cloud, more: &[String]) {
    eventually(PATIENCE, "the controller is ready", async || {
        let got = curl(files, cloud, "/readyz", more).await;
        if got.1 == "200" { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .await;
}

const STATUS: &str = "/api/v1/status";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_connection_is_a_credential_of_its_client_alone_and_as_long_as_it_is_good() {
    let files = Files::new();
    let tls = files.server(ClientAuth::Optional(files.trust()));
    let trusted = vec![Network { address: "127.0.0.0".parse().unwrap(), bits: 8 }];
    let callers = Callers::load(files.trust()).unwrap();
    let auth = Auth { certificates: Some(Certificates { callers, trusted, signed: None }), ..asked() };
    let cloud = Cloud::planned(Plan { auth, tls: Some(tls.clone()), ..Plan::default() }).await;
    ready(&files, &cloud, &[]).await;
    let ask = async |more: &[String]| curl(&files, &cloud, STATUS, more).await;
    let denied = |got: (i32, String, String), who: &str| {
        assert_eq!(
            (got.0, got.1.as_str(), format!("{}\n", got.2.trim_end())),
            (0, "401", REQUIRED.into()),
            "{who}"
        );
    };
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();

    denied(ask(&[]).await, "no certificate");
    assert_eq!(ask(&text(&["--user", &format!("root:{TOKEN}")])).await.1, "200");
    let made = files.ca.client("mac-07");
    let good = files.client(&made, "good");
    assert_eq!(ask(&good).await.1, "200");
    denied(ask(&files.client(&Authority::new("ca").client("mac-07"), "strange")).await, "another authority");
    denied(ask(&files.client(&files.ca.expired_client("mac-07"), "expired")).await, "expired");
    let server = files.ca.make(&Wanted { cn: "mac-07", ..Wanted::default() });
    denied(ask(&files.client(&server, "purpose")).await, "a server's");
    // What is wrong in `Authorization` is wrong beside any certificate.
    denied(ask(&[&good[..], &text(&["--user", "root:wrong-token"])].concat()).await, "a wrong token");
    // Whoever passes requests on does not lend its certificate to their senders.
    for field in
        ["X-Forwarded-For: 10.0.0.9", "Forwarded: for=10.0.0.9", "Via: 1.1 p", "Ssl-Client-Verify: NONE"]
    {
        denied(ask(&[&good[..], &text(&["--header", field])].concat()).await, field);
    }
    let (code, status, _) = curl(&files, &cloud, "/metrics", &[]).await;
    assert_eq!((code, status.as_str()), (0, "200"), "probes and metrics need none");

    // Revoked: also on a connection that was opened before.
    let wire = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(files.ca.cert().as_bytes()).unwrap()])
        .identity(reqwest::Identity::from_pem(format!("{}{}", made.cert, made.key).as_bytes()).unwrap())
        .build()
        .unwrap();
    let url = format!("{}{STATUS}", cloud.api().base().replace("http://", "https://"));
    assert_eq!(wire.get(&url).send().await.unwrap().status(), 200);
    certificates::write(files.folder.path(), "ca.crl", &files.ca.list(&[made.serial], 30));
    tls.refresh().unwrap();
    assert_eq!(wire.get(&url).send().await.unwrap().status(), 401);
    denied(ask(&good).await, "revoked");

    // A list that is too old: nobody is believed by certificate, and everybody hears why.
    certificates::write(files.folder.path(), "ca.crl", &files.ca.list(&[], -1));
    tls.refresh().unwrap();
    denied(ask(&good).await, "a list that is too old");
    assert_eq!(ask(&text(&["--user", &format!("root:{TOKEN}")])).await.1, "200");
    let said = curl(&files, &cloud, "/readyz", &[]).await;
    assert!(
        said.1 == "200" && said.2.contains("server.tls: the revocation list ends, or has ended"),
        "{said:?}"
    );
    certificates::write(files.folder.path(), "ca.crl", &files.ca.list(&[], 30));
    tls.refresh().unwrap();
    assert_eq!(ask(&good).await.1, "200");
    let said = curl(&files, &cloud, "/readyz", &[]).await;
    assert!(!said.2.contains("revocation list"), "{said:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_required_nobody_connects_without_a_good_one() {
    let files = Files::new();
    let tls = files.server(ClientAuth::Required(files.trust()));
    let cloud = Cloud::planned(Plan { tls: Some(tls), ..Plan::default() }).await;
    let made = files.ca.client("mac-07");
    let good = files.client(&made, "good");
    ready(&files, &cloud, &good).await;
    for (who, more) in [
        ("none", Vec::new()),
        ("another authority's", files.client(&Authority::new("strange").client("x"), "strange")),
        ("expired", files.client(&files.ca.expired_client("x"), "expired")),
    ] {
        let (code, status, body) = curl(&files, &cloud, "/livez", &more).await;
        assert!(code != 0 && status == "000" && body.is_empty(), "{who}: {code} {status} {body}");
    }
    // Without authentication whoever has connected may do everything.
    assert_eq!(curl(&files, &cloud, STATUS, &good).await.1, "200");
    let counted = curl(&files, &cloud, "/metrics", &good).await.2;
    for reason in ["tls-no-certificate", "tls-certificate-of-unknown-issuer", "tls-certificate-expired"] {
        assert!(
            counted.contains(&format!("switchyard_tls_refused_total{{reason=\"{reason}\"}} ")),
            "{reason}: {counted}"
        );
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_taken_while_it_serves_and_broken_ones_are_told_of() {
    let files = Files::new();
    let tls = files.server(ClientAuth::Off);
    let cloud = Cloud::planned(Plan { tls: Some(tls), ..Plan::default() }).await;
    ready(&files, &cloud, &[]).await;
    // Plain HTTP is told so.
    let plain = reqwest::get(format!("{}/livez", cloud.api().base())).await.unwrap();
    assert_eq!(plain.status(), 400);
    assert!(plain.text().await.unwrap().contains("https://"));
    // A key that does not fit: the pair before serves on, and it is said.
    certificates::write(files.folder.path(), "server.key", &Authority::new("x").leaf(&["127.0.0.1"]).key);
    eventually(PATIENCE, "the bad key is told of", async || {
        let said = curl(&files, &cloud, "/readyz", &[]).await;
        let told =
            said.2.contains("server.tls: new certificates were refused") && said.2.contains("server.key");
        if told { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    let counted = curl(&files, &cloud, "/metrics", &[]).await.2;
    assert!(counted.contains("switchyard_tls_files_ok{of=\"server.tls\"} 0"), "{counted}");
    // Another authority's pair, whole: by itself.
    let other = Authority::new("other");
    certificates::write(files.folder.path(), "ca.pem", &other.cert());
    assert_eq!(curl(&files, &cloud, "/livez", &[]).await.0, 60, "the old one still serves");
    other.leaf(&["127.0.0.1"]).write(files.folder.path(), "server");
    eventually(PATIENCE, "the new pair is taken", async || {
        let said = curl(&files, &cloud, "/readyz", &[]).await;
        if said.0 == 0 && !said.2.contains("refused") { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    cloud.stop().await;
}
