//! A blob that is larger than anything else: pushed and pulled in bounded memory, in a process of its own.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::{Body, Client};
use switchyard::model::{Digest, Hash};

use crate::{
    crashes::Victim,
    rig::{header, noise},
    support::{place::Place, scale::scaled},
};

const MIB: usize = 1024 * 1024;

/// What the registry may take more at its most than before: buffers of two transfers, and what the library reads ahead.
const MORE: u64 = 48 * MIB as u64;

/// The most memory that a process has ever had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Each MiB is another one, so that a registry which mixes them up is found out.
fn piece(seed: &[u8], at: usize) -> Bytes {
    let mut piece = seed.to_vec();
    piece[..8].copy_from_slice(&(at as u64).to_le_bytes());
    piece.into()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_pushed_and_pulled_in_bounded_memory() {
    let pieces = scaled(256, 5 * 1024);
    let seed = noise(5, MIB);
    let mut victim = Victim::start(Place::new("large"));
    let address = victim.address().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let base = format!("http://{address}/v2/large");
    // Something small first, so that what is made once is there.
    let small = Digest::of(b"small");
    let put =
        client.post(format!("{base}/blobs/uploads/?digest={small}")).body("small").send().await.unwrap();
    assert_eq!(put.status(), 201);
    let before = peak(victim.pid());

    let session = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
    let session = format!("http://{address}{}", header(&session, "location"));
    let mut hash = Hash::default();
    (0..pieces).for_each(|at| hash.update(&piece(&seed, at)));
    // Half of it as one chunk, half with the end.
    for (from, to, last) in [(0, pieces / 2, false), (pieces / 2, pieces, true)] {
        let seed = seed.clone();
        let body = stream::iter(from..to).map(move |at| Ok::<_, std::io::Error>(piece(&seed, at)));
        let request = match last {
            false => client.patch(&session),
            true => client.put(format!("{session}?digest={}", hash.digest())),
        };
        let answer = request.body(Body::wrap_stream(body)).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
    let pulled = client.get(format!("{base}/blobs/{}", hash.digest())).send().await.unwrap();
    assert_eq!(pulled.content_length(), Some((pieces * MIB) as u64));
    let mut came = Hash::default();
    let mut body = pulled.bytes_stream();
    while let Some(part) = body.next().await {
        came.update(&part.unwrap());
    }
    assert_eq!(came.digest(), hash.digest());
    let grown = peak(victim.pid()).saturating_sub(before);
    assert!(grown < MORE, "{} MiB more", grown / MIB as u64);
}
