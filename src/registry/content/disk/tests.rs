// Blobs that come in chunks: in any order, through crashes, with wrong bytes, on a full disk. And what a replica does
// to catalogues and links.

use std::{fs, os::unix::fs::FileExt, path::Path};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use proptest::prelude::*;

use super::{
    super::{CHUNK, Catalogue, ChunkList, Content, FillError, chunk_count, chunk_range},
    *,
};
use crate::{
    model::{Algorithm, Digest, RepositoryName},
    wire::replication::BlobRef,
};

const HOUR: Duration = Duration::from_secs(3600);

async fn open_with(dir: &Path, reserve: u64, upload_idle: Duration) -> Disk {
    Disk::open(DiskSettings { reserve, upload_idle, ..DiskSettings::at(dir) }).await.unwrap()
}

async fn open(dir: &Path) -> Disk {
    open_with(dir, 0, HOUR).await
}

/// Bytes, what names them, and their list.
struct Sample {
    bytes: Bytes,
    blob: BlobRef,
    list: ChunkList,
}

impl Sample {
    fn new(size: u64) -> Self {
        Self::named(Algorithm::Sha256, size)
    }

    fn named(algorithm: Algorithm, size: u64) -> Self {
        let mut bytes = Vec::new();
        for chunk in 0..chunk_count(size) {
            let end = chunk_range(size, chunk as u32).end as usize;
            bytes.resize(end, chunk as u8 + 1);
        }
        let bytes = Bytes::from(bytes);
        let list = ChunkList(match size {
            0 => vec![Digest::of(b"")],
            _ => bytes.chunks(CHUNK as usize).map(Digest::of).collect(),
        });
        let chunks = (size > CHUNK).then(|| list.digest());
        Self { blob: BlobRef { digest: algorithm.of(&bytes), size, chunks }, bytes, list }
    }

    fn chunk(&self, chunk: u32) -> Bytes {
        let range = chunk_range(self.blob.size, chunk);
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    async fn check(&self, disk: &Disk) {
        let body = disk.read(&self.blob.digest, None).await.unwrap().expect("the blob is here");
        let mut pieces = body.bytes();
        let mut read = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == self.bytes, "{} bytes of {}", read.len(), self.blob.size);
        assert_eq!(disk.chunks(&self.blob.digest).await.unwrap(), Some(self.list.clone()));
    }
}

fn fills(dir: &Path) -> usize {
    fs::read_dir(dir.join("fills")).unwrap().count()
}

#[tokio::test]
async fn chunks_in_any_order_make_the_blob_with_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await;
    let sizes = [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 99];
    let named = |size| Algorithm::ALL.map(|algorithm| Sample::named(algorithm, size));
    for sample in sizes.into_iter().flat_map(named) {
        let size = sample.blob.size;
        let list = (size > CHUNK).then(|| sample.list.clone());
        let fill = disk.fill(&sample.blob, list).await.unwrap();
        let mut order = fill.missing();
        assert_eq!(order.len() as u64, chunk_count(size));
        order.reverse();
        if order.len() > 3 {
            order.swap(0, 2);
        }
        for chunk in order {
            assert!(matches!(fill.commit().await, Err(FillError::Incomplete { .. })));
            fill.write(chunk, sample.chunk(chunk)).await.unwrap();
            fill.write(chunk, sample.chunk(chunk)).await.unwrap();
        }
        assert_eq!((fill.have(), fill.missing()), (size, vec![]));
        fill.commit().await.unwrap();
        sample.check(&disk).await;
        if size > CHUNK {
            assert!(matches!(fill.commit().await, Err(FillError::Gone { .. })), "it is over");
        }
    }
    assert_eq!(fills(dir.path()), 0);
}

