//! Random plays on etcd and on the embedded store, answer by answer.
//!
//! A failing run prints its seed; `SWITCHYARD_SEED=<seed>` plays it again.

use crate::support::scale::scaled;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use std::sync::atomic::{AtomicU64, Ordering};
use switchyard::store::{
    CompareOp, Store,
    conformance::{Act, At, Name, Play, Side, Step},
};

/// Plays per run, and the most steps in each.
fn plays() -> u32 {
    scaled(64, 1280)
}
const STEPS: usize = 40;

fn name() -> impl Strategy<Value = Name> {
    // Few, so that they meet; one is the beginning of others.
    prop::sample::select(vec!["a", "a/1", "a/2", "a/3", "b", "b/1", "c"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "1", "2", "10"]).prop_map(str::to_owned)
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        3 => Just(At::Zero),
        3 => (0_i64..12).prop_map(At::Back),
        3 => (0_i64..12).prop_map(At::After),
        1 => (1_i64..3).prop_map(At::Ahead),
    ]
}

fn compare() -> impl Strategy<Value = (Name, CompareOp, Side)> {
    let op = prop::sample::select(vec![
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Greater,
        CompareOp::Less,
    ]);
    let side = prop_oneof![
        at().prop_map(Side::Mod),
        at().prop_map(Side::Create),
        (0_i64..4).prop_map(Side::Version),
        value().prop_map(Side::Value),
    ];
    (name(), op, side)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (name(), value(), prop::option::weighted(0.3, 0_u8..3)).prop_map(|(n, v, l)| Act::Put(n, v, l)),
        2 => name().prop_map(Act::Delete),
        // An upside-down range trips etcd's own check of overlaps; a readable one is what callers send.
        1 => (name(), name()).prop_filter("upside down", |(a, b)| a < b).prop_map(|(a, b)| Act::DeleteRange(a, b)),
        2 => name().prop_map(Act::Get),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => name().prop_map(Step::Get),
        4 => (name(), name(), 0_i64..4, at(), any::<bool>()).prop_map(|(start, end, limit, at, keys_only)| {
            Step::Range { start, end, limit, at, keys_only }
        }),
        10 => (vec(compare(), 0..3), vec(act(), 0..5), vec(act(), 0..3))
            .prop_map(|(compares, then, otherwise)| Step::Txn(compares, then, otherwise)),
        2 => (prop::sample::select(vec!["", "a", "a/", "b"]), at())
            .prop_map(|(prefix, at)| Step::Watch(prefix.to_owned(), at)),
        2 => (0_u8..3).prop_map(Step::Grant),
        1 => (0_u8..3).prop_map(Step::KeepAlive),
        1 => (0_u8..3).prop_map(Step::Revoke),
        1 => at().prop_map(Step::Compact),
    ]
}

/// Plays random sequences on both until one answers otherwise than the other.
pub(crate) fn play_on_both(runtime: &tokio::runtime::Runtime, left: &dyn Store, right: &dyn Store) {
    let seed: u64 = match std::env::var("SWITCHYARD_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::random(),
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config =
        Config { cases: plays(), failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let plays = AtomicU64::new(0);
    let result = runner.run(&vec(step(), 1..STEPS), |steps| {
        let root = format!("/play-{}/", plays.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let mut on_left = Play::begin(left, &root).await.expect("the left store works");
            let mut on_right = Play::begin(right, &root).await.expect("the right store works");
            for (n, step) in steps.iter().enumerate() {
                let (a, b) = (on_left.step(step).await, on_right.step(step).await);
                if a != b {
                    return Err(TestCaseError::fail(format!(
                        "step {n}, {step:?}:\n left {a:?}\nright {b:?}"
                    )));
                }
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("SWITCHYARD_SEED={seed} after {} plays\n{error}", plays.load(Ordering::Relaxed));
    }
}
