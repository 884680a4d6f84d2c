use proptest::prelude::*;

use super::*;

const AGES: Ages = Ages { cache: Duration::from_secs(30), valid: Duration::from_secs(24) };

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn id(name: &str) -> TemplateId {
    TemplateId::parse(name).unwrap()
}

/// `a7 b` lists template `a`, pushed at 7, and `b` without a date.
fn list(text: &str) -> HashMap<TemplateId, Entry> {
    text.split_whitespace()
        .map(|word| {
            let (name, pushed) = word.split_at(1);
            (id(name), Entry { sum: Sum::of([name]), pushed: pushed.parse().unwrap_or(0) })
        })
        .collect()
}

fn versions(of: &str, dates: &str) -> Option<Versions> {
    Some(Versions { sum: Sum::of([of]), dates: (!dates.is_empty()).then(|| Sum::of([dates])) })
}

/// Two registries, the first is the writer; a minute after the start both have listed this.
fn both(writer: &str, replica: &str) -> Catalogue {
    let mut catalogue = Catalogue::new(2, 0, AGES, at(0));
    catalogue.listed(0, list(writer), at(60));
    catalogue.listed(1, list(replica), at(60));
    catalogue
}

fn standing(catalogue: &Catalogue, name: &str, now: u64) -> Standing {
    match name {
        "*" => catalogue.standing(1, About::All, at(now)),
        name => catalogue.standing(1, About::Template(&id(name)), at(now)),
    }
}

#[test]
fn a_replica_answers_about_what_it_lists_as_the_writer_does() {
    let same = both("a7 b8", "a7 b8");
    assert_eq!(standing(&same, "a", 61), Standing::Same);
    assert_eq!(standing(&same, "*", 61), Standing::Same);
    let lags = both("a7 b8", "a6 b8");
    assert_eq!(standing(&lags, "a", 61), Standing::Differs { pushed: 6 });
    assert_eq!(standing(&lags, "b", 61), Standing::Same);
    assert_eq!(standing(&lags, "*", 61), Standing::Differs { pushed: 8 });
    for (writer, replica) in [("a7 b8", "b8"), ("b8", "a7 b8")] {
        let lacks = both(writer, replica);
        assert!(matches!(standing(&lacks, "a", 61), Standing::Differs { .. }), "{writer} {replica}");
        assert_eq!(standing(&lacks, "b", 61), Standing::Same);
    }
    // Nobody knows of it: it may have been pushed a moment ago.
    assert_eq!(standing(&same, "c", 61), Standing::Differs { pushed: 0 });
}

#[test]
fn a_list_that_is_too_old_says_nothing() {
    let same = both("a7", "a7");
    assert!(same.is_known(at(84)));
    assert_eq!(standing(&same, "a", 85), Standing::Unlisted);
    assert!(!same.is_known(at(85)));
    let mut crashes = both("a7", "a7");
    crashes.failed(1, "it closed the connection".into());
    assert_eq!(standing(&crashes, "a", 70), Standing::Same);
    crashes.listed(0, list("a7"), at(85));
    assert_eq!(standing(&crashes, "a", 85), Standing::Unlisted);
    assert_eq!(crashes.view(1, at(85)).trouble.as_deref(), Some("it closed the connection"));
}

#[test]
fn where_lists_do_not_tell_versions_do() {
    let mut undated = both("a", "a");
    assert!(matches!(standing(&undated, "a", 61), Standing::Differs { .. }));
    assert_eq!(undated.wanted(0, at(61)), [id("a")]);
    assert_eq!(undated.wanted(1, at(61)), [id("a")]);
    undated.versions(0, id("a"), versions("1", "7"), at(61));
    assert!(matches!(standing(&undated, "a", 61), Standing::Differs { .. }));
    undated.versions(1, id("a"), versions("1", ""), at(61));
    assert_eq!(standing(&undated, "a", 61), Standing::Same);
    assert!(undated.wanted(0, at(61)).is_empty() && undated.wanted(1, at(61)).is_empty());
    // Its list will never show a change, so they are asked for again and again.
    assert_eq!(undated.wanted(1, at(92)), [id("a")]);
    undated.versions(1, id("a"), versions("2", ""), at(92));
    assert!(matches!(standing(&undated, "a", 80), Standing::Differs { .. }));
    assert_eq!(undated.wanted(0, at(92)), [id("a")], "each round, until they are the same again");
    let mut counted = both("a7", "a9");
    counted.versions(0, id("a"), versions("1", "x"), at(61));
    counted.versions(1, id("a"), versions("1", "y"), at(61));
    assert!(matches!(standing(&counted, "a", 61), Standing::Differs { .. }));
    counted.versions(1, id("a"), versions("1", "x"), at(62));
    assert_eq!(standing(&counted, "a", 62), Standing::Same);
    counted.versions(1, id("a"), None, at(63));
    assert!(matches!(standing(&counted, "a", 63), Standing::Differs { .. }));
}

