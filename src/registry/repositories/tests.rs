//! Changes that meet in between.

use super::super::content::{Which, disk};
use super::*;
use crate::{
    registry::{
        journal::Opening,
        log::Log,
        writer::{Writer, Writes},
    },
    supervise::Tree,
};

/// A writer's repositories in this directory; the tree holds its journal.
async fn repositories(dir: &std::path::Path) -> (Repositories, Tree) {
    let tree = Tree::new();
    let content: Arc<dyn Content> = Arc::new(disk::Disk::open(disk::DiskSettings::at(dir)).await.unwrap());
    let (log, writer) = (Log::in_memory().unwrap(), Writer::new(Default::default(), Writes::Taken));
    let journal = Journal::open(content.clone(), log, writer, Opening::Writer("r1"), &tree.handle()).await;
    (Repositories::new(content, journal.unwrap()), tree)
}

#[tokio::test]
async fn a_delete_that_waited_does_not_take_the_template_that_came_instead() {
    let dir = tempfile::tempdir().unwrap();
    let (all, _tree) = repositories(dir.path()).await;
    let name = RepositoryName::parse("same").unwrap();
    let tag = Reference::Tag(Tag::parse("a").unwrap());
    let push = |id: &str| {
        let text = format!(r#"{{"annotations":{{"{}":"{id}"}}}}"#, crate::wire::template::ID);
        all.put(&name, &tag, None, Bytes::from(text))
    };
    let old = TemplateId::parse("old").unwrap();
    push("old").await.unwrap();

    for which in ["delete", "revert", "arch"] {
        let turn = all.turn(&name).await;
        let mut late = Box::pin(async {
            match which {
                "delete" => all.delete_template(&old).await,
                "revert" => all.revert(&old, &Which::Newest).await.map(|(position, _)| position),
                _ => all.set_arch(&old, crate::model::Arch::Amd64).await,
            }
        });
        assert!(futures_util::poll!(&mut late).is_pending(), "it waits for its turn");
        let clear = |catalogue: &mut Catalogue| {
            catalogue.clear();
            Ok(())
        };
        all.change_in_turn(&name, About::plain(Change::Cleared), On::Made, clear).await.unwrap();
        drop(turn);
        // Whoever waits first goes first: the push goes around the turn, as another server's would.
        let mut next = (*all.content().catalogue(&name).await.unwrap().unwrap()).clone();
        let digest = Digest::of(which.as_bytes());
        let stored =
            Stored { media_type: "x".into(), size: 1, subject: None, children: Vec::new(), pushed: 1 };
        next.add(digest, stored);
        next.tag(Tag::parse("a").unwrap(), digest, 1);
        next.template = Some(TemplateId::parse("new").unwrap());
        next.generation += 1;
        all.content().publish(next).await.unwrap();

        assert!(matches!(late.await, Err(RepositoryError::NoTemplate(_))), "{which}");
        let left = all.catalogue(&name).await.unwrap();
        assert_eq!((left.tags.len(), left.arch), (1, None), "{which}");
        all.change(&name, About::plain(Change::Cleared), clear).await.unwrap();
        push("old").await.unwrap();
    }
}

#[tokio::test]
async fn pushes_beside_each_other_and_deletes_between_them_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (all, _tree) = repositories(dir.path()).await;
    let name = RepositoryName::parse("busy").unwrap();
    let (all, name) = (&all, &name);
    let push = |n: usize| async move {
        let tag = Reference::Tag(Tag::parse(format!("t{n}")).unwrap());
        let text = format!(r#"{{"annotations":{{"n":"{n}"}}}}"#);
        let taken = all.put(name, &tag, None, Bytes::from(text)).await.unwrap();
        // What was acknowledged can be taken away at once.
        if n.is_multiple_of(4) {
            all.delete(name, &Reference::Digest(taken.digest)).await.unwrap();
        }
    };
    futures_util::future::join_all((0..24).map(push)).await;
    let catalogue = all.catalogue(name).await.unwrap();
    let wanted: BTreeSet<Tag> =
        (0..24).filter(|n| n % 4 != 0).map(|n| Tag::parse(format!("t{n}")).unwrap()).collect();
    assert_eq!(catalogue.tags.keys().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!((catalogue.generation, catalogue.manifests.len()), (30, 18));
    assert!(catalogue.template.is_some());
}

#[tokio::test]
async fn a_repository_takes_a_bounded_number_of_tags_and_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let (all, _tree) = repositories(dir.path()).await;
    let name = RepositoryName::parse("full").unwrap();
    let tag = |text: &str| Reference::Tag(Tag::parse(text).unwrap());
    let known = Digest::of(b"{}");
    let mut full = Catalogue::new(name.clone());
    for n in 0..MANIFESTS {
        let digest = if n == 0 { known } else { Digest::of(n.to_string().as_bytes()) };
        let stored =
            Stored { media_type: "x".into(), size: 2, subject: None, children: Vec::new(), pushed: 1 };
        full.manifests.insert(digest, stored);
    }
    full.generation = 1;
    all.content().publish(full).await.unwrap();
    let put = |reference, text: &'static str| {
        let (all, name) = (&all, &name);
        async move { all.put(name, &reference, None, Bytes::from_static(text.as_bytes())).await }
    };
    assert!(matches!(put(tag("a"), r#"{"x":1}"#).await, Err(RepositoryError::Bound { .. })));
    assert!(put(tag("a"), "{}").await.is_ok(), "what it has already is taken again");
    all.delete(&name, &Reference::Digest(Digest::of(b"7"))).await.unwrap();
    assert!(put(tag("b"), r#"{"x":1}"#).await.is_ok(), "there is room again");
}
