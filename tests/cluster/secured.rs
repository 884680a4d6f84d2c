//! The whole cloud closed to strangers, as real processes: TLS everywhere, a proxy that asks for certificates and signs what it
//! says of them, an agent that signs in with an API key, and no secret in any log.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    certificates::{self, Authority},
    support::{
        api::{Answer, Api},
        cloud::SOON,
        eventually::eventually,
        holder::{Holder, bearer},
        image::Image,
        outside::run,
        place::Place,
        process::{BINARY, Process},
    },
    turn,
};

const TOKEN: &str = "fedcba9876543210-root";
const SIGNING: &str = "0123456789abcdef-0123456789abcdef-signing";

/// Curl, and what it says of an answer: status and body.
async fn curl(place: &Place, url: &str, more: &[&str]) -> (String, String) {
    let ca = place.path("ca.pem").display().to_string();
    let fixed = ["-sS", "--noproxy", "*", "--max-time", "20", "--cacert", &ca, "-w", "\n%{http_code}"];
    let said = run(place, "curl", &[&fixed, more, &[url]].concat()).await;
    assert!(said.ok, "curl {url} {more:?}: {}", said.err);
    let (body, status) = said.out.rsplit_once('\n').expect("the status is on a line of its own");
    (status.to_owned(), body.to_owned())
}

/// A call with the root token.
async fn root(api: &Api, method: &str, path: &str, body: &Value) -> Answer {
    let method: reqwest::Method = method.parse().expect("a method");
    let asked = api.http().request(method, format!("{}{path}", api.base())).basic_auth("root", Some(TOKEN));
    let since = switchyard::clock::now();
    let answer = asked.json(body).send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.expect("a body");
    Answer { status, headers, text, took: switchyard::clock::now() - since }
}

async fn up(place: &Place, process: &mut Process, name: &str) {
    process.addresses(&place.path(&format!("{name}.address"))).await;
}

/// `[server]` inside TLS, and `[auth]` with everything.
fn tables(place: &Place, name: &str, listen: std::net::SocketAddr) -> String {
    let dir = place.dir().display();
    format!(
        "[server]\nlisten = \"{listen}\"\nname = \"{name}\"\naddress_file = \"{dir}/{name}.address\"\n\
         tls = {{ cert = \"{dir}/server.pem\", key = \"{dir}/server.key\" }}\n\
         [log]\nfilter = \"info,switchyard=debug\"\n[shutdown]\ngrace = \"5s\"\n\
         [auth]\nenabled = true\nroot_token_file = \"{dir}/root.token\"\napi_keys = true\nsession_ttl = \"10s\"\n\
         client_ca = \"{dir}/ca.pem\"\nproxy_key_file = \"{dir}/sign.key\"\n"
    )
}

