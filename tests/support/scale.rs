//! Two sizes of one test: bounded in `scripts/test`, full in `scripts/prove`.

/// The first size, or the second one when `SWITCHYARD_TEST_SCALE=full`.
pub fn scaled<T>(bounded: T, full: T) -> T {
    if std::env::var_os("SWITCHYARD_TEST_SCALE").is_some_and(|scale| scale == "full") {
        full
    } else {
        bounded
    }
}
