//! Changes that are made together, with each call of the storage going wrong, and with a kill at each.

use std::{collections::BTreeMap, fs, path::Path};

use futures_util::future::join_all;

use super::*;
use crate::registry::content::{ERRORS, Faults, Plan, World};

/// The repositories that are changed, in the order in which they come: one is there before, and is changed twice.
const NAMES: [&str; 4] = ["a/b", "new", "a/b", "c"];
const TAGS: [&str; 4] = ["two", "one", "three", "one"];
const GIFT: &[u8] = b"a blob that comes between them";

type Shown = BTreeMap<RepositoryName, Catalogue>;

fn named(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// What is there before.
async fn given() -> tempfile::TempDir {
    let dir = place();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    push(&journal, &content, "one").await.unwrap();
    content.put(Algorithm::Sha256, Bytes::from_static(GIFT)).await.unwrap();
    close(journal, content, tree).await;
    dir
}

/// All changes wait before the first is made; tells which were, the gift last.
async fn ask(journal: &Journal) -> Vec<Result<(), JournalError>> {
    let mut queued = Vec::new();
    for (repository, tag) in NAMES.into_iter().zip(TAGS) {
        let before = journal.newest(&named(repository)).await.unwrap();
        queued.push(journal.queue(next_of(named(repository), before.as_deref(), tag)).await.unwrap());
    }
    let (to, gift) = (named("c"), Digest::of(GIFT));
    let give = journal.give(&to, &gift);
    let made = join_all(queued.into_iter().map(|one| async move { one.made().await.map(drop) }));
    let (mut made, given) = tokio::join!(made, give);
    made.push(given.map(drop));
    made
}

async fn shown(content: &Arc<dyn Content>) -> Shown {
    let mut shown = Shown::new();
    for repository in content.repositories().await.unwrap() {
        let catalogue = content.catalogue(&repository).await.unwrap().unwrap();
        shown.insert(repository, (*catalogue).clone());
    }
    shown
}

/// What somebody who follows comes to.
async fn followed(journal: &Journal) -> Shown {
    let mut shown = Shown::new();
    for (entry, _) in all(journal).await {
        let (Some(repository), Some(patch)) = (entry.repository, entry.patch) else { continue };
        let catalogue = shown.entry(repository.clone()).or_insert_with(|| Catalogue::new(repository));
        assert_eq!(catalogue.generation + 1, patch.generation);
        catalogue.apply(&patch).unwrap();
    }
    shown
}

fn has(shown: &Shown, at: usize) -> bool {
    shown.get(&named(NAMES[at])).is_some_and(|of| of.tags.contains_key(&Tag::parse(TAGS[at]).unwrap()))
}

/// One run with one call going wrong. `whole` is the log of a run in which none did, and what is shown then.
async fn one(given: &Path, plan: Plan, (whole, wanted): (&Path, &Shown)) {
    let what = format!("{plan:?}");
    let (dir, world) = (place(), Arc::new(World::default()));
    copy(given, dir.path());
    let faults = world.client(1, false);
    let made = {
        let (journal, content, tree) = faulty(dir.path(), &faults).await;
        faults.plan(plan);
        let made = ask(&journal).await;
        if !matches!(plan, Plan::Stop { .. }) {
            faults.plan(Plan::Sound);
            let now = shown(&content).await;
            assert_eq!(followed(&journal).await, now, "{what}");
            let taken = journal.check_writes().is_ok();
            for (at, made) in made.iter().enumerate().take(NAMES.len()) {
                assert!(made.is_err() || has(&now, at), "{what}: {} is not shown", TAGS[at]);
                assert!(made.is_ok() || !taken || !has(&now, at), "{what}: {} is shown", TAGS[at]);
            }
            if taken {
                let again = journal.newest(&named("c")).await.unwrap();
                journal.commit(next_of(named("c"), again.as_deref(), "later")).await.unwrap();
            }
        }
        close(journal, content, tree).await;
        made
    };
    if matches!(plan, Plan::Stop { .. }) {
        // As it was killed there: the log has all of them, and nobody took anything back.
        fs::copy(whole, dir.path().join("log/log.redb")).unwrap();
    }
    let (journal, content, tree) = open(dir.path(), Opening::Writer("r1")).await;
    let now = shown(&content).await;
    assert_eq!(followed(&journal).await, now, "{what}, after a restart");
    for (at, _) in made.iter().enumerate().take(NAMES.len()).filter(|(_, made)| made.is_ok()) {
        assert!(has(&now, at), "{what}: {} was acknowledged and is lost", TAGS[at]);
    }
    if matches!(plan, Plan::Stop { .. }) {
        assert_eq!(&now, wanted, "{what}, made good");
    }
    if made[NAMES.len()].is_ok() {
        assert!(content.linked(&named("c"), &Digest::of(GIFT)).await.unwrap(), "{what}");
    }
    close(journal, content, tree).await;
}

async fn faulty(dir: &Path, faults: &Arc<Faults>) -> (Journal, Arc<dyn Content>, Tree) {
    let content = Disk::open_faulty(settings(dir), faults).await.unwrap();
    let log = Log::open(&dir.join("log")).unwrap();
    with(Arc::new(content), log, Opening::Writer("r1")).await
}

#[tokio::test]
async fn what_is_made_together_stands_from_the_first_to_some_last_whatever_goes_wrong() {
    let given = given().await;
    let (dir, faults) = (place(), Arc::new(World::default()).client(1, false));
    copy(given.path(), dir.path());
    let (journal, content, tree) = faulty(dir.path(), &faults).await;
    faults.plan(Plan::Sound);
    assert!(ask(&journal).await.iter().all(Result::is_ok));
    let (calls, wanted) = (faults.calls(), shown(&content).await);
    assert_eq!(followed(&journal).await, wanted);
    // The gift came behind the changes in the queue, and needs no catalogue: it is in front.
    let entries = journal.blocking(Log::unapplied).await.unwrap();
    let order: Vec<&str> =
        entries.iter().filter_map(|one| one.repository.as_ref()).map(|r| r.as_str()).collect();
    assert_eq!(order, ["c", "a/b", "a/b", "new", "c"], "all of them in one append");
    let whole = dir.path().join("whole.redb");
    fs::copy(dir.path().join("log/log.redb"), &whole).unwrap();
    for at in 0..calls {
        let error = ERRORS[at as usize % ERRORS.len()];
        let lie = Plan::Fail { at, error: ERRORS[1], done: true };
        for plan in [Plan::Fail { at, error, done: false }, lie, Plan::Stop { at }] {
            one(given.path(), plan, (&whole, &wanted)).await;
        }
    }
    close(journal, content, tree).await;
}

#[tokio::test]
async fn changes_whose_append_failed_together_are_made_one_by_one() {
    let dir = place();
    let (log, fail) = Log::faulty().unwrap();
    let (journal, content, tree) = over(dir.path(), log, Opening::Writer("w")).await;
    push(&journal, &content, "one").await.unwrap();
    content.put(Algorithm::Sha256, Bytes::from_static(GIFT)).await.unwrap();
    fail.store(true, Ordering::SeqCst);
    assert!(ask(&journal).await.iter().all(Result::is_ok));
    let now = shown(&content).await;
    assert!((0..NAMES.len()).all(|at| has(&now, at)));
    assert_eq!(followed(&journal).await, now);
    let copied = place();
    let (replica, copy, copies) = open(copied.path(), Opening::Replica).await;
    replica.apply(all(&journal).await).await.unwrap();
    assert_eq!(shown(&copy).await, now);
    close(replica, copy, copies).await;
    close(journal, content, tree).await;
}

#[tokio::test]
async fn what_was_decided_on_a_change_that_is_not_made_is_not_made_either() {
    let dir = place();
    let (journal, content, tree) = open(dir.path(), Opening::Writer("w")).await;
    // A file where the repository's directory belongs.
    let in_the_way = dir.path().join("content/repositories/a");
    fs::write(&in_the_way, b"in the way").unwrap();
    let first = journal.queue(next(None, "one")).await.unwrap();
    let before = journal.newest(&name()).await.unwrap();
    let second = journal.queue(next(before.as_deref(), "two")).await.unwrap();
    let other = journal.queue(next_of(named("c"), None, "one")).await.unwrap();
    let (first, second, other) = tokio::join!(first.made(), second.made(), other.made());
    assert!(matches!(first, Err(JournalError::Content(ContentError::Io { .. }))));
    assert!(matches!(second, Err(JournalError::Content(ContentError::Conflict { .. }))));
    assert_eq!(other.unwrap().acknowledged().await, at("1.2"), "it is nothing to other repositories");
    assert_eq!(journal.newest(&name()).await.unwrap(), None);
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(push(&journal, &content, "one").await.unwrap(), at("1.3"));
    close(journal, content, tree).await;
}