fn secrets(place: &Place, more: &[String]) {
    let basic = BASE64_STANDARD.encode(format!("root:{TOKEN}"));
    let key = std::fs::read_to_string(place.path("node.key")).expect("the key's file");
    let line = key.lines().nth(1).expect("PEM has lines").to_owned();
    let mut secrets = vec![TOKEN.to_owned(), SIGNING.to_owned(), basic, line];
    secrets.extend_from_slice(more);
    let mut looked = 0;
    for entry in std::fs::read_dir(place.dir()).expect("the place").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|kind| kind != "log") {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a log")).into_owned();
        looked += usize::from(!text.is_empty());
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{} has a secret in it", path.display());
        }
    }
    assert!(looked >= 4, "the logs of four programs have something in them, not of {looked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_closed_opens_to_who_may_come_and_no_log_tells_how() {
    let _turn = turn().await;
    let place = Place::new("secured");
    let ca = Authority::new("ca");
    certificates::write(place.dir(), "ca.pem", &ca.cert());
    let (front, inner, registries, controller, registry, admin) = (
        place.address(),
        place.address(),
        place.address(),
        place.address(),
        place.address(),
        place.address(),
    );
    let ip = front.ip().to_string();
    ca.leaf(&[&ip]).write(place.dir(), "server");
    place.write("root.token", &format!("{TOKEN}\n"));
    place.write("sign.key", &format!("{SIGNING}\n"));
    let dir = place.dir().display().to_string();

    let config = place.write(
        "registry.toml",
        &format!("{}[storage]\ndisk = \"{dir}/content\"\n", tables(&place, "registry", registry)),
    );
    let mut r1 = Process::start(&place, "registry", &["registry", "-c", &config.display().to_string()]);
    let config = place.write(
        "controller.toml",
        &format!(
            "{}[store]\nembedded = \"{dir}/store\"\n[registries]\naddress = \"http://{registries}\"\n",
            tables(&place, "controller", controller)
        ),
    );
    let mut c1 = Process::start(&place, "controller", &["controller", "-c", &config.display().to_string()]);
    let service = |name: &str, upstream: std::net::SocketAddr| {
        format!(
            "[service.{name}]\nupstreams = [{{ address = \"{upstream}\" }}]\nsign_key_file = \"{dir}/sign.key\"\n\
             tls = {{ ca = \"{dir}/ca.pem\" }}\nhealth = {{ interval = \"300ms\", timeout = \"300ms\" }}\n"
        )
    };
    let config = place.write(
        "proxy.toml",
        &format!(
            "[proxy]\nthreads = 2\naddress_file = \"{dir}/proxy.address\"\n[admin]\nlisten = \"{admin}\"\n\
             [log]\nfilter = \"info,switchyard=debug\"\naccess = \"{dir}/access.log\"\n[shutdown]\ngrace = \"5s\"\n\
             [[listener]]\nname = \"front\"\nbind = [\"{front}\"]\nservice = \"controllers\"\n\
             tls = {{ cert = \"{dir}/server.pem\", key = \"{dir}/server.key\", client_auth = \"optional\", client_ca = \"{dir}/ca.pem\" }}\n\
             [[listener]]\nname = \"inner\"\nbind = [\"{inner}\"]\nservice = \"controllers\"\n\
             [[listener]]\nname = \"registries\"\nbind = [\"{registries}\"]\nservice = \"registries\"\n{}{}",
            service("controllers", controller),
            service("registries", registry)
        ),
    );
    let mut proxy = Process::start(&place, "proxy", &["proxy", "-c", &config.display().to_string()]);
    for (process, name) in [(&mut r1, "registry"), (&mut c1, "controller"), (&mut proxy, "proxy")] {
        up(&place, process, name).await;
    }
    let (inside, stored) = (Api::new(inner), Api::new(registries));
    eventually(SOON, "the proxy to reach both", || async {
        let both = (inside.get("/readyz").await.status, stored.get("/readyz").await.status);
        if both == (200, 200) { Ok(()) } else { Err(format!("{both:?}")) }
    })
    .await;

    // By certificate through the proxy; forged at the controller's own door, and replayed there, it is nobody.
    let (cert, key) = ca.client("ci").write(place.dir(), "ci");
    let shows =
        ["--cert", &cert.display().to_string(), "--key", &key.display().to_string()].map(str::to_owned);
    let shows: Vec<&str> = shows.iter().map(String::as_str).collect();
    let vms = |at: std::net::SocketAddr| format!("https://{at}/api/v1/vm");
    assert_eq!(curl(&place, &vms(front), &shows).await.0, "200");
    assert_eq!(curl(&place, &vms(front), &[]).await.0, "401");
    let escaped: String = certificate(&cert);
    let forged =
        ["-H", "Ssl-Client-Verify: SUCCESS", "-H", &format!("Ssl-Client-Cert: {escaped}")].map(str::to_owned);
    let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
    for at in [controller, front] {
        assert_eq!(curl(&place, &vms(at), &forged).await.0, "401", "{at}");
    }
    let signed = [&forged[..], &["-H", "Switchyard-Signature: t=1790000000,mac=00"]].concat();
    assert_eq!(curl(&place, &vms(controller), &signed).await.0, "401");

    // A template by the root token, an agent by its key, which both kinds of server know.
    let image = Image::write(&place.path("image"), 7, 2, 1);
    let (from, to) = (format!("oci:{}", image.layout.display()), format!("docker://{registries}/mac:v1"));
    let pushed = run(
        &place,
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            "--dest-creds",
            &format!("ci:{TOKEN}"),
            &from,
            &to,
        ],
    )
    .await;
    assert!(pushed.ok, "{}", pushed.err);
    let (holder, public) = Holder::own(2048);
    std::fs::copy(holder.key(), place.path("node.key")).expect("the key can be copied");
    let node = json!({ "id": "node", "ttl": 3600, "groups": [], "publicKey": public });
    for (api, path) in [(&inside, "/api/v1/apikey"), (&stored, "/v1/apikey")] {
        assert_eq!(root(api, "POST", path, &node).await.status, 200, "{path}");
    }
    let config = place.write(
        "agent.toml",
        &format!(
            "[agent]\ncontrollers = [\"http://{inner}\"]\ndata = \"{dir}/agent\"\nnode_id = \"n1\"\nheartbeat = \"300ms\"\n\
             reserve = \"64MiB\"\napi_key_id = \"node\"\napi_key_file = \"{dir}/node.key\"\n[log]\nfilter = \"info,switchyard=debug\"\n"
        ),
    );
    let agent = Process::start(&place, "agent", &["agent", "run", "-c", &config.display().to_string()]);
    let list = root(&inside, "GET", "/api/v1/registry/vm", &Value::Null).await.ok();
    let template = list[0]["id"].as_str().expect("the template").to_owned();
    let starts = json!({ "vmid": template }).to_string();
    let start = async || {
        let (status, body) = curl(&place, &vms(front), &[&shows[..], &["-d", &starts]].concat()).await;
        assert_eq!(status, "200", "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        body["body"][0].as_str().expect("an id").to_owned()
    };
    let state = async |id: &str| {
        let shown = root(&inside, "GET", &format!("/api/v1/vm?id={id}"), &Value::Null).await.ok();
        shown["instance_state"].as_str().unwrap_or_default().to_owned()
    };
    let started = async |id: &str| {
        eventually(SOON, "the instance to be Started", || async {
            let state = state(id).await;
            if state == "Started" { Ok(()) } else { Err(state) }
        })
        .await;
    };
    let first = start().await;
    started(&first).await;

    // Restarted by command, with the root token out of a file; saved at the end.
    let (at, file) = (format!("http://{inner}"), format!("{dir}/root.token"));
    let command = async |words: &[&str]| {
        run(&place, BINARY, &[words, &["--controller", &at, "--root-token-file", &file]].concat()).await
    };
    let said = command(&["vm", "restart", &first, "--wait", "--wait-timeout", "60s"]).await;
    assert!(said.ok && said.out.contains("restarted"), "{}{}", said.out, said.err);
    let said = command(&["vm", "save", &first, "--tag", "v2"]).await;
    assert!(!said.ok && said.err.contains("--new-template"), "{}", said.err);

    // The key is deleted: the agent says so, and goes on with one of that name.
    let gone = json!({ "id": "node" });
    assert_eq!(root(&inside, "DELETE", "/api/v1/apikey", &gone).await.status, 200);
    eventually(SOON, "the agent to say why it is alone", || async {
        let log = agent.log();
        let told = log.contains("API key `node` is not known there");
        if told { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
    })
    .await;
    let second = start().await;
    assert_eq!(state(&second).await, "Scheduling");
    assert_eq!(root(&inside, "POST", "/api/v1/apikey", &node).await.status, 200);
    started(&second).await;
    assert_eq!(state(&first).await, "Started", "what runs is none the worse for it");

    let saving =
        ["vm", "save", &second, "--tag", "v2", "--template", &template, "--wait", "--wait-timeout", "60s"];
    let said = command(&saving).await;
    assert!(said.ok && said.out.contains("saved"), "{}{}", said.out, said.err);
    let versions = root(&inside, "GET", &format!("/api/v1/registry/vm?id={template}"), &Value::Null).await;
    assert!(versions.text.contains("\"v2\""), "{versions}");
    let again = command(&saving).await;
    assert!(!again.ok, "what is gone cannot be saved again: {}", again.out);

    // A session of somebody's, by curl and openssl: it is as little in a log as the rest.
    let handed = curl(&place, &format!("https://{front}/tap/v1/hand"), &["-d", "{\"id\":\"node\"}"]).await.1;
    let secret = holder.decrypt(&handed);
    let shake = json!({ "id": "node", "secret": secret }).to_string();
    let shaken = curl(&place, &format!("https://{front}/tap/v1/shake"), &["-d", &shake]).await.1;
    let session = bearer(&shaken);
    let field = format!("Authorization: {session}");
    assert_eq!(curl(&place, &vms(front), &["-H", &field]).await.0, "200");
    let token = serde_json::from_str::<Value>(&shaken).expect("JSON")["data"]["token"].to_string();
    let token = token.trim_matches('"').to_owned();
    secrets(&place, &[secret, token, session.trim_start_matches("Bearer ").to_owned()]);
}

/// A certificate as a proxy passes it on.
fn certificate(file: &Path) -> String {
    let pem = std::fs::read_to_string(file).expect("a certificate");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    pem.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_asks_at_all_its_doors_and_its_parts_have_what_they_need() {
    let _turn = turn().await;
    let place = Place::new("closed");
    let (controllers, registries, admin) = (place.address(), place.address(), place.address());
    let token = place.write("root.token", &format!("{TOKEN}\n"));
    let file = place.path("addresses").display().to_string();
    let (data, token) = (place.path("data").display().to_string(), token.display().to_string());
    let at = [controllers, registries, admin].map(|at| at.to_string());
    let mut process = Process::start(
        &place,
        "standalone",
        &[
            "standalone",
            "--data",
            &data,
            "--address-file",
            &file,
            "--controllers-addr",
            &at[0],
            "--registries-addr",
            &at[1],
            "--admin-addr",
            &at[2],
            "--root-token-file",
            &token,
        ],
    );
    process.addresses(&place.path("addresses")).await;
    let (api, stored) = (Api::new(controllers), Api::new(registries));
    // Its own agent came in, and nobody else does.
    eventually(SOON, "the node to be Active", || async {
        let nodes = root(&api, "GET", "/api/v1/node", &Value::Null).await;
        let active = nodes.is_ok() && nodes.ok()[0]["state"] == "Active";
        if active { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
    for (api, path) in [(&api, "/api/v1/node"), (&stored, "/v2/"), (&stored, "/registry/v2/vm")] {
        assert_eq!(api.get(path).await.status, 401, "{path}");
        assert_eq!(root(api, "GET", path, &Value::Null).await.status, 200, "{path}");
    }
    // By a key, with curl and openssl.
    let made =
        root(&api, "POST", "/api/v1/apikey", &json!({ "id": "ci", "ttl": 600, "groups": [] })).await.ok();
    let private = made.as_str().or_else(|| made["privateKey"].as_str()).expect("a private key").to_owned();
    let holder = Holder::given(&json!(private));
    let url = format!("http://{controllers}");
    let post =
        |path: &str, body: String| reqwest::Client::new().post(format!("{url}{path}")).body(body).send();
    let handed = post("/tap/v1/hand", json!({ "id": "ci" }).to_string()).await.expect("an answer");
    let secret = holder.decrypt(&handed.text().await.expect("a text"));
    let shaken =
        post("/tap/v1/shake", json!({ "id": "ci", "secret": secret }).to_string()).await.expect("an answer");
    let session = bearer(&shaken.text().await.expect("a text"));
    let asked = reqwest::Client::new().get(format!("{url}/api/v1/node")).header("authorization", &session);
    assert_eq!(asked.send().await.expect("an answer").status(), 200);
    // The dashboard is on the admin listener, which has a token of its own or none.
    let page = reqwest::get(format!("http://{admin}/")).await.expect("an answer");
    assert_eq!(page.status(), 200);
    assert!(page.text().await.expect("a page").contains("<html"));
    let log = process.log();
    for secret in [TOKEN, &private, session.trim_start_matches("Bearer ")] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    process.kill();
}
