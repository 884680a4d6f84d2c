//! What is wrong in a directory is found, explained, and mended without losing anything whole.

use std::path::{Path, PathBuf};

use switchyard::{
    config::registry::Registry as Config,
    model::Digest,
    registry::upkeep::fsck::fsck,
    wire::upkeep::{Checked, Finding, Trouble},
};

use crate::rig::{Rig, config, files, limits, noise};

fn plain(dir: &Path) -> Config {
    config(dir, limits())
}

async fn check(dir: &Path, repair: bool) -> Checked {
    fsck(&plain(dir), repair, |_| {}).await.unwrap()
}

fn path(dir: &Path, blob: &Digest) -> PathBuf {
    let hex = blob.hex();
    dir.join(format!("blobs/sha256/{}/{hex}", &hex[..2]))
}

fn found(checked: &Checked, trouble: Trouble) -> Vec<&Finding> {
    checked.findings.iter().filter(|finding| finding.trouble == trouble).collect()
}

#[tokio::test]
async fn every_kind_of_damage_is_explained_and_what_is_whole_survives_its_repair() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let rig = Rig::new(at).await;
    let layers = [noise(1, 9_000_000), noise(2, 5_000_000), noise(3, 1000), noise(4, 1000)];
    let [listless, rotten, unlinked, gone] = [0, 1, 2, 3].map(|n| Digest::of(&layers[n]));
    rig.image("a/b", "whole", &[&layers[0], &layers[2]]).await;
    rig.image("a/b", "bad", &[&layers[1]]).await;
    rig.image("c", "lacks", &[&layers[3]]).await;
    rig.stop().await;
    let well = check(at, false).await;
    assert_eq!((well.left(), well.findings.len(), well.repositories), (0, 0, 2), "{:?}", well.findings);
    assert_eq!(well.blobs, 10);

    let mut list = std::fs::read(path(at, &listless).with_extension("chunks")).unwrap();
    list[0] ^= 1;
    std::fs::write(path(at, &listless).with_extension("chunks"), list).unwrap();
    let mut bytes = layers[1].clone();
    bytes[4_500_000] ^= 1;
    std::fs::write(path(at, &rotten), &bytes).unwrap();
    std::fs::remove_file(at.join(format!("repositories/a/b/_links/{}", unlinked.hex()))).unwrap();
    std::fs::remove_file(path(at, &gone)).unwrap();
    let orphan = Digest::of(b"was never here");
    std::fs::write(at.join(format!("repositories/c/_links/{}", orphan.hex())), b"").unwrap();
    std::fs::write(at.join("blobs/sha256/00/notes.txt"), b"").unwrap();
    std::fs::write(at.join("README"), b"").unwrap();
    std::fs::create_dir_all(at.join("uploads/half")).unwrap();
    // Lists whose blob went another way.
    let lists = [path(at, &orphan), at.join("trash").join(orphan.hex())].map(|p| p.with_extension("chunks"));
    for list in &lists {
        std::fs::create_dir_all(list.parent().unwrap()).unwrap();
        std::fs::write(list, [0; 64]).unwrap();
    }

    let before = files(at).len();
    let looked = check(at, false).await;
    assert_eq!(files(at).len(), before, "looking moves nothing");
    let tags = |trouble| found(&looked, trouble).iter().flat_map(|f| f.needed_by.clone()).collect::<Vec<_>>();
    assert_eq!(tags(Trouble::Blob), ["a/b:bad"]);
    assert!(found(&looked, Trouble::Blob)[0].what.contains(&rotten.hex()));
    assert_eq!(found(&looked, Trouble::ChunkList).len(), 1);
    // The rotten one is missing, too: nothing whole of that name is here.
    let mut missing = tags(Trouble::Missing);
    missing.sort();
    assert_eq!(missing, ["a/b:bad", "c:lacks"]);
    assert_eq!(found(&looked, Trouble::Link).len(), 2);
    assert_eq!(found(&looked, Trouble::Stranger).len(), 2);
    let leftover = found(&looked, Trouble::Leftover);
    for list in &lists {
        let told = leftover.iter().filter(|one| one.what == list.display().to_string() && one.harmless);
        assert_eq!(told.count(), 1, "{leftover:#?}");
    }
    assert!(leftover.iter().any(|one| one.what.starts_with("upload sessions")), "{leftover:#?}");
    assert_eq!(looked.left(), 6, "{:#?}", looked.findings);
    assert!(looked.findings.iter().all(|f| !f.why.is_empty() && (f.harmless || !f.remedy.is_empty())));

    let mended = check(at, true).await;
    assert_eq!(mended.left(), 2, "what is not here cannot be mended here: {:#?}", mended.findings);
    assert_eq!(std::fs::read(at.join("quarantine").join(rotten.hex())).unwrap(), bytes, "nothing is deleted");
    assert!(!lists.iter().any(|list| list.exists()) && path(at, &listless).with_extension("chunks").exists());
    let again = check(at, true).await;
    let left: Vec<Trouble> = again.findings.iter().filter(|f| !f.harmless).map(|f| f.trouble).collect();
    assert_eq!(left, [Trouble::Missing, Trouble::Missing]);

    // A push of what is missing is what is left to do; then all is well.
    let rig = Rig::new(at).await;
    rig.assert_complete("a/b", "whole").await;
    rig.blob("a/b", &layers[1]).await;
    rig.blob("c", &layers[3]).await;
    for (name, tag) in [("a/b", "bad"), ("c", "lacks")] {
        rig.assert_complete(name, tag).await;
    }
    rig.stop().await;
    assert_eq!(check(at, false).await.left(), 0);
}

