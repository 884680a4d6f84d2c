//! Garbage collection beside everything else: what is deleted frees its space, and nothing that is needed goes.

use std::{path::Path, time::Duration};

use serde_json::Value;
use switchyard::{
    config::registry::{Gc, Registry as Config, Storage},
    model::Digest,
};

use crate::{
    rig::{Rig, config, files, image, limits, noise},
    support::eventually::eventually,
};

const LONG: Duration = Duration::from_secs(30);

/// Long beside what a test does between asking for a blob and collecting.
const GRACE: Duration = Duration::from_secs(1);

/// Nothing is collected by itself; what is asked for goes by short graces.
fn short(dir: &Path) -> Config {
    let mut config = config(dir, limits());
    config.upkeep.gc = Gc { enabled: false, grace: GRACE, trash: GRACE, ..Gc::default() };
    config
}

async fn rig(dir: &Path) -> Rig {
    Rig::of(short(dir), dir).await
}

async fn collect(rig: &Rig, method: &str) -> Value {
    let answer = rig.ask(method, "/replication/v1/gc").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// Waits until a collection would do just this. A grace that was slept is not always enough: the time of a file may be
/// some milliseconds ahead of the clock that the storage reads.
async fn until_due(rig: &Rig, due: [u64; 3]) -> Value {
    eventually(LONG, "garbage is due", || async {
        let dry = collect(rig, "GET").await;
        if sums(&dry) == due { Ok(dry) } else { Err(dry) }
    })
    .await
}

async fn collect_when(rig: &Rig, due: [u64; 3]) {
    until_due(rig, due).await;
    assert_eq!(sums(&collect(rig, "POST").await), due);
}

/// Blobs of these, [discarded, purged, put back].
fn sums(collected: &Value) -> [u64; 3] {
    ["discarded", "purged", "put_back"].map(|sum| collected[sum]["blobs"].as_u64().unwrap())
}

fn stored(dir: &Path) -> usize {
    files(&dir.join("blobs")).len() + files(&dir.join("trash")).len()
}

#[tokio::test]
async fn what_was_deleted_is_gone_after_both_graces_and_what_is_shared_stays() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let (shared, own) = (noise(1, 5_000_000), noise(2, 5_000_000));
    rig.image("a", "t", &[&shared, &own]).await;
    rig.image("b", "t", &[&shared]).await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(sums(&collect(&rig, "POST").await), [0, 0, 0]);
    assert_eq!(rig.ask("DELETE", "/v2/a/manifests/t").send().await.unwrap().status(), 202);
    assert_eq!(sums(&collect(&rig, "GET").await), [0, 0, 0], "a manifest without a tag stays");
    let manifest = image(&config_of("a:t"), &[&shared, &own]).to_string();
    let manifest = Digest::of(manifest.as_bytes());
    let deleted = rig.ask("DELETE", &format!("/v2/a/manifests/{manifest}")).send().await.unwrap();
    assert_eq!(deleted.status(), 202);

    // Manifest, config and one layer; nothing is touched by looking.
    let dry = until_due(&rig, [3, 0, 0]).await;
    assert_eq!(dry["taken_away"], 0, "{dry}");
    assert!(dry["discarded"]["bytes"].as_u64().unwrap() > 5_000_000);
    assert_eq!(sums(&collect(&rig, "POST").await), [3, 0, 0]);
    assert_eq!(sums(&collect(&rig, "POST").await), [0, 0, 0], "the second grace holds");
    assert_eq!(files(&dir.path().join("trash")).len(), 4, "with its chunk list");
    collect_when(&rig, [0, 3, 0]).await;
    assert!(files(&dir.path().join("trash")).is_empty());
    // What was given without need is taken away after both graces.
    let links = dir.path().join("repositories/a/_links");
    eventually(LONG, "nothing is given any more", || async {
        let collected = collect(&rig, "POST").await;
        if links.exists() { Err(collected) } else { Ok(()) }
    })
    .await;
    rig.assert_complete("b", "t").await;
    // A manifest, its config, and a layer with its chunk list.
    assert_eq!(stored(dir.path()), 4);
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_gc_blobs_total{what=\"purged\"} 3"), "{metrics}");
}