#[tokio::test]
async fn a_corrupt_chunk_or_list_is_refused_and_nothing_of_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await;
    let sample = Sample::new(2 * CHUNK + 5);
    let mut wrong = sample.list.clone();
    wrong.0.swap(0, 1);
    for list in [wrong.clone(), ChunkList(wrong.0[..2].to_vec())] {
        assert!(matches!(disk.fill(&sample.blob, Some(list)).await, Err(FillError::WrongList { .. })));
    }
    let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
    assert!(fill.verifies());
    let mut bad = sample.chunk(1).to_vec();
    bad[77] ^= 1;
    let refused = fill.write(1, bad.into()).await;
    assert!(matches!(refused, Err(FillError::Content(ContentError::Corrupt { .. }))), "{refused:?}");
    for (chunk, bytes) in
        [(1, sample.chunk(2)), (2, sample.chunk(1)), (3, Bytes::new()), (7, sample.chunk(0))]
    {
        assert!(matches!(fill.write(chunk, bytes).await, Err(FillError::Misfit { .. })), "{chunk}");
    }
    assert_eq!((fill.missing(), fill.have()), (vec![0, 1, 2], 0));
    let data = fs::read(dir.path().join("fills").join(sample.blob.digest.hex()).join("data")).unwrap();
    assert!(data.iter().all(|byte| *byte == 0));

    // A list that nobody vouches for may be wrong: the whole tells.
    let unvouched = BlobRef { chunks: None, ..sample.blob };
    let other = Sample::new(2 * CHUNK + 5 + CHUNK).list.0[..3].to_vec();
    let mut other = ChunkList(other);
    let last = Bytes::from_static(b"other");
    other.0[2] = Digest::of(&last);
    let fill = disk.fill(&unvouched, Some(other)).await.unwrap();
    for chunk in [0, 1] {
        fill.write(chunk, sample.chunk(chunk)).await.unwrap();
    }
    fill.write(2, last).await.unwrap();
    let spoiled = fill.commit().await;
    assert!(matches!(spoiled, Err(FillError::Content(ContentError::Corrupt { .. }))), "{spoiled:?}");
    assert_eq!((fills(dir.path()), disk.find(&sample.blob.digest).await.unwrap()), (0, None));

    let small = Sample::new(10);
    let fill = disk.fill(&small.blob, None).await.unwrap();
    let refused = fill.write(0, Bytes::from_static(b"0123456789")).await;
    assert!(matches!(refused, Err(FillError::Content(ContentError::Corrupt { .. }))), "{refused:?}");
    assert_eq!(disk.find(&small.blob.digest).await.unwrap(), None);
}

#[tokio::test]
async fn without_a_list_the_whole_is_verified_at_the_end_and_gets_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(3 * CHUNK + 5);
    {
        let disk = open(dir.path()).await;
        let fill = disk.fill(&sample.blob, None).await.unwrap();
        assert!(!fill.verifies());
        for chunk in [0, 1, 3] {
            fill.write(chunk, sample.chunk(chunk)).await.unwrap();
        }
        fill.flush().await.unwrap();
    }
    let disk = open(dir.path()).await;
    let fill = disk.fill(&sample.blob, None).await.unwrap();
    assert_eq!(fill.missing(), [2]);
    fill.write(2, sample.chunk(1)).await.unwrap();
    let spoiled = fill.commit().await;
    assert!(matches!(spoiled, Err(FillError::Content(ContentError::Corrupt { .. }))), "{spoiled:?}");

    let fill = disk.fill(&sample.blob, None).await.unwrap();
    assert_eq!(fill.missing(), [0, 1, 2, 3], "all of it was thrown away");
    for chunk in 0..4 {
        fill.write(chunk, sample.chunk(chunk)).await.unwrap();
    }
    fill.commit().await.unwrap();
    sample.check(&disk).await;
}

#[tokio::test]
async fn a_fill_goes_on_in_the_same_process_and_another_list_begins_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await;
    let sample = Sample::new(2 * CHUNK + 5);
    let unlisted = disk.fill(&sample.blob, None).await.unwrap();
    unlisted.write(0, sample.chunk(0)).await.unwrap();
    drop(unlisted);
    let listed = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
    assert_eq!(listed.missing(), [0, 1, 2]);
    listed.write(1, sample.chunk(1)).await.unwrap();
    drop(listed);
    let again = disk.fill(&sample.blob, None).await.unwrap();
    assert_eq!((again.verifies(), again.missing()), (true, vec![0, 2]), "with the list it has");
    // A hold on one that was begun anew by somebody else leads nowhere.
    let mut other = sample.list.clone();
    other.0[0] = Digest::of(b"x");
    let unvouched = BlobRef { chunks: None, ..sample.blob };
    let newer = disk.fill(&unvouched, Some(other)).await.unwrap();
    assert!(matches!(again.write(0, sample.chunk(0)).await, Err(FillError::Gone { .. })));
    assert!(matches!(again.flush().await, Err(FillError::Gone { .. })));
    drop(again);
    assert_eq!(newer.missing(), [0, 1, 2]);
    assert_eq!(fills(dir.path()), 1);
}