#[tokio::test]
async fn catalogues_and_the_log_must_tell_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let rig = Rig::new(at).await;
    rig.image("old", "one", &[b"1"]).await;
    let backup = std::fs::read(at.join("repositories/old/_catalogue.json")).unwrap();
    rig.image("old", "two", &[b"2"]).await;
    rig.image("old", "three", &[b"3"]).await;
    rig.image("bad", "t", &[b"4"]).await;
    rig.image("lost", "t", &[b"5"]).await;
    rig.stop().await;
    assert_eq!(check(at, false).await.left(), 0);
    std::fs::write(at.join("repositories/old/_catalogue.json"), backup).unwrap();
    std::fs::write(at.join("repositories/bad/_catalogue.json"), b"{").unwrap();
    std::fs::remove_file(at.join("repositories/lost/_catalogue.json")).unwrap();
    let checked = check(at, false).await;
    let [bad, lost, old] = found(&checked, Trouble::Catalogue)[..] else { panic!("{checked:?}") };
    assert!(bad.what.contains("`bad`") && lost.why.contains("not here"), "{checked:?}");
    assert!(old.what.contains("`old`") && old.why.contains("it is generation 1"), "{old:?}");
    assert_eq!(checked.left(), 3, "{checked:?}");
    // The log has every change of them.
    let mended = check(at, true).await;
    assert_eq!((mended.left(), found(&mended, Trouble::Catalogue).len()), (0, 3), "{mended:?}");
    assert_eq!(check(at, false).await.findings.len(), 0);
    let rig = Rig::new(at).await;
    for (name, tag) in [("old", "one"), ("old", "two"), ("old", "three"), ("bad", "t"), ("lost", "t")] {
        rig.assert_complete(name, tag).await;
    }
    rig.stop().await;
    // Without its log nothing is left to make a catalogue of.
    std::fs::remove_dir_all(at.join("log")).unwrap();
    std::fs::write(at.join("repositories/bad/_catalogue.json"), b"{").unwrap();
    let left = check(at, true).await;
    let [bad] = found(&left, Trouble::Catalogue)[..] else { panic!("{left:?}") };
    assert!(!bad.repaired && bad.remedy.contains("does not have every change"), "{bad:?}");
    assert_eq!((left.left(), found(&left, Trouble::Log).len()), (1, 1), "{left:?}");
}
