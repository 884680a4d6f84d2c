//! A disk that is really full: a small tmpfs in namespaces of our own.

use std::process::Command;

use reqwest::StatusCode;
use switchyard::{config::registry::Limits, model::Digest};

use crate::{
    rig::{Rig, files, header, limits, noise, refusal},
    support::namespaces,
};

const MIB: usize = 1 << 20;

/// Set where the scenario runs again, inside: the mounted directory.
const INSIDE: &str = "SMALL_DISK";

/// Runs this binary's test `name` again on a tmpfs of `mib` MiB; tells whether that is where we are already.
fn on_a_small_disk(name: &str, mib: usize) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !namespaces::allowed(name) {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("ip link set lo up; mount -t tmpfs -o size={mib}m tmpfs \"{INSIDE}\" && exec \"$@\"")
            .replace(INSIDE, "$SMALL_DISK");
    let said = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("full::{name}"), "--nocapture"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn small_disk() -> std::path::PathBuf {
    std::env::var_os(INSIDE).unwrap().into()
}

#[tokio::test]
async fn below_the_reserve_uploads_are_refused_and_reads_go_on() {
    if !on_a_small_disk("below_the_reserve_uploads_are_refused_and_reads_go_on", 48) {
        return;
    }
    let rig = Rig::with(&small_disk(), Limits { reserve: 16 * MIB as u64, ..limits() }).await;
    rig.image("kept", "a", &[&noise(1, 20 * MIB)]).await;

    // Declared: refused before a byte.
    let big = noise(2, 30 * MIB);
    let path = format!("/v2/big/blobs/uploads/?digest={}", Digest::of(&big));
    let refused = rig.ask("POST", &path).body(big.clone()).send().await.unwrap();
    assert_eq!(refusal(refused).await, (507, "UNKNOWN".into()));

    // Not declared: stopped at the reserve; the session stays, and goes on when there is room again.
    let session = rig.session("big").await;
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        big.chunks(MIB).map(|piece| Ok(piece.to_vec())).collect();
    let streamed =
        rig.ask("PATCH", &session).body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)));
    let stopped = streamed.send().await.unwrap();
    assert_eq!(refusal(stopped).await, (507, "UNKNOWN".into()));
    let range = header(&rig.get(&session).await, "range");
    assert!(range.starts_with("0-") && range != "0-0", "{range}");

    let ready = rig.json("/readyz").await;
    crate::support::eventually::eventually(
        std::time::Duration::from_secs(10),
        "writes to be refused",
        || async {
            let ready = rig.json("/readyz").await;
            if ready["write"] == false { Ok(()) } else { Err(ready.to_string()) }
        },
    )
    .await;
    assert_eq!(ready["read"], true);
    rig.assert_complete("kept", "a").await;
    assert_eq!(rig.json("/registry/v2/vm").await["body"].as_array().unwrap().len(), 1);

    assert_eq!(rig.ask("DELETE", &session).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    rig.blob("small", &noise(3, 4 * MIB)).await;
}

#[tokio::test]
async fn a_disk_that_others_filled_ends_the_upload_and_nothing_else() {
    if !on_a_small_disk("a_disk_that_others_filled_ends_the_upload_and_nothing_else", 32) {
        return;
    }
    let rig = Rig::with(&small_disk(), Limits { reserve: 0, ..limits() }).await;
    rig.image("kept", "a", &[&noise(1, 2 * MIB)]).await;
    let session = rig.session("torn").await;
    // Somebody else takes what is left, almost.
    let free = rig.json("/registry/disk").await["body"]["free"].as_u64().unwrap();
    std::fs::write(small_disk().join("others"), vec![1; usize::try_from(free).unwrap() - 2 * MIB]).unwrap();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = (0..6).map(|n| Ok(noise(n, MIB))).collect();
    let streamed =
        rig.ask("PATCH", &session).body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)));
    assert_eq!(refusal(streamed.send().await.unwrap()).await, (507, "UNKNOWN".into()));
    assert_eq!(refusal(rig.get(&session).await).await.0, 404, "what it held is given back to the others");
    assert!(files(&small_disk().join("uploads")).is_empty());
    rig.assert_complete("kept", "a").await;

    // Not one byte left: a manifest is refused whole, and the tag still shows the old one.
    let left = rig.json("/registry/disk").await["body"]["free"].as_u64().unwrap();
    std::fs::write(small_disk().join("rest"), vec![1; usize::try_from(left).unwrap()]).unwrap();
    let config = br#"{"architecture":"arm64","of":"kept:a"}"#;
    let mut manifest = crate::rig::image(config, &[]);
    manifest["annotations"] = serde_json::json!({ "new": "x".repeat(9000) });
    let refused = rig.put_manifest("kept", "a", &manifest).await;
    assert_eq!(refusal(refused).await, (507, "UNKNOWN".into()));
    rig.assert_complete("kept", "a").await;
    let begun = rig.ask("POST", "/v2/torn/blobs/uploads/").send().await.unwrap();
    assert_eq!(refusal(begun).await.0, 507);

    std::fs::remove_file(small_disk().join("others")).unwrap();
    assert_eq!(rig.put_manifest("kept", "a", &manifest).await.status(), StatusCode::CREATED);
    rig.blob("torn", &noise(4, MIB)).await;
    let rig = rig.restarted().await;
    rig.assert_complete("kept", "a").await;
}
