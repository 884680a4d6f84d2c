//! Rot is found, taken out of use at that registry alone, and repaired from another one, or by a push.

use std::{path::Path, time::Duration};

use switchyard::{
    config::registry::{Registry as Config, Role, Scrub, Storage},
    model::Digest,
};

use crate::{
    replication::{SOON, caught_up, replica_config, url},
    rig::{Rig, config, files, limits, noise},
    support::eventually::eventually,
};

/// A pass begins a second after the last one did.
fn often(mut config: Config) -> Config {
    config.upkeep.scrub = Scrub { enabled: true, rate: 1 << 30, every: Duration::from_secs(1) };
    config
}

/// Turns a bit of a stored blob.
fn rot(dir: &Path, blob: &Digest) {
    let hex = blob.hex();
    let path = dir.join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

async fn why(rig: &Rig) -> String {
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), 200, "it serves");
    ready.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_is_quarantined_told_with_its_tags_and_mended_by_a_push() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::of(often(config(dir.path(), limits())), dir.path()).await;
    let layer = noise(1, 5_000_000);
    rig.image("a/b", "t", &[&layer]).await;
    rig.image("fine", "t", &[b"fine"]).await;
    let digest = Digest::of(&layer);
    rot(dir.path(), &digest);
    eventually(SOON, "the rot to be told", || async {
        let why = why(&rig).await;
        let told = why.contains(&digest.to_string()) && why.contains("a/b:t") && why.contains("push");
        if told { Ok(()) } else { Err(why) }
    })
    .await;
    assert_eq!(rig.get(&format!("/v2/a/b/blobs/{digest}")).await.status(), 404);
    assert_eq!(rig.get(&format!("/replication/v1/blobs/{digest}")).await.status(), 404);
    assert_eq!(files(&dir.path().join("quarantine")).len(), 2, "with its chunk list");
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_missing_bytes 5000000"), "{metrics}");
    rig.assert_complete("fine", "t").await;
    rig.blob("a/b", &layer).await;
    rig.assert_complete("a/b", "t").await;
    eventually(SOON, "it to be well again", || async {
        let why = why(&rig).await;
        if why.contains("damaged") { Err(why) } else { Ok(()) }
    })
    .await;
    assert_eq!(files(&dir.path().join("quarantine")).len(), 2, "nothing there is deleted");
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_scrub_bad_total{what=\"blob\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_at_a_replica_or_at_its_writer_is_repaired_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (at_writer, at_replica) = (dir.path().join("w"), dir.path().join("r"));
    let layer = noise(2, 9_000_000);
    let digest = Digest::of(&layer);
    let writer = Rig::new(&at_writer).await;
    let replica = often(replica_config(&at_replica, "r2", url(&writer), Vec::new()));
    let replica = Rig::of(replica, &at_replica).await;
    writer.image("a", "t", &[&layer]).await;
    caught_up(&replica, &writer).await;
    let whole = |at: std::path::PathBuf| {
        let layer = &layer;
        move || {
            let path = at.join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
            async move {
                if std::fs::read(&path).is_ok_and(|bytes| bytes == *layer) { Ok(()) } else { Err("not yet") }
            }
        }
    };
    rot(&at_replica, &digest);
    eventually(SOON, "the replica to have it again", whole(at_replica.clone())).await;
    assert_eq!(files(&at_replica.join("quarantine")).len(), 2);
    replica.assert_complete("a", "t").await;

    // The writer names its replica as a peer, so it heals from there.
    writer.stop().await;
    let mut healing = often(config(&at_writer, limits()));
    healing.replication.role = Role::Writer { peers: vec![url(&replica)], alone: true };
    rot(&at_writer, &digest);
    let writer = Rig::of(healing, &at_writer).await;
    eventually(SOON, "the writer to have it again", whole(at_writer.clone())).await;
    writer.assert_complete("a", "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_registries_on_one_directory_one_reads_it_and_all_tell_what_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        let mut config = often(config(dir.path(), limits()));
        config.server.name = name.into();
        config.storage = Storage::Shared(dir.path().to_owned());
        config
    };
    let rigs = [Rig::of(config("r1"), dir.path()).await, Rig::of(config("r2"), dir.path()).await];
    let layer = noise(1, 5_000_000);
    rigs[0].image("a", "t", &[&layer]).await;
    let digest = Digest::of(&layer);
    rot(dir.path(), &digest);
    for rig in &rigs {
        eventually(SOON, "the rot to be told", || async {
            let why = rig.get("/readyz").await.text().await.unwrap();
            if why.contains(&digest.to_string()) { Ok(()) } else { Err(why) }
        })
        .await;
    }
    let mut readers = 0;
    for rig in &rigs {
        let metrics = rig.get("/metrics").await.text().await.unwrap();
        readers += usize::from(!metrics.contains("switchyard_registry_scrubbed_bytes_total 0"));
    }
    assert_eq!(readers, 1, "each byte is read once for all");
    assert!(dir.path().join("leases/scrub").exists());
    rigs[1].blob("a", &layer).await;
    rigs[0].assert_complete("a", "t").await;
}
