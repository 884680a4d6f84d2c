//! Tests that cannot run on this machine say so.

use std::{fs::OpenOptions, io::Write as _};

/// Lists a test as not run, or fails when the run is strict. `needs` ends a sentence: "`unshare -Urm`, which is …".
#[allow(clippy::print_stdout, reason = "whoever runs one test alone sees it there")]
pub fn list(scenario: &str, needs: &str) {
    let strict = std::env::var_os("SWITCHYARD_TEST_STRICT").is_some_and(|v| v == "1");
    assert!(!strict, "{scenario} needs {needs}");
    let line = format!("{scenario}: needs {needs}");
    println!("not run: {line}");
    // The test runner hides what a passing test prints, so it goes into a file that `scripts/test` shows at its end.
    if let Some(path) = std::env::var_os("SWITCHYARD_TEST_NOT_RUN") {
        let mut file =
            OpenOptions::new().append(true).create(true).open(path).expect("the file for what was not run");
        writeln!(file, "{line}").expect("room for a line");
    }
}
