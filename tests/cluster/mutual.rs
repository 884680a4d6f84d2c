//! A cloud without a proxy whose servers speak TLS and let nobody in without a certificate, as real processes: a replica
//! follows, a controller asks the registry, an agent runs a VM, and the command line looks at all of it; each caller with the
//! permissions that it has been given.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    certificates::{self, Authority, Made, Wanted},
    support::{
        cloud::SOON,
        eventually::eventually,
        outside::{Said, run},
        place::Place,
        process::{BINARY, Process},
    },
    turn,
};

const TOKEN: &str = "fedcba9876543210-root";

/// The cloud's files and addresses.
struct World {
    place: Place,
    ca: Authority,
    writer: SocketAddr,
    replica: SocketAddr,
    controller: SocketAddr,
}

impl World {
    fn new() -> Self {
        let place = Place::new("mutual");
        let ca = Authority::new("ca");
        certificates::write(place.dir(), "ca.pem", &ca.cert());
        certificates::write(place.dir(), "strange.pem", &Authority::new("strange").cert());
        let (writer, replica, controller) = (place.address(), place.address(), place.address());
        ca.leaf(&[&writer.ip().to_string()]).write(place.dir(), "server");
        // Of the replica it is by a name that is no address: who asks must say so.
        ca.leaf(&["replica.example"]).write(place.dir(), "replica");
        ca.client("r2").write(place.dir(), "r2");
        ca.client("c1").write(place.dir(), "c1");
        ca.client("operator").write(place.dir(), "operator");
        ca.expired_client("operator").write(place.dir(), "expired");
        place.write("root.token", &format!("{TOKEN}\n"));
        Self { place, ca, writer, replica, controller }
    }

    fn show(&self, made: &Made, name: &str) {
        made.write(self.place.dir(), name);
    }

    /// Of a server by this certificate, which asks everybody for one.
    fn server(&self, name: &str, listen: SocketAddr, cert: &str, rest: &str) -> Process {
        let dir = self.place.dir().display();
        let (role, more) = match name.starts_with('c') {
            true => ("controller", "authorization = true\n"),
            false => ("registry", ""),
        };
        let text = format!(
            "[server]\nlisten = \"{listen}\"\nname = \"{name}\"\naddress_file = \"{dir}/{name}.address\"\n\
             tls = {{ cert = \"{dir}/{cert}.pem\", key = \"{dir}/{cert}.key\", client_auth = \"required\", client_ca = \"{dir}/ca.pem\" }}\n\
             [shutdown]\ngrace = \"5s\"\n[auth]\nenabled = true\nroot_token_file = \"{dir}/root.token\"\n{more}{rest}"
        );
        let config = self.place.write(&format!("{name}.toml"), &text);
        Process::start(&self.place, name, &[role, "-c", &config.display().to_string()])
    }

    /// `tls` of a table that names servers.
    fn towards(&self, who: &str, more: &str) -> String {
        let dir = self.place.dir().display();
        format!("{{ ca = \"{dir}/ca.pem\", cert = \"{dir}/{who}.pem\", key = \"{dir}/{who}.key\"{more} }}")
    }

    /// The command line, by this authority and as this client.
    async fn ask(&self, (ca, who): (&str, &str), words: &[&str]) -> Said {
        let dir = self.place.dir().display().to_string();
        let (ca, cert, key) =
            (format!("{dir}/{ca}.pem"), format!("{dir}/{who}.pem"), format!("{dir}/{who}.key"));
        let trust = ["--ca", &ca, "--cert", &cert, "--key", &key];
        run(&self.place, BINARY, &[words, &trust].concat()).await
    }

