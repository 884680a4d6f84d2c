//! Choices by chance that can be made again.

use rand::{SeedableRng, rngs::StdRng};

/// A source of chance; its seed is printed, so a failing test shows it, and is set again with
/// `SWITCHYARD_TEST_SEED`.
pub fn chance() -> StdRng {
    let given = std::env::var("SWITCHYARD_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("SWITCHYARD_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
