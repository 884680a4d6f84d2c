//! What fuzzing has found interesting, once more: `scripts/prove fuzz` adds to it.

use std::path::{Path, PathBuf};

#[path = "../fuzz/properties.rs"]
mod properties;

/// Replays one corpus; how many inputs there were.
fn replay(target: &str, check: impl Fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&bytes))).is_err() {
            panic!("{}: {:?}", file.display(), String::from_utf8_lossy(&bytes));
        }
    }
    files.len()
}

#[test]
fn heads_of_the_corpus_hold() {
    assert!(replay("head", properties::head) > 20);
}

#[test]
fn proxy_headers_of_the_corpus_hold() {
    assert!(replay("proxy-header", properties::proxy_header) > 20);
}

#[test]
fn chunked_bodies_of_the_corpus_hold() {
    assert!(replay("chunked", properties::chunked) > 20);
}

#[test]
fn frames_of_the_corpus_hold() {
    assert!(replay("frames", properties::frames) > 20);
}

#[test]
fn compressed_fields_of_the_corpus_hold() {
    assert!(replay("fields", properties::fields) > 20);
}