fn config_of(of: &str) -> Vec<u8> {
    format!(r#"{{"architecture":"arm64","of":"{of}"}}"#).into_bytes()
}

#[tokio::test]
async fn a_push_takes_out_of_the_trash_what_it_finds_there() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let layer = noise(3, 6_000_000);
    let digest = rig.blob("a", &layer).await;
    let config = rig.blob("a", b"{}").await;
    until_due(&rig, [2, 0, 0]).await;
    let head = |name: &'static str, digest: Digest| {
        let asked = rig.ask("HEAD", &format!("/v2/{name}/blobs/{digest}"));
        async move { asked.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(head("a", digest).await, 200);
    assert_eq!(sums(&collect(&rig, "POST").await), [1, 0, 0], "the config alone was not asked for");
    assert_eq!(head("a", config).await, 200, "asked for, it comes out again");
    assert!(files(&dir.path().join("trash")).is_empty());
    collect_when(&rig, [2, 0, 0]).await;
    collect_when(&rig, [0, 2, 0]).await;
    // Nothing of it is here any more: a push sends it again.
    assert_eq!((head("a", digest).await, head("a", config).await), (404, 404));
    rig.blob("a", b"{}").await;
    rig.blob("a", &layer).await;
    assert_eq!(rig.put_manifest("a", "t", &image(b"{}", &[&layer])).await.status(), 201);
    rig.assert_complete("a", "t").await;
    tokio::time::sleep(GRACE).await;
    collect(&rig, "POST").await;
    rig.assert_complete("a", "t").await;
    assert!(files(&dir.path().join("trash")).is_empty());
}

#[tokio::test]
async fn reads_mounts_and_pushes_find_what_lies_in_the_trash() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let layer = noise(4, 6_000_000);
    rig.image("a", "t", &[&layer]).await;
    let rig = {
        rig.stop().await;
        // As if a collection had moved all of it while a push was under way.
        let blobs = files(&dir.path().join("blobs"));
        assert_eq!(blobs.len(), 4);
        for blob in blobs {
            let to = dir.path().join("trash").join(blob.file_name().unwrap());
            std::fs::rename(blob, to).unwrap();
        }
        self::rig(dir.path()).await
    };
    rig.assert_complete("a", "t").await;
    assert_eq!(files(&dir.path().join("trash")).len(), 4, "reading leaves it there");
    let digest = Digest::of(&layer);
    let chunks = rig.get(&format!("/replication/v1/blobs/{digest}/chunks")).await;
    assert_eq!(chunks.status(), 200);
    let mount = rig.ask("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a")).send().await.unwrap();
    assert_eq!(mount.status(), 201);
    assert_eq!(files(&dir.path().join("trash")).len(), 2, "the layer came out, with its list");
    let back = collect(&rig, "POST").await;
    assert_eq!(sums(&back), [0, 0, 2], "{back}");
    rig.assert_complete("a", "t").await;
}

#[tokio::test]
async fn nothing_is_collected_while_it_is_not_known_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path()).await;
    let (layer, other) = (noise(5, 100_000), noise(6, 100_000));
    let manifest = rig.image("a", "t", &[&layer]).await;
    rig.blob("a", &other).await;
    rig.image("b", "t", &[b"small"]).await;
    rig.stop().await;
    // A manifest that rotted: what its repository was given stays, and the rest is collected.
    let hex = manifest.hex();
    std::fs::write(dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2])), b"rot").unwrap();
    tokio::time::sleep(GRACE).await;
    let rig = self::rig(dir.path()).await;
    let collected = collect(&rig, "POST").await;
    assert_eq!(sums(&collected), [0, 0, 0], "{collected}");
    assert_eq!(collected["unread"][0]["repository"], "a");
    rig.stop().await;
    // A catalogue that cannot be read: nobody knows what that needs.
    std::fs::write(dir.path().join("repositories/b/_catalogue.json"), b"{").unwrap();
    let rig = self::rig(dir.path()).await;
    let refused = rig.ask("POST", "/replication/v1/gc").send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let text = refused.text().await.unwrap();
    assert!(text.contains("catalogue of `b`") && text.contains("fsck"), "{text}");
    assert!(files(&dir.path().join("trash")).is_empty());
}

