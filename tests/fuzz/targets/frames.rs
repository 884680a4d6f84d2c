//! Frames of HTTP/2 and the requests in them, whatever their bytes.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::frames(bytes));
