// The two steps of a change, cut off between them in every way.

mod together;

use super::*;
use crate::{
    model::{Algorithm, Tag},
    registry::{
        content::disk::{Disk, DiskSettings},
        writer::Writes,
    },
    supervise::Tree,
    wire::replication::Stored,
};

async fn disk(dir: &std::path::Path) -> Arc<dyn Content> {
    Arc::new(Disk::open(settings(dir)).await.unwrap())
}

fn settings(dir: &std::path::Path) -> DiskSettings {
    DiskSettings::at(dir.join("content"))
}

/// A journal in this directory, until the tree is shut down.
async fn open(dir: &std::path::Path, opening: Opening<'_>) -> (Journal, Arc<dyn Content>, Tree) {
    over(dir, Log::open(&dir.join("log")).unwrap(), opening).await
}

async fn over(dir: &std::path::Path, log: Log, opening: Opening<'_>) -> (Journal, Arc<dyn Content>, Tree) {
    with(disk(dir).await, log, opening).await
}

async fn with(
    content: Arc<dyn Content>,
    log: Log,
    opening: Opening<'_>,
) -> (Journal, Arc<dyn Content>, Tree) {
    let tree = Tree::new();
    let writer = Writer::new(Default::default(), Writes::Taken);
    let journal = Journal::open(content.clone(), log, writer, opening, &tree.handle()).await.unwrap();
    (journal, content, tree)
}

async fn close(journal: Journal, content: Arc<dyn Content>, tree: Tree) {
    drop((journal, content));
    tree.shut_down(std::time::Duration::from_secs(5)).await;
}

fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

/// The next generation, with one more tag.
fn next(before: Option<&Catalogue>, tag: &str) -> Draft {
    next_of(name(), before, tag)
}

fn next_of(name: RepositoryName, before: Option<&Catalogue>, tag: &str) -> Draft {
    let mut next = before.cloned().unwrap_or_else(|| Catalogue::new(name));
    let digest = Digest::of(tag.as_bytes());
    next.add(
        digest,
        Stored { media_type: "x".into(), size: 1, subject: None, children: Vec::new(), pushed: 1 },
    );
    next.tag(Tag::parse(tag).unwrap(), digest, 1);
    next.generation += 1;
    Draft { change: Change::Published, digest: Some(digest), blobs: Vec::new(), next: next.into() }
}

async fn push(journal: &Journal, content: &Arc<dyn Content>, tag: &str) -> Result<Position, JournalError> {
    let before = content.catalogue(&name()).await.unwrap();
    Ok(journal.commit(next(before.as_deref(), tag)).await?.acknowledged().await)
}

async fn tags(content: &Arc<dyn Content>) -> Vec<String> {
    let catalogue = content.catalogue(&name()).await.unwrap();
    catalogue.iter().flat_map(|catalogue| catalogue.tags.keys().map(ToString::to_string)).collect()
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_upload_whose_client_leaves_before_it_is_told_is_announced_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    let (bytes, before) = (vec![7; 1 << 20], journal.at().position);
    let digest = Digest::of(&bytes);
    let mut upload = content.begin(&name(), "a", Algorithm::Sha256, 0).await.unwrap();
    upload.write(bytes.into()).await.unwrap();
    // It is asked for, and not waited for.
    let mut wait = Box::pin(async { journal.receive(&name(), upload, &digest).await });
    assert!(futures_util::poll!(&mut wait).is_pending());
    drop(wait);
    let mut follow = journal.follow();
    follow.wait_for(|at| at.position > before).await.unwrap();
    assert_eq!(content.links(&name()).await.unwrap(), [digest]);

    // The registry stops meanwhile: what was begun is finished.
    let (more, before) = (vec![8; 1 << 20], journal.at().position);
    let digest = Digest::of(&more);
    let mut upload = content.begin(&name(), "a", Algorithm::Sha256, 0).await.unwrap();
    upload.write(more.into()).await.unwrap();
    let mut wait = Box::pin(async { journal.receive(&name(), upload, &digest).await });
    assert!(futures_util::poll!(&mut wait).is_pending());
    drop(wait);
    close(journal, content, tree).await;
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert!(journal.at().position > before);
    assert!(content.linked(&name(), &digest).await.unwrap());
    close(journal, content, tree).await;
}

#[tokio::test]
async fn a_change_that_was_logged_and_not_applied_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert_eq!(push(&journal, &content, "one").await.unwrap(), at("1.2"));
    let before = content.catalogue(&name()).await.unwrap().unwrap();
    push(&journal, &content, "two").await.unwrap();
    // As a kill leaves it: the log has the change, the catalogue is the one before, and nothing was tidied up.
    let (file, killed) = (dir.path().join("log/log.redb"), dir.path().join("killed"));
    std::fs::copy(&file, &killed).unwrap();
    content.restore((*before).clone()).await.unwrap();
    close(journal, content, tree).await;
    std::fs::rename(&killed, &file).unwrap();

    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert_eq!(tags(&content).await, ["one", "two"]);
    assert_eq!((journal.at().position, journal.at().shown), (at("1.3"), at("1.3")));
    assert_eq!(push(&journal, &content, "three").await.unwrap(), at("1.4"));
    close(journal, content, tree).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_shown_is_taken_back_and_the_next_one_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    // A file where the repository's directory belongs.
    let place = dir.path().join("content/repositories/a");
    std::fs::write(&place, b"in the way").unwrap();
    assert!(matches!(push(&journal, &content, "one").await, Err(JournalError::Content(_))));
    assert_eq!(journal.at().position, at("1.1"));
    assert!(
        matches!(journal.read(at("1.2"), None).await.unwrap(), Read::Foreign { .. }),
        "nobody ever sees it"
    );
    close(journal, content, tree).await;
    std::fs::remove_file(&place).unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert_eq!(push(&journal, &content, "one").await.unwrap(), at("1.2"));
    assert_eq!(tags(&content).await, ["one"]);
    close(journal, content, tree).await;
}