#[tokio::test]
async fn too_little_space_is_said_before_a_byte_is_taken_and_what_is_here_stays() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(2 * CHUNK + 5);
    {
        let disk = open(dir.path()).await;
        let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
        fill.write(1, sample.chunk(1)).await.unwrap();
        fill.flush().await.unwrap();
    }
    {
        let disk = open_with(dir.path(), u64::MAX / 2, HOUR).await;
        let full = disk.fill(&sample.blob, Some(sample.list.clone())).await.err();
        assert!(matches!(full, Some(FillError::Content(ContentError::Full { .. }))), "{full:?}");
        let small = Sample::new(5);
        let fill = disk.fill(&small.blob, None).await.unwrap();
        let full = fill.write(0, small.chunk(0)).await;
        assert!(matches!(full, Err(FillError::Content(ContentError::Full { .. }))), "{full:?}");
    }
    let disk = open(dir.path()).await;
    let absurd = BlobRef { digest: Digest::of(b"?"), size: u64::MAX - 1, chunks: None };
    let full = disk.fill(&absurd, None).await.err();
    assert!(matches!(full, Some(FillError::Content(ContentError::Full { .. }))), "{full:?}");
    let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
    assert_eq!(fill.missing(), [0, 2]);
}

#[tokio::test]
async fn fills_that_nobody_goes_on_with_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, done) = (Sample::new(2 * CHUNK), Sample::new(3 * CHUNK));
    {
        let disk = open(dir.path()).await;
        for sample in [&old, &done] {
            let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
            fill.write(0, sample.chunk(0)).await.unwrap();
            fill.flush().await.unwrap();
            disk.expire_uploads().await.unwrap();
        }
        assert_eq!(fills(dir.path()), 2);
        // The blob comes by another way.
        let repository = RepositoryName::parse("a").unwrap();
        let mut upload =
            disk.begin(&repository, "a", done.blob.digest.algorithm(), done.blob.size).await.unwrap();
        upload.write(done.bytes.clone()).await.unwrap();
        upload.commit(&done.blob.digest).await.unwrap();
        disk.expire_uploads().await.unwrap();
        assert_eq!(fills(dir.path()), 1);
    }
    fs::create_dir_all(dir.path().join("fills/no-digest/x")).unwrap();
    fs::write(dir.path().join("fills").join(Digest::of(b"a file").hex()), "").unwrap();
    fs::create_dir(dir.path().join("fills").join(Digest::of(b"no fill").hex())).unwrap();
    drop(open(dir.path()).await);
    assert_eq!(fills(dir.path()), 1);
    let disk = open_with(dir.path(), 0, Duration::ZERO).await;
    assert_eq!(fills(dir.path()), 0);
    // Nobody takes one away that is held, however idle it is.
    let fill = disk.fill(&old.blob, Some(old.list.clone())).await.unwrap();
    disk.expire_uploads().await.unwrap();
    fill.write(0, old.chunk(0)).await.unwrap();
    drop(fill);
    disk.expire_uploads().await.unwrap();
    assert_eq!(fills(dir.path()), 0);
}

#[tokio::test]
async fn a_damaged_fill_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(3 * CHUNK + 5);
    for (file, left) in [("fill.json", 4), ("chunks", 4), ("data", 4), ("have", 4), ("hash", 2)] {
        {
            let disk = open(dir.path()).await;
            let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
            for chunk in [0, 1] {
                fill.write(chunk, sample.chunk(chunk)).await.unwrap();
            }
            fill.flush().await.unwrap();
        }
        let path = dir.path().join("fills").join(sample.blob.digest.hex()).join(file);
        fs::write(path, b"garbage").unwrap();
        let disk = open(dir.path()).await;
        let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
        assert_eq!(fill.missing().len(), left, "{file}");
        for chunk in fill.missing() {
            fill.write(chunk, sample.chunk(chunk)).await.unwrap();
        }
        fill.commit().await.unwrap();
        sample.check(&disk).await;
        let hex = sample.blob.digest.hex();
        fs::remove_file(dir.path().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap();
    }
}