    /// Whoever has the root token says what the holder of a certificate may do.
    async fn allow(&self, who: &str, permissions: &[&str]) {
        let (dir, ip) = (self.place.dir().display().to_string(), self.controller);
        let file = |name: &str| format!("{dir}/{name}");
        let (ca, cert, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
        let (url, root) =
            (format!("https://{ip}/switchyard/v1/permission-groups/{who}"), format!("root:{TOKEN}"));
        let body = serde_json::json!({ "permissions": permissions }).to_string();
        let with = ["--cacert", &ca, "--cert", &cert, "--key", &key, "-u", &root, "-X", "PUT", "-d", &body];
        let said =
            run(&self.place, "curl", &[&["-sS", "--fail-with-body"], &with[..], &[&url]].concat()).await;
        assert!(said.ok, "{}{}", said.out, said.err);
    }

    async fn well(&self, words: &[&str]) -> String {
        let said = self.ask(("ca", "operator"), words).await;
        assert!(said.ok, "{words:?}: {}{}", said.out, said.err);
        said.out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_let_nobody_in_without_a_certificate_are_a_whole_cloud_without_a_proxy() {
    let _turn = turn().await;
    let world = World::new();
    let dir = world.place.dir().display().to_string();
    let url = |address: SocketAddr| format!("https://{address}");
    let (writer, controller) = (url(world.writer), url(world.controller));

    let peers = format!(
        "[replication]\nrole = \"replica\"\nwriter = \"{writer}\"\ntls = {}\n",
        world.towards("r2", "")
    );
    let mut r1 = world.server("r1", world.writer, "server", &format!("[storage]\ndisk = \"{dir}/r1\"\n"));
    let mut r2 =
        world.server("r2", world.replica, "replica", &format!("[storage]\ndisk = \"{dir}/r2\"\n{peers}"));
    let named = world.towards("c1", ", server_name = \"replica.example\"");
    let mut c1 = world.server(
        "c1",
        world.controller,
        "server",
        &format!(
            "[store]\nembedded = \"{dir}/store\"\n[registries]\naddress = \"https://{}\"\nnode_address = \"{writer}\"\ntls = {named}\n",
            world.replica
        ),
    );
    for (process, name) in [(&mut r1, "r1"), (&mut r2, "r2"), (&mut c1, "c1")] {
        process.addresses(&world.place.path(&format!("{name}.address"))).await;
    }

    // Pushed at the writer; the replica has it, and the controller knows of it from there alone.
    world.place.write("vm/disk.img", &"0123456789abcdef".repeat(1 << 14));
    let pushed =
        ["template", "push", &format!("{dir}/vm"), "mac/sonoma:v1", "--arch", "arm64", "--registry", &writer];
    world.well(&pushed).await;
    let named = ["--registry", &url(world.replica), "--server-name", "replica.example"];
    let listed = [&["template", "list"], &named[..]].concat();
    eventually(SOON, "the replica to have what the writer has", || async {
        let said = world.ask(("ca", "operator"), &listed).await;
        if said.ok && said.out.contains("mac/sonoma") { Ok(()) } else { Err(said.out + &said.err) }
    })
    .await;
    let stands = world
        .well(
            &[&["registry", "status", "--root-token-file", &format!("{dir}/root.token")], &named[..]]
                .concat(),
        )
        .await;
    assert!(stands.contains("replica"), "{stands}");

    // Whom the controller knows it asks for permissions, of its own name too.
    let list = ["vm", "list", "--controller", &controller];
    let said = world.ask(("ca", "operator"), &list).await;
    assert!(
        !said.ok && said.err.contains("answered 403: Permission denied") && said.err.contains("`list_vms`"),
        "{}",
        said.err
    );
    world.allow("operator", &["list_vms", "start_vm", "list_nodes", "registry_list"]).await;

    // An agent whose certificate has expired says so, and takes the new one while it runs.
    world.show(&world.ca.expired_client("n1"), "n1");
    let config = world.place.write(
        "agent.toml",
        &format!(
            "[agent]\ncontrollers = [\"{controller}\"]\ndata = \"{dir}/agent\"\nnode_id = \"n1\"\nheartbeat = \"300ms\"\n\
             reserve = \"64MiB\"\ntls = {}\n",
            world.towards("n1", "")
        ),
    );
    let agent = Process::start(&world.place, "agent", &["agent", "run", "-c", &config.display().to_string()]);
    eventually(SOON, "the agent to say what is wrong with its certificate", || async {
        let log = agent.log();
        let told = log.contains("it refused the certificate that was shown to it") && log.contains("Expired");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    world.show(&world.ca.client("n1"), "n1");
    eventually(SOON, "the agent to say which permission it lacks", || async {
        let log = agent.log();
        if log.contains("it needs `node_queue`") { Ok(()) } else { Err(log) }
    })
    .await;
    world.allow("n1", &["node_queue"]).await;
    let start = ["vm", "start", "mac/sonoma:v1", "--wait", "--controller", &controller, "--output", "json"];
    let started: Value = serde_json::from_str(&world.well(&start).await).expect("JSON");
    assert!(started.to_string().contains("Started"), "{started}");
    assert!(agent.log().contains("new certificates, keys or lists were taken"), "{}", agent.log());
    assert!(world.well(&["node", "list", "--controller", &controller]).await.contains("n1"));

    // Each server tells of the files by which it asks others, and when what it shows ends.
    let ip = world.controller.ip().to_string();
    for (name, port, of) in [
        ("replica.example", world.replica.port(), "replication.tls"),
        (ip.as_str(), world.controller.port(), "registries.tls"),
    ] {
        let asked = format!("https://{name}:{port}/metrics");
        let found = format!("replica.example:{port}:{ip}");
        let file = |name: &str| format!("{dir}/{name}");
        let (ca, cert, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
        let words = ["-sS", "--resolve", &found, "--cacert", &ca, "--cert", &cert, "--key", &key, &asked];
        let said = run(&world.place, "curl", &words).await;
        let until = format!("switchyard_tls_certificate_until_seconds{{of=\"{of}\"}}");
        let fine = format!("switchyard_tls_files_ok{{of=\"{of}\"}} 1");
        assert!(said.out.contains(&until) && said.out.contains(&fine), "{of}: {}{}", said.out, said.err);
    }

    // What is wrong is said in words, each with what would be right.
    let replica = ["registry", "status", "--registry", &url(world.replica)];
    for (trust, words, told) in [
        (("strange", "operator"), &list[..], "its certificate is from no authority that is trusted here"),
        (
            ("ca", "expired"),
            &list,
            "it refused the certificate that was shown to it, or that none was shown (CertificateExpired)",
        ),
        (
            ("ca", "operator"),
            &replica,
            "but for `replica.example`; ask it by a name that the certificate is for",
        ),
    ] {
        let said = world.ask(trust, words).await;
        assert!(
            !said.ok && said.err.contains(told) && said.err.contains("`--ca FILE`"),
            "{trust:?} {}",
            said.err
        );
    }
    let ca = format!("{dir}/ca.pem");
    let said = run(&world.place, BINARY, &[&list[..], &["--ca", &ca]].concat()).await;
    assert!(!said.ok && said.err.contains("it wants a certificate, and none was shown"), "{}", said.err);
    let server = world.ca.make(&Wanted { names: &["x"], ..Wanted::default() });
    world.show(&server, "server-alone");
    let said = world.ask(("ca", "server-alone"), &list).await;
    assert!(!said.ok && said.err.contains("it refused the certificate"), "{}", said.err);
    let plain = ["vm", "list", "--controller", &controller.replace("https://", "http://")];
    let said = run(&world.place, BINARY, &plain).await;
    assert!(!said.ok && said.err.contains("This port speaks TLS"), "{}", said.err);
}
