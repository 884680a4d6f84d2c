// Two registries on one directory, whose calls fail or say so although they were done, and who see names three seconds late
// unless they ask anew.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::super::{
    Content, ContentError, Duty,
    conformance::{Kind, catalogue, place, repository},
    files::faulty::{ERRORS, Faults, Plan, World},
};
use crate::model::{RepositoryName, Tag, TemplateId};

struct Two {
    world: Arc<World>,
    faults: Vec<Arc<Faults>>,
    content: Vec<Arc<dyn Content>>,
    dir: tempfile::TempDir,
}

impl Two {
    async fn new() -> Self {
        let dir = place();
        let world = Arc::new(World::default());
        let faults = vec![world.client(1, false), world.client(2, false)];
        let mut content = Vec::new();
        for (name, faults) in ["r1", "r2"].into_iter().zip(&faults) {
            content.push(Kind::Shared.open_as(name, dir.path(), faults).await.unwrap());
        }
        Self { world, faults, content, dir }
    }
}

/// One that wants to add a tag: who, the call that goes wrong, how, and how long after the last one.
fn step() -> impl Strategy<Value = (usize, Option<(u64, bool)>, u64)> {
    (0..2usize, prop::option::weighted(0.7, (0..25u64, any::<bool>())), 0..4000u64)
}

