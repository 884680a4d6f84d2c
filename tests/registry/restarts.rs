//! What a restart keeps, who may open a directory, and how a stop ends.

use std::{io::Write, time::Duration};

use reqwest::StatusCode;
use switchyard::{model::Digest, registry::Registry, supervise::Tree};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{Rig, config, header, limits, noise},
    support::{place::Place, process::Process},
};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("a/b", "one", &[b"x"]).await;
    rig.image("a", "two", &[b"x", b"y"]).await;
    let before = rig.json("/registry/v2/vm").await;
    let session = rig.session("a").await;
    let data = noise(1, 9_000_000);
    rig.ask("PATCH", &session).body(data[..5_000_000].to_vec()).send().await.unwrap();

    let rig = rig.restarted().await;
    assert_eq!(rig.json("/registry/v2/vm").await, before);
    rig.assert_complete("a/b", "one").await;
    rig.assert_complete("a", "two").await;
    assert_eq!(header(&rig.get(&session).await, "range"), "0-4999999");
    let digest = Digest::of(&data);
    let end = rig.ask("PUT", &format!("{session}?digest={digest}"));
    let end =
        end.header("content-range", "5000000-8999999").body(data[5_000_000..].to_vec()).send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED, "{}", end.text().await.unwrap());
    assert_eq!(rig.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), data);
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    Rig::new(dir.path()).await.stop().await;
    for leftover in
        ["tmp/half", "uploads/no-session/data", "uploads/0b4cf7cb-36b6-4e14-8f6f-5a9e2d1d2f7e/data"]
    {
        let path = dir.path().join(leftover);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(&path).unwrap().write_all(b"x").unwrap();
    }
    let _rig = Rig::new(dir.path()).await;
    assert!(crate::rig::files(&dir.path().join("tmp")).is_empty());
    assert!(crate::rig::files(&dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_its_holders_pid() {
    let dir = tempfile::tempdir().unwrap();
    let _rig = Rig::new(dir.path()).await;
    let tree = Tree::new();
    let Err(error) = Registry::open(config(dir.path(), limits()), tree.handle()).await else {
        panic!("two registries in one directory");
    };
    let text = error.to_string();
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
}

#[tokio::test]
async fn a_stop_lets_running_transfers_end() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let big = noise(6, 24_000_000);
    let digest = rig.blob("drain", &big).await;
    let small = noise(7, 100_000);
    let session = rig.session("drain").await;
    let address = rig.address;
    let mut down = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("GET /v2/drain/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    down.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 100];
    down.read_exact(&mut first).await.unwrap();
    let mut up = tokio::net::TcpStream::connect(address).await.unwrap();
    let path = format!("{session}?digest={}", Digest::of(&small));
    let head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", small.len());
    up.write_all(head.as_bytes()).await.unwrap();
    up.write_all(&small[..50_000]).await.unwrap();
    crate::support::eventually::eventually(Duration::from_secs(20), "the upload to be running", || async {
        match rig.ask("GET", "/livez").send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;

    let stopping = rig.stop();
    let clients = async {
        let mut answer = String::new();
        up.write_all(&small[50_000..]).await.unwrap();
        up.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let mut body = Vec::new();
        down.read_to_end(&mut body).await.unwrap();
        assert!(body.ends_with(&big[big.len() - 1000..]), "the whole download arrives");
    };
    let began = switchyard::clock::now();
    tokio::join!(stopping, clients);
    assert!(began.elapsed() < Duration::from_secs(5), "a stop ends as soon as nothing is left");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is closed");
    let rig = Rig::new(dir.path()).await;
    let there = rig.get(&format!("/v2/drain/blobs/{}", Digest::of(&small))).await;
    assert_eq!(there.status(), StatusCode::OK);
}

#[tokio::test]
async fn sigterm_lets_a_running_transfer_end_and_the_process_exits_with_0() {
    let place = Place::new("sigterm");
    let (file, address) = (place.path("registry.toml"), place.path("address"));
    let (storage, written) = (place.path("storage"), address.display());
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\naddress_file = \"{written}\"\n[shutdown]\ngrace = \"20s\"\n\
         [storage]\ndisk = \"{}\"\n[limits]\nreserve = \"1MiB\"\n",
        storage.display()
    );
    std::fs::write(&file, config).unwrap();
    let mut process = Process::start(&place, "registry", &["registry", "-c", file.to_str().unwrap()]);
    let address = process.addresses(&address).await[0];

    let big = noise(8, 40_000_000);
    let digest = Digest::of(&big);
    let push = format!("http://{address}/v2/term/blobs/uploads/?digest={digest}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.post(push).body(big.clone()).send().await.unwrap().status(), 201);
    drop(client);
    let mut down = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("GET /v2/term/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    down.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 100];
    down.read_exact(&mut first).await.unwrap();

    process.signal(rustix::process::Signal::TERM);
    crate::support::eventually::eventually(Duration::from_secs(20), "the port to close", || async {
        match tokio::net::TcpStream::connect(address).await {
            Ok(_) => Err("still open"),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert!(process.has_ended().is_none(), "it waits for the transfer");
    let mut body = Vec::new();
    down.read_to_end(&mut body).await.unwrap();
    assert!(body.ends_with(&big[big.len() - 1_000_000..]), "the whole download arrives");
    let status = process.ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
}
