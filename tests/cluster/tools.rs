//! The tools of the scenarios, proved before they prove anything.

use std::{collections::BTreeSet, os::unix::process::CommandExt, process::Command, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    cloud::SOON,
    eventually::{eventually, never},
    image::Image,
    outside,
    place::{MARK, Place},
    relay::{Relay, Wire},
    shape,
    vms::Vms,
};

#[tokio::test]
async fn an_image_is_one_that_the_real_client_copies_as_it_is() {
    let place = Place::new("image");
    let image = Image::write(&place.path("a"), 7, 2, 1);
    let arguments = ["--insecure-policy", "copy", "--preserve-digests"];
    let (from, to) =
        (format!("oci:{}", image.layout.display()), format!("oci:{}", place.path("b").display()));
    let said = outside::run(&place, "skopeo", &[&arguments[..], &[&from, &to]].concat()).await;
    assert!(said.ok, "{}", said.err);
    for (digest, size) in &image.layers {
        let blob = place.path("b/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        assert_eq!(std::fs::metadata(blob).unwrap().len(), *size);
    }
    assert_eq!(
        Image::write(&place.path("c"), 7, 2, 1).manifest,
        image.manifest,
        "the same seed, the same image"
    );
    assert_ne!(Image::write(&place.path("d"), 8, 2, 1).manifest, image.manifest);
}

#[tokio::test]
async fn the_watcher_sees_a_second_vm_of_one_instance() {
    let place = Place::new("watcher");
    // The third one has a child that looks like itself for as long as it lives.
    let script = "case $1 in 3*) (while kill -0 $$; do sleep 0.05; done) & esac\nread x\n";
    let script = place.write("vm-process", script);
    let start = |instance: &str| {
        Command::new("sh")
            .args(["vm-process", instance])
            .current_dir(script.parent().unwrap())
            .process_group(0)
            .env(MARK, place.dir())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (one, two) = ("5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12", "1b9e0c3d-88f0-4a2b-6e11-9f4c0a7d2e55");
    let three = "3b9e0c3d-88f0-4a2b-6e11-9f4c0a7d2e55";
    let vms = Vms::watch(&place);
    let mut running = vec![start(one), start(two), start(three)];
    let all = BTreeSet::from([one, two, three].map(str::to_owned));
    eventually(SOON, "all to be seen", || async {
        if vms.running() == all { Ok(()) } else { Err("not yet") }
    })
    .await;
    never(Duration::from_millis(300), "a VM's own child", || async {
        if vms.of(three).len() == 1 { Ok(()) } else { Err("is taken for a second one") }
    })
    .await;
    vms.assert_never_two();

    running[0].kill().unwrap();
    running[0].wait().unwrap();
    eventually(SOON, "the first to be gone", || async {
        if vms.of(one).is_empty() { Ok(()) } else { Err("there") }
    })
    .await;
    running.push(start(one));
    eventually(SOON, "its next to be seen", || async {
        if vms.ever(one) == 2 { Ok(()) } else { Err("not yet") }
    })
    .await;
    vms.assert_never_two();

    running.push(start(one));
    eventually(SOON, "its second to be seen", || async {
        if vms.of(one).len() == 2 { Ok(()) } else { Err("not yet") }
    })
    .await;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| vms.assert_never_two()));
    assert!(caught.is_err(), "two at once must be seen");

    drop(vms);
    place.clear();
    for mut child in running {
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_wire_goes_dark_and_comes_back_and_is_cut() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::to(echo.local_addr().unwrap()).await;
    let serve = async {
        loop {
            let (mut stream, _) = echo.accept().await.unwrap();
            let (mut r, mut w) = stream.split();
            drop(tokio::io::copy(&mut r, &mut w).await);
        }
    };
    let ask = async {
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        let mut answer = [0; 4];
        client.write_all(b"ping").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");

        relay.set(Wire::Dark);
        client.write_all(b"dark").await.unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(300), client.read_exact(&mut answer)).await;
        assert!(silence.is_err(), "nothing comes through in the dark");
        relay.set(Wire::Whole);
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"dark", "what waited arrives");

        relay.set(Wire::Cut);
        assert!(matches!(client.read(&mut answer).await, Ok(0) | Err(_)), "a cut wire ends connections");
        let mut next = TcpStream::connect(relay.address()).await.unwrap();
        assert!(matches!(next.read(&mut answer).await, Ok(0) | Err(_)), "and takes no new ones");
        assert_eq!(relay.carried(), 16);
    };
    tokio::select! {
        () = serve => {}
        () = ask => {}
    }
}

#[test]
fn a_shape_names_every_fault() {
    let good = json!({ "uuid": "u", "name": "n", "status": "running", "cpu_cores": 4, "ram": "8G", "node_id": "x",
        "host_ip": "", "ip": "", "port_forwarding": [] });
    assert_eq!(shape::faults(&good, shape::VM_INFO), [""; 0]);
    for (field, value) in [
        ("uuid", json!("")),
        ("status", json!("up")),
        ("cpu_cores", json!(4.0)),
        ("start_date", json!("")),
        ("port_forwarding", json!(null)),
        ("colour", json!("red")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let faults = shape::faults(&bad, shape::VM_INFO);
        assert!(faults.len() == 1 && faults[0].contains(field), "{field}: {faults:?}");
    }
    assert_eq!(shape::faults(&json!({}), shape::STATUS).len(), 5, "every field that must be there");
}