/// As operations do it: reads, decides, publishes, and once more when another was faster.
async fn add(content: &dyn Content, name: &RepositoryName, tag: &str) -> Result<(), ContentError> {
    for _ in 0..4 {
        let now = content.catalogue(name).await?;
        let mut next = match now {
            Some(now) => (*now).clone(),
            None => {
                let mut first = catalogue(name, 0, &[]);
                first.generation = 0;
                first
            }
        };
        let manifest = *next.manifests.keys().next().unwrap();
        next.tag(Tag::parse(tag).unwrap(), manifest, 0);
        next.generation += 1;
        match content.publish(next).await {
            Err(ContentError::Conflict { .. }) => {}
            done => return done.map(drop),
        }
    }
    panic!("four times another was faster, and nobody else is here");
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_one_acknowledged_the_other_shows_at_once_and_nothing_is_lost(
        steps in prop::collection::vec(step(), 1..12),
    ) {
        block(async {
            let two = Two::new().await;
            let name = repository("team/vm");
            let mut acknowledged = Vec::new();
            for (number, (who, wrong, later)) in steps.into_iter().enumerate() {
                two.world.pass(Duration::from_millis(later));
                let error = ERRORS[number % ERRORS.len()];
                two.faults[who].plan(wrong.map_or(Plan::Sound, |(at, done)| Plan::Fail { at, error, done }));
                let tag = format!("t{number}");
                let done = add(&*two.content[who], &name, &tag).await;
                two.faults[who].plan(Plan::Sound);
                if done.is_ok() {
                    acknowledged.push(tag);
                }
                for content in &two.content {
                    let shown = content.catalogue(&name).await.unwrap();
                    for tag in &acknowledged {
                        let tag = Tag::parse(tag.as_str()).unwrap();
                        assert!(shown.as_ref().is_some_and(|shown| shown.tags.contains_key(&tag)), "{tag}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_template_id_is_given_to_one_repository(
        steps in prop::collection::vec(step(), 2..8),
    ) {
        block(async {
            let two = Two::new().await;
            let id = TemplateId::parse("5d1b40b9-1000-4d4a-9b5e-000000000001").unwrap();
            let mut owners = Vec::new();
            for (number, (who, wrong, later)) in steps.into_iter().enumerate() {
                two.world.pass(Duration::from_millis(later));
                let error = ERRORS[number % ERRORS.len()];
                two.faults[who].plan(wrong.map_or(Plan::Sound, |(at, done)| Plan::Fail { at, error, done }));
                let given = two.content[who].name(&id, &repository(&format!("of/r{who}"))).await;
                two.faults[who].plan(Plan::Sound);
                owners.extend(given.ok());
            }
            owners.dedup();
            assert!(owners.len() <= 1, "{owners:?}");
        });
    }
}

#[test]
fn a_number_that_was_used_and_cleaned_away_is_not_won_by_one_that_stood_still() {
    block(async {
        let two = Two::new().await;
        let name = repository("team/vm");
        for n in 0..4 {
            add(&*two.content[0], &name, &format!("t{n}")).await.unwrap();
        }
        // What one that read generation 1, stood still while 2 was made and cleaned away, and goes on would do.
        let ledger = two.dir.path().join("repositories/team/vm/_catalogue");
        std::fs::remove_file(ledger.join("2")).unwrap();
        let stale = super::Ledger::new(
            super::super::files::Files::new(&two.dir.path().join("tmp/r2")),
            two.dir.path().to_owned(),
            "r2".into(),
        );
        let (went, _) = stale.publish(&ledger, 2, None, catalogue(&name, 2, &["lost"])).unwrap();
        assert_eq!(went, super::ledger::Went::Lost);
        let shown = two.content[1].catalogue(&name).await.unwrap().unwrap();
        assert_eq!((shown.generation, shown.tags.len()), (4, 4));
    });
}

#[test]
fn what_others_deleted_and_gave_is_seen_and_pull_times_are_put_together() {
    block(async {
        let two = Two::new().await;
        let [one, other] = [&two.content[0], &two.content[1]];
        let name = repository("a");
        let blob = one.put(crate::model::Algorithm::Sha256, "x".into()).await.unwrap();
        assert_eq!(other.find(&blob).await.unwrap(), Some(1), "although it was not seen when it was opened");
        assert!(!other.linked(&name, &blob).await.unwrap());
        one.link(&name, &blob).await.unwrap();
        assert!(other.linked(&name, &blob).await.unwrap());
        add(&**one, &name, "t").await.unwrap();
        assert_eq!(other.repositories().await.unwrap(), std::slice::from_ref(&name));
        one.save_pulls(&name, [("t".into(), 5), ("u".into(), 9)].into()).await.unwrap();
        other.save_pulls(&name, [("t".into(), 7)].into()).await.unwrap();
        for content in [one, other] {
            assert_eq!(content.pulls(&name).await.unwrap(), [("t".into(), 7), ("u".into(), 9)].into());
        }
        let elsewhere = other.received(&name, &format!("r1.{}", uuid::Uuid::new_v4())).await;
        assert!(matches!(elsewhere, Err(ContentError::ElsewhereUpload { registry }) if registry == "r1"));
        one.remove(&name).await.unwrap();
        assert!(other.catalogue(&name).await.unwrap().unwrap().is_empty());
    });
}

/// After everything that this test does: nothing is too young to be taken.
fn later() -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 34)
}

#[test]
fn what_one_collects_while_another_wants_it_is_never_missed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let two = Two::new().await;
        let [one, other] = [&two.content[0], &two.content[1]];
        let name = repository("team/vm");
        let blob = one.put(crate::model::Algorithm::Sha256, "x".into()).await.unwrap();
        one.link(&name, &blob).await.unwrap();
        for round in 0..60 {
            two.world.pass(Duration::from_millis(700));
            // One moves link and blob to their trashes; the other one pushes at this moment, and somebody reads.
            let (taken, discarded, kept, linked, found) = tokio::join!(
                one.take_away(&name, &blob, later()),
                one.discard(&blob, later()),
                other.keep_given(&name, &blob),
                other.linked(&name, &blob),
                other.find(&blob),
            );
            assert!(!taken.unwrap(), "{round}: it went to a trash and not for good");
            discarded.unwrap();
            assert_eq!(kept.unwrap(), Some(1), "{round}");
            assert!(linked.unwrap() && found.unwrap() == Some(1), "{round}");
            // Once more, as a push does whose tag is visible: now nobody moves it.
            assert_eq!(other.keep_given(&name, &blob).await.unwrap(), Some(1), "{round}");
            assert!(two.dir.path().join(format!("repositories/team/vm/_links/{}", blob.hex())).exists());
            assert!(one.discarded().await.unwrap().is_empty(), "{round}");
        }
    });
}

#[test]
fn a_link_that_goes_to_the_trash_at_any_moment_of_a_push_is_taken_out_again() {
    block(async {
        let two = Two::new().await;
        let [one, other] = [&two.content[0], &two.content[1]];
        let name = repository("team/vm");
        let blob = one.put(crate::model::Algorithm::Sha256, "x".into()).await.unwrap();
        one.link(&name, &blob).await.unwrap();
        let dir = two.dir.path().join("repositories/team/vm");
        let (link, taken) = (dir.join("_links").join(blob.hex()), dir.join("_taken").join(blob.hex()));
        // As the other registry's collector does it.
        let collected = {
            let (link, taken) = (link.clone(), taken.clone());
            move || {
                std::fs::create_dir_all(taken.parent().unwrap()).unwrap();
                if std::fs::rename(&link, &taken).is_ok() {
                    std::fs::remove_dir(link.parent().unwrap()).unwrap();
                }
            }
        };
        for trashed in [true, false] {
            let mut moment = 0;
            loop {
                // By then each of them sees what the other one did.
                two.world.pass(Duration::from_secs(4));
                if trashed {
                    collected();
                } else if taken.exists() {
                    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
                    std::fs::rename(&taken, &link).unwrap();
                }
                two.faults[1].meanwhile(moment, collected.clone());
                let kept = other.keep_given(&name, &blob).await;
                assert_eq!(kept.unwrap(), Some(1), "trashed {trashed}, {moment}");
                if two.faults[1].calls() <= moment {
                    break;
                }
                moment += 1;
            }
            assert!(moment > 3, "{moment}");
        }
    });
}

#[test]
fn a_blob_that_goes_to_the_trash_at_any_moment_of_its_upload_is_there_in_the_end() {
    block(async {
        let two = Two::new().await;
        let other = &two.content[1];
        let blob = other.put(crate::model::Algorithm::Sha256, "x".into()).await.unwrap();
        let (hex, dir) = (blob.hex(), two.dir.path());
        let (path, trash) =
            (dir.join("blobs/sha256").join(&hex[..2]).join(&hex), dir.join("trash").join(&hex));
        assert!(path.exists());
        for before in ["stored", "in the trash", "nowhere"] {
            let mut moment = 0;
            loop {
                two.world.pass(Duration::from_secs(4));
                match before {
                    "in the trash" => drop(std::fs::rename(&path, &trash)),
                    "nowhere" => {
                        [&path, &trash].into_iter().for_each(|file| drop(std::fs::remove_file(file)))
                    }
                    _ => {}
                }
                // As the other registry's collector does it.
                let (from, to) = (path.clone(), trash.clone());
                two.faults[1].meanwhile(moment, move || drop(std::fs::rename(from, to)));
                let put = other.put(crate::model::Algorithm::Sha256, "x".into()).await;
                assert_eq!(put.unwrap(), blob, "{before}, {moment}");
                assert_eq!(other.find(&blob).await.unwrap(), Some(1), "{before}, {moment}");
                if two.faults[1].calls() <= moment {
                    break;
                }
                moment += 1;
            }
            assert!(moment > 3, "{moment}");
        }
    });
}

#[test]
fn an_upload_ends_well_although_its_blob_and_link_go_to_their_trashes_at_any_moment() {
    block(async {
        let two = Two::new().await;
        let other = &two.content[1];
        let name = repository("team/vm");
        let blob = crate::model::Algorithm::Sha256.of(b"x");
        let (hex, dir) = (blob.hex(), two.dir.path());
        let of = dir.join("repositories/team/vm");
        let moves = [
            (dir.join("blobs/sha256").join(&hex[..2]).join(&hex), dir.join("trash").join(&hex)),
            (of.join("_links").join(&hex), of.join("_taken").join(&hex)),
        ];
        for before in ["stored", "in the trash", "nowhere"] {
            let mut moment = 0;
            loop {
                two.world.pass(Duration::from_secs(4));
                let mut upload =
                    other.begin(&name, "", crate::model::Algorithm::Sha256, 1).await.unwrap().unresumable();
                upload.write("x".into()).await.unwrap();
                upload.flush().await.unwrap();
                match before {
                    "in the trash" => moves.iter().for_each(|(from, to)| drop(std::fs::rename(from, to))),
                    "nowhere" => {
                        let files = moves.iter().flat_map(|(from, to)| [from, to]);
                        files.for_each(|file| drop(std::fs::remove_file(file)));
                    }
                    _ => {}
                }
                let moves = moves.clone();
                // As the other registry's collector does it.
                two.faults[1].meanwhile(moment, move || {
                    std::fs::create_dir_all(moves[1].1.parent().unwrap()).unwrap();
                    for (from, to) in &moves {
                        drop(std::fs::rename(from, to));
                    }
                    drop(std::fs::remove_dir(moves[1].0.parent().unwrap()));
                });
                let committed = upload.commit(&blob).await;
                let calls = two.faults[1].calls();
                assert_eq!(committed.unwrap(), 1, "{before}, {moment}");
                // As a push asks whose tag is next.
                assert_eq!(other.keep_given(&name, &blob).await.unwrap(), Some(1), "{before}, {moment}");
                if calls <= moment {
                    break;
                }
                moment += 1;
            }
            assert!(moment > 10, "{moment}");
        }
    });
}

#[test]
fn a_repository_that_is_forgotten_for_being_empty_is_made_anew_by_a_push_at_that_moment() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let two = Two::new().await;
        let [one, other] = [&two.content[0], &two.content[1]];
        for round in 0..40 {
            let name = repository(&format!("a/b{}", round % 3));
            let blob = one.put(crate::model::Algorithm::Sha256, "x".into()).await.unwrap();
            one.link(&name, &blob).await.unwrap();
            let gone = async {
                while !one.take_away(&name, &blob, later()).await.unwrap()
                    && one.linked(&name, &blob).await.unwrap()
                {}
            };
            let more = other.put(crate::model::Algorithm::Sha256, format!("y{round}").into()).await.unwrap();
            let tag = format!("t{round}");
            let ((), linked, published) =
                tokio::join!(gone, other.link(&name, &more), add(&**other, &name, &tag));
            linked.unwrap();
            published.unwrap();
            assert!(one.linked(&name, &more).await.unwrap(), "{round}");
            assert!(one.catalogue(&name).await.unwrap().is_some(), "{round}");
        }
    });
}

