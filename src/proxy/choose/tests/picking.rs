//! Ties, zones, limits and ways to balance, among upstreams that all pass their probes unless a word says otherwise.

use super::*;
use crate::balance::{Weight, mix};

/// Upstreams that differ in what a choice looks at.
struct Pool {
    names: Vec<UpstreamName>,
    verdicts: Vec<Verdict>,
    set: Vec<fn(&mut Candidate<'_>)>,
    want: Want,
    tried: Tried,
    desperate: bool,
    how: Balance,
}

fn pool(words: &str) -> Pool {
    Pool {
        names: (0..words.len()).map(|at| UpstreamName::parse(format!("u{at}")).unwrap()).collect(),
        verdicts: words.chars().map(verdict).collect(),
        set: vec![|_| {}; words.len()],
        want: Want::plain(classify::route(Kind::Controller, &Method::GET, "/api/v1/vm")),
        tried: Tried::default(),
        desperate: false,
        how: Balance::LeastRequests,
    }
}

impl Pool {
    fn with(mut self, place: usize, set: fn(&mut Candidate<'_>)) -> Self {
        self.set[place] = set;
        self
    }

    fn tied(mut self, affinity: Affinity) -> Self {
        self.want.affinity = affinity;
        self
    }

    fn next(&self, chance: u64) -> Result<Chosen, NoneLeft> {
        let mut all: Vec<_> =
            self.names.iter().zip(&self.verdicts).map(|(n, v)| Candidate::plain(n, v)).collect();
        for (one, set) in all.iter_mut().zip(&self.set) {
            set(one);
        }
        let draw = Draw { turn: chance as usize, chance: mix(chance) };
        next(&all, &self.want, &self.tried, self.how, self.desperate, draw)
    }

    fn counts(&self) -> Vec<usize> {
        let mut seen = vec![0; self.names.len()];
        for chance in 0..400 {
            seen[self.next(chance).unwrap().place] += 1;
        }
        seen
    }

    fn one(&self) -> Chosen {
        let one = self.next(0).unwrap();
        assert!((1..50).all(|chance| self.next(chance).unwrap().place == one.place));
        one
    }
}

const FULL: fn(&mut Candidate<'_>) = |one| (one.most, one.outstanding) = (Some(3), 3);
const LOCAL: fn(&mut Candidate<'_>) = |one| one.local = true;

fn stick(key: u64) -> Affinity {
    Affinity::Stick(By::Address, key)
}

#[test]
fn a_full_one_is_passed_over_and_says_so_when_nobody_is_left() {
    let one = pool("++").with(0, FULL);
    assert_eq!(one.one().place, 1);
    let none = pool("+").with(0, FULL).next(0).unwrap_err();
    assert_eq!(none.to_string(), "u0: at its limit of 3 requests");
    assert!(!none.is_settled(), "room may come");
    // It passes its probes, so those that do not are not tried instead; and it is not asked again beyond its limit.
    let mut desperate = pool("+-").with(0, FULL);
    desperate.desperate = true;
    assert!(desperate.next(0).is_err());
    let mut again = pool("+").with(0, FULL);
    again.tried.sent(0);
    assert!(again.next(0).is_err());
}

#[test]
fn weights_decide_how_often_one_is_chosen() {
    for how in [Balance::RoundRobin, Balance::LeastRequests, Balance::PeakEwma] {
        let mut three = pool("++").with(0, |one| one.part = Weight::of(3));
        three.how = how;
        let counts = three.counts();
        assert!((270..=330).contains(&counts[0]), "{how:?}: {counts:?}");
    }
}

#[test]
fn one_that_comes_back_gets_little_at_first() {
    let counts = pool("++").with(0, |one| one.part = Weight::of(1).part(0.1)).counts();
    assert!((15..=70).contains(&counts[0]), "{counts:?}");
}

#[test]
fn a_client_keeps_its_upstream_whatever_the_load_and_comes_back_to_it() {
    for key in 0..20 {
        let own = pool("+++").tied(stick(key)).one();
        assert_eq!(own.why, Why::Tied(Tie { by: By::Address, own: true }));
        let busy = pool("+++").tied(stick(key)).with(own.place, |one| one.outstanding = 1000);
        assert_eq!(busy.one().place, own.place);
        let starting = pool("+++").tied(stick(key)).with(own.place, |one| one.part = Weight::of(1).part(0.1));
        assert_eq!(starting.one().place, own.place);
        let mut down = pool("+++").tied(stick(key));
        down.verdicts[own.place] = verdict('-');
        let other = down.one();
        assert_ne!(other.place, own.place);
        assert_eq!(other.why, Why::Tied(Tie { by: By::Address, own: false }));
    }
}

#[test]
fn a_client_waits_for_its_upstream_while_that_is_only_full() {
    let own = pool("+++").tied(stick(7)).one().place;
    let mut full = pool("+++").tied(stick(7)).with(own, FULL);
    let none = full.next(0).unwrap_err();
    assert!(none.to_string().contains(&format!("u{own}: at its limit of 3 requests")), "{none}");
    // When the hold is over another one is better than none; and so it is when something was sent already.
    full.desperate = true;
    assert_ne!(full.one().place, own);
    full.desperate = false;
    full.tried.sent((own + 1) % 3);
    assert_ne!(full.one().place, own);
}

#[test]
fn a_cookie_names_its_upstream() {
    let own = tag(seed(&UpstreamName::parse("u2").unwrap()));
    let named = pool("++++").tied(Affinity::Tagged(own));
    assert_eq!(named.one().place, 2);
    assert_eq!(named.one().why, Why::Tied(Tie { by: By::Cookie, own: true }));
    let mut down = pool("++++").tied(Affinity::Tagged(own));
    down.verdicts[2] = verdict('-');
    assert_eq!(down.one().why, Why::Tied(Tie { by: By::Cookie, own: false }));
    // One that nobody here has, or none yet, ties to nothing.
    for affinity in [Affinity::Tagged(1), Affinity::Untagged] {
        let free = pool("++++").tied(affinity);
        assert!(free.counts().iter().all(|count| *count > 50), "{:?}", free.counts());
    }
}

#[test]
fn a_key_spills_to_the_next_in_its_line_when_its_upstream_is_overloaded() {
    let mut hashed = pool("+++").tied(Affinity::Key(42));
    hashed.how = Balance::ConsistentHash;
    let own = hashed.one();
    assert_eq!(own.why.to_string(), "consistent-hash among 3");
    let busy = hashed.with(own.place, |one| one.outstanding = 5);
    let other = busy.one();
    assert_ne!(other.place, own.place);
    assert_eq!(other.why.to_string(), "consistent-hash among 3, the first is overloaded");
    assert_eq!(other.why.past(), Some(Past::Load));
    // Without a key it is the load that decides.
    let mut keyless = pool("+++");
    keyless.how = Balance::ConsistentHash;
    assert_eq!(keyless.next(0).unwrap().why.to_string(), "least-requests among 3");
}

#[test]
fn the_own_zone_is_preferred_until_it_has_not_enough_left() {
    let zones = |words: &str| {
        let mut pool = pool(words).with(0, LOCAL).with(1, LOCAL).with(2, LOCAL).with(3, LOCAL);
        pool.want.zoned = true;
        pool
    };
    let counts = zones("+++++++").counts();
    assert_eq!(counts[4..], [0, 0, 0]);
    // Three of four left: with what it has to spare that is enough.
    assert_eq!(zones("-++++++").counts()[4..], [0, 0, 0]);
    // Half of it left: seven of ten stay.
    let counts = zones("--+++++").counts();
    let stay: usize = counts[..4].iter().sum();
    assert!((250..=310).contains(&stay), "{counts:?}");
    assert_eq!(zones("----+++").counts()[..4], [0; 4]);
    let left = zones("----+++").next(0).unwrap();
    assert_eq!(left.why.to_string(), "least-requests among 3 in other zones, its own has not enough left");
    assert_eq!(left.why.past(), Some(Past::Zone));
    // One that says no for this kind of request is missing too.
    let mut write = zones("www++++");
    write.want.route = classify::route(Kind::Controller, &Method::POST, "/api/v1/vm");
    let counts = write.counts();
    assert!((110..=170).contains(&counts[3]), "{counts:?}");
    // A tie looks at no zone.
    let tied = zones("+++++++").tied(stick(3)).one().place;
    assert_eq!(pool("+++++++").tied(stick(3)).one().place, tied);
}

#[test]
fn a_key_leaves_its_zone_always_or_never() {
    for key in 0..40 {
        let mut half = pool("-+++").with(0, LOCAL).with(1, LOCAL).tied(Affinity::Key(mix(key)));
        (half.want.zoned, half.how) = (true, Balance::ConsistentHash);
        half.one();
    }
}

#[test]
fn what_may_miss_something_is_no_way_out_while_what_does_not_is_only_full() {
    use crate::config::proxy::StaleReads;
    let at = |seq| Position { epoch: 1, seq };
    let (names, verdict) = (["r0", "r1"].map(|n| UpstreamName::parse(n).unwrap()), verdict('+'));
    let mut all = names.each_ref().map(|name| Candidate::plain(name, &verdict));
    all[0].standing = Standing::Fresh { has: at(5) };
    all[1].standing = Standing::Behind { needed: at(5), has: at(3), patience: Duration::ZERO };
    FULL(&mut all[0]);
    let mut want = Want::plain(classify::route(Kind::Registry, &Method::GET, "/v2/a/manifests/x"));
    (want.writer, want.write_only) = (Some(7), true);
    want.fresh = Some(Fresh { lease: true, stale: StaleReads::Allow, listing: false });
    let draw = Draw { turn: 0, chance: 0 };
    let held = next(&all, &want, &Tried::default(), Balance::RoundRobin, false, draw);
    assert!(held.is_err());
    // When it has waited in vain, a marked answer is better than none.
    let at_last = next(&all, &want, &Tried::default(), Balance::RoundRobin, true, draw).unwrap();
    assert_eq!((at_last.place, at_last.rank), (1, Rank::Stale(Stale::Behind)));
}
