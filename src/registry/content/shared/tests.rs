// Two registries on one directory, whose calls fail or say so although they were done, and who see names three seconds late
// unless they ask anew.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::super::{
    Content, ContentError,
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