#[test]
fn one_registry_at_a_time_has_a_duty_and_the_next_one_when_it_is_given_back() {
    block(async {
        let two = Two::new().await;
        let hour = Duration::from_secs(3600);
        let unsure = two.content[1].lease(Duty::Garbage, hour).await;
        assert!(matches!(unsure, Err(ContentError::Unsure(_))), "it has not seen the other one write yet");
        for content in &two.content {
            content.condition().await;
        }
        let first = two.content[0].lease(Duty::Garbage, hour).await.unwrap().unwrap();
        for content in &two.content {
            assert!(content.lease(Duty::Garbage, hour).await.unwrap().is_none());
        }
        first.note("7".into()).await.unwrap();
        first.check().unwrap();
        first.end().await.unwrap();
        let next = two.content[1].lease(Duty::Garbage, hour).await.unwrap().unwrap();
        assert_eq!(next.noted().as_deref(), Some("7"));
        drop(next);
        assert!(two.content[0].lease(Duty::Garbage, hour).await.unwrap().is_none(), "it is not silent yet");
        let short = Duration::from_millis(1500);
        tokio::time::sleep(short * 5 / 4).await;
        let last = two.content[0].lease(Duty::Garbage, short).await.unwrap().unwrap();
        tokio::select! {
            lost = last.keep() => panic!("{lost}"),
            () = tokio::time::sleep(2 * short) => last.check().unwrap(),
        }
    });
}