#[tokio::test]
async fn untagged_manifests_go_only_where_the_config_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = short(dir.path());
    config.upkeep.gc.untagged = Some(Duration::from_secs(1));
    let rig = Rig::of(config, dir.path()).await;
    let first = rig.image_with("a", "t", "{}", &[b"one"]).await;
    rig.image_with("a", "t", "{}", &[b"two"]).await;
    eventually(LONG, "the manifest without a tag is old enough", || async {
        let collected = collect(&rig, "POST").await;
        if collected["untagged"] == 1 { Ok(()) } else { Err(collected) }
    })
    .await;
    assert_eq!(rig.get(&format!("/v2/a/manifests/{first}")).await.status(), 404);
    rig.assert_complete("a", "t").await;
}

/// Of a directory that several have, long enough for a lease on a busy machine.
const SHARED: Duration = Duration::from_secs(2);

fn sharing(name: &str, dir: &Path) -> Config {
    let mut config = config(dir, limits());
    config.server.name = name.into();
    config.storage = Storage::Shared(dir.to_owned());
    config.upkeep.gc = Gc { enabled: false, grace: GRACE, trash: SHARED, ..Gc::default() };
    config
}

async fn ready(rig: &Rig) {
    eventually(Duration::from_secs(20), "a registry that has seen what the other one writes", || async {
        let body: Value = rig.json("/readyz").await;
        if body["write"] == true { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_on_one_directory_collect_for_each_other_and_keep_what_any_of_them_needs() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name| sharing(name, dir.path());
    let (one, two) = (Rig::of(config("r1"), dir.path()).await, Rig::of(config("r2"), dir.path()).await);
    ready(&one).await;
    ready(&two).await;
    let (both, own, late) = (noise(1, 5_000_000), noise(2, 20_000), noise(3, 30_000));
    one.image("a", "t", &[&both, &own]).await;
    two.image("b", "t", &[&both]).await;
    let given = one.blob("c", &late).await;
    let manifest = image(&config_of("a:t"), &[&both, &own]).to_string();
    let path = format!("/v2/a/manifests/{}", Digest::of(manifest.as_bytes()));
    assert_eq!(two.ask("DELETE", &path).send().await.unwrap().status(), 202);

    // Manifest, config and layer of the one, and what no manifest names.
    until_due(&one, [4, 0, 0]).await;
    assert_eq!(sums(&collect(&two, "POST").await), [4, 0, 0]);
    assert_eq!(files(&dir.path().join("trash")).len(), 4);
    // The other one finds it there, and a push takes it out.
    let at = format!("/v2/c/blobs/{given}");
    assert_eq!(one.get(&at).await.status(), 200);
    assert_eq!(one.ask("HEAD", &at).send().await.unwrap().status(), 200);
    assert_eq!(files(&dir.path().join("trash")).len(), 3);
    one.blob("c", b"{}").await;
    assert_eq!(one.put_manifest("c", "t", &image(b"{}", &[&late])).await.status(), 201);
    collect_when(&one, [0, 3, 0]).await;
    for rig in [&one, &two] {
        rig.assert_complete("b", "t").await;
        rig.assert_complete("c", "t").await;
        assert_eq!(rig.get("/v2/a/tags/list").await.status(), 404);
    }
    // What `a` was given goes by way of a trash, too.
    for (place, gone) in [("_links", false), ("_taken", true)] {
        eventually(LONG, "nothing is given any more", || async {
            let collected = collect(if gone { &one } else { &two }, "POST").await;
            if dir.path().join("repositories/a").join(place).exists() { Err(collected) } else { Ok(()) }
        })
        .await;
        assert_eq!(dir.path().join("repositories/a/_taken").exists(), !gone);
    }

    // Without its registry running, beside the other one: the command collects, and looks through all of it.
    one.stop().await;
    let file = dir.path().with_extension("toml");
    std::fs::write(
        &file,
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nname = \"r1\"\n[storage]\nshared = {:?}\n[limits]\nreserve = \"1MiB\"\n[gc]\ngrace = \"1s\"\n",
            dir.path()
        ),
    )
    .unwrap();
    for command in ["gc", "fsck"] {
        let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchyard"))
            .args(["registry", command, "-c", file.to_str().unwrap()])
            .output();
        let ran = ran.await.unwrap();
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{command}: {said}");
    }
    std::fs::remove_file(&file).unwrap();
    two.assert_complete("c", "t").await;
}