#[test]
fn versions_that_were_asked_for_before_the_list_changed_do_not_count() {
    let mut catalogue = both("a7", "a6");
    catalogue.versions(0, id("a"), versions("1", ""), at(61));
    catalogue.versions(1, id("a"), versions("1", ""), at(61));
    assert_eq!(standing(&catalogue, "a", 61), Standing::Same);
    catalogue.listed(0, list("a8"), at(65));
    assert!(matches!(standing(&catalogue, "a", 65), Standing::Differs { .. }));
}

#[test]
fn what_was_written_here_is_the_writers_until_lists_would_show_it() {
    let mut catalogue = both("a7 b8", "a7 b8");
    let about = id("a");
    let begun = catalogue.begin(About::Template(&about));
    for now in [61, 70] {
        assert_eq!(standing(&catalogue, "a", now), Standing::Written);
        assert_eq!(standing(&catalogue, "*", now), Standing::Written);
        assert_eq!(standing(&catalogue, "b", now), Standing::Same);
    }
    catalogue.end(About::Template(&about), begun, false, at(70));
    for (sent, standing_then) in [(75, Standing::Written), (100, Standing::Written), (101, Standing::Same)] {
        catalogue.listed(0, list("a7 b8"), at(sent));
        catalogue.listed(1, list("a7 b8"), at(sent));
        assert_eq!(standing(&catalogue, "a", sent), standing_then, "{sent}");
    }
    assert_eq!(catalogue.written(), Some(0));
}

#[test]
fn versions_from_before_a_write_do_not_count_when_its_mark_is_gone() {
    let mut catalogue = both("a", "a");
    let about = id("a");
    catalogue.versions(0, id("a"), versions("1", ""), at(61));
    catalogue.versions(1, id("a"), versions("1", ""), at(61));
    assert_eq!(standing(&catalogue, "a", 61), Standing::Same);
    let begun = catalogue.begin(About::Template(&about));
    catalogue.end(About::Template(&about), begun, false, at(62));
    // The replica's list does not count any more when the writer's shows the write, so nobody waits for it.
    catalogue.listed(0, list("a"), at(93));
    assert_eq!(catalogue.written(), Some(0));
    catalogue.listed(1, list("a"), at(93));
    assert!(matches!(standing(&catalogue, "a", 93), Standing::Differs { .. }));
    assert_eq!([catalogue.wanted(0, at(93)), catalogue.wanted(1, at(93))], [[id("a")], [id("a")]]);
    catalogue.versions(0, id("a"), versions("2", ""), at(93));
    catalogue.versions(1, id("a"), versions("1", ""), at(93));
    assert!(matches!(standing(&catalogue, "a", 93), Standing::Differs { .. }));
    catalogue.versions(1, id("a"), versions("2", ""), at(94));
    assert_eq!(standing(&catalogue, "a", 94), Standing::Same);
}

#[test]
fn a_refused_write_leaves_no_mark() {
    let mut catalogue = both("a7", "a7");
    let about = id("a");
    let begun = catalogue.begin(About::Template(&about));
    catalogue.end(About::Template(&about), begun, true, at(62));
    assert_eq!(standing(&catalogue, "a", 62), Standing::Same);
}

#[test]
fn one_that_names_no_template_concerns_all_and_so_do_too_many() {
    let mut catalogue = both("a7 b8", "a7 b8");
    let begun = catalogue.begin(About::All);
    assert_eq!(standing(&catalogue, "b", 61), Standing::Written);
    catalogue.end(About::All, begun, true, at(61));
    assert_eq!(standing(&catalogue, "b", 61), Standing::Same);
    let ids: Vec<TemplateId> = (0..=MARKS).map(|at| id(&format!("t{at}"))).collect();
    let begun: Vec<Begun> = ids.iter().map(|id| catalogue.begin(About::Template(id))).collect();
    assert_eq!(standing(&catalogue, "b", 61), Standing::Written);
    // The same template again, after all of them became one.
    let again = catalogue.begin(About::Template(&ids[0]));
    for (id, begun) in ids.iter().zip(begun) {
        catalogue.end(About::Template(id), begun, true, at(62));
    }
    catalogue.end(About::Template(&ids[0]), again, true, at(62));
    assert_eq!(standing(&catalogue, "b", 62), Standing::Same, "none is left under way");
    assert_eq!(catalogue.written(), Some(0));
}