#[tokio::test]
async fn the_second_of_two_changes_from_one_generation_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    let (one, two) = (journal.commit(next(None, "one")).await, journal.commit(next(None, "two")).await);
    assert_eq!(one.unwrap().acknowledged().await, at("1.2"));
    assert!(matches!(two, Err(JournalError::Content(ContentError::Conflict { .. }))));
    assert_eq!(journal.at().position, at("1.2"));
    close(journal, content, tree).await;
}

#[tokio::test]
async fn roles_decide_what_is_claimed_and_where_a_reign_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, content, tree) = open(dir.path(), Opening::Replica).await;
    assert_eq!((journal.at().claim, journal.at().claimed()), (Claim::New, None));
    close(journal, content, tree).await;

    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert_eq!(journal.at().claimed(), Some(at("1.1")), "a new log begins a reign");
    push(&journal, &content, "one").await.unwrap();
    close(journal, content, tree).await;
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    assert_eq!(journal.at().claimed(), Some(at("1.2")), "the same reign goes on");
    close(journal, content, tree).await;

    let (journal, content, tree) = open(dir.path(), Opening::Replica).await;
    assert_eq!(journal.at().claim, Claim::Unconfirmed);
    journal.confirm();
    assert_eq!(journal.at().claimed(), Some(at("1.2")));
    journal.disown("it is another".into()).await.unwrap();
    journal.confirm();
    assert_eq!(journal.at().claimed(), None, "disowned is disowned");
    close(journal, content, tree).await;
    let (journal, content, tree) = open(dir.path(), Opening::Replica).await;
    assert!(matches!(journal.at().claim, Claim::Disowned(_)), "also after a restart");
    close(journal, content, tree).await;

    let (journal, content, tree) = open(dir.path(), Opening::Anew("r2", 7)).await;
    assert_eq!(journal.at().claimed(), Some(at("8.1")), "above all that was seen");
    assert!(journal.covers(at("1.2")) && !journal.covers(at("1.3")) && !journal.covers(at("8.2")));
    close(journal, content, tree).await;
}

/// Everything in the log, as a replica gets it.
async fn all(journal: &Journal) -> Vec<(Entry, Bytes)> {
    let Read::Lines { lines, .. } = journal.read(Position::ZERO, None).await.unwrap() else {
        panic!("no lines")
    };
    lines.into_iter().map(|line| (crate::registry::log::entry(&line).unwrap(), line)).collect()
}

#[tokio::test]
async fn a_change_that_a_replica_could_not_show_is_made_good_after_an_orderly_stop() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (journal, content, tree) = open(from.path(), Opening::Writer("w")).await;
    push(&journal, &content, "one").await.unwrap();
    let entries = all(&journal).await;
    close(journal, content, tree).await;

    let (journal, content, tree) = open(to.path(), Opening::Replica).await;
    // As on a full disk: the log takes the entries, the catalogue cannot be written.
    let place = to.path().join("content/repositories/a");
    std::fs::write(&place, b"in the way").unwrap();
    assert!(journal.apply(entries).await.is_err());
    assert_eq!(journal.at().position, Position::ZERO);
    close(journal, content, tree).await;
    std::fs::remove_file(&place).unwrap();

    let (journal, content, tree) = open(to.path(), Opening::Replica).await;
    assert_eq!((journal.at().position, tags(&content).await), (at("1.2"), vec!["one".to_owned()]));
    close(journal, content, tree).await;
}

#[tokio::test]
async fn an_append_that_failed_and_yet_lasted_is_told_to_no_replica() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (log, fail) = Log::faulty().unwrap();
    let (journal, content, tree) = over(dirs[0].path(), log, Opening::Writer("w")).await;
    push(&journal, &content, "one").await.unwrap();
    fail.store(true, std::sync::atomic::Ordering::SeqCst);
    push(&journal, &content, "two").await.unwrap_err();
    // A follower reads, as each does all the time.
    assert_eq!(all(&journal).await.len(), 2);
    push(&journal, &content, "three").await.unwrap();
    assert_eq!(tags(&content).await, ["one", "three"]);
    let entries = all(&journal).await;
    let (replica, copy, copies) = open(dirs[1].path(), Opening::Replica).await;
    replica.apply(entries).await.unwrap();
    assert_eq!(tags(&copy).await, ["one", "three"]);
    close(replica, copy, copies).await;
    close(journal, content, tree).await;
}
