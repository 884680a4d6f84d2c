//! Waiting for a condition, never for a time.

use std::{future::Future, time::Duration};

use switchyard::clock;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// Asks `look` again and again until it gives something; panics with `what` and the last hint when the time is
/// over. `look` answers `Err(hint)` while the condition does not hold.
pub async fn eventually<T, H, F>(within: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    H: std::fmt::Display,
    F: Future<Output = Result<T, H>>,
{
    let deadline = clock::now() + within;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(hint) => {
                assert!(clock::now() < deadline, "waited {within:?} for: {what}; last seen: {hint}");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks all the time, and panics as soon as `look` gives something that must not be.
pub async fn never<H, F>(during: Duration, what: &str, mut look: impl FnMut() -> F)
where
    H: std::fmt::Display,
    F: Future<Output = Result<(), H>>,
{
    let deadline = clock::now() + during;
    while clock::now() < deadline {
        if let Err(seen) = look().await {
            panic!("{what}: {seen}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