#[test]
fn after_a_start_anything_may_have_been_written_just_before() {
    let mut catalogue = Catalogue::new(2, 0, AGES, at(0));
    for (sent, standing_then) in [(1, Standing::Written), (30, Standing::Written), (31, Standing::Same)] {
        catalogue.listed(0, list("a7"), at(sent));
        catalogue.listed(1, list("a7"), at(sent));
        assert_eq!(standing(&catalogue, "a", sent), standing_then);
    }
}

/// What happens to one template at a writer and a replica.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A push through the proxy begins, or the one under way ends.
    Push,
    /// The newest version is taken back, through the proxy.
    Revert,
    /// The replica copies what the writer has.
    Copy,
    /// A list is asked for; registries answer out of their caches.
    Poll(usize),
    /// Versions are asked for, where they are wanted.
    Ask(usize),
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let what = prop_oneof![
        Just(Step::Push),
        Just(Step::Revert),
        Just(Step::Copy),
        (0..2usize).prop_map(Step::Poll),
        (0..2usize).prop_map(Step::Poll),
        (0..2usize).prop_map(Step::Ask),
    ];
    (0..12u64, what)
}

/// A registry as it is, and the list it answers with for a while.
#[derive(Debug, Clone, Default)]
struct Truth {
    tags: Vec<u32>,
    cached: Option<(u64, Vec<u32>)>,
}

impl Truth {
    fn list(&mut self, now: u64) -> Vec<u32> {
        let cached = self.cached.take().filter(|(at, _)| now < at + AGES.cache.as_secs());
        let (at, tags) = cached.unwrap_or_else(|| (now, self.tags.clone()));
        self.cached = Some((at, tags.clone()));
        tags
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With all writes through the proxy, nobody is ever sent to a registry that does not have what the writer has.
    #[test]
    fn whoever_may_answer_has_what_the_writer_has(
        steps in proptest::collection::vec(step(), 1..80),
        dated in any::<bool>(),
    ) {
        let mut catalogue = Catalogue::new(2, 0, AGES, at(0));
        let mut truth = [Truth::default(), Truth::default()];
        let (mut now, mut next) = (0, 0);
        let mut under_way: Option<Begun> = None;
        let about = id("a");
        for (pause, step) in steps {
            now += pause;
            match step {
                Step::Push => match under_way.take() {
                    None => under_way = Some(catalogue.begin(About::Template(&about))),
                    Some(begun) => {
                        next += 1;
                        truth[0].tags.push(next);
                        catalogue.end(About::Template(&about), begun, false, at(now));
                    }
                },
                Step::Revert => {
                    let begun = catalogue.begin(About::Template(&about));
                    let refused = truth[0].tags.pop().is_none();
                    catalogue.end(About::Template(&about), begun, refused, at(now));
                }
                Step::Copy => truth[1].tags = truth[0].tags.clone(),
                Step::Poll(place) => {
                    let tags = truth[place].list(now);
                    let pushed = tags.last().map_or(0, |tag| i64::from(*tag)) * i64::from(dated);
                    let entry = Entry { sum: Sum::of(["a"]), pushed };
                    let listed = (!tags.is_empty()).then(|| (about.clone(), entry));
                    catalogue.listed(place, listed.into_iter().collect(), at(now));
                }
                Step::Ask(place) => {
                    for id in catalogue.wanted(place, at(now)) {
                        let tags = truth[place].tags.clone();
                        let told = Versions { sum: Sum::of([format!("{tags:?}")]), dates: None };
                        catalogue.versions(place, id, (!tags.is_empty()).then_some(told), at(now));
                    }
                }
            }
            if catalogue.is_known(at(now)) {
                let standing = catalogue.standing(1, About::Template(&about), at(now));
                if standing == Standing::Same {
                    // What it has may be newer than what its list showed, never older than what the writer has: the
                    // copy of a moment ago.
                    prop_assert_eq!(&truth[1].tags, &truth[0].tags, "at {}", now);
                }
            }
        }
    }
}
