// The rules of a repository's history, and random histories that must keep them.

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn stored(children: &[u8], subject: Option<u8>) -> Stored {
    Stored {
        media_type: "x".into(),
        size: 1,
        subject: subject.map(digest),
        children: children.iter().copied().map(digest).collect(),
        pushed: 0,
    }
}

fn with_tags(tags: &[(&str, u8)]) -> Catalogue {
    let mut catalogue = Catalogue::new(RepositoryName::parse("r").unwrap());
    for (name, n) in tags {
        catalogue.add(digest(*n), stored(&[], None));
        catalogue.tag(tag(name), digest(*n), 1);
    }
    catalogue
}

fn numbers(catalogue: &Catalogue) -> Vec<(String, i64)> {
    catalogue.tags.iter().map(|(tag, version)| (tag.to_string(), version.number)).collect()
}

#[test]
fn a_tag_pushed_again_keeps_its_number_and_its_birth() {
    let mut catalogue = with_tags(&[("a", 1), ("b", 2)]);
    catalogue.add(digest(3), stored(&[], None));
    catalogue.tag(tag("a"), digest(3), 9);
    let again = &catalogue.tags[&tag("a")];
    assert_eq!((again.number, again.digest, again.created, again.pushed), (0, digest(3), 1, 9));
    assert_eq!(catalogue.version(&Which::Newest).unwrap().0, &tag("b"));
}

#[test]
fn numbers_are_not_given_twice_while_the_template_lives() {
    let mut catalogue = with_tags(&[("a", 1), ("b", 2)]);
    assert!(catalogue.untag(&tag("b")));
    catalogue.tag(tag("c"), digest(2), 2);
    assert_eq!(numbers(&catalogue), [("a".into(), 0), ("c".into(), 2)]);
}

#[test]
fn a_revert_takes_the_target_and_all_later() {
    let mut catalogue = with_tags(&[("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(catalogue.revert(&Which::Number(7)), Err(NoSuchVersion));
    assert_eq!(catalogue.revert(&Which::Tag(tag("b"))).unwrap(), [tag("b"), tag("c")]);
    assert_eq!(catalogue.manifests.keys().collect::<Vec<_>>(), [&digest(1)]);
    assert_eq!(catalogue.revert(&Which::Newest).unwrap(), [tag("a")]);
    assert!(catalogue.is_empty());
    assert_eq!(catalogue.next_number, 0, "the next template of this name starts afresh");
}

#[test]
fn a_revert_keeps_what_others_need() {
    let mut catalogue = with_tags(&[("child", 1)]);
    catalogue.add(digest(2), stored(&[1], None));
    catalogue.tag(tag("index"), digest(2), 1);
    catalogue.add(digest(3), stored(&[], Some(2)));
    catalogue.tag(tag("same"), digest(1), 1);
    // The signature (3) is about the index (2), which lists the child (1), which another tag has.
    catalogue.revert(&Which::Tag(tag("index"))).unwrap();
    assert_eq!(catalogue.manifests.keys().collect::<Vec<_>>(), [&digest(1)]);
    assert_eq!(numbers(&catalogue), [("child".into(), 0)]);
}

#[test]
fn a_manifest_goes_with_its_tags() {
    let mut catalogue = with_tags(&[("a", 1), ("b", 1), ("c", 2)]);
    assert!(catalogue.remove(&digest(1)));
    assert!(!catalogue.remove(&digest(1)));
    assert_eq!(numbers(&catalogue), [("c".into(), 2)]);
}

#[test]
fn a_catalogue_of_another_name_or_format_is_not_used() {
    let catalogue = with_tags(&[("a", 1)]);
    assert_eq!(catalogue.fault(&catalogue.name), None);
    assert!(catalogue.fault(&RepositoryName::parse("R").unwrap()).unwrap().contains("case"));
    let mut newer = catalogue.clone();
    newer.v = 2;
    assert!(newer.fault(&catalogue.name).is_some());
    let mut torn = catalogue.clone();
    torn.manifests.clear();
    assert!(torn.fault(&catalogue.name).is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, u8, Vec<u8>),
    Untag(u8),
    Remove(u8),
    Revert(i64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5u8, 0..8u8, prop::collection::vec(0..8u8, 0..2)).prop_map(|(t, d, c)| Step::Push(t, d, c)),
        2 => (0..5u8).prop_map(Step::Untag),
        2 => (0..8u8).prop_map(Step::Remove),
        2 => (0..9i64).prop_map(Step::Revert),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #[test]
    fn any_history_holds_and_reads_back(steps in prop::collection::vec(step(), 0..40)) {
        let mut catalogue = Catalogue::new(RepositoryName::parse("r").unwrap());
        for step in steps {
            let before = catalogue.clone();
            match step {
                Step::Push(name, n, children) => {
                    let children: Vec<u8> = children.into_iter().filter(|c| *c < n).collect();
                    catalogue.add(digest(n), stored(&children, None));
                    catalogue.tag(tag(&format!("t{name}")), digest(n), 1);
                    prop_assert!(catalogue.next_number - before.next_number <= 1);
                }
                Step::Untag(name) => drop(catalogue.untag(&tag(&format!("t{name}")))),
                Step::Remove(n) => drop(catalogue.remove(&digest(n))),
                Step::Revert(number) => {
                    if catalogue.revert(&Which::Number(number)).is_err() {
                        prop_assert_eq!(&catalogue, &before);
                    } else {
                        prop_assert!(catalogue.tags.values().all(|version| version.number < number));
                    }
                }
                Step::Clear => catalogue.clear(),
            }
            for (tag, version) in &catalogue.tags {
                if let Some(earlier) = before.tags.get(tag) {
                    prop_assert_eq!(version.number, earlier.number);
                }
            }
            prop_assert_eq!(catalogue.fault(&catalogue.name), None);
            let text = serde_json::to_string(&catalogue).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Catalogue>(&text).unwrap(), &catalogue);
        }
    }
}