/// What a power cut may leave: of chunks that were not recorded, anything.
fn scribble(dir: &Path, sample: &Sample, missing: &[u32]) {
    let data = dir.join("fills").join(sample.blob.digest.hex()).join("data");
    let file = fs::OpenOptions::new().write(true).open(data).unwrap();
    for chunk in missing {
        let range = chunk_range(sample.blob.size, *chunk);
        file.write_all_at(b"never written", range.start).unwrap();
    }
    file.set_len(sample.blob.size).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Chunks come in a random order; at any step everything is dropped, what was not recorded is destroyed, and it
    /// goes on with exactly the recorded chunks.
    #[test]
    fn a_crash_at_any_step_leaves_exactly_what_was_recorded(
        order in Just((0..7u32).collect::<Vec<_>>()).prop_shuffle(),
        steps in prop::collection::vec((any::<bool>(), any::<bool>()), 7),
        listed in any::<bool>(),
    ) {
        // Time stands still, so that nothing is recorded for its age.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let sample = Sample::new(6 * CHUNK + 5);
            let list = listed.then(|| sample.list.clone());
            let mut recorded: Vec<u32> = Vec::new();
            let mut here: Vec<u32> = Vec::new();
            let mut disk = open(dir.path()).await;
            let mut fill = disk.fill(&sample.blob, list.clone()).await.unwrap();
            for (chunk, (flush, crash)) in order.iter().zip(steps) {
                fill.write(*chunk, sample.chunk(*chunk)).await.unwrap();
                here.push(*chunk);
                if flush {
                    fill.flush().await.unwrap();
                    recorded.clone_from(&here);
                }
                if crash {
                    drop((fill, disk));
                    let missing: Vec<u32> = (0..7).filter(|c| !recorded.contains(c)).collect();
                    if !recorded.is_empty() {
                        scribble(dir.path(), &sample, &missing);
                    }
                    disk = open(dir.path()).await;
                    fill = disk.fill(&sample.blob, list.clone()).await.unwrap();
                    assert_eq!(fill.missing(), missing);
                    here.clone_from(&recorded);
                }
            }
            for chunk in fill.missing() {
                fill.write(chunk, sample.chunk(chunk)).await.unwrap();
            }
            fill.commit().await.unwrap();
            drop((fill, disk));
            let disk = open(dir.path()).await;
            sample.check(&disk).await;
            assert_eq!(fills(dir.path()), 0);
        });
    }
}

#[tokio::test]
async fn a_crash_between_the_blob_and_the_end_of_its_fill_leaves_the_blob() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(2 * CHUNK + 5);
    {
        let disk = open(dir.path()).await;
        let fill = disk.fill(&sample.blob, Some(sample.list.clone())).await.unwrap();
        for chunk in 0..3 {
            fill.write(chunk, sample.chunk(chunk)).await.unwrap();
        }
        fill.flush().await.unwrap();
    }
    let hex = sample.blob.digest.hex();
    let (from, to) = (dir.path().join("fills").join(&hex), dir.path().join("blobs/sha256").join(&hex[..2]));
    fs::copy(from.join("chunks"), to.join(format!("{hex}.chunks"))).unwrap();
    fs::rename(from.join("data"), to.join(&hex)).unwrap();
    let disk = open(dir.path()).await;
    assert_eq!(fills(dir.path()), 0);
    sample.check(&disk).await;
}

