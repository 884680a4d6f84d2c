//! The tools of the scenarios, proved before they prove anything.

use std::{collections::BTreeSet, os::unix::process::CommandExt, process::Command, time::Duration};

use serde_json::json;
use switchyard::clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    artifact::{self, Artifact},
    cloud::{self, SOON},
    content::Content,
    eventually::{eventually, never},
    history::{Answer, Outcome},
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
async fn a_small_artifact_is_pushed_and_read_back_and_a_missing_blob_is_seen() {
    let place = Place::new("artifact");
    let mut registry = cloud::registry(&place, "r1", "[limits]\nreserve = \"16MiB\"\n");
    registry.up().await;
    let (api, artifact) = (registry.api(), Artifact::new("one", 5000));
    assert_eq!(artifact::read_all(&api, "mac/a", "v1").await.answer, Answer::Missing);
    artifact.push(&api, "mac/a", "v1").await;
    let read = artifact::read_all(&api, "mac/a", "v1").await;
    assert_eq!((read.fresh(), read.blobs.len()), (artifact.digest().as_str(), 2));

    let (refused, _) = Artifact::new("two", 5000).publish(&api, "mac/a", "v2").await;
    assert!(matches!(&refused, Outcome::Refused(why) if why.contains("BLOB_UNKNOWN")), "{refused:?}");
    let hex = artifact.layer()[7..].to_owned();
    std::fs::remove_file(place.path(&format!("r1/content/blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    let half = artifact::read_all(&api, "mac/a", "v1").await;
    assert!(matches!(&half.answer, Answer::Half(_)), "{half:?}");

    registry.process.kill();
    let (refused, _) = artifact.publish(&registry.api(), "mac/a", "v1").await;
    assert!(matches!(refused, Outcome::Refused(_)), "nothing can be sent to nobody: {refused:?}");
    let silence = artifact::read(&api, "mac/a", "v1").await;
    assert!(matches!(silence.answer, Answer::Failed(_)), "{silence:?}");
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

#[tokio::test]
async fn a_wire_is_slow_and_a_wire_is_narrow() {
    let source = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::to(source.local_addr().unwrap()).await;
    let serve = async {
        loop {
            let (mut stream, _) = source.accept().await.unwrap();
            stream.write_all(&vec![7; 200_000]).await.unwrap();
        }
    };
    let take = || async {
        let (since, mut all) = (clock::now(), Vec::new());
        TcpStream::connect(relay.address()).await.unwrap().read_to_end(&mut all).await.unwrap();
        assert_eq!(all, vec![7; 200_000], "every byte comes, in its order");
        clock::now() - since
    };
    let ask = async {
        relay.set(Wire::Slow(Duration::from_millis(100)));
        // At least four pieces, one behind the other.
        assert!(take().await >= Duration::from_millis(400));
        relay.set(Wire::Narrow(800_000));
        let (first, second) = tokio::join!(take(), take());
        assert!(first.max(second) >= Duration::from_millis(490), "the line is shared: {first:?}, {second:?}");
    };
    tokio::select! {
        () = serve => {}
        () = ask => {}
    }
}

#[test]
fn two_storages_that_differ_are_told_apart() {
    let place = Place::new("content");
    let blob = |name: &str, bytes: &[u8]| {
        let hex = switchyard::model::Digest::of(bytes).hex();
        let path = format!("{name}/blobs/sha256/{}/{hex}", &hex[..2]);
        std::fs::write(place.path(&path), bytes).unwrap();
        hex
    };
    let repository = |name: &str, digest: &str, generation: u64| {
        let text =
            json!({ "generation": generation, "tags": { "v1": format!("sha256:{digest}") } }).to_string();
        place.write(&format!("{name}/repositories/mac/a/_catalogue.json"), &text);
        place.write(&format!("{name}/repositories/mac/a/_pulls.json"), name);
    };
    for name in ["one", "two"] {
        repository(name, &blob(name, b"bytes"), 1);
    }
    let of = |name: &str| Content::of(&place.path(name));
    assert_eq!(of("one").differs_from(&of("two")), None);
    assert_eq!((of("one").hashed().len(), of("one").corrupt().len()), (2, 0));

    // What nobody needs may be there or not.
    blob("two", b"more");
    assert_eq!(of("one").differs_from(&of("two")), None);
    repository("two", &blob("two", b"bytes"), 2);
    assert!(of("one").differs_from(&of("two")).is_some_and(|why| why.contains("_catalogue.json")));
    let next = blob("one", b"next");
    for name in ["one", "two"] {
        repository(name, &next, 3);
    }
    assert!(of("one").differs_from(&of("two")).is_some_and(|why| why.contains("is missing in")));
    std::fs::write(place.path(&format!("two/blobs/sha256/{}/{next}", &next[..2])), b"nex!").unwrap();
    assert_eq!((of("one").corrupt().len(), of("two").corrupt().len()), (0, 1));
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