#[tokio::test]
async fn a_catalogue_is_restored_over_whatever_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let (name, other) = (RepositoryName::parse("a/b").unwrap(), RepositoryName::parse("other").unwrap());
    let generation = |name: &RepositoryName, generation| {
        let mut catalogue = Catalogue::new(name.clone());
        catalogue.generation = generation;
        catalogue
    };
    {
        let disk = open(dir.path()).await;
        assert_eq!(disk.restore(generation(&name, 7)).await.unwrap().generation, 7);
        assert_eq!(disk.restore(generation(&name, 3)).await.unwrap().generation, 3, "an older one");
        disk.publish(generation(&name, 4)).await.unwrap();
        disk.publish(generation(&other, 1)).await.unwrap();
        let mut bad = generation(&name, 9);
        bad.tags.insert(
            crate::model::Tag::parse("t").unwrap(),
            crate::wire::replication::Version { number: 0, digest: Digest::of(b""), created: 0, pushed: 0 },
        );
        assert!(matches!(disk.restore(bad).await, Err(ContentError::Damaged { .. })));
    }
    let file = dir.path().join("repositories/a/b/_catalogue.json");
    fs::write(&file, "garbage").unwrap();
    {
        let disk = open(dir.path()).await;
        assert!(disk.catalogue(&name).await.is_err());
        disk.restore(generation(&name, 5)).await.unwrap();
    }
    let disk = open(dir.path()).await;
    assert_eq!(disk.catalogue(&name).await.unwrap().unwrap().generation, 5);
    // What a storage that folds case would do.
    fs::copy(dir.path().join("repositories/other/_catalogue.json"), &file).unwrap();
    assert!(matches!(disk.restore(generation(&name, 6)).await, Err(ContentError::Damaged { .. })));
}

#[tokio::test]
async fn links_are_listed_in_order_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await;
    let name = RepositoryName::parse("a/b").unwrap();
    assert_eq!(disk.links(&name).await.unwrap(), []);
    let mut blobs: Vec<Digest> = (0..5u8).map(|n| Digest::of(&[n])).collect();
    disk.unlink(&name, &blobs[0]).await.unwrap();
    for blob in &blobs {
        disk.link(&name, blob).await.unwrap();
    }
    fs::write(dir.path().join("repositories/a/b/_links/notes.txt"), "not ours").unwrap();
    let gone = blobs.swap_remove(1);
    disk.unlink(&name, &gone).await.unwrap();
    disk.unlink(&name, &gone).await.unwrap();
    blobs.sort();
    assert_eq!(disk.links(&name).await.unwrap(), blobs);
    assert!(!disk.linked(&name, &gone).await.unwrap());
}

#[tokio::test]
async fn a_blob_with_a_list_that_goes_to_the_trash_at_any_moment_of_its_upload_is_there_in_the_end() {
    use super::super::{
        Hasher,
        conformance::place,
        files::faulty::{Faults, World},
    };
    let dir = place();
    let world = Arc::new(World::default());
    let faults: Arc<Faults> = world.client(1, false);
    let settings = DiskSettings { shared: true, ..DiskSettings::at(dir.path()) };
    let disk = Disk::open_faulty(settings, &faults).await.unwrap();
    let sample = Sample::new(CHUNK + 1);
    let mut hasher = Hasher::default();
    hasher.update(&sample.bytes);
    let hashed = hasher.finish();
    // Of an upload, whose file keeps its own name.
    let came = dir.path().join("came");
    fs::write(&came, &sample.bytes).unwrap();
    let blobs = &disk.inner.blobs;
    let (path, trash) = (blobs.path(&hashed.digest), blobs.trash_path(&hashed.digest));
    let list_of = |path: &Path| path.with_extension("chunks");
    // As another registry's collector does it, and as it goes on with what it had begun.
    let whole: [_; 2] = [(path.clone(), trash.clone()), (list_of(&path), list_of(&trash))];
    for moved in [&whole[..], &whole[1..]] {
        for before in ["stored", "in the trash", "nowhere"] {
            let mut moment = 0;
            loop {
                world.pass(Duration::from_secs(4));
                match before {
                    "in the trash" => whole.iter().for_each(|(from, to)| drop(fs::rename(from, to))),
                    "nowhere" => {
                        let files = whole.iter().flat_map(|(from, to)| [from, to]);
                        files.for_each(|file| drop(fs::remove_file(file)));
                    }
                    _ => {}
                }
                let moves = moved.to_vec();
                faults.meanwhile(moment, move || {
                    moves.iter().for_each(|(from, to)| drop(fs::rename(from, to)));
                });
                let adopted = blobs.adopt(&came, &hashed);
                assert!(adopted.is_ok(), "{before}, {moment}: {adopted:?}");
                assert!(path.exists(), "{before}, {moment}");
                let calls = faults.calls();
                assert_eq!(
                    blobs.chunks(&hashed.digest).unwrap(),
                    Some(sample.list.clone()),
                    "{before}, {moment}"
                );
                if calls <= moment {
                    break;
                }
                moment += 1;
            }
            assert!(moment > 3, "{moment}");
        }
    }
}
